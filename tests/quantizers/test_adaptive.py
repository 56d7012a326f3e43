"""Adaptive K: the nested curve against brute force, rules against the true number of groups."""

import math

import pytest
import torch
from torch.nn import functional as F

from genmm.core.errors import ConfigError, UsageError
from genmm.quantizers.adaptive import AdaptiveK, adaptive_kmeans, calibrate_explained, choose, nest
from genmm.quantizers.kmeans import spherical_kmeans
from genmm.quantizers.kmeans_official import official_adaptive, official_seeds


def groups(count: int, rows: int = 400, width: int = 24, noise: float = 0.08, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(count, width, generator=generator), dim=-1)
    return centres[torch.arange(rows) % count] + noise * torch.randn(rows, width, generator=generator)


def rank_correlation(a: list[float], b: list[float]) -> float:
    def ranks(values: list[float]) -> torch.Tensor:
        return torch.tensor([sum(v < w for v in values) + sum(v == w for v in values) / 2 for w in values])

    x, y = ranks(a) - ranks(a).mean(), ranks(b) - ranks(b).mean()
    return float((x * y).sum() / (x.norm() * y.norm()))


def distortion_of(rows: torch.Tensor, labels: torch.Tensor) -> float:
    unit = F.normalize(rows, dim=-1)
    return sum(float((unit[labels == k] - unit[labels == k].mean(0)).square().sum()) for k in labels.unique())


def test_every_point_of_the_curve_is_the_distortion_of_its_partition():
    rows = torch.randn(2, 150, 10, generator=torch.Generator().manual_seed(0))
    nested = nest(spherical_kmeans(rows, 9))
    for count in range(1, 10):
        labels = nested.labels(torch.tensor([count, count]))
        for clip in range(2):
            assert len(labels[clip].unique()) == count
            true = distortion_of(rows[clip], labels[clip])
            assert math.isclose(float(nested.distortion[clip, count - 1]), true, rel_tol=1e-3, abs_tol=1e-3)


def test_each_merge_is_the_cheapest_one():
    rows = torch.randn(1, 90, 8, generator=torch.Generator().manual_seed(1))
    nested = nest(spherical_kmeans(rows, 6))
    for count in range(6, 1, -1):
        labels = nested.labels(torch.tensor([count]))[0]
        merged = [
            distortion_of(rows[0], torch.where(labels == b, torch.full_like(labels, a), labels))
            for a in range(count)
            for b in range(a + 1, count)
        ]
        assert math.isclose(min(merged), float(nested.distortion[0, count - 2]), rel_tol=1e-3)


def test_partitions_are_nested_and_the_curve_never_rises():
    rows = torch.randn(1, 300, 12, generator=torch.Generator().manual_seed(2))
    nested = nest(spherical_kmeans(rows, 16))
    assert (nested.distortion[0].diff() <= 1e-4).all()
    finer = nested.labels(torch.tensor([16]))[0]
    for count in range(15, 0, -1):
        coarser = nested.labels(torch.tensor([count]))[0]
        pairs = set(zip(finer.tolist(), coarser.tolist(), strict=True))
        assert len(pairs) == len(set(finer.tolist()))  # a finer cluster lies in one coarser cluster
        finer = coarser


@pytest.mark.parametrize("rule", ["silhouette", "knee"])
def test_the_number_of_groups_is_followed_where_the_published_rule_does_not(rule):
    true = [2, 3, 5, 8, 11, 14, 18, 22, 26, 30]
    ours, official = [], []
    for number, count in enumerate(true):
        rows = groups(count, seed=number)
        clusters, _ = adaptive_kmeans(rows[None], AdaptiveK(rule=rule, least=2, most=32))
        ours.append(int(clusters.used[0]))
        unit, draw = F.normalize(rows, dim=-1), torch.Generator().manual_seed(number)
        fit, _ = official_adaptive(unit, seed_rows=lambda u, k, g=draw: official_seeds(u, k, g), max_iterations=20)
        official.append(len(fit.centroids))
    assert rank_correlation(true, ours) > 0.95
    assert rank_correlation(true, official) < 0.9
    assert all(abs(found - count) <= 1 for found, count in zip(ours, true, strict=True))


def test_explained_variance_takes_the_smallest_count_that_reaches_it():
    rows = groups(6)
    clusters, nested = adaptive_kmeans(rows[None], AdaptiveK(rule="explained", explained=0.7, most=12))
    share = 1 - nested.distortion[0] / nested.distortion[0, 0]
    count = int(clusters.used[0])
    assert share[count - 1] >= 0.7 > share[count - 2]


def test_a_mean_budget_is_met_over_a_set():
    clips = torch.stack([groups(count, rows=240, seed=count, noise=0.15) for count in (2, 4, 7, 10, 13, 16)])
    nested = nest(spherical_kmeans(clips, 20))
    options = AdaptiveK(rule="explained", most=20)
    share = calibrate_explained(nested.distortion, nested.fine.used, 8.0, options)
    counts = choose(nested, AdaptiveK(rule="explained", most=20, explained=share))
    assert abs(float(counts.float().mean()) - 8.0) <= 1.0
    assert counts[-1] > counts[0]
    with pytest.raises(UsageError, match="from 1 to 20"):
        calibrate_explained(nested.distortion, nested.fine.used, 40.0, options)


def test_bounds_and_distinct_rows_limit_the_choice():
    rows = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))[torch.arange(30) % 3]
    clusters, _ = adaptive_kmeans(rows[None], AdaptiveK(least=5, most=16))
    assert clusters.used.tolist() == [3]
    clusters, _ = adaptive_kmeans(groups(20)[None], AdaptiveK(least=2, most=8))
    assert clusters.used[0] <= 8


def test_clips_of_a_batch_choose_for_themselves():
    clips = torch.stack([groups(3, seed=1), groups(12, seed=2)])
    clusters, _ = adaptive_kmeans(clips, AdaptiveK(most=20))
    assert clusters.used.tolist() == [3, 12]
    alone, _ = adaptive_kmeans(clips[1:], AdaptiveK(most=20))
    assert torch.equal(alone.labels[0], clusters.labels[1])


@pytest.mark.parametrize("apart", [0.3, 0.01])
def test_the_curve_of_close_groups_keeps_its_digits(apart):
    generator = torch.Generator().manual_seed(3)
    centre, ways = torch.randn(16, generator=generator), torch.randn(6, 16, generator=generator)
    which = torch.arange(600) % 6
    rows = F.normalize(centre, dim=-1) + apart * ways[which] + 0.05 * apart * torch.randn(600, 16, generator=generator)
    nested = nest(spherical_kmeans(rows[None], 6))
    unit = F.normalize(rows.double(), dim=-1)
    for count in range(1, 7):
        labels = nested.labels(torch.tensor([count]))[0]
        exact = sum(float((unit[labels == k] - unit[labels == k].mean(0)).square().sum()) for k in labels.unique())
        assert math.isclose(float(nested.distortion[0, count - 1]), exact, rel_tol=2e-3)


def test_the_merged_clusters_can_be_had_as_they_are():
    rows = torch.randn(2, 200, 8, generator=torch.Generator().manual_seed(4))
    plain, nested = adaptive_kmeans(rows, AdaptiveK(rule="explained", explained=0.3, most=12), polish=0)
    assert torch.equal(plain.labels, nested.labels(plain.used))
    for clip, used in enumerate(plain.used.tolist()):
        assert math.isclose(float(plain.distortion[clip]), float(nested.distortion[clip, used - 1]), rel_tol=1e-4)
    polished, _ = adaptive_kmeans(rows, AdaptiveK(rule="explained", explained=0.3, most=12))
    assert (polished.distortion < plain.distortion).all()
    with pytest.raises(UsageError, match="polish"):
        adaptive_kmeans(rows, polish=-1)


def test_the_published_search_names_what_it_cannot_do():
    rows = F.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(5)), dim=-1)
    with pytest.raises(UsageError, match="at least 14 for the rule elbow"):
        official_adaptive(rows, most=13)
    with pytest.raises(UsageError, match="at least 12 for the rule silhouette"):
        official_adaptive(rows, most=10, rule="silhouette")


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match="least <= most"):
        AdaptiveK(least=9, most=4)
    with pytest.raises(ConfigError, match="explained"):
        AdaptiveK(explained=1.0)
