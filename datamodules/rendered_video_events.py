"""Random scenes with known highlights: loud, flashing events among distractors that look or sound like them in part.

A highlight is a moment at which a vivid object flashes and swells while something loud is heard. Around it happens
what a single cheap cue would fall for: silent fast movement, loud noise without anything to see, hard cuts, fades, a
trembling camera, music. Six families differ in background, shape, sound and colour; A to D are for training, E and F
for testing, so that what is learned has to hold for looks and sounds that were never seen together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.rendered_video import Background, Effect, Mover, Scene, Shot, Sound
from genmm.core.errors import UsageError
from genmm.core.seeds import derive_seed

__all__ = ["FAMILIES", "TEST_FAMILIES", "TRAIN_FAMILIES", "Family", "event_scene"]

TRAIN_FAMILIES = ("A", "B", "C", "D")
TEST_FAMILIES = ("E", "F")
CALM = ("blue", "cyan", "green", "purple")
"""Colours of objects that pass without a sound."""
GROUNDS = ("grey", "brown", "green", "blue", "purple", "black")


@dataclass(frozen=True)
class Family:
    """How the videos of one family look and sound."""

    backgrounds: tuple[str, ...]
    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    """Colours of the events' objects."""
    sounds: tuple[str, ...]
    pitch_hz: tuple[float, float]


FAMILIES: dict[str, Family] = {
    "A": Family(("noise", "plain"), ("circle", "star"), ("red", "yellow"), ("chirp",), (300, 500)),
    "B": Family(("stripes", "noise"), ("square", "cross"), ("orange", "red"), ("clap",), (300, 500)),
    "C": Family(("gradient", "plain"), ("triangle", "circle"), ("yellow", "orange"), ("beep", "chirp"), (500, 900)),
    "D": Family(("checks", "gradient"), ("diamond", "square"), ("red", "pink"), ("clap", "beep"), (400, 700)),
    "E": Family(("dots", "noise"), ("ring", "cross"), ("orange", "pink"), ("chirp", "clap"), (600, 800)),
    "F": Family(("checks", "dots"), ("bar", "star"), ("red", "yellow"), ("beep", "clap"), (250, 450)),
}
"""Family name -> its looks and sounds."""


def event_scene(seed: int, family: str, *, seconds: float | None = None) -> Scene:
    """Draw one scene of a family; its `highlights` are the spans of the events.

    Args: `seconds` is the length, drawn from 40 to 80 when it is not given.
    Raises: UsageError for an unknown family or less than 20 seconds.
    """
    if family not in FAMILIES:
        raise UsageError(f"there is no family {family!r}; choose one of {', '.join(FAMILIES)}")
    rng = np.random.default_rng(derive_seed(seed, "event scene", family))
    length = float(rng.integers(40, 81)) if seconds is None else float(seconds)
    if length < 20:
        raise UsageError(f"a scene with events needs at least 20 s, got {length:g}")
    return _Writer(rng, FAMILIES[family], length).scene(seed)


class _Writer:
    """Collects the parts of one scene."""

    def __init__(self, rng: np.random.Generator, family: Family, seconds: float) -> None:
        self._rng, self._family, self._seconds = rng, family, seconds
        self._movers: list[Mover] = []
        self._sounds: list[Sound] = []
        self._effects: list[Effect] = []
        self._highlights: list[tuple[float, float]] = []

    def scene(self, seed: int) -> Scene:
        """Fill the time with events and distractors that do not overlap, then lay cuts, fades and music over it."""
        rng, per_minute = self._rng, self._seconds / 60.0
        makers = [self._event] * max(1, round(per_minute * rng.integers(3, 6)))
        makers += [self._silent_motion] * max(1, round(per_minute * rng.integers(3, 6)))
        makers += [self._noise] * max(1, round(per_minute * rng.integers(2, 5)))
        makers += [self._shake] * int(round(per_minute * rng.integers(0, 3)))
        spans = self._spans(len(makers))
        for index, (start, end) in zip(rng.permutation(len(makers)), spans, strict=True):
            makers[index](start, end)
        self._beds()
        return Scene(
            seconds=self._seconds,
            shots=self._shots(),
            movers=tuple(self._movers),
            sounds=tuple(self._sounds),
            effects=tuple(self._effects),
            highlights=tuple(sorted(self._highlights)),
            seed=derive_seed(seed, "textures"),
        )

    def _spans(self, count: int) -> list[tuple[float, float]]:
        """Spans of 2 to 4 seconds, at random places, at least half a second apart; shorter ones where time is short."""
        lengths = self._rng.uniform(2.0, 4.0, count)
        free = self._seconds - 1.0 - 0.5 * count - lengths.sum()
        if free < 0:
            lengths *= (self._seconds - 1.0 - 0.5 * count) / lengths.sum()
            free = 0.0
        gaps = np.diff(np.sort(self._rng.uniform(0, free, count)), prepend=0.0) + 0.5
        starts = np.cumsum(gaps) + np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
        return [(round(float(s), 2), round(float(s + d), 2)) for s, d in zip(starts, lengths, strict=True)]

    def _event(self, start: float, end: float) -> None:
        rng, family = self._rng, self._family
        self._movers.append(
            Mover(
                shape=_pick(rng, family.shapes),
                colour=_pick(rng, family.colours),
                start_s=start,
                end_s=end,
                place=(float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.3, 0.7))),
                size=float(rng.uniform(0.35, 0.55)),
                motion=_pick(rng, ("circle", "still", "left", "right")),
                speed=float(rng.uniform(0.1, 0.4)),
                bounces=True,
                flash_hz=float(rng.uniform(1.2, 3.0)),
                pulse_hz=float(rng.uniform(0.7, 2.0)),
            )
        )
        self._sounds.append(
            Sound(
                kind=_pick(rng, family.sounds),
                start_s=start,
                end_s=end,
                level=float(rng.uniform(0.35, 0.8)),
                pitch_hz=float(rng.uniform(*family.pitch_hz)),
            )
        )
        self._highlights.append((start, end))

    def _silent_motion(self, start: float, end: float) -> None:
        rng = self._rng
        self._movers.append(
            Mover(
                shape=_pick(rng, self._family.shapes),
                colour=_pick(rng, CALM),
                start_s=start,
                end_s=end,
                place=(float(rng.uniform(0, 1)), float(rng.uniform(0.2, 0.8))),
                size=float(rng.uniform(0.35, 0.6)),
                motion=_pick(rng, ("left", "right", "up", "down", "circle")),
                speed=float(rng.uniform(0.6, 1.5)),
                bounces=True,
            )
        )

    def _noise(self, start: float, end: float) -> None:
        kind = _pick(self._rng, ("noise", "tone", "noise"))
        pitch_hz = float(self._rng.uniform(200, 600)) if kind == "tone" else 0.0
        level = float(self._rng.uniform(0.35, 0.8))
        self._sounds.append(Sound(kind=kind, start_s=start, end_s=end, level=level, pitch_hz=pitch_hz))

    def _shake(self, start: float, end: float) -> None:
        self._effects.append(Effect(kind="shake", start_s=start, end_s=end))

    def _beds(self) -> None:
        rng = self._rng
        self._sounds.append(
            Sound(kind="hum", level=float(rng.uniform(0.01, 0.05)), pitch_hz=float(rng.uniform(150, 400)))
        )
        if rng.random() < 0.4:
            level, pitch_hz = float(rng.uniform(0.03, 0.15)), float(rng.uniform(180, 300))
            self._sounds.append(Sound(kind="music", level=level, pitch_hz=pitch_hz))
        if rng.random() < 0.6:
            start = float(rng.uniform(2, self._seconds - 4))
            self._effects.append(Effect(kind="fade", start_s=round(start, 2), end_s=round(start + 1.5, 2)))

    def _shots(self) -> tuple[Shot, ...]:
        cuts = np.sort(self._rng.uniform(4, self._seconds - 4, int(self._rng.integers(2, 6))))
        starts = [0.0, *dict.fromkeys(round(float(cut), 1) for cut in cuts)]
        return tuple(Shot(background=self._background(), start_s=start) for start in starts)

    def _background(self) -> Background:
        rng = self._rng
        return Background(
            kind=_pick(rng, self._family.backgrounds),
            colour=_pick(rng, GROUNDS),
            contrast=float(rng.uniform(0.15, 0.5)),
            drift=float(rng.uniform(0.0, 0.08)),
        )


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
