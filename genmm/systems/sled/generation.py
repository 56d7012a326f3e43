"""From text ids to speech latents, step by step, for a batch of utterances.

Letters: B utterances, R = B or 2 B rows (unconditional rows follow), D latent channels, C noise channels.
Sources: SLED (arXiv 2505.13181) and its official generation loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from genmm.core.errors import LimitError, ShapeError, UsageError
from genmm.core.events import CancelToken
from genmm.samplers.autoregressive import NOISE_BLOCK, NoiseStream, StopReason, StopTracker, guide, medoid
from genmm.systems.sled.engine import DecodeEngine
from genmm.systems.sled.graphs import RecordedStep
from genmm.systems.sled.joint import ForcedFrames, JointRun, OfflineRun, StreamingRun, Utterance


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Options shared by a batch; the defaults are the official ones."""

    temperature: float = 1.0
    """Scale of the noise variance, in [0, 4]."""
    shift_scale: float = 1.0
    """Scale of the modulation shifts of the head, the temperature of arXiv 2505.07812."""
    draws: int = 1
    """Draws for each frame, at least 1; what becomes of several is said by draw_merge."""
    draw_merge: Literal["typical", "mean"] = "typical"
    """typical keeps the draw nearest to the others (from three on); mean averages them, which is calmer still."""
    sync_every: int | None = None
    """Steps between looks at the stop flags; None = 1 on a CPU and 8 elsewhere. Does not change the result."""
    static: bool = False
    """Keep all shapes the same from step to step; on a CUDA device the steps are then played back as graphs."""

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UsageError(f"draws must be at least 1, got {self.draws}")
        if self.draw_merge not in ("typical", "mean"):
            raise UsageError(f"draw_merge must be typical or mean, got {self.draw_merge!r}")
        if self.sync_every is not None and not 1 <= self.sync_every <= 64:
            raise UsageError(f"sync_every must be in 1 to 64, got {self.sync_every}")


@dataclass(frozen=True)
class Written:
    """New frames of the utterances that are still being spoken."""

    frames: dict[int, Tensor]
    """Utterance index -> latents [k, D] float32, k >= 1."""
    ended: dict[int, StopReason]
    """Utterance index -> why it ended, for those that end here."""


@dataclass(frozen=True)
class StepTrace:
    """Intermediate values of one step, for tests and diagnosis."""

    rows: list[int]
    """Utterance index of each row."""
    z: Tensor
    """[B, H] hidden state after guidance."""
    stop: Tensor
    """[B] stop probability of the conditional hidden state."""
    latent: Tensor
    """[B, D] what was drawn."""


@torch.inference_mode()
def generate_latents(
    engine: DecodeEngine,
    utterances: Sequence[Utterance],
    options: SamplingOptions | None = None,
    *,
    cancel: CancelToken | None = None,
    on_step: Callable[[StepTrace], None] | None = None,
) -> Iterator[Written]:
    """Speak a batch; yields frames as they appear and each utterance's end once.

    Rows that have ended leave the batch. An utterance does not depend on its batch mates beyond float rounding.
    Raises: LimitError when text and prompt leave no room; ShapeError for a prompt or voice that does not fit; Cancelled
    within one step after `cancel` was asked to.
    """
    options = options or SamplingOptions()
    if not utterances:
        return
    checked = [_checked(engine, utterance, index) for index, utterance in enumerate(utterances)]
    run_class = StreamingRun if engine.config.is_streaming else OfflineRun
    loop = _Loop(engine, run_class(engine, checked, static=options.static), checked, options, cancel, on_step)
    yield from loop.run()


def _checked(engine: DecodeEngine, utterance: Utterance, index: int) -> Utterance:
    """The utterance with a frame limit that fits the context."""
    config = engine.config
    ids, prompt = utterance.ids, utterance.prompt
    if prompt is not None and (prompt.ndim != 2 or prompt.shape[1] != config.vae_embed_dim):
        raise ShapeError(f"the prompt must be [frames, {config.vae_embed_dim}], got {tuple(prompt.shape)}")
    if not isinstance(ids, Sequence):
        if not config.is_streaming:
            raise UsageError("only a streaming network can read text while it speaks; pass a list of ids")
    elif not len(ids):
        raise UsageError(f"utterance {index} has no text ids; even an empty text is <s> </s>")
    text = len(ids) if isinstance(ids, Sequence) and not config.is_streaming else 0
    used = text + (0 if prompt is None else len(prompt))
    room = config.max_position_embeddings - used
    if room < 1:
        raise LimitError(
            f"text and prompt of utterance {index} take {used} of {config.max_position_embeddings} positions; "
            "split the text or shorten the prompt"
        )
    return replace(utterance, stop=replace(utterance.stop, max_frames=min(utterance.stop.max_frames, room)))


class _Loop:
    """State of one batch being spoken."""

    def __init__(
        self,
        engine: DecodeEngine,
        run: JointRun,
        utterances: list[Utterance],
        options: SamplingOptions,
        cancel: CancelToken | None,
        on_step: Callable[[StepTrace], None] | None,
    ) -> None:
        self.engine, self.run_, self.options, self.cancel, self.on_step = engine, run, options, cancel, on_step
        self.active = list(range(len(utterances)))
        self.trackers = [StopTracker(utterance.stop) for utterance in utterances]
        self.scale = torch.tensor([[u.guidance] for u in utterances], dtype=engine.dtype, device=engine.device)
        self.noise = NoiseStream(
            [utterance.noise for utterance in utterances],
            options.draws * engine.config.noise_channels,
            temperature=options.temperature,
            device=engine.device,
        )
        self.watch_movement = any(utterance.stop.collapse_frames for utterance in utterances)
        self.previous = torch.zeros(len(utterances), engine.config.vae_embed_dim, device=engine.device)
        self.forced = ForcedFrames(engine, utterances, enabled=run.forces_prompt)
        self.every = options.sync_every or (1 if engine.device.type == "cpu" else 8)
        self.modulations: list[Tensor] = []
        # A bound method here would make a cycle, and the caches would stay until the collector comes by.
        self._recorded: RecordedStep | None = None

    def run(self) -> Iterator[Written]:
        z, latent = self._check(self.run_.begin), None
        if self.options.static and self.engine.device.type == "cuda":
            self._record(z)
        while self.active:
            steps = []
            for _ in range(self.every):
                if latent is not None:
                    z = self._check(self.run_.advance, latent)
                latent, facts = self._frame(z)
                steps.append((latent, facts))
            written = self._collect(steps)
            latent = self._drop_ended(latent)
            if written.frames or written.ended:
                yield written

    def _check(self, action: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        if self.cancel is not None:
            self.cancel.check()
        return action(*arguments)

    def _record(self, z: Tensor) -> None:
        """Replace the two halves of a step by CUDA graphs."""
        modulation = self._next_modulation()
        self.modulations.append(modulation)  # it was only looked at
        self._recorded = RecordedStep(self._plain_core, [z, modulation, self.previous])
        self.run_.record(self.previous.to(self.engine.dtype))

    def _frame(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the next latent of each row: z [R, H] -> latents [B, D] and (stop, movement) [B, 2]."""
        core = self._recorded or self._plain_core
        latent, guided, facts = core(z, self._next_modulation(), self.previous)
        if self._recorded is not None:
            latent, facts = latent.clone(), facts.clone()  # the next playback overwrites them
        if self.watch_movement:
            self.previous = latent.float()
        if self.on_step is not None:
            self.on_step(StepTrace(list(self.active), guided.clone(), facts[:, 0].clone(), latent))
        return self.forced.replace(latent), facts

    def _plain_core(self, z: Tensor, modulation: Tensor, previous: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Guided draw and what the stop rules look at: latents [B, D], guided hidden states [B, H], facts [B, 2]."""
        batch = len(self.scale)
        conditional = z[:batch]
        guided = guide(conditional, z[batch:], self.scale) if len(z) > batch else conditional
        latent = self._draw(guided, modulation)
        # NaN or infinity anywhere in the latent turns the probability into NaN.
        stop = self.engine.stop_probability(conditional) + 0.0 * latent.float().sum(1)
        movement = torch.zeros_like(stop)
        if self.watch_movement:
            movement = (latent.float() - previous).square().mean(1).sqrt()
        return latent, guided, torch.stack((stop, movement), dim=1)

    def _next_modulation(self) -> Tensor:
        """What the head computes from the noise of one step, for all draws: [M B, ...], draw by draw."""
        if not self.modulations:
            block = self.noise.next_block()  # [K, B, M C]
            draws, channels = self.options.draws, self.engine.config.noise_channels
            flat = block.view(NOISE_BLOCK, -1, draws, channels).transpose(1, 2).reshape(-1, channels)
            table = self.engine.modulations(flat, self.options.shift_scale)
            self.modulations = list(table.view(NOISE_BLOCK, draws * block.shape[1], -1).unbind(0))[::-1]
        return self.modulations.pop()

    def _draw(self, guided: Tensor, modulation: Tensor) -> Tensor:
        if self.options.draws == 1:
            return self.engine.draw(guided, modulation)
        drawn = self.engine.draw(guided.repeat(self.options.draws, 1), modulation)
        drawn = drawn.view(self.options.draws, len(guided), -1)
        return medoid(drawn) if self.options.draw_merge == "typical" else drawn.mean(0)

    def _collect(self, steps: list[tuple[Tensor, Tensor]]) -> Written:
        """Apply the stop rules to the steps since the last look."""
        facts = torch.stack([fact for _, fact in steps]).tolist()  # the one synchronisation
        latents = torch.stack([latent for latent, _ in steps]).float()  # [k, B, D]
        frames: dict[int, Tensor] = {}
        ended: dict[int, StopReason] = {}
        first_step = self.forced.step - len(steps)
        for row, index in enumerate(self.active):
            tracker = self.trackers[index]
            kept = []
            for step in range(len(steps)):
                if tracker.reason is not None or first_step + step < self.forced.lengths[row]:
                    continue
                if tracker.update(*facts[step][row]):
                    kept.append(step)
            if kept:
                frames[index] = latents[kept[0] : kept[-1] + 1, row]
            if tracker.reason is not None and row not in self.run_.silenced:
                ended[index] = tracker.reason
        return Written(frames, ended)

    def _drop_ended(self, latent: Tensor) -> Tensor:
        """Take ended rows out of the batch; a static run keeps them and ignores what they say."""
        going = [row for row, index in enumerate(self.active) if self.trackers[index].reason is None]
        if not going:
            self.active = []
            return latent
        if len(going) == len(self.active):
            return latent
        if self.options.static:
            self.run_.silenced.update(set(range(len(self.active))) - set(going))
            return latent
        draws, batch = self.options.draws, len(self.active)
        rows = torch.tensor(going, device=latent.device)
        every_draw = torch.cat([rows + draw * batch for draw in range(draws)])
        self.modulations = [table[every_draw] for table in self.modulations]
        self.active = [self.active[row] for row in going]
        self.scale, self.previous = self.scale[rows], self.previous[rows]
        self.noise.keep(going)
        self.forced.keep(rows)
        self.run_.keep(rows)
        return latent[rows]
