"""From wishes to token sets: batches of rows that share settings, guided predictions, progress, cancelling.

Letters: B rows of a batch, C codes, K values of a count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genmm.core.events import CancelToken, Progress
from genmm.samplers.fixed_sum import RowNoise
from genmm.samplers.fixed_sum_diffusion import noised_counts, sampling_steps, start_counts
from genmm.samplers.fixed_sum_guidance import GuidanceSchedule, guided
from genmm.systems.tokenset.network import Condition, CountNetwork
from genmm.systems.tokenset.request import PictureSettings, Wish
from genmm.systems.tokenset.text import text_pieces, text_rows


@dataclass(frozen=True)
class Row:
    """One token set to make."""

    wish: Wish
    """What it shall show."""
    seed: int
    """Its seed; decides everything random about it."""
    lower: Tensor | None = None
    """Counts [C] that it must reach, None for 0."""
    upper: Tensor | None = None
    """Counts [C] that it must not pass, None for M."""
    origin: Tensor | None = None
    """Counts [C] to start from, None for a random set."""
    from_t: float = 0.0
    """How much of the origin stays at the start: 0 nothing, towards 1 nearly everything."""


def condition_of(wishes: Sequence[Wish], network: CountNetwork) -> Condition:
    """The network's condition for a batch of wishes, on its device."""
    labels = {
        name: torch.tensor([values.index(w.labels[name]) if name in w.labels else len(values) for w in wishes])
        for name, values in network.config.labels.items()
    }
    rows = network.config.text_rows
    pieces = text_rows([text_pieces(w.text, rows) if w.text else [] for w in wishes]) if rows else None
    return Condition(labels, pieces).to(network.pos_embed.device)


class Predictor:
    """The network with a condition and guidance: state [B, C], t -> log-probabilities [B, C, K]."""

    def __init__(self, network: CountNetwork, wishes: Sequence[Wish], settings: PictureSettings) -> None:
        self.network, self.space = network, settings.guidance_space
        self.schedule = GuidanceSchedule.parse(settings.guidance)
        self.given = condition_of(wishes, network)
        wants = any(wish.text or wish.labels for wish in wishes)
        self.is_guided = wants and not self.schedule.is_off
        if self.is_guided:
            self.both = self.given.joined(condition_of([Wish("", {})] * len(wishes), network))

    def __call__(self, state: Tensor, t: float) -> Tensor:
        rows, device = len(state), state.device
        if not self.is_guided or self.schedule.at(t) == 1.0:
            return self.network(state, torch.full((rows,), t, device=device), self.given).float().log_softmax(-1)
        times = torch.full((2 * rows,), t, device=device)
        one, other = self.network(state.repeat(2, 1), times, self.both).chunk(2)
        return guided(one, other, self.schedule.at(t), self.space)


@torch.inference_mode()
def sample_rows(
    network: CountNetwork,
    rows: Sequence[Row],
    settings: PictureSettings,
    *,
    cancel: CancelToken | None = None,
) -> Iterator[Progress | Tensor]:
    """Make the counts of rows that share settings and `from_t`: Progress after each step, at last counts [B, C].

    A row does not depend on the others beyond float rounding. Raises: SumError for impossible bounds, Cancelled within
    one step after `cancel` was asked to.
    """
    device = network.pos_embed.device
    codes, total = network.config.codes, network.config.tokens
    noise = RowNoise([row.seed for row in rows], device)
    lower, upper = _bounds(rows, codes, total, device)
    start = _start(rows, codes, total, noise, lower, upper)
    denoise = Predictor(network, [row.wish for row in rows], settings)
    counts = start
    steps = sampling_steps(denoise, start, settings.diffusion(), noise, from_t=rows[0].from_t, lower=lower, upper=upper)
    for made in steps:
        counts = made.counts
        if cancel is not None:
            cancel.check()
        yield Progress(made.step + 1, made.steps, "steps", "drawing")
    yield counts


def _bounds(rows: Sequence[Row], codes: int, total: int, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    if all(row.lower is None and row.upper is None for row in rows):
        return None, None
    none, all_of_it = torch.zeros(codes, dtype=torch.int64), torch.full((codes,), total)
    lower = torch.stack([none if row.lower is None else row.lower.long() for row in rows])
    upper = torch.stack([all_of_it if row.upper is None else row.upper.long() for row in rows])
    return lower.to(device), upper.to(device)


def _start(
    rows: Sequence[Row], codes: int, total: int, noise: RowNoise, lower: Tensor | None, upper: Tensor | None
) -> Tensor:
    """Random sets, or the origins with as much noise as `from_t` leaves; locked counts stay as they are."""
    own = noise.fork()
    if rows[0].from_t <= 0.0 or any(row.origin is None for row in rows):
        return start_counts(codes, total, own, lower, upper)
    origin = torch.stack([row.origin.long() for row in rows]).to(noise.device)  # type: ignore[union-attr]
    held = torch.zeros_like(origin) if lower is None else torch.minimum(lower, origin)
    free = origin - held
    times = torch.full((len(rows),), rows[0].from_t, device=noise.device)
    noisy = [noised_counts(free[i : i + 1], times[i : i + 1], own.rows(slice(i, i + 1))) for i in range(len(rows))]
    return held + torch.cat(noisy)
