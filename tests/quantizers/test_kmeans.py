"""Spherical k-means against a slow loop, and what it promises about masks, empty clusters and batch mates."""

import pytest
import torch
from torch.nn import functional as F

from genmm.core.errors import ConfigError, ShapeError, UsageError
from genmm.quantizers import kmeans_seeding
from genmm.quantizers.kmeans import KMeansConfig, clusters_of, spherical_kmeans, unit_rows

SEEDINGS = ["plus_plus", "farthest", "grid"]


def groups(
    count: int, rows: int, width: int = 16, noise: float = 0.05, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows around `count` random directions: (rows [N, D], group of each)."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(count, width, generator=generator), dim=-1)
    which = torch.arange(rows) % count
    lengths = 0.5 + torch.rand(rows, 1, generator=generator)
    return lengths * (centres[which] + noise * torch.randn(rows, width, generator=generator)), which


def same_partition(a: torch.Tensor, b: torch.Tensor) -> bool:
    return len({*zip(a.tolist(), b.tolist(), strict=True)}) == len({*a.tolist()}) == len({*b.tolist()})


def slow_lloyd(rows: torch.Tensor, start: torch.Tensor, rounds: int) -> torch.Tensor:
    """Labels by the definition, one row and one cluster at a time (no cluster may run empty)."""
    unit, centres = F.normalize(rows, dim=-1), F.normalize(start, dim=-1).clone()
    for _ in range(rounds):
        labels = torch.tensor([int((centres @ row).argmax()) for row in unit])
        centres = torch.stack([F.normalize(unit[labels == k].sum(0), dim=0) for k in range(len(centres))])
    return torch.tensor([int((centres @ row).argmax()) for row in unit])


@pytest.mark.parametrize("seeding", ["plus_plus", "farthest"])
def test_clear_groups_are_found(seeding):
    rows, which = groups(6, 300)
    found = spherical_kmeans(rows[None], 6, config=KMeansConfig(seeding=seeding))
    assert same_partition(found.labels[0], which)
    assert found.counts[0].tolist() == [50] * 6
    means = torch.stack([F.normalize(rows, dim=-1)[which == k].mean(0) for k in range(6)])
    expected = (F.normalize(rows, dim=-1) - means[which]).square().sum()
    torch.testing.assert_close(found.distortion[0], expected, rtol=1e-4, atol=1e-4)


def test_every_seeding_repeats_and_gives_the_clusters_asked_for():
    rows, _ = groups(6, 300, noise=0.3)
    for seeding in SEEDINGS:
        first, again = (spherical_kmeans(rows[None], 9, config=KMeansConfig(seeding=seeding)) for _ in range(2))
        assert torch.equal(first.labels, again.labels) and first.used.tolist() == [9]


def test_iterations_agree_with_the_definition():
    rows = torch.randn(120, 8, generator=torch.Generator().manual_seed(3))
    start = rows[[3, 40, 77, 101]]
    found = spherical_kmeans(rows[None], 4, start=start[None], config=KMeansConfig(max_iterations=4, tolerance=0.0))
    assert same_partition(found.labels[0], slow_lloyd(rows, start, 3))


def test_more_iterations_never_raise_the_distance_to_the_directions():
    rows = torch.randn(1, 400, 12, generator=torch.Generator().manual_seed(1))
    fits = [
        spherical_kmeans(rows, 9, config=KMeansConfig(max_iterations=n, sample_iterations=0, tolerance=0.0))
        for n in (1, 3, 9, 20)
    ]
    cosine = [float(torch.linalg.vector_norm(fit.sums, dim=-1).sum()) for fit in fits]
    assert cosine == sorted(cosine)


def test_masked_zero_and_broken_rows_belong_to_no_cluster():
    rows, _ = groups(3, 60)
    rows[5], rows[9], rows[11, 0] = 0.0, float("nan"), float("inf")
    mask = torch.ones(1, 60, dtype=torch.bool)
    mask[0, 50:] = False
    found = spherical_kmeans(rows[None], 3, mask=mask)
    out = [5, 9, 11, *range(50, 60)]
    assert (found.labels[0, out] == -1).all() and (found.labels[0] >= 0).sum() == 60 - len(out)
    assert found.counts.sum() == 60 - len(out)
    assert found.centroids.isfinite().all()


def test_a_clip_does_not_depend_on_padding_or_batch_mates():
    rows, _ = groups(9, 200, noise=0.4)
    alone = spherical_kmeans(rows[None], 5, seeds=[7])
    mates = torch.randn(3, 350, 16, generator=torch.Generator().manual_seed(5))
    mates[1, :200], mask = rows, torch.ones(3, 350, dtype=torch.bool)
    mask[1, 200:] = False
    together = spherical_kmeans(mates, [8, 5, 2], mask=mask, seeds=[1, 7, 2])
    assert torch.equal(together.labels[1, :200], alone.labels[0])
    torch.testing.assert_close(together.centroids[1, :5], alone.centroids[0], atol=1e-5, rtol=1e-5)
    assert together.used.tolist() == [8, 5, 2]


def test_seeding_on_a_sample_is_independent_of_padding_too():
    rows, _ = groups(9, 900, noise=0.4)
    config = KMeansConfig(seed_rows=64, sample_rows=128)
    alone = spherical_kmeans(rows[None], 5, config=config)
    padded = torch.cat([rows, torch.ones(77, 16)])[None]
    mask = (torch.arange(977) < 900)[None]
    assert torch.equal(spherical_kmeans(padded, 5, mask=mask, config=config).labels[0, :900], alone.labels[0])


def test_fewer_distinct_directions_than_clusters_give_fewer_clusters():
    base = F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(2)), dim=-1)
    rows = base[torch.arange(40) % 4] * (1.0 + torch.arange(40)[:, None] / 10)
    found = spherical_kmeans(rows[None], 9)
    assert found.used.tolist() == [4]
    assert found.mask[0].tolist() == [True] * 4 + [False] * 5
    assert found.distortion[0] < 1e-4
    assert (found.centroids[0, 4:] == 0).all()


def test_the_number_asked_for_is_met_where_a_few_directions_hold_most_rows():
    generator = torch.Generator().manual_seed(3)
    directions = torch.randn(101, 16, generator=generator)
    which = torch.multinomial(torch.where(torch.arange(101) < 3, 1000.0, 1.0), 20_000, True, generator=generator)
    which[:101] = torch.arange(101)
    found = spherical_kmeans(directions[which].unsqueeze(0), [64])
    assert int(found.used[0]) == 64 and int(found.counts.sum()) == 20_000
    every = spherical_kmeans(directions[which].unsqueeze(0), 110)
    assert int(every.used[0]) == 101 and float(every.distortion[0]) < 0.01


@pytest.mark.parametrize("seeding", ["plus_plus", "farthest", "grid"])
def test_a_clip_does_not_depend_on_the_budget_or_length_of_others(seeding):
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randn(2, 4000, 8, generator=generator)
    mask = torch.arange(4000) < torch.tensor([[2000], [4000]])
    config = KMeansConfig(seeding=seeding)
    together = spherical_kmeans(tokens, [8, 100], mask=mask, config=config)
    alone = spherical_kmeans(tokens[:1, :2000], 8, config=config)
    assert torch.equal(together.labels[0, :2000], alone.labels[0])
    torch.testing.assert_close(together.distortion[0], alone.distortion[0])


def test_looking_at_the_end_less_often_changes_nothing():
    tokens = torch.randn(2, 500, 8, generator=torch.Generator().manual_seed(5))
    often, seldom = (spherical_kmeans(tokens, 9, config=KMeansConfig(check_every=n)) for n in (1, 4))
    assert torch.equal(often.labels, seldom.labels)


def test_an_empty_cluster_starts_again_at_the_farthest_row():
    rows, which = groups(4, 80)
    start = torch.cat([rows[:1], rows[:1] * 1.001, rows[:1] * 0.999, rows[1:2]])
    found = spherical_kmeans(rows[None], 4, start=start[None])
    assert same_partition(found.labels[0], which)


def test_a_clip_without_a_usable_row_has_no_clusters():
    found = spherical_kmeans(torch.zeros(2, 10, 4), 3)
    assert found.used.tolist() == [0, 0] and (found.labels == -1).all()


def test_names_follow_the_first_row_of_each_cluster():
    rows, _ = groups(7, 140, noise=0.3)
    labels = spherical_kmeans(rows[None], 7, seeds=[3]).labels[0].tolist()
    firsts = [labels.index(k) for k in range(7)]
    assert firsts == sorted(firsts)


def test_seeds_decide_and_nothing_else():
    rows = torch.randn(1, 500, 8, generator=torch.Generator().manual_seed(4))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = spherical_kmeans(rows, 12, seeds=[5])
    torch.manual_seed(2)
    again = spherical_kmeans(rows, 12, seeds=[5])
    assert torch.equal(first.labels, again.labels)
    assert any(not torch.equal(first.labels, spherical_kmeans(rows, 12, seeds=[s]).labels) for s in (6, 7, 8))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


def test_half_precision_rows_are_summed_in_float32():
    rows, which = groups(5, 4000, noise=0.1)
    found = spherical_kmeans(rows[None].bfloat16(), 5)
    assert found.sums.dtype == torch.float32 and found.counts[0].tolist() == [800] * 5
    assert same_partition(found.labels[0], which)


def test_tokens_keep_their_graph_out_of_the_clustering():
    rows = torch.randn(1, 20, 4, requires_grad=True)
    assert not spherical_kmeans(rows, 3).centroids.requires_grad


def test_unit_rows_scale_lengths_away():
    unit, valid = unit_rows(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]))
    torch.testing.assert_close(unit[0], torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    assert valid.tolist() == [[True, False]]


def test_wrong_arguments_say_what_is_wanted():
    with pytest.raises(ShapeError, match=r"\[B, N, D\]"):
        spherical_kmeans(torch.zeros(3, 4), 2)
    with pytest.raises(UsageError, match="at least 1"):
        spherical_kmeans(torch.ones(1, 3, 2), 0)
    with pytest.raises(UsageError, match="one for each clip"):
        spherical_kmeans(torch.ones(1, 3, 2), 1, seeds=[1, 2])
    for wrong in (2.7, True, [2, 3]):
        with pytest.raises(UsageError, match="whole and at least 1"):
            spherical_kmeans(torch.ones(1, 3, 2), wrong)
    with pytest.raises(ConfigError, match="max_iterations"):
        KMeansConfig(max_iterations=0)
    with pytest.raises(ConfigError, match="tolerance"):
        KMeansConfig(tolerance=float("nan"))


def test_better_than_plain_seeding_on_rows_without_groups():
    """Three candidates for each seed and iterations on a sample must not cost quality: compare with the plain way."""
    rows = torch.randn(2, 600, 24, generator=torch.Generator().manual_seed(8))
    plain = KMeansConfig(candidates=1, sample_iterations=0, max_iterations=60)
    ours = sum(float(spherical_kmeans(rows, 16, seeds=[s, s]).distortion.sum()) for s in range(4))
    theirs = sum(float(spherical_kmeans(rows, 16, seeds=[s, s], config=plain).distortion.sum()) for s in range(4))
    assert ours < 1.01 * theirs


def test_seeds_among_many_rows_are_those_of_the_table_of_distances(monkeypatch):
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(2, 500, 8), dim=-1)
    given = (torch.ones(2, 500, dtype=torch.bool), torch.ones(2, 20, dtype=torch.bool), [1, 2])
    for seeding in ("plus_plus", "farthest"):
        table = kmeans_seeding.seed_centroids(rows, *given, seeding, 3)
        monkeypatch.setattr(kmeans_seeding, "MOST_GAPS", 100)
        torch.testing.assert_close(kmeans_seeding.seed_centroids(rows, *given, seeding, 3), table)
        monkeypatch.undo()


@pytest.mark.parametrize("noise", [0.3, 1e-2, 1e-3, 1e-4])
def test_the_distortion_of_tight_clusters_keeps_its_digits(noise):
    generator = torch.Generator().manual_seed(0)
    groups = F.normalize(torch.randn(4, 64, generator=generator), dim=-1)
    which = torch.randint(4, (2, 2000), generator=generator)
    tokens = groups[which] + noise * torch.randn(2, 2000, 64, generator=generator) / 8
    tokens[1] = 3.0 * groups[which[1]] + torch.randn(2000, 64, generator=generator)  # a wide clip beside it
    found = spherical_kmeans(tokens, 4)
    unit = F.normalize(tokens.double(), dim=-1)
    for clip in range(2):
        rows, labels = unit[clip], found.labels[clip]
        for k in range(4):
            own = rows[labels == k]
            exact = float((own - own.mean(0)).square().sum())
            assert float(found.within[clip, k]) == pytest.approx(exact, rel=1e-3)
    torch.testing.assert_close(spherical_kmeans(tokens[:1], 4).within[0], found.within[0], rtol=1e-5, atol=0)


def test_a_known_partition_has_the_sums_of_its_rows():
    tokens = torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(50).expand(2, -1) % 4 - 1
    found = clusters_of(tokens, labels, 3)
    unit = F.normalize(tokens, dim=-1)
    for k in range(3):
        own = unit[1][found.labels[1] == k]
        torch.testing.assert_close(found.sums[1, k], own.sum(0))
        assert found.counts[1, k] == len(own)
    assert ((found.labels < 0) == (labels < 0)).all()


def test_a_start_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"start must be \(1, 8, 4\)"):
        spherical_kmeans(torch.randn(1, 30, 4), 8, start=torch.randn(1, 5, 4))
