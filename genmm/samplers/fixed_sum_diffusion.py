"""Fixed-sum discrete diffusion: from random sets to sets that a denoiser finds likely, and back for training.

Letters: B batch, C codes, M tokens of a set, K = M + 1 values of a count, t time from 0 (noise) to 1 (data).
Source: TokenSet (arXiv 2503.16425) section 3.3. The paper counts time the other way round; this is the convention of
its code. The exchangeable process, for comparison, replaces single tokens by random ones; it is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from genmm.core.errors import UsageError
from genmm.quantizers.multiset import to_counts, to_tokens
from genmm.samplers.fixed_sum import ENGINES, CountPmf, Engine, RowNoise, sample_fixed_sum
from genmm.samplers.fixed_sum_gaussian import ActiveEntries, gaussian_window
from genmm.samplers.fixed_sum_official import restricted

__all__ = [
    "Denoise",
    "DiffusionSettings",
    "Process",
    "StepState",
    "noised_counts",
    "sample_counts",
    "sampling_steps",
    "start_counts",
]

Process = Literal["gaussian", "exchangeable"]
PROCESSES: tuple[str, ...] = get_args(Process)
Denoise = Callable[[Tensor, float], Tensor]
"""(state [B, C] int64, t) -> guided log-probabilities or logits [B, C, K] of the clean counts."""
LAST_RESORT = 20.0
"""Log-probability that a value outside the nucleus loses."""
FIRST_TIME = 1e-5
"""Smallest time in training."""


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """How a random set becomes a likely one."""

    steps: int = 25
    """Network calls, 1 to 1000; the paper takes 25."""
    engine: Engine = "exact"
    """How counts with the right sum are drawn; see `genmm.samplers.fixed_sum`."""
    process: Process = "gaussian"
    """Noise process: the paper's discretised Gaussian, or tokens replaced one by one."""
    temperature: float = 1.0
    """Divides the log-probabilities of the clean counts, 0 to 10; below 1 is safer, 0 takes the most likely set."""
    top_p: float = 0.0
    """Nucleus of each entry's clean count, 0 (off) to 1."""
    sigma_slope: float = 100.0
    """Steepness of the fall of the noise near the end; 0 keeps it. Default: the released sampler."""
    sigma_end: float = 0.8
    """Time at which the noise has fallen to a half."""

    def __post_init__(self) -> None:
        checks = {
            f"steps must be from 1 to 1000, got {self.steps!r}": isinstance(self.steps, int)
            and 1 <= self.steps <= 1000,
            f"engine must be one of {', '.join(ENGINES)}, got {self.engine!r}": self.engine in ENGINES,
            f"process must be one of {', '.join(PROCESSES)}, got {self.process!r}": self.process in PROCESSES,
            f"temperature must be from 0 to 10, got {self.temperature!r}": 0 <= self.temperature <= 10,
            f"top_p must be from 0 to 1, got {self.top_p!r}": 0 <= self.top_p <= 1,
            f"sigma_slope must be from 0 to 10000, got {self.sigma_slope!r}": 0 <= self.sigma_slope <= 10_000,
        }
        wrong = [text for text, holds in checks.items() if not holds]
        if wrong:
            raise UsageError("; ".join(wrong))

    def sigma_factor(self, t: float) -> float:
        """Factor on the noise of the step that ends at t."""
        if not self.sigma_slope:
            return 1.0
        return float(torch.sigmoid(torch.tensor(-self.sigma_slope * (t - self.sigma_end), dtype=torch.float64)))


@dataclass(frozen=True)
class StepState:
    """What a step of the sampler has made, for progress displays and checks."""

    step: int
    """From 0."""
    steps: int
    """Steps in all."""
    clean: Tensor
    """Clean counts drawn in this step, [B, C] int64."""
    counts: Tensor
    """State after the step, [B, C] int64."""


def start_counts(
    codes: int, total: int, noise: RowNoise, lower: Tensor | None = None, upper: Tensor | None = None
) -> Tensor:
    """Random sets to start from: [B, C] int64 with `total` different codes each.

    With lower bounds [B, C] or [C] the set holds these and is filled up with random other codes, those that the upper
    bounds rule out only when there are no others.
    Raises: UsageError when there are fewer codes than tokens.
    """
    base = torch.zeros(len(noise), codes, dtype=torch.int64, device=noise.device)
    if lower is not None:
        base = base + lower.to(noise.device)
    missing = total - base.sum(-1)  # [B]
    if total > codes:
        raise UsageError(f"a set of {total} tokens needs at least as many codes to start from, there are {codes}")
    if not base.is_cuda and bool((missing < 0).any()):
        raise UsageError(f"the lower bounds sum to {int(base.sum(-1).max())}, more than the {total} tokens of a set")
    ranked = noise.uniform(codes)
    if upper is not None:
        ranked = ranked.masked_fill((base >= upper.to(noise.device)) & (base == 0), -1.0)
    order = ranked.masked_fill(base > 0, -2.0).argsort(dim=-1, descending=True)
    ranks = torch.arange(codes, device=base.device)
    return base.scatter_add(-1, order, (ranks < missing[:, None]).long())


def noised_counts(
    clean: Tensor, t: Tensor, noise: RowNoise, *, process: Process = "gaussian", engine: Engine = "repair"
) -> Tensor:
    """A training pair's noisy state: clean counts [B, C], t [B] -> [B, C] int64 with the same sums.

    Gaussian: around t clean + (1 - t) start with sigma = |start - clean| / 4 for each entry (equations 5, 6).
    Exchangeable: every token is replaced by a random code with probability 1 - t.
    All rows must have one sum. Raises: UsageError, SumError.
    """
    total = int(clean[0].sum())
    if process == "exchangeable":
        return _replaced(clean, t, noise)
    start = start_counts(clean.shape[-1], total, noise)
    active = ActiveEntries.where_different(clean, start, total)
    one, other = active.of(clean).float(), active.of(start).float()
    mean = t[:, None] * one + (1.0 - t[:, None]) * other
    return _drawn(clean, active, gaussian_window(mean, (one - other).abs() / 4.0, total), total, noise, engine)


def sample_counts(
    denoise: Denoise,
    start: Tensor,
    settings: DiffusionSettings,
    noise: RowNoise,
    *,
    from_t: float = 0.0,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
    on_step: Callable[[StepState], None] | None = None,
) -> Tensor:
    """Run the sampler from a state [B, C] int64 at time `from_t` to the end; gives back clean counts [B, C] int64.

    Arguments and errors: as `sampling_steps`. `on_step` may raise to stop.
    """
    state = start
    for made in sampling_steps(denoise, start, settings, noise, from_t=from_t, lower=lower, upper=upper):
        state = made.counts
        if on_step is not None:
            on_step(made)
    return state


def sampling_steps(
    denoise: Denoise,
    start: Tensor,
    settings: DiffusionSettings,
    noise: RowNoise,
    *,
    from_t: float = 0.0,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
) -> Iterator[StepState]:
    """Run the sampler step by step; the counts of the last step are the result.

    Every state and the result sum to what `start` sums to. Bounds [B, C] or [C] hold for the result, exactly, and for
    every state when `start` keeps them. All rows of `start` must have one sum; `from_t` is from 0 to 1.
    Raises: SumError when the bounds leave no way, UsageError.
    """
    if not 0.0 <= from_t <= 1.0:
        raise UsageError(f"from_t must be from 0 to 1, got {from_t}")
    total, state = int(start[0].sum()), start
    if not bool((start.sum(-1) == total).all()):
        raise UsageError(f"all rows of start must have one sum, got {sorted(set(start.sum(-1).tolist()))[:8]}")
    first = min(settings.steps - 1, int(from_t * settings.steps + 1e-6))
    for step in range(first, settings.steps):
        t, s = step / settings.steps, (step + 1) / settings.steps
        log_p = denoise(state, t)
        if settings.top_p:
            log_p = _nucleus(log_p, settings)
        clean = sample_fixed_sum(
            log_p, total, noise, engine=settings.engine, temperature=settings.temperature, lower=lower, upper=upper
        )
        if step + 1 == settings.steps:
            state = clean
        elif settings.process == "exchangeable":
            state = _replaced(clean, torch.full((len(clean),), s, device=clean.device), noise, lower, upper)
        else:
            state = _towards(state, clean, t, s, total, settings, noise, lower, upper)
        yield StepState(step, settings.steps, clean, state)


def _nucleus(log_p: Tensor, settings: DiffusionSettings) -> Tensor:
    """Values outside each entry's nucleus made unlikely; impossible only for "official".

    The published sampler cuts them off, which leaves hardly any entry a count above 0 while the network is unsure, so
    that no set has the right sum. Here they stay as a last resort, in the order of their probabilities.
    """
    p = log_p.float().softmax(-1)
    kept = restricted(p, top_p=settings.top_p)
    if settings.engine == "official":
        return kept.log()
    return p.log().where(kept > 0, p.log() - LAST_RESORT)


def _towards(
    state: Tensor, clean: Tensor, t: float, s: float, total: int, settings: DiffusionSettings, noise: RowNoise,
    lower: Tensor | None, upper: Tensor | None,
) -> Tensor:  # fmt: skip
    """The posterior step of the paper: around a z + (1 - a) x with a = (1 - s) / (1 - t), within the bounds."""
    active = ActiveEntries.where_different(state, clean, total)
    z, x = active.of(state).float(), active.of(clean).float()
    share = (1.0 - s) / (1.0 - t)
    sigma = (z - x).abs() / (4.0 * (1.0 - t)) * settings.sigma_factor(s)
    window = gaussian_window(share * z + (1.0 - share) * x, sigma, total)
    # A state outside its bounds (a start that broke them) may stay where it is: there is always a way then.
    low = None if lower is None else torch.minimum(active.of(lower.to(z.device).expand_as(state)), z.long())
    high = None if upper is None else torch.maximum(active.of(upper.to(z.device).expand_as(state)), z.long())
    return _drawn(clean, active, window, total, noise, settings.engine, low, high)


def _drawn(
    clean: Tensor, active: ActiveEntries, window: CountPmf, total: int, noise: RowNoise, engine: Engine,
    lower: Tensor | None = None, upper: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """New values for the active entries, so that the whole keeps its sum; bounds [B, A] are of these entries."""
    kept = active.of(clean).sum(-1)  # what the active entries held together, they hold together again
    engine = "repair" if engine == "official" else engine
    drawn = sample_fixed_sum(window, kept, noise, engine=engine, highest=total, lower=lower, upper=upper)
    return active.put(clean, drawn)


def _replaced(
    clean: Tensor, t: Tensor, noise: RowNoise, lower: Tensor | None = None, upper: Tensor | None = None
) -> Tensor:
    fixed = torch.zeros_like(clean) if lower is None else torch.minimum(clean, lower.to(clean.device).expand_as(clean))
    tokens, held = to_tokens(clean - fixed)
    codes = clean.shape[-1]
    keep = noise.uniform(tokens.shape[-1]) < t[:, None]
    if upper is not None:
        stay = fixed + to_counts(tokens, codes, keep=held & keep)
        return stay + _refill(clean.sum(-1) - stay.sum(-1), upper.to(clean.device) - stay, noise)
    other = (noise.uniform(tokens.shape[-1]) * codes).long().clamp_max_(codes - 1)
    return fixed + to_counts(torch.where(keep, tokens, other), codes, keep=held)


def _refill(missing: Tensor, room: Tensor, noise: RowNoise) -> Tensor:
    """Counts [B, C] of `missing` [B] tokens with random codes, given that no code gets more than its room [B, C].

    Independent Poisson counts conditioned on their sum are a multinomial, so bounds are bounds of that draw.
    """
    values = torch.arange(int(missing.max()) + 1, device=room.device, dtype=torch.float32)
    log_p = (-torch.lgamma(values + 1.0)).expand(*room.shape, -1)
    return sample_fixed_sum(log_p, missing, noise, upper=room.clamp_min(0))
