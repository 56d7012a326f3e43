"""The forward process and the sampler of fixed-sum diffusion."""

import pytest
import torch

from genmm.core.errors import UsageError
from genmm.quantizers.multiset import to_counts
from genmm.samplers.fixed_sum import RowNoise, SumError
from genmm.samplers.fixed_sum_diffusion import DiffusionSettings, noised_counts, sample_counts, start_counts
from genmm.samplers.fixed_sum_gaussian import gaussian_window
from genmm.samplers.fixed_sum_official import gaussian_pmf

CODES, TOTAL, ROWS = 64, 12, 400


def data(rows: int = ROWS, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return to_counts(torch.randint(0, 20, (rows, TOTAL), generator=generator), CODES)


def towards(target: torch.Tensor):
    """A denoiser that knows the answer, up to some doubt."""

    def denoise(state: torch.Tensor, t: float) -> torch.Tensor:
        return 6.0 * torch.nn.functional.one_hot(target.expand_as(state), TOTAL + 1).float()

    return denoise


def test_start_sets_hold_different_codes():
    start = start_counts(CODES, TOTAL, RowNoise(range(50)))
    assert bool((start.sum(-1) == TOTAL).all())
    assert int(start.max()) == 1
    lower = torch.zeros(CODES, dtype=torch.int64)
    lower[3] = 4
    held = start_counts(CODES, TOTAL, RowNoise(range(50)), lower)
    assert bool((held[:, 3] == 4).all())
    assert bool((held.sum(-1) == TOTAL).all())
    with pytest.raises(UsageError, match="at least as many codes"):
        start_counts(8, 9, RowNoise([0]))


@pytest.mark.parametrize("process", ["gaussian", "exchangeable"])
@pytest.mark.parametrize("engine", ["exact", "repair"])
def test_noise_keeps_the_sum_and_grows_towards_the_start(process, engine):
    clean = data()
    kept = []
    for t in (0.02, 0.3, 0.5, 0.7, 0.98):
        noisy = noised_counts(clean, torch.full((ROWS,), t), RowNoise(range(ROWS)), process=process, engine=engine)
        assert bool((noisy.sum(-1) == TOTAL).all())
        assert int(noisy.min()) >= 0
        kept.append(float(torch.minimum(noisy, clean).sum() / clean.sum()))
    assert kept == sorted(kept)
    assert kept[0] < 0.35
    assert kept[-1] > 0.95


def test_single_tokens_follow_the_logistic_law():
    """Where data and start differ by one, P(data value) is logistic(8 (2 t - 1)) up to a leak of e^-8."""
    for t, expected in ((0.3, 0.0392), (0.5, 0.5), (0.7, 0.961)):
        mean = torch.tensor([[t]])
        window = gaussian_window(mean, torch.tensor([[0.25]]), 128)
        p = window.log_p.softmax(-1)[0, 0]
        one = int(1 - window.start[0, 0])
        zero = int(-window.start[0, 0])
        both = p[one] / (p[one] + p[zero])
        assert abs(float(both) - expected) < 2e-3


def test_the_window_is_the_whole_gaussian():
    mean = torch.tensor([[0.3, 7.6, 2.5, 0.0, 12.0]])
    sigma = torch.tensor([[0.25, 1.5, 0.5, 0.8, 1e-6]])
    window = gaussian_window(mean, sigma, TOTAL)
    full = torch.zeros(1, 5, TOTAL + 1)
    places = window.start[..., None] + torch.arange(window.log_p.shape[-1])
    full.scatter_(-1, places, window.log_p.softmax(-1))
    official = gaussian_pmf(mean.double(), sigma.double().clamp_min(1e-3), TOTAL + 1)
    torch.testing.assert_close(full[:, :4].double(), official[:, :4], atol=1e-6, rtol=1e-5)
    assert full[0, 4].tolist() == [0.0] * TOTAL + [1.0]


@pytest.mark.parametrize("process", ["gaussian", "exchangeable"])
@pytest.mark.parametrize("engine", ["exact", "repair"])
def test_sampling_reaches_what_the_denoiser_knows(process, engine):
    target = data(1, seed=9)
    settings = DiffusionSettings(steps=8, engine=engine, process=process, temperature=0.5)
    states = []
    start = start_counts(CODES, TOTAL, RowNoise(range(20)))
    made = sample_counts(towards(target), start, settings, RowNoise(range(20)), on_step=states.append)
    assert [state.step for state in states] == list(range(8))
    assert all(bool((state.counts.sum(-1) == TOTAL).all()) for state in states)
    assert bool((made == target).all())


def test_bounds_hold_exactly_in_every_state():
    target = data(1, seed=9)
    lower, upper = torch.zeros(CODES, dtype=torch.int64), torch.full((CODES,), TOTAL)
    lower[60], upper[60] = 3, 3  # a code that the denoiser does not want at all
    upper[int(target.argmax())] = 0  # and without the one it wants most
    start = start_counts(CODES, TOTAL, RowNoise(range(20)), lower)
    states = []
    made = sample_counts(
        towards(target), start, DiffusionSettings(steps=6), RowNoise(range(20)), lower=lower, upper=upper,
        on_step=states.append,
    )  # fmt: skip
    assert bool((made >= lower).all() & (made <= upper).all())
    assert bool((made.sum(-1) == TOTAL).all())
    assert all(bool((state.counts[:, 60] == 3).all()) for state in states)
    with pytest.raises(SumError):
        sample_counts(towards(target), start, DiffusionSettings(steps=2), RowNoise(range(20)), upper=upper * 0)


@pytest.mark.parametrize("process", ["gaussian", "exchangeable"])
def test_looser_bounds_hold_in_every_state_too(process):
    generator = torch.Generator().manual_seed(0)
    upper = torch.randint(0, 3, (CODES,), generator=generator)
    lower = torch.minimum(torch.randint(0, 8, (CODES,), generator=generator) // 7, upper)
    start = start_counts(CODES, TOTAL, RowNoise(range(40)), lower, upper)
    assert bool(((start >= lower) & (start <= upper)).all())
    states = []
    settings = DiffusionSettings(steps=10, process=process, temperature=2.0, sigma_slope=0.0)
    made = sample_counts(
        towards(data(1, seed=9)), start, settings, RowNoise(range(40)), lower=lower, upper=upper,
        on_step=states.append,
    )  # fmt: skip
    for counts in (made, *(state.counts for state in states)):
        assert bool(((counts >= lower) & (counts <= upper)).all())
        assert bool((counts.sum(-1) == TOTAL).all())


def test_a_late_start_stays_near():
    target, origin = data(1, seed=9), data(1, seed=10)
    made = sample_counts(towards(origin), origin, DiffusionSettings(steps=10), RowNoise([1]), from_t=0.6)
    assert int(torch.minimum(made, origin).sum()) >= int(torch.minimum(made, target).sum())
    assert int(made.sum()) == TOTAL


def test_settings_are_checked():
    with pytest.raises(UsageError, match="steps"):
        DiffusionSettings(steps=0)
    with pytest.raises(UsageError, match="engine"):
        DiffusionSettings(engine="best")
    with pytest.raises(UsageError, match="temperature"):
        DiffusionSettings(temperature=-1)


def test_rows_of_another_sum_and_times_that_are_none_are_refused():
    start = torch.zeros(2, CODES, dtype=torch.int64)
    start[0, :3], start[1, :6] = 1, 1
    with pytest.raises(UsageError, match=r"one sum, got \[3, 6\]"):
        sample_counts(towards(data(1)), start, DiffusionSettings(steps=2), RowNoise([1, 2]))
    start = start[:1]
    for bad in (-1.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match="from_t must be from 0 to 1"):
            sample_counts(towards(data(1)), start, DiffusionSettings(steps=2), RowNoise([1]), from_t=bad)
    seen = []
    sample_counts(
        towards(data(1)), start_counts(CODES, TOTAL, RowNoise([1])), DiffusionSettings(steps=100), RowNoise([1]),
        from_t=0.29, on_step=lambda made: seen.append(made.step),
    )  # fmt: skip
    assert seen[0] == 29 and len(seen) == 71
