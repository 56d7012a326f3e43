"""Scores per clip and segments: windows, smoothing, ranges, budgets; the knapsack against trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm.core.errors import UsageError
from genmm.metrics.highlight_floors import standard
from genmm.systems.rasl.request import HighlightSettings
from genmm.systems.rasl.scoring import (
    _clip_means,
    clip_times,
    heuristic_scores,
    model_scores,
    normalised,
    robust,
    score_curves,
)
from genmm.systems.rasl.segments import Budget, choose_segments, shots_of

CPU = torch.device("cpu")


def test_windows_give_what_one_pass_gives_when_attention_is_local(network, make_table):
    """With a span of one step a window knows all that a step sees, except near the borders, which weigh little."""
    table = make_table(60)
    long, short = network(span=1, window=64), network(span=1, window=16)
    short.load_state_dict(long.state_dict())
    whole, parts = model_scores(long, table, CPU)["v"], model_scores(short, table, CPU)["v"]
    np.testing.assert_allclose(parts, whole, rtol=0.02)
    again = model_scores(short, table, CPU)["v"]
    np.testing.assert_array_equal(parts, again)


def test_a_video_shorter_than_a_window(network, make_table):
    for steps in (1, 2, 15, 16, 17):
        scores = model_scores(network(), make_table(steps), CPU)
        assert scores["v"].shape == scores["a"].shape == (steps,)
        assert np.isfinite(scores["v"]).all()


def test_clips_cover_the_video():
    for duration in (0.04, 1.0, 2.9, 3.1, 10.0, 11.3):
        times = clip_times(duration, 2.0)
        assert times[0, 0] == 0.0
        assert times[-1, 1] == pytest.approx(duration)
        assert np.all(times[1:, 0] == times[:-1, 1])
        assert np.all(times[:, 1] > times[:, 0])


def test_clip_means_weigh_parts_of_steps():
    steps = np.array([1.0, 3.0, 5.0])
    assert _clip_means(steps, np.array([[0.0, 2.0], [2.0, 3.0]])).tolist() == [2.0, 5.0]
    assert _clip_means(steps, np.array([[0.5, 1.5]])).tolist() == [2.0]
    assert _clip_means(steps, np.array([[3.0, 3.4]])).tolist() == [5.0]


def test_normalising_constant_scores_gives_no_nan():
    assert normalised(np.full(5, 3.3)).tolist() == [0.5] * 5
    assert robust(np.full(5, 3.3)).tolist() == [0.0] * 5
    mostly = np.array([0.0] * 9 + [1.0])
    assert np.isfinite(robust(mostly)).all()  # the median deviation is 0
    assert robust(mostly)[-1] > 0
    assert normalised(np.arange(100.0)).min() == 0.0


def test_streams_are_joined_and_left_out(network, make_table):
    both = score_curves(make_table(), "auto", heuristic_scores)
    assert set(both.raw) == {"v", "a", "av"}
    np.testing.assert_array_equal(both.scores, both.curves["av"])
    assert score_curves(make_table(sound=False), "a", heuristic_scores).notes[0].startswith("there is no sound")
    only = score_curves(make_table(), "v", heuristic_scores)
    np.testing.assert_array_equal(only.scores, both.curves["v"])


def test_silence_takes_no_part(make_table):
    table = make_table()
    table.loudness_db[:] = -75.0
    curves = score_curves(table, "av", heuristic_scores)
    np.testing.assert_allclose(curves.raw["av"], robust_clip(curves, table))
    assert "mostly silent" in curves.notes[0]
    assert "say little" in score_curves(table, "a", heuristic_scores).notes[0]


def robust_clip(curves, table):
    """The joint score with no weight on the sound is the visual one on its robust scale."""
    return _clip_means(robust(heuristic_scores(table)["v"]), curves.times_s)


def test_the_heuristic_does_not_take_a_cut_for_movement(make_table):
    table = make_table(20, cuts=(7.4,))
    table.motion[:, 1] = 1.0
    table.motion[7, 1] = 50.0
    table.visual[:] = 1.0
    assert np.ptp(heuristic_scores(table)["v"]) < 1e-9


def test_the_middle_of_a_longer_video_is_preferred_as_much_as_asked_for(make_table):
    table, middle = make_table(90), standard(-np.abs(np.arange(90) - 44.5))
    for streams, weight in (("av", 1.0), ("v", 2.0), ("a", 2.0)):  # both streams share the weight of 2
        part = table.only(streams)
        plain, moved = heuristic_scores(part, position=0.0), heuristic_scores(part, position=2.0)
        for stream in streams:
            np.testing.assert_allclose(moved[stream] - plain[stream], weight * middle, atol=1e-9)
    short = make_table(59)
    np.testing.assert_array_equal(heuristic_scores(short, 2.0)["v"], heuristic_scores(short, 0.0)["v"])


def test_position_decides_nothing_where_nothing_stands_out(make_table):
    table = make_table(90, sound=False)
    table.visual[:], table.motion[:] = 1.0, 0.0
    curves = score_curves(table, "auto", heuristic_scores)
    assert "nothing stands out" in " ".join(curves.notes)


def test_equal_scores_say_so_and_keep_the_order(make_table):
    table = make_table(20, sound=False)
    table.visual[:], table.motion[:] = 1.0, 0.0
    curves = score_curves(table, "auto", heuristic_scores)
    assert "nothing stands out" in " ".join(curves.notes)
    segments = choose_segments(curves.times_s, curves.scores, (), Budget(seconds=4.0))
    assert segments[0].start_s == 0.0


# ---------------------------------------------------------------- segments


def spans(segments):
    return [(round(s.start_s, 3), round(s.end_s, 3)) for s in segments]


def test_segments_end_at_cuts():
    times, scores = clip_times(20.0, 2.0), np.array([0, 0, 0, 1, 1, 0, 0, 0, 0, 0.0])
    assert spans(choose_segments(times, scores, (9.3,), Budget(seconds=4.0, pad_s=0.0))) == [(6.0, 9.3)]
    assert spans(choose_segments(times, scores, (), Budget(seconds=4.5, pad_s=0.25))) == [(5.75, 10.25)]


def test_padding_does_not_cross_a_cut_or_the_budget():
    times, scores = clip_times(20.0, 2.0), np.array([0, 0, 0, 1, 1, 0, 0, 0, 0, 0.0])
    assert spans(choose_segments(times, scores, (6.0, 10.0), Budget(seconds=5.0))) == [(6.0, 10.0)]
    assert spans(choose_segments(times, scores, (), Budget(seconds=4.1))) == [(5.9, 10.0)]


def test_count_takes_the_best_apart():
    times = clip_times(30.0, 2.0)
    scores = np.zeros(15)
    scores[[2, 3, 9, 13]] = [0.9, 0.8, 0.7, 0.6]
    found = spans(choose_segments(times, scores, (), Budget(count=3, pad_s=0.0)))
    assert found == [(4.0, 6.0), (18.0, 20.0), (26.0, 28.0)]


def test_long_runs_are_kept_below_the_longest_segment():
    times = clip_times(40.0, 2.0)
    segments = choose_segments(times, np.ones(20), (), Budget(share=1.0, max_segment_s=10.0))
    assert max(s.seconds for s in segments) <= 10.0 + 1e-6
    alone = choose_segments(times, np.eye(20)[10], (), Budget(seconds=3.0, max_segment_s=2.1, pad_s=0.5))
    assert alone[0].seconds == pytest.approx(2.1)  # room at the ends included
    assert sum(s.seconds for s in segments) == pytest.approx(40.0)


def test_a_budget_below_one_clip_gives_a_short_segment():
    segments = choose_segments(clip_times(10.0, 2.0), np.array([0, 0, 1, 0, 0.0]), (), Budget(seconds=1.0))
    assert spans(segments) == [(4.5, 5.5)]


def test_shots_shorter_than_a_segment_are_kept_with_what_follows():
    times, scores = clip_times(20.0, 2.0), np.zeros(10)
    scores[4] = 1.0
    cuts = (8.0, 8.5, 9.2, 10.0, 19.5)  # four quick shots in the clip that stands out
    found = spans(choose_segments(times, scores, cuts, Budget(seconds=2.0, pad_s=0.0)))
    assert found == [(8.0, 10.0)]
    ends = choose_segments(times, np.eye(10)[9], cuts, Budget(seconds=4.0, pad_s=0.0))
    assert spans(ends) == [(16.0, 20.0)]  # the last half second does not stand alone


def test_a_budget_of_the_whole_video_keeps_all_of_it():
    segments = choose_segments(clip_times(4.03, 2.0), np.array([0.0, 1.0]), (), Budget(seconds=5.0))
    assert spans(segments) == [(0.0, 4.03)]


def test_shots():
    assert shots_of((4.0, 2.0, 4.0, 99.0), 10.0) == [(0.0, 2.0), (2.0, 4.0), (4.0, 10.0)]
    assert shots_of((), 3.0) == [(0.0, 3.0)]


def best_by_trying(times, scores, seconds):
    """The greatest sum of score times length over all subsets of clips that fit."""
    lengths = times[:, 1] - times[:, 0]
    best = 0.0
    for size in range(len(scores) + 1):
        for chosen in itertools.combinations(range(len(scores)), size):
            picked = list(chosen)
            if lengths[picked].sum() <= seconds + 1e-9:
                best = max(best, float((scores[picked] * lengths[picked]).sum()))
    return best


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 10), min_size=2, max_size=8),
    st.lists(st.floats(0.5, 17.0), max_size=3),
    st.floats(2.0, 12.0),
)
def test_segments_keep_their_promises(levels, cuts, seconds):
    times, scores = clip_times(2.0 * len(levels), 2.0), np.array(levels) / 10
    segments = choose_segments(times, scores, cuts, Budget(seconds=seconds, pad_s=0.0))
    edges = [edge for s in segments for edge in (s.start_s, s.end_s)]
    assert edges == sorted(edges)
    assert segments
    assert sum(s.seconds for s in segments) <= seconds + 1e-6
    assert min(s.seconds for s in segments) >= min(2.0, seconds, float(times[-1, 1])) - 1e-6
    assert edges[-1] <= times[-1, 1] + 1e-9
    if not cuts:
        value = sum(s.score * s.seconds for s in segments)
        assert value == pytest.approx(best_by_trying(times, scores, seconds), abs=1e-6)


def test_settings_say_what_is_wrong():
    chosen = HighlightSettings().changed({"share": 0.2})
    assert (chosen.seconds, chosen.share) == (None, 0.2)
    for bad in (
        {"modality": "x"},
        {"scorer": "best"},
        {"clip_s": 0.1},
        {"seconds": 0.0},
        {"share": 1.5},
        {"count": 0},
        {"seconds": 3.0, "count": 2},
        {"audio_weight": 2.0},
        {"position": -0.5},
        {"min_segment_s": 30.0},
        {"length": 3},
        {"seconds": "long"},
        {"pad_s": float("nan")},
    ):
        with pytest.raises(UsageError):
            HighlightSettings().changed(bad)


def test_hours_of_footage_keep_to_the_budget():
    times = clip_times(12 * 3600.0, 2.0)
    scores = np.random.default_rng(0).random(len(times))
    segments = choose_segments(times, scores, (), Budget(share=0.3))
    kept = sum(s.seconds for s in segments)
    assert 0.25 * 12 * 3600 < kept <= 0.3 * 12 * 3600 + 1e-6
    assert np.mean([s.score for s in segments]) > 0.75
