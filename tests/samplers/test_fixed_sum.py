"""Counts with a fixed sum, against brute force over all of them."""

import itertools

import pytest
import torch

from genmm.core.errors import ShapeError, UsageError
from genmm.samplers import fixed_sum_engines
from genmm.samplers.count_tree import SumError, draw_by_log_tree, tilt, tilted
from genmm.samplers.fixed_sum import CountPmf, RowNoise, map_fixed_sum, sample_fixed_sum
from genmm.samplers.fixed_sum_engines import gpu_values

DRAWS = 30_000


def conditional(p: torch.Tensor, total: int) -> dict[tuple[int, ...], float]:
    """Every count vector with the sum and its conditional probability, by listing all of them. p [C, W]."""
    found = {}
    for counts in itertools.product(range(p.shape[1]), repeat=p.shape[0]):
        if sum(counts) == total:
            found[counts] = float(torch.stack([p[j, k] for j, k in enumerate(counts)]).prod())
    whole = sum(found.values())
    return {counts: mass / whole for counts, mass in found.items()}


def distance(draws: torch.Tensor, expected: dict[tuple[int, ...], float]) -> float:
    """Total variation between draws [N, C] and a distribution."""
    rows, times = draws.unique(dim=0, return_counts=True)
    seen = {tuple(row): count / len(draws) for row, count in zip(rows.tolist(), times.tolist(), strict=True)}
    return 0.5 * sum(abs(seen.get(key, 0.0) - expected.get(key, 0.0)) for key in {*seen, *expected})


def ideal_distance(expected: dict[tuple[int, ...], float]) -> float:
    """Total variation that an ideal sampler shows over DRAWS draws: half the sum of sqrt(2 p / (pi N))."""
    return 0.5 * sum((2 * mass / (torch.pi * DRAWS)) ** 0.5 for mass in expected.values())


def pmf(entries: int, width: int, seed: int = 0) -> torch.Tensor:
    p = torch.rand(entries, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).pow(3) + 1e-3
    return p / p.sum(-1, keepdim=True)


def many(p: torch.Tensor, draws: int = DRAWS) -> tuple[torch.Tensor, RowNoise]:
    return p.log()[None].expand(draws, -1, -1), RowNoise(range(draws))


@pytest.mark.parametrize(("entries", "width", "total"), [(6, 4, 5), (5, 6, 9), (3, 9, 2)])
def test_exact_is_the_conditional_distribution(entries, width, total):
    p = pmf(entries, width)
    log_p, noise = many(p)
    draws = sample_fixed_sum(log_p, total, noise)
    expected = conditional(p, total)
    assert bool((draws.sum(-1) == total).all())
    assert distance(draws, expected) < 1.5 * ideal_distance(expected) + 0.002


def test_the_heavy_tree_and_free_draws_give_the_conditional_distribution(monkeypatch):
    monkeypatch.setattr(fixed_sum_engines, "HEAVY", 2)  # two of six entries in the tree, four drawn freely
    p = pmf(6, 4, seed=3)
    log_p, noise = many(p)
    draws = sample_fixed_sum(log_p, 6, noise)
    assert bool((draws.sum(-1) == 6).all())
    expected = conditional(p, 6)
    assert distance(draws, expected) < 1.5 * ideal_distance(expected) + 0.002


def test_rows_that_no_round_settles_come_from_the_whole_tree(monkeypatch):
    monkeypatch.setattr(fixed_sum_engines, "HEAVY", 2)
    monkeypatch.setattr(fixed_sum_engines, "ROUNDS", 1)
    monkeypatch.setattr(fixed_sum_engines, "CANDIDATES", 1)
    p = pmf(6, 4, seed=3)
    log_p, noise = many(p)
    draws = sample_fixed_sum(log_p, 6, noise)
    assert bool((draws.sum(-1) == 6).all())
    # A kept draw has the conditional law whatever the round, and so has the tree's; hence their mixture has it too.
    expected = conditional(p, 6)
    assert distance(draws, expected) < 1.5 * ideal_distance(expected) + 0.002


def test_bounds_condition_too():
    p = pmf(5, 5, seed=2)
    lower, upper = torch.tensor([0, 1, 0, 0, 0]), torch.tensor([4, 4, 0, 2, 4])
    log_p, noise = many(p)
    draws = sample_fixed_sum(log_p, 6, noise, lower=lower, upper=upper)
    assert bool(((draws >= lower) & (draws <= upper)).all())
    kept = p.clone()
    for entry, (low, high) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True)):
        kept[entry, :low] = 0
        kept[entry, high + 1 :] = 0
    expected = conditional(kept, 6)
    assert distance(draws, expected) < 1.5 * ideal_distance(expected) + 0.002


@pytest.mark.parametrize("temperature", [0.3, 3.0])
def test_a_temperature_sharpens_or_flattens_the_conditional_distribution(temperature):
    p = pmf(5, 5, seed=7)
    log_p, noise = many(p)
    draws = sample_fixed_sum(log_p, 6, noise, temperature=temperature)
    expected = conditional(p.pow(1.0 / temperature), 6)
    assert distance(draws, expected) < 1.5 * ideal_distance(expected) + 0.002


def test_values_too_far_apart_for_any_tilt_are_drawn_by_logarithms(monkeypatch):
    """Both cheap entries and one of the two dear ones, either as likely: no float64 tilt makes their sum likely."""
    calls = []
    draw = fixed_sum_engines.draw_by_log_tree
    monkeypatch.setattr(fixed_sum_engines, "draw_by_log_tree", lambda *given: calls.append(1) or draw(*given))
    log_p = torch.zeros(4, 2)
    log_p[:, 1] = -torch.tensor([1e18, 1e18, 3e18, 3e18])
    draws = sample_fixed_sum(log_p[None].expand(DRAWS, -1, -1), 3, RowNoise(range(DRAWS)))
    expected = {(1, 1, 1, 0): 0.5, (1, 1, 0, 1): 0.5}
    assert calls
    assert distance(draws, expected) < 1.5 * ideal_distance(expected) + 0.002


def test_the_log_tree_is_the_conditional_distribution():
    p = pmf(6, 4, seed=11)
    draws = draw_by_log_tree(p.log()[None].expand(DRAWS, -1, -1), torch.full((DRAWS,), 5), RowNoise(range(DRAWS)))
    expected = conditional(p, 5)
    assert distance(draws, expected) < 1.5 * ideal_distance(expected) + 0.002


def test_rows_with_different_sums_and_bounds_keep_their_own_laws():
    p, halves = pmf(5, 5, seed=8), DRAWS // 2
    totals = torch.tensor([4, 9]).repeat_interleave(halves)
    lower = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 2, 0, 1]]).repeat_interleave(halves, 0)
    log_p, noise = many(p, 2 * halves)
    draws = sample_fixed_sum(log_p, totals, noise, lower=lower)
    for part, total, bound in ((draws[:halves], 4, lower[0]), (draws[halves:], 9, lower[-1])):
        kept = p.clone()
        for entry, low in enumerate(bound.tolist()):
            kept[entry, :low] = 0
        expected = conditional(kept, total)
        assert distance(part, expected) < 1.5 * 2**0.5 * ideal_distance(expected) + 0.002


class TopNoise(RowNoise):
    """Noise whose every number is the largest there is: what happens once in 16 million times."""

    def _bits(self, size):
        return torch.full((len(self), size), -1, dtype=torch.int64)

    def _with(self, keys, draws=0):
        part = super()._with(keys, draws)
        part.__class__ = TopNoise
        return part


@pytest.mark.parametrize("engine", ["exact", "repair"])
@pytest.mark.parametrize("entries", [40, 1500])
def test_no_number_chooses_a_value_without_mass(engine, entries):
    """The last value of the window is ruled out by a bound; float32 masses rarely sum to 1 and must not lead there."""
    assert float(TopNoise([0]).uniform(5).max()) < 1
    assert bool(TopNoise([0]).gumbel(5).isfinite().all())
    logits = torch.randn(4, entries, 4, generator=torch.Generator().manual_seed(2))
    upper = torch.full((entries,), 2)
    draws = sample_fixed_sum(logits, entries, TopNoise(range(4)), engine=engine, upper=upper)
    assert int(draws.max()) <= 2
    assert bool((draws.sum(-1) == entries).all())


@pytest.mark.parametrize("engine", ["exact", "repair"])
def test_the_largest_codebook(engine):
    codes, tokens = 65_536, 128
    logits = torch.zeros(2, codes, 5)
    logits[..., 1:] -= 6.0 * torch.arange(1, 5)
    logits[0, 7, 4] = 12.0
    lower, upper = torch.zeros(codes, dtype=torch.int64), torch.full((codes,), 4)
    lower[codes - 1], upper[codes - 1] = 3, 3
    draws = sample_fixed_sum(logits, tokens, RowNoise([1, 2]), engine=engine, lower=lower, upper=upper)
    assert draws.sum(-1).tolist() == [tokens, tokens]
    assert draws[:, codes - 1].tolist() == [3, 3]
    assert int(draws[0, 7]) == 4
    best = map_fixed_sum(logits, tokens, lower=lower, upper=upper)
    assert best.sum(-1).tolist() == [tokens, tokens]


@pytest.mark.parametrize("engine", ["exact", "repair"])
def test_a_locked_count_may_be_as_large_as_the_set(engine):
    logits = torch.zeros(3, 600, 129)
    lower, upper = torch.zeros(600, dtype=torch.int64), torch.full((600,), 128)
    lower[5] = upper[5] = 120
    draws = sample_fixed_sum(logits, 128, RowNoise([1, 2, 3]), engine=engine, lower=lower, upper=upper)
    assert draws[:, 5].tolist() == [120] * 3
    assert draws.sum(-1).tolist() == [128] * 3


def test_repair_always_has_the_sum_and_is_closer_than_the_published_pass():
    p = pmf(6, 5, seed=5)
    log_p, _ = many(p)
    expected = conditional(p, 4)
    repaired = sample_fixed_sum(log_p, 4, RowNoise(range(DRAWS)), engine="repair")
    official = sample_fixed_sum(log_p, 4, RowNoise(range(DRAWS)), engine="official")
    assert bool((repaired.sum(-1) == 4).all())
    assert distance(repaired, expected) < distance(official, expected)


@pytest.mark.parametrize("total", [0, 3, 8])
def test_map_is_the_best_of_all(total):
    for seed in range(8):
        p = pmf(4, 5, seed)
        found = map_fixed_sum(p.log()[None], total)[0]
        expected = conditional(p, total)
        best = max(expected, key=expected.__getitem__)
        assert tuple(found.tolist()) == best


def test_windows_that_start_elsewhere():
    p = pmf(4, 3, seed=1)
    start = torch.tensor([[2, 0, 5, 1]])
    log_p, noise = many(p, 2000)
    shifted = sample_fixed_sum(CountPmf(log_p, start.expand(2000, -1)), 12, noise)
    plain = sample_fixed_sum(log_p, 4, RowNoise(range(2000)))
    assert torch.equal(shifted, plain + start)
    assert torch.equal(map_fixed_sum(CountPmf(p.log()[None], start), 12), map_fixed_sum(p.log()[None], 4) + start)


@pytest.mark.parametrize("engine", ["exact", "repair"])
@pytest.mark.parametrize("temperature", [0.0, 1e-40, 1e-12, 1e-3, 1.0, 1e6])
def test_large_rows_at_any_temperature(engine, temperature):
    logits = 4 * torch.randn(3, 2048, 17, generator=torch.Generator().manual_seed(0))
    logits[..., 0] += 12
    logits[2] = -1e4 * torch.arange(17)  # nearly impossible to have any token at all
    totals = torch.tensor([64, 1, 64])
    draws = sample_fixed_sum(logits, totals, RowNoise([1, 2, 3]), engine=engine, temperature=temperature)
    assert draws.sum(-1).tolist() == [64, 1, 64]
    assert int(draws.min()) >= 0


@pytest.mark.parametrize("engine", ["exact", "repair"])
@pytest.mark.parametrize("entries", [40, 1500])
def test_a_row_depends_on_its_seed_alone(engine, entries):
    logits = torch.randn(4, entries, 6, generator=torch.Generator().manual_seed(1))
    logits[..., 0] += 4
    together = sample_fixed_sum(logits, 20, RowNoise([5, 6, 7, 8]), engine=engine)
    alone = sample_fixed_sum(logits[2:3], 20, RowNoise([7]), engine=engine)
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(together[0], sample_fixed_sum(logits[:1], 20, RowNoise([9]), engine=engine)[0])


def test_what_cannot_be_is_said():
    log_p = torch.zeros(2, 4, 3)
    with pytest.raises(SumError, match="sum 9"):
        sample_fixed_sum(log_p, 9, RowNoise([0, 1]))
    with pytest.raises(SumError):
        sample_fixed_sum(log_p, 3, RowNoise([0, 1]), upper=torch.tensor([0, 0, 0, 2]), lower=torch.tensor([0, 0, 0, 0]))
    with pytest.raises(SumError, match="no possible value"):
        sample_fixed_sum(log_p, 3, RowNoise([0, 1]), lower=torch.tensor([2, 0, 0, 0]), upper=torch.tensor([1, 2, 2, 2]))
    with pytest.raises(SumError, match="sum to 8, more than 3"):
        sample_fixed_sum(log_p, 3, RowNoise([0, 1]), lower=torch.tensor([2, 2, 2, 2]))
    with pytest.raises(UsageError, match="NaN"):
        sample_fixed_sum(log_p * torch.nan, 3, RowNoise([0, 1]))
    with pytest.raises(UsageError, match="engine"):
        sample_fixed_sum(log_p, 3, RowNoise([0, 1]), engine="greedy")
    with pytest.raises(ShapeError):
        sample_fixed_sum(log_p, 3, RowNoise([0]))


def test_repair_finds_a_way_through_gaps():
    log_p = torch.full((1, 3, 5), -torch.inf)
    log_p[..., 0] = 0.0
    log_p[..., 3] = -5.0  # each entry holds 0 or 3
    assert sample_fixed_sum(log_p, 6, RowNoise([0]), engine="repair").sum() == 6
    with pytest.raises(SumError):
        sample_fixed_sum(log_p, 4, RowNoise([0]), engine="exact")


def test_the_tilt_brings_the_mean_to_the_sum():
    p = pmf(50, 6, seed=4)[None]
    theta = tilt(p.log(), torch.tensor([60]))
    mean = (tilted(p.log(), theta) @ torch.arange(6, dtype=torch.float64)).sum()
    assert abs(float(mean) - 60) < 0.02


def test_noise_is_uniform_and_belongs_to_its_row():
    noise = RowNoise([3, 4]).uniform(100_000)
    assert noise.min() > 0
    assert noise.max() < 1
    histogram = torch.histc(noise, 50, 0, 1)
    assert float((histogram - 4000).square().sum() / 4000) < 90  # chi-square with 49 degrees of freedom
    assert abs(float(torch.corrcoef(noise)[0, 1])) < 0.02
    assert torch.equal(RowNoise([4]).uniform(100_000)[0], noise[1])
    stream = RowNoise([3])
    assert not torch.equal(stream.uniform(5), stream.uniform(5))


def test_one_stuck_row_leaves_the_others_their_own_draws():
    flat = torch.zeros(1, 2, 201)
    gaps = torch.full((1, 2, 201), -torch.inf)
    gaps[..., [0, 100]] = 0.0  # no single unit can be moved
    alone = [sample_fixed_sum(flat, 200, RowNoise([seed]), engine="repair")[0].tolist() for seed in range(20)]
    both = torch.cat([flat, gaps])
    beside = [sample_fixed_sum(both, 200, RowNoise([seed, 99]), engine="repair") for seed in range(20)]
    assert [counts[0].tolist() for counts in beside] == alone
    assert all(counts[1].tolist() == [100, 100] for counts in beside)


def test_trees_on_a_gpu_keep_enough_values_for_few_entries():
    assert gpu_values(256, 4096) == 32 and gpu_values(200, 4) >= 201 and gpu_values(1024, 64) >= 128
