"""The joint sequence while it is being generated: what is fed at each step, offline and streaming.

Letters: B utterances, R = B or 2 B rows (unconditional rows follow), L positions of a block, P prompt frames, H width,
D latent channels, V voice statistics, C noise channels.
Source: SLED (arXiv 2505.13181), both official generation loops with their two conventions for the unconditional branch:
offline it masks all text keys but </s>; streaming it is </s> followed by the latents alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from genmm.core.errors import LimitError
from genmm.samplers.autoregressive import StopRule
from genmm.systems.sled.engine import DecodeEngine
from genmm.systems.sled.graphs import RecordedStep

_SLACK = 64  # positions beyond the longest utterance: steps done before the stop flags are looked at


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """What one row of a batch should say."""

    ids: Sequence[int] | Iterator[int]
    """Text ids from <s> to </s>; an iterator (streaming layout only) is read turn by turn."""
    noise: torch.Generator | Tensor
    """Source of head noise: a CPU generator, or a tensor [steps, draws * C]."""
    prompt: Tensor | None = None
    """[P, D] latents that continue into the new speech; their transcript must lead the text."""
    voice: Tensor | None = None
    """[V] voice statistics, for a network with voice_channels."""
    guidance: float = 2.0
    """Guidance scale; 1 = none, at no cost when every row has 1."""
    stop: StopRule = field(default_factory=StopRule)
    """When it ends."""


class JointRun:
    """Rows, voices and cache of a batch; subclasses know the layout."""

    forces_prompt = False
    """Whether prompt latents are fed one by one in the loop instead of before it."""

    def __init__(self, engine: DecodeEngine, utterances: Sequence[Utterance], capacity: int, *, static: bool) -> None:
        self.engine, self.batch = engine, len(utterances)
        self.guided = any(utterance.guidance != 1.0 for utterance in utterances)
        self.silenced: set[int] = set()
        """Rows of a static run that have ended but are still computed."""
        self._recorded: RecordedStep | None = None
        self.shift = self._voices(utterances)
        capacity = -(-capacity // 64) * 64  # fused attention kernels want aligned masks
        self.cache = engine.new_cache(self.batch * (2 if self.guided else 1), capacity, static=static)

    def _voices(self, utterances: Sequence[Utterance]) -> Tensor | None:
        """Voice shift of each utterance [B, 1, H], or None for a network without voices."""
        network, given = self.engine.network, [utterance.voice for utterance in utterances]
        if network.voice_proj is None and any(voice is not None for voice in given):
            network.voice_shift(torch.zeros(1, 1), 1)  # raises with the explanation
        if network.voice_proj is None:
            return None
        blank = torch.zeros(network.config.voice_channels)
        voices = torch.stack([blank if voice is None else voice.float().cpu() for voice in given])
        return network.voice_shift(voices.to(self.engine.device, self.engine.dtype), self.batch)

    def both(self, tensor: Tensor) -> Tensor:
        """The rows of both branches: [B, ...] -> [R, ...]."""
        return torch.cat((tensor, tensor)) if self.guided else tensor

    def begin(self) -> Tensor:
        """Feed what comes before the first frame: hidden states [R, H] that predict it."""
        raise NotImplementedError

    def advance(self, latent: Tensor) -> Tensor:
        """Feed the frame just drawn [B, D] (and text whose turn it is): hidden states [R, H] for the next one."""
        if self._recorded is None:
            return self.engine.step(self.cache, self.both(self.engine.embed_frame(latent, self.shift)))
        self.cache.claim(1)
        return self._recorded(latent)[0]

    def record(self, latent: Tensor) -> None:
        """Record the step as a CUDA graph; the run must be static and have begun. latent [B, D] is an example."""
        cache = self.cache
        self._recorded = RecordedStep(self._static_step, [latent], [cache.bias, cache.positions, cache.slot])

    def _static_step(self, latent: Tensor) -> tuple[Tensor]:
        opening = self.cache.open_static_step()
        joint = self.both(self.engine.embed_frame(latent, self.shift))
        return (self.engine.run_step(self.cache, joint, opening),)

    def keep(self, rows: Tensor) -> None:
        """Go on with these utterances only: rows [n] int64."""
        self.cache.keep(torch.cat((rows, rows + self.batch)) if self.guided else rows)
        self.shift = None if self.shift is None else self.shift[rows]
        self.batch = len(rows)


class OfflineRun(JointRun):
    """All text, then the prompt, then new frames; every row ends at the same position, padding comes first."""

    def __init__(self, engine: DecodeEngine, utterances: Sequence[Utterance], *, static: bool = False) -> None:
        self.ids = [torch.as_tensor(utterance.ids, dtype=torch.int64) for utterance in utterances]
        self.prompts = [utterance.prompt for utterance in utterances]
        self.lengths = [len(ids) + _frames(prompt) for ids, prompt in zip(self.ids, self.prompts, strict=True)]
        frames = max(utterance.stop.max_frames for utterance in utterances)
        super().__init__(engine, utterances, max(self.lengths) + frames + _SLACK, static=static)

    def begin(self) -> Tensor:
        network, device, longest = self.engine.network, self.engine.device, max(self.lengths)
        shape = (self.batch, longest, network.config.hidden_size)
        embedded = torch.zeros(shape, dtype=self.engine.dtype, device=device)
        real = torch.zeros(2, self.batch, longest, dtype=torch.bool, device=device)  # conditional, unconditional
        for row, (ids, prompt) in enumerate(zip(self.ids, self.prompts, strict=True)):
            first, end = longest - self.lengths[row], longest - _frames(prompt)
            embedded[row, first:end] = network.embed_text(ids.to(device))
            if prompt is not None:
                embedded[row, end:] = network.embed_speech(prompt.to(device, self.engine.dtype))
            real[0, row, first:] = True
            real[1, row, end - 1 :] = True  # </s> and the prompt
        joint = network.join(embedded, self.shift)
        if not self.guided:
            return self.engine.extend(self.cache, joint, real[0])
        # The unconditional rows see nothing before the earliest </s>, so they sit out the first block.
        first = longest - 1 - max(map(_frames, self.prompts))
        if first:
            self.engine.extend(self.cache, joint[:, :first], real[0, :, :first])
        return self.engine.extend(self.cache, self.both(joint[:, first:]), real[:, :, first:].flatten(0, 1))


class StreamingRun(JointRun):
    """Turns of n text tokens and m frames; prompt latents take the place of drawn ones."""

    forces_prompt = True

    def __init__(self, engine: DecodeEngine, utterances: Sequence[Utterance], *, static: bool = False) -> None:
        config = engine.config
        self.n, self.m, self.written = config.stream_n, config.stream_m, 0
        self.texts: list[Iterator[int]] = [
            _limited(iter(utterance.ids), config.max_position_embeddings) for utterance in utterances
        ]
        self.exhausted = [False] * len(utterances)
        text = max(
            len(utterance.ids) if isinstance(utterance.ids, Sequence) else config.max_position_embeddings
            for utterance in utterances
        )
        frames = max(utterance.stop.max_frames + _frames(utterance.prompt) for utterance in utterances)
        super().__init__(engine, utterances, text + frames + self.n + _SLACK, static=static)

    def _read(self) -> list[list[int]]:
        """The tokens of the next turn of each row, fewer than n at the end of its text."""
        turns = []
        for row, text in enumerate(self.texts):
            turn = [] if self.exhausted[row] else list(islice(text, self.n))
            self.exhausted[row] = self.exhausted[row] or len(turn) < self.n
            turns.append(turn)
        return turns

    def _tokens(self, turns: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids and which are real: two [B, longest turn] tensors."""
        longest, padding = max(map(len, turns)), self.engine.config.padding_id
        ids = torch.tensor([turn + [padding] * (longest - len(turn)) for turn in turns])
        real = torch.tensor([[True] * len(turn) + [False] * (longest - len(turn)) for turn in turns])
        return ids.to(self.engine.device), real.to(self.engine.device)

    def begin(self) -> Tensor:
        network = self.engine.network
        ids, real = self._tokens(self._read())
        joint = network.join(network.embed_text(ids), self.shift)
        if self.guided:
            only = torch.full_like(ids, network.config.eos_token_id)
            joint = torch.cat((joint, network.join(network.embed_text(only), self.shift)))
            first = torch.zeros_like(real)
            first[:, 0] = True
            real = torch.cat((real, first))
        return self.engine.extend(self.cache, joint, real)

    def advance(self, latent: Tensor) -> Tensor:
        self.written += 1
        turns = self._read() if self.written % self.m == 0 and not all(self.exhausted) else []
        if not any(turns):
            return super().advance(latent)
        network = self.engine.network
        ids, real_text = self._tokens(turns)
        speech = network.embed_speech(latent.to(self.engine.dtype)).unsqueeze(1)
        joint = network.join(torch.cat((speech, network.embed_text(ids)), dim=1), self.shift)
        frame = torch.ones_like(real_text[:, :1])
        real = torch.cat((frame, real_text), dim=1)
        if self.guided:
            real = torch.cat((real, torch.cat((frame, torch.zeros_like(real_text)), dim=1)))
        return self.engine.extend(self.cache, self.both(joint), real)

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.texts = [self.texts[row] for row in rows.tolist()]
        self.exhausted = [self.exhausted[row] for row in rows.tolist()]


class ForcedFrames:
    """Prompt latents that take the place of drawn ones while the prompt lasts (streaming layout)."""

    def __init__(self, engine: DecodeEngine, utterances: Sequence[Utterance], *, enabled: bool) -> None:
        self.lengths = [_frames(utterance.prompt) if enabled else 0 for utterance in utterances]
        self.step = 0
        """Steps replaced so far."""
        self._longest = max(self.lengths)
        shape = (len(utterances), self._longest, engine.config.vae_embed_dim)
        self._latents = torch.zeros(shape, dtype=engine.dtype, device=engine.device)
        for row, (utterance, frames) in enumerate(zip(utterances, self.lengths, strict=True)):
            if frames:
                self._latents[row, :frames] = utterance.prompt.to(self._latents)

    def replace(self, latent: Tensor) -> Tensor:
        """The frame to feed at this step: latent [B, D] where the prompt is over, its own frame elsewhere."""
        step, self.step = self.step, self.step + 1
        if step >= self._longest:
            return latent
        inside = torch.tensor([step < frames for frames in self.lengths], device=latent.device)
        return torch.where(inside[:, None], self._latents[:, step], latent)

    def keep(self, rows: Tensor) -> None:
        """Go on with these utterances only: rows [n] int64."""
        self.lengths = [self.lengths[row] for row in rows.tolist()]
        self._latents = self._latents[rows]


def _frames(prompt: Tensor | None) -> int:
    return 0 if prompt is None else len(prompt)


def _limited(ids: Iterator[int], most: int) -> Iterator[int]:
    for count, token in enumerate(ids):
        if count >= most:
            raise LimitError(f"the text has more than {most} tokens; split it into shorter parts")
        yield int(token)
