"""Highlight metrics against hand-computed cases, slow twins and the stored floors of the TVSum data."""

from __future__ import annotations

import json

import numpy as np
import pytest

from genmm.core.errors import ShapeError, UsageError
from genmm.metrics import highlight as hl
from genmm.metrics.highlight_floors import FLOORS, centre_prior, floor_scores


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([1, 0, 0, 0, 0], 1.0), ([0, 0, 0, 0, 1], 0.1), ([1, 1, 1, 1, 1], 1.0), ([0, 1, 0, 0, 0], 0.25), ([0] * 5, 0.0)],
)
def test_trapezoid_ap_unit_cases(labels, expected):
    assert hl.trapezoid_ap(labels) == pytest.approx(expected)


def test_the_median_of_an_annotator_is_the_lower_one():
    annotations = np.array([[1, 3], [2, 3], [3, 3], [4, 5]])
    assert hl.tvsum_labels(annotations)[:, 0].tolist() == [False, False, True, True]  # lower median of 1 2 3 4 is 2
    assert hl.tvsum_labels(annotations)[:, 1].tolist() == [False, False, False, True]


def test_top_map_looks_at_the_first_five_places_only():
    annotations = np.array([[5], [1], [1], [1], [1], [1], [5], [1]])
    scores = np.array([8, 7, 6, 5, 4, 3, 2, 1.0])
    assert hl.tvsum_top_map(scores, annotations) == 1.0  # the miss at place 7 does not count
    assert hl.tvsum_top_map(-scores, annotations) == pytest.approx(hl.trapezoid_ap([0, 1, 0, 0, 0]))
    assert hl.precision_at(scores, annotations) == pytest.approx(0.2)


def test_mininet_marks_half_of_the_clips():
    annotations = np.array([[1], [1], [1], [1], [1], [1]])
    assert hl.mininet_top_map([6, 5, 4, 3, 2, 1], annotations) == pytest.approx(hl.trapezoid_ap([1, 1, 1, 0, 0]))
    assert hl.tvsum_top_map([6, 5, 4, 3, 2, 1], annotations) == 0.0


def test_youtube_counts_every_clip_and_no_borderline_ones():
    labels = [1, 0, -1, 1]
    assert hl.youtube_ap([4, 3, 2, 1], labels) == pytest.approx(hl.trapezoid_ap([1, 0, 0, 1]))
    assert hl.youtube_ap([4, 3, 2, 1], [0, 0, -1, -1]) == 0.0


def slow_ap(scores, labels):
    """The mean over positives of the precision at their place, for distinct scores."""
    order = np.argsort(-np.asarray(scores))
    ranked = np.asarray(labels)[order]
    return np.mean([ranked[: i + 1].mean() for i in np.flatnonzero(ranked)])


def test_average_precision_equals_the_definition():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, labels = rng.permutation(17), rng.random(17) < 0.4
        labels[3] = True
        assert hl.average_precision(scores, labels) == pytest.approx(slow_ap(scores, labels))


def test_constant_scores_earn_the_share_of_positives():
    assert hl.average_precision(np.zeros(10), np.arange(10) < 3) == pytest.approx(0.3)
    with pytest.raises(UsageError, match="positive"):
        hl.average_precision([1, 2], [False, False])


def test_interpolated_ap_of_moment_detr():
    assert hl.interpolated_ap([3, 2, 1], [False] * 3) == 0.0
    assert hl.interpolated_ap([3, 2, 1], [True] * 3) == 1.0
    # precision 0, 1/2, 2/3 at recall 0, 1/2, 1; the running maximum from the right makes both steps 2/3
    assert hl.interpolated_ap([3, 2, 1], [False, True, True]) == pytest.approx(2 / 3)


def test_qvhighlights_cut_and_fill():
    marks = np.array([[4, 4, 0], [0, 0, 0], [3, 4, 4]])
    good = hl.qvhighlights_scores([[9.0, 1.0, 8.0, 100.0]], [marks])  # the fourth score has no clip
    assert good["HIT@1"] == 1.0
    assert good["mAP"] == pytest.approx((1.0 + 1.0 + 0.5) / 3)
    short = hl.qvhighlights_scores([[9.0]], [marks], threshold=3)
    assert short["HIT@1"] == 1.0


def test_rank_correlation():
    annotations = np.array([[1, 2], [2, 3], [3, 5]])
    assert hl.rank_correlation([1, 2, 3], annotations) == pytest.approx({"rho": 1.0, "tau": 1.0})
    assert hl.rank_correlation([3, 2, 1], annotations)["rho"] == pytest.approx(-1.0)
    assert hl.rank_correlation([7, 7, 7], annotations) == {"rho": 0.0, "tau": 0.0}


def test_boundary_error():
    assert hl.boundary_error_s([(1.0, 4.0), (9.0, 10.0)], [(2.0, 4.5)]) == pytest.approx(0.75)
    assert np.isnan(hl.boundary_error_s([(0.0, 1.0)], [(5.0, 6.0)]))


def test_hits_and_ties():
    assert hl.hit_at_1([1, 5, 5], [False, True, False]) == 1.0  # the earlier of equal scores comes first
    assert hl.ranking([2, 5, 5, 1]).tolist() == [1, 2, 0, 3]
    with pytest.raises(ShapeError, match="finite"):
        hl.ranking([1.0, float("nan")])
    with pytest.raises(ShapeError, match="do not fit"):
        hl.average_precision([1.0, 2.0], [True])


def test_the_centre_prior_rises_to_the_middle():
    assert np.argmax(centre_prior(9)) == 4
    assert centre_prior(4)[0] == centre_prior(4)[3]


def test_the_floors_of_the_tvsum_data_come_out_as_published(shared_data):
    folder = shared_data / "tvsum"
    if not (folder / "tvsum_dev.npz").is_file():
        pytest.skip("needs tvsum/tvsum_dev.npz in the shared media folder")
    expected = {  # from the README of the data
        "feature norm": 0.389,
        "closeness to mean, cosine": 0.425,
        "distance from mean, L2": 0.337,
        "mean pairwise similarity": 0.430,
        "novelty against the previous clip": 0.394,
        "frame difference": 0.442,
        "optical flow": 0.452,
        "centre of the video": 0.484,
        "similarity and flow": 0.480,
        "flow and centre": 0.519,
    }
    assert set(expected) <= set(FLOORS)
    data = np.load(folder / "tvsum_dev.npz")
    found = {name: [] for name in FLOORS}
    for i in range(len(data["ids"])):
        rows = slice(*data["second_offsets"][i : i + 2])
        marks = data["annotations"][slice(*data["clip_offsets"][i : i + 2])]
        clips = [data[part][rows].astype(np.float64)[: 2 * len(marks)] for part in ("features", "motion")]
        features, motion = (part.reshape(len(marks), 2, -1).mean(1) for part in clips)
        for name, scores in floor_scores(features, motion).items():
            found[name].append(hl.tvsum_top_map(scores, marks))
    means = {name: round(float(np.mean(values)), 3) for name, values in found.items()}
    wrong = {name: (means[name], value) for name, value in expected.items() if abs(means[name] - value) > 0.0015}
    assert not wrong, json.dumps(wrong)
