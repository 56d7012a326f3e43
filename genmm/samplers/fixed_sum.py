"""Whole numbers with a fixed sum: independent entries p_j(k), conditioned on x_1 + ... + x_C = T, by three engines.

Letters: B batch, C entries, W values of one entry, T the sum of a row.
- "exact" draws from the conditional distribution itself (see `genmm.samplers.count_tree`).
- "repair" draws freely from the tilted entries, then moves single units where that costs the least probability, with
  random ties, until the sum is right: several times faster, always the right sum, close to exact.
- "official" is the published sampler: a free draw and one greedy pass, which may miss the sum. For comparison only.
Works for any problem with counts and a budget; images are one of them.
Source: TokenSet (arXiv 2503.16425) algorithm 1 for "official"; the other two are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from genmm.core.errors import ShapeError, UsageError
from genmm.quantizers.nearest import full_precision
from genmm.samplers.count_tree import SumError, draw_by_log_tree, maximise_by_tree
from genmm.samplers.fixed_sum_engines import draw_exact, draw_official, draw_repaired
from genmm.samplers.fixed_sum_noise import RowNoise

__all__ = ["ENGINES", "CountPmf", "Engine", "RowNoise", "SumError", "map_fixed_sum", "sample_fixed_sum"]

Engine = Literal["exact", "repair", "official"]
ENGINES: tuple[str, ...] = get_args(Engine)
BLOCK_NUMBERS = 8_000_000
"""Rows are worked on in blocks of about so many values of p, which bounds the memory whatever the batch is."""

COLD = 0.1
"""Temperatures below may leave values so far apart that probabilities underflow."""
COLDEST = 1e-20
"""Temperatures below count as 0: differences that are left there are beyond what float64 tells apart."""


@dataclass(frozen=True)
class CountPmf:
    """Independent distributions of counts, each over its own window of values."""

    log_p: Tensor
    """[B, C, W] float: log-probability, up to a constant for each entry, of the values start, start + 1, ...; -inf
    where impossible."""
    start: Tensor | None = None
    """[B, C] int64: first value of each window; None means 0."""

    def __post_init__(self) -> None:
        if self.log_p.ndim != 3 or not self.log_p.is_floating_point() or 0 in self.log_p.shape:
            raise ShapeError(f"log_p must be floating [B, C, W], got {self.log_p.dtype} {tuple(self.log_p.shape)}")
        if self.start is not None and self.start.shape != self.log_p.shape[:2]:
            raise ShapeError(f"start must be [B, C] = {tuple(self.log_p.shape[:2])}, got {tuple(self.start.shape)}")

    def rows(self, first: int, end: int) -> CountPmf:
        """The same for some rows."""
        return CountPmf(self.log_p[first:end], None if self.start is None else self.start[first:end])

    def bounded(self, lower: Tensor | None, upper: Tensor | None) -> CountPmf:
        """With every value outside the bounds [B, C] (or [C]) made impossible; windows start at the lower bounds."""
        if lower is None and upper is None:
            return self
        shape, device = self.log_p.shape, self.log_p.device
        start = torch.zeros(shape[:2], dtype=torch.int64, device=device) if self.start is None else self.start
        log_p, places = self.log_p, torch.arange(shape[-1], device=device)
        if lower is not None:
            # Moved to the bound, so that what is locked costs no values of the window, however often it occurs.
            moved = (lower.to(device).long().expand(shape[:2]) - start).clamp_min(0)
            index = moved[..., None] + places
            log_p = log_p.gather(-1, index.clamp_max(shape[-1] - 1)).masked_fill_(index >= shape[-1], -torch.inf)
            start = start + moved
        if upper is not None:
            limit = upper.to(device).expand(shape[:2])[..., None]
            log_p = log_p.masked_fill(start[..., None] + places > limit, -torch.inf)
        return CountPmf(log_p, start)


def sample_fixed_sum(
    pmf: CountPmf | Tensor,
    total: int | Tensor,
    noise: RowNoise,
    *,
    engine: Engine = "exact",
    temperature: float = 1.0,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
    highest: int | None = None,
) -> Tensor:
    """Draw one row of counts with the sum `total` for each row of a batch.

    Shapes: pmf as CountPmf or log-probabilities (or logits) [B, C, W] of the values 0..W-1; total a number or [B];
    lower and upper [B, C] or [C], inclusive. Returns: counts [B, C] int64, each row sums to its total and keeps the
    bounds ("official" guarantees neither). `temperature` divides the log-probabilities; 0 (and anything below 1e-20)
    gives the most probable counts. `highest` bounds all totals, so that a GPU need not be asked. Randomness comes from
    `noise` alone.
    Raises: SumError when no counts fit, UsageError for an unknown engine, NaN or a bad temperature.
    """
    pmf = pmf if isinstance(pmf, CountPmf) else CountPmf(pmf)
    if engine not in ENGINES:
        raise UsageError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if not 0.0 <= temperature < float("inf"):
        raise UsageError(f"temperature must be at least 0 and finite, got {temperature!r}")
    if len(noise) != len(pmf.log_p):
        raise ShapeError(f"there are {len(noise)} rows of noise for {len(pmf.log_p)} rows of counts")
    totals = _totals(total, pmf.log_p)
    if temperature < COLDEST:
        return map_fixed_sum(pmf, totals, lower=lower, upper=upper)
    highest = total if isinstance(total, int) else highest
    return _in_blocks(pmf, totals, noise, engine, temperature, lower, upper, highest)


def map_fixed_sum(
    pmf: CountPmf | Tensor, total: int | Tensor, *, lower: Tensor | None = None, upper: Tensor | None = None
) -> Tensor:
    """The most probable counts [B, C] int64 with the sum `total`, exactly, for any distributions.

    Shapes and errors: as `sample_fixed_sum`.
    """
    pmf = pmf if isinstance(pmf, CountPmf) else CountPmf(pmf)
    totals = _totals(total, pmf.log_p)
    out = []
    for first, end in _blocks(pmf, totals):
        part = _prepared(pmf.rows(first, end), _rows_of(lower, first, end), _rows_of(upper, first, end), 1.0)
        found = maximise_by_tree(part.log_p, _rest(totals[first:end], part))
        out.append(found if part.start is None else found + part.start)
    return torch.cat(out)


def _in_blocks(pmf, totals, noise, engine, temperature, lower, upper, highest) -> Tensor:
    draw = {"exact": draw_exact, "repair": draw_repaired, "official": draw_official}[engine]
    if engine == "exact" and pmf.log_p.is_cuda and temperature < COLD:
        draw = draw_by_log_tree  # a GPU is not asked whether the tilt has worked
    out, noise = [], noise.fork()
    with full_precision(pmf.log_p.device):
        for first, end in _blocks(pmf, totals):
            rows = pmf.rows(first, end)
            part = _prepared(rows, _rows_of(lower, first, end), _rows_of(upper, first, end), temperature)
            rest = _rest(totals[first:end], part)
            bound = highest if highest is not None and rest.is_cuda else max(0, int(rest.max()))
            found = draw(part.log_p, rest, noise.rows(slice(first, end)), bound)
            out.append(found if part.start is None else found + part.start)
    return out[0] if len(out) == 1 else torch.cat(out)


def _prepared(pmf: CountPmf, lower: Tensor | None, upper: Tensor | None, temperature: float) -> CountPmf:
    """Bounded and tempered, in float32 or float64."""
    log_p = pmf.log_p.float() if pmf.log_p.dtype in (torch.float16, torch.bfloat16) else pmf.log_p
    if temperature != 1.0:
        log_p = (log_p.double() if temperature < 1e-3 else log_p) / temperature
    return CountPmf(log_p, pmf.start).bounded(lower, upper)


def _totals(total: int | Tensor, log_p: Tensor) -> Tensor:
    totals = torch.as_tensor(total, dtype=torch.int64, device=log_p.device).expand(log_p.shape[0])
    if not totals.is_cuda and bool((totals < 0).any()):
        raise SumError(f"a sum is 0 or more, got {int(totals.min())}")
    return totals


def _rest(totals: Tensor, pmf: CountPmf) -> Tensor:
    """What is left of the totals [B] above the first values of all windows. Raises: SumError where that is too much."""
    if pmf.start is None:
        return totals
    rest = totals - pmf.start.sum(-1)
    if not rest.is_cuda and bool((rest < 0).any()):
        row = int(rest.argmin())
        raise SumError(
            f"the smallest counts allowed in one of the rows sum to {int((totals - rest)[row])}, more than "
            f"{int(totals[row])}; loosen the lower bounds"
        )
    return rest


def _rows_of(bound: Tensor | None, first: int, end: int) -> Tensor | None:
    return bound if bound is None or bound.ndim == 1 else bound[first:end]


def _blocks(pmf: CountPmf, totals: Tensor) -> list[tuple[int, int]]:
    rows, entries, width = pmf.log_p.shape
    step = max(1, BLOCK_NUMBERS // (entries * width))
    return [(first, min(rows, first + step)) for first in range(0, rows, step)]
