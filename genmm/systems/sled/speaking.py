"""Lines of text become takes of sound: in batches, with new attempts for lines that failed, or live as events.

Letters: T latent frames, D latent channels, P prompt frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from genmm.core.errors import GenerationError
from genmm.core.events import CancelToken, PartialAudio, Progress
from genmm.samplers.autoregressive import StopReason
from genmm.systems.sled.engine import DecodeEngine
from genmm.systems.sled.generation import SamplingOptions, generate_latents
from genmm.systems.sled.joint import Utterance
from genmm.systems.sled.latents import LatentCodec
from genmm.systems.sled.request import Line, SpeechSettings, expected_s
from genmm.systems.sled.sound import TakeSound


@dataclass(frozen=True, kw_only=True)
class Task:
    """A line with all that is needed to speak it."""

    line: Line
    settings: SpeechSettings
    ids: Sequence[int] | Iterator[int]
    prompt: Tensor | None
    voice: Tensor | None

    def utterance(self, attempt: int, frame_rate: float) -> Utterance:
        """One row of a batch."""
        return Utterance(
            ids=self.ids,
            noise=torch.Generator("cpu").manual_seed(self.line.attempt_seed(attempt)),
            prompt=self.prompt,
            voice=self.voice,
            guidance=self.settings.guidance,
            stop=self.settings.stop_rule(self.line.text, frame_rate),
        )

    def sampling(self) -> SamplingOptions:
        """What must be equal within a batch."""
        settings = self.settings
        return SamplingOptions(
            temperature=settings.temperature,
            shift_scale=settings.shift_scale,
            draws=int(settings.draws),
            draw_merge=settings.draw_merge,
        )


@dataclass
class Spoken:
    """A line that has been spoken."""

    latents: Tensor
    """[T, D] float32."""
    reason: StopReason
    attempts: int


@dataclass
class Studio:
    """Engine and codec of a pipeline, and what a run measures."""

    engine: DecodeEngine
    codec: LatentCodec
    graphs: bool = False
    """Whether steps are played back as CUDA graphs."""
    timings: dict[str, float] = field(default_factory=dict)

    def _sampling(self, task: Task) -> SamplingOptions:
        return replace(task.sampling(), static=self.graphs)

    def _spend(self, name: str, since: float) -> None:
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - since

    def speak(
        self,
        tasks: Sequence[Task],
        batch_size: int,
        cancel: CancelToken | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> list[Spoken]:
        """Speak all lines, like lengths together; lines that do not end by themselves are tried again."""
        spoken: list[Spoken | None] = [None] * len(tasks)
        meter = Meter(tasks, self.codec.frame_rate, on_progress)
        waiting, attempt = list(range(len(tasks))), 0
        while waiting:
            for batch in batches(tasks, waiting, batch_size):
                found = self._speak_batch([tasks[index] for index in batch], attempt, cancel, meter)
                for index, one in zip(batch, found, strict=True):
                    spoken[index] = better(spoken[index], one)
            attempt += 1
            waiting = [
                index
                for index in waiting
                if spoken[index].reason != "stop" and attempt <= tasks[index].settings.retries
            ]
        return spoken

    def _speak_batch(
        self, tasks: Sequence[Task], attempt: int, cancel: CancelToken | None, meter: Meter
    ) -> list[Spoken]:
        started = time.perf_counter()
        utterances = [task.utterance(attempt, self.codec.frame_rate) for task in tasks]
        frames: list[list[Tensor]] = [[] for _ in tasks]
        reasons: dict[int, StopReason] = {}
        for written in generate_latents(self.engine, utterances, self._sampling(tasks[0]), cancel=cancel):
            for row, latents in written.frames.items():
                frames[row].append(latents)
            reasons |= written.ended
            meter.add(sum(map(len, written.frames.values())))
        self._spend("latents_s", started)
        blank = torch.zeros(0, self.codec.channels)
        return [
            Spoken(torch.cat(parts) if parts else blank, reasons[row], attempt + 1) for row, parts in enumerate(frames)
        ]

    def sound(self, parts: Sequence[tuple[Task, Spoken]]) -> np.ndarray:
        """The sound [S] of one take from its parts in order."""
        started = time.perf_counter()
        take = TakeSound(self.codec, len(parts), parts[0][0].settings.pause_s)
        pieces = []
        for task, spoken in parts:
            take.begin_part(task.prompt)
            if len(spoken.latents):
                pieces.append(take.push(spoken.latents))
            pieces.append(take.end_part())
        self._spend("sound_s", started)
        return np.concatenate(pieces)

    def live(
        self, parts: Sequence[Sequence[Task]], first_s: float, piece_s: float, cancel: CancelToken | None
    ) -> Iterator[Progress | PartialAudio | LiveTakes]:
        """Speak the takes part by part and give every piece of sound as soon as it is there; LiveTakes at the end.

        parts: for each part of the text, one task for each take.
        """
        takes = [LiveTake(self.codec, len(parts), task, first_s, piece_s) for task in parts[0]]
        started = time.perf_counter()
        events: list[Progress] = []
        meter = Meter([task for tasks in parts for task in tasks], self.codec.frame_rate, events.append)
        for tasks in parts:
            for take, task in zip(takes, tasks, strict=True):
                take.sound.begin_part(task.prompt)
            utterances = [task.utterance(0, self.codec.frame_rate) for task in tasks]
            for written in generate_latents(self.engine, utterances, self._sampling(tasks[0]), cancel=cancel):
                meter.add(sum(map(len, written.frames.values())))
                yield from events
                events.clear()
                for number in sorted({*written.frames, *written.ended}):
                    piece = takes[number].take_in(written.frames.get(number), written.ended.get(number))
                    if len(piece):
                        self.timings.setdefault("first_audio_s", time.perf_counter() - started)
                        yield PartialAudio(piece, self.codec.sample_rate, number)
        self._spend("latents_s", started)
        yield LiveTakes(tuple(take.whole() for take in takes), tuple(take.reason for take in takes))


class LiveTake:
    """One take that is heard while it is made."""

    def __init__(self, codec: LatentCodec, parts: int, task: Task, first_s: float, piece_s: float) -> None:
        self.sound = TakeSound(codec, parts, task.settings.pause_s)
        self._first = max(1, round(first_s * codec.frame_rate))
        self._usual = max(1, round(piece_s * codec.frame_rate))
        self._latents: list[Tensor] = []
        self._pieces: list[np.ndarray] = []
        self.reason: StopReason = "stop"
        """How the take ended; the worst of its parts."""

    def take_in(self, latents: Tensor | None, ended: StopReason | None) -> np.ndarray:
        """New frames and perhaps the end of a part; gives back the sound to send now, often nothing."""
        if latents is not None:
            self._latents.append(latents)
        waiting = sum(map(len, self._latents))
        piece = np.zeros(0, np.float32)
        if waiting and (ended or waiting >= (self._usual if self._pieces else self._first)):
            piece = self.sound.push(torch.cat(self._latents))
            self._latents.clear()
        if ended:
            piece = np.concatenate((piece, self.sound.end_part()))
            self.reason = self.reason if ended == "stop" else ended
        if len(piece):
            self._pieces.append(piece)
        return piece

    def whole(self) -> np.ndarray:
        """Everything sent so far as one sound [S]."""
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.float32)


@dataclass(frozen=True)
class LiveTakes:
    """What was heard."""

    samples: tuple[np.ndarray, ...]
    reasons: tuple[StopReason, ...]


class Meter:
    """Counts frames and reports them against an estimate."""

    def __init__(
        self, tasks: Sequence[Task], frame_rate: float, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self.total = max(1, round(sum(expected_s(task.line.text) for task in tasks) * frame_rate))
        self.done, self.on_progress = 0, on_progress
        self._every, self._next = max(1, round(frame_rate / 5)), 0

    def add(self, frames: int) -> None:
        """Count frames; reports about five times for each second of speech."""
        self.done += frames
        if self.on_progress is not None and self.done >= self._next:
            self._next = self.done + self._every
            self.on_progress(Progress(self.done, max(self.total, self.done), "frames", "Speaking"))


def batches(tasks: Sequence[Task], waiting: Sequence[int], batch_size: int) -> list[list[int]]:
    """Split lines into batches of like sampling options and like length."""
    seconds = {index: expected_s(tasks[index].line.text) for index in waiting}
    order = sorted(waiting, key=lambda index: (repr(tasks[index].sampling()), seconds[index], index))
    found: list[list[int]] = []
    for index in order:
        if found and len(found[-1]) < batch_size and tasks[found[-1][0]].sampling() == tasks[index].sampling():
            found[-1].append(index)
        else:
            found.append([index])
    return found


def better(old: Spoken | None, new: Spoken) -> Spoken:
    """The attempt to keep: one that ended by itself, else one with sound, else the latest."""
    if old is None or new.reason == "stop" or (old.reason == "not finite" and new.reason != "not finite"):
        return new
    return Spoken(old.latents, old.reason, new.attempts)


def check_sound(samples: Sequence[np.ndarray]) -> None:
    """Raise GenerationError when a take is empty or not finite."""
    for take, array in enumerate(samples):
        if not len(array):
            raise GenerationError(
                f"take {take + 1} ended before it began; try another seed, more guidance or a longer text"
            )
        if not np.isfinite(array).all():
            raise GenerationError(f"take {take + 1} holds NaN or infinity; the checkpoint is damaged, or try float32")
