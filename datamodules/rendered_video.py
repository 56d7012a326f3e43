"""Videos that are computed from a description: moving shapes and sounds before a background, with the truth about them.

Nothing is random: a scene and the three settings decide every pixel and sample, so tests and data sets can be made
again from a few lines. Places are shares of the picture, x from left to right and y from top to bottom, 0 to 1.

Shapes: frames [T, H, W, 3] uint8, samples [S] float32 within [-1, 1]. Letter N: movers of the scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from datamodules.rendered_video_sound import SOUND_KINDS, Sound, render_sound
from genmm.core.errors import UsageError

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "DIRECTIONS",
    "SHAPES",
    "SOUND_KINDS",
    "Background",
    "Effect",
    "Mover",
    "Scene",
    "SceneEvent",
    "SceneTruth",
    "Shot",
    "Sound",
    "render_scene",
]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (240, 220, 50),
    "green": (50, 180, 70),
    "cyan": (50, 200, 210),
    "blue": (50, 90, 220),
    "purple": (140, 60, 190),
    "pink": (240, 120, 180),
    "white": (245, 245, 245),
    "grey": (128, 128, 128),
    "brown": (120, 80, 50),
    "black": (15, 15, 15),
}
"""Colour names -> RGB."""

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "star", "bar")
DIRECTIONS: dict[str, tuple[float, float]] = {
    "still": (0.0, 0.0),
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
"""Direction names -> unit steps; "circle" (an orbit around the place) comes on top of them."""
BACKGROUNDS = ("plain", "noise", "stripes", "checks", "gradient", "dots")

MAX_FRAMES = 100_000
SUPERSAMPLE_EDGE = 0.75
"""Width of the soft edge of a shape, in pixels."""


def _choice(name: str, value: str, allowed: object) -> None:
    if value not in allowed:  # type: ignore[operator]
        raise UsageError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Background:
    """What stands behind everything."""

    kind: Literal["plain", "noise", "stripes", "checks", "gradient", "dots"] = "plain"
    """Texture."""
    colour: str = "grey"
    """Name of its main colour."""
    contrast: float = 0.35
    """How far the texture goes from the main colour, 0 to 1."""
    drift: float = 0.0
    """Slow pan to the left, in picture widths a second."""

    def __post_init__(self) -> None:
        _choice("background.kind", self.kind, BACKGROUNDS)
        _choice("background.colour", self.colour, COLOURS)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """From `start_s` on the background is another one: a hard cut, except at 0."""

    background: Background
    start_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Mover:
    """One shape that is seen from start_s until end_s."""

    shape: str
    """One of SHAPES."""
    colour: str
    """One of COLOURS."""
    start_s: float = 0.0
    end_s: float = math.inf
    place: tuple[float, float] = (0.5, 0.5)
    """Centre at start_s (of the orbit, for motion "circle"), x and y."""
    size: float = 0.2
    """Diameter as a share of the shorter side of the picture."""
    motion: str = "still"
    """One of DIRECTIONS, or "circle"."""
    speed: float = 0.0
    """Picture widths (left, right) or heights (up, down) a second; orbits a second for "circle"."""
    bounces: bool = False
    """Turns round at the border instead of leaving the picture."""
    flash_hz: float = 0.0
    """Changes with white this often a second."""
    pulse_hz: float = 0.0
    """Swells to one and a half times its size this often a second."""

    def __post_init__(self) -> None:
        _choice("mover.shape", self.shape, SHAPES)
        _choice("mover.colour", self.colour, COLOURS)
        _choice("mover.motion", self.motion, (*DIRECTIONS, "circle"))
        if not self.start_s < self.end_s:
            raise UsageError(f"a mover needs start_s < end_s, got {self.start_s} and {self.end_s}")

    @property
    def name(self) -> str:
        """Such as "red circle"."""
        return f"{self.colour} {self.shape}"

    def centre(self, time_s: np.ndarray) -> np.ndarray:
        """Centres [T, 2] at times [T], whether it is shown then or not."""
        elapsed = np.asarray(time_s, np.float64) - self.start_s
        start = np.asarray(self.place, np.float64)
        if self.motion == "circle":
            turn = 2 * math.pi * self.speed * elapsed
            return start + 0.25 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        centre = start + self.speed * elapsed[:, None] * np.asarray(DIRECTIONS[self.motion])
        if self.bounces:  # a triangle wave between 0 and 1
            centre = 1.0 - np.abs(np.mod(centre, 2.0) - 1.0)
        return centre

    def shown(self, time_s: np.ndarray) -> np.ndarray:
        """Whether it is there at times [T], bool."""
        return (time_s >= self.start_s) & (time_s < self.end_s)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Something that happens to the whole picture."""

    kind: Literal["fade", "flash", "shake"]
    """fade: to black and back. flash: white and back. shake: the camera trembles."""
    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        _choice("effect.kind", self.kind, ("fade", "flash", "shake"))
        if not self.start_s < self.end_s:
            raise UsageError(f"an effect needs start_s < end_s, got {self.start_s} and {self.end_s}")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that is seen and heard."""

    seconds: float
    """Length, above 0."""
    shots: tuple[Shot, ...] = (Shot(background=Background()),)
    """Backgrounds in order of time; the first starts at 0."""
    movers: tuple[Mover, ...] = ()
    """Later ones are drawn over earlier ones."""
    sounds: tuple[Sound, ...] = ()
    effects: tuple[Effect, ...] = ()
    highlights: tuple[tuple[float, float], ...] = ()
    """Spans in seconds that count as the moments worth keeping, where the scene is for that."""
    seed: int = 0
    """Decides textures and noise."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise UsageError(f"scene.seconds must be above 0, got {self.seconds}")
        starts = [shot.start_s for shot in self.shots]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise UsageError(f"scene.shots must start at 0 and at rising times, got {starts}")


@dataclass(frozen=True)
class SceneEvent:
    """Something that begins in a scene."""

    start_s: float
    end_s: float
    kind: Literal["object", "sound", "cut", "fade", "flash", "shake"]
    name: str
    """Such as "red circle", "clap", "cut"."""
    index: int
    """Number of the mover, sound, shot or effect in the scene."""


@dataclass(frozen=True, eq=False)
class SceneTruth:
    """What can be asked about a rendered scene."""

    scene: Scene
    times_s: np.ndarray
    """[T] float64, when each frame is shown."""
    centres: np.ndarray
    """[T, N, 2] float32, NaN where a mover is not shown."""
    visible: np.ndarray
    """[T, N] bool: shown, and its centre inside the picture."""
    events: tuple[SceneEvent, ...]
    """In order of their start; equal starts in order of the scene."""

    @property
    def highlights(self) -> tuple[tuple[float, float], ...]:
        """Spans worth keeping, in seconds."""
        return self.scene.highlights

    def place(self, mover: int, at_s: float | None = None) -> str:
        """Where a mover is, in words, such as "top left" or "centre", by default halfway through its appearance.

        Raises: UsageError when it is not in the picture then.
        """
        rows = np.flatnonzero(self.visible[:, mover])
        if at_s is not None:
            row = int(np.abs(self.times_s - at_s).argmin())
        else:
            row = int(rows[len(rows) // 2]) if len(rows) else 0
        if not self.visible[row, mover]:
            raise UsageError(f"mover {mover} is not in the picture at {self.times_s[row]:.2f} s")
        x, y = self.centres[row, mover]
        words = [("top", "", "bottom")[min(2, int(3 * y))], ("left", "", "right")[min(2, int(3 * x))]]
        return " ".join(word for word in words if word) or "centre"

    def count(self, at_s: float | None = None, *, shape: str | None = None, colour: str | None = None) -> int:
        """How many movers are in the picture (at a time, or ever), of a shape or colour when given."""
        seen = self.visible.any(0) if at_s is None else self.visible[int(np.abs(self.times_s - at_s).argmin())]
        movers = self.scene.movers
        return sum(
            bool(seen[i]) and shape in (None, m.shape) and colour in (None, m.colour) for i, m in enumerate(movers)
        )

    def order(self, kind: str | None = None) -> tuple[str, ...]:
        """Names of what begins, in order of time; of one kind when given."""
        return tuple(event.name for event in self.events if kind in (None, event.kind))

    def clip_labels(self, clip_s: float = 2.0, share: float = 0.5) -> np.ndarray:
        """Which clips [n] are highlights, bool: those that highlights cover by at least `share` of the clip.

        n = floor(seconds / clip_s), at least 1.
        """
        count = max(1, int(self.scene.seconds / clip_s + 1e-9))
        starts = clip_s * np.arange(count)
        covered = np.zeros(count)
        for start, end in self.highlights:
            covered += np.clip(np.minimum(starts + clip_s, end) - np.maximum(starts, start), 0.0, None)
        return covered >= share * clip_s - 1e-9


def render_scene(
    scene: Scene, *, fps: float = 10.0, side: int | tuple[int, int] = 128, sample_rate: int = 16_000
) -> tuple[np.ndarray, np.ndarray, SceneTruth]:
    """Compute the pictures and the sound of a scene, and what is true about it.

    Args: `side` is the side of square pictures, or (height, width), in pixels.
    Returns: frames [T, H, W, 3] uint8 with T = round(seconds * fps), at least 1, frame t at t / fps seconds; samples
    [S] float32 with S = round(seconds * sample_rate); the truth. Equal arguments give equal results, bit by bit.
    Raises: UsageError for sizes outside 8 to 2048 pixels, rates that are not positive, or too many frames.
    """
    height, width = (side, side) if isinstance(side, int) else side
    if not (8 <= height <= 2048 and 8 <= width <= 2048):
        raise UsageError(f"side must be 8 to 2048 pixels, got {side}")
    if not fps > 0 or not sample_rate > 0:
        raise UsageError(f"fps and sample_rate must be above 0, got {fps} and {sample_rate}")
    count = max(1, round(scene.seconds * fps))
    if count > MAX_FRAMES:
        raise UsageError(f"{count} frames are too many, at most {MAX_FRAMES}; lower fps or seconds")
    times_s = np.arange(count) / fps
    painter = _Painter(scene, height, width)
    frames = np.stack([painter.frame(time_s) for time_s in times_s])
    return frames, render_sound(scene.sounds, scene.seconds, sample_rate, scene.seed), truth_of(scene, times_s)


def truth_of(scene: Scene, times_s: np.ndarray) -> SceneTruth:
    movers = scene.movers
    shown = np.stack([m.shown(times_s) for m in movers], 1) if movers else np.zeros((len(times_s), 0), bool)
    centres = np.stack([m.centre(times_s) for m in movers], 1) if movers else np.zeros((len(times_s), 0, 2))
    inside = ((centres >= 0) & (centres <= 1)).all(-1)
    centres = np.where(shown[..., None], centres, np.nan).astype(np.float32)
    events = [
        SceneEvent(m.start_s, min(m.end_s, scene.seconds), "object", m.name, i)
        for i, m in enumerate(movers)
        if m.start_s < scene.seconds
    ]
    events += [
        SceneEvent(s.start_s, min(s.end_s, scene.seconds), "sound", s.kind, i) for i, s in enumerate(scene.sounds)
    ]
    events += [SceneEvent(s.start_s, s.start_s, "cut", "cut", i) for i, s in enumerate(scene.shots) if i]
    events += [SceneEvent(e.start_s, e.end_s, e.kind, e.kind, i) for i, e in enumerate(scene.effects)]
    return SceneTruth(scene, times_s, centres, shown & inside, tuple(sorted(events, key=lambda e: e.start_s)))


class _Painter:
    """Draws single frames of one scene."""

    def __init__(self, scene: Scene, height: int, width: int) -> None:
        self._scene, self._height, self._width = scene, height, width
        self._textures = [_texture(s.background, height, width, (scene.seed, i)) for i, s in enumerate(scene.shots)]

    def frame(self, time_s: float) -> np.ndarray:
        """[H, W, 3] uint8."""
        number = max(i for i, shot in enumerate(self._scene.shots) if shot.start_s <= time_s + 1e-9)
        shot, texture = self._scene.shots[number], self._textures[number]
        offset = int(shot.background.drift * (time_s - shot.start_s) * self._width) % self._width
        picture = texture[:, offset : offset + self._width].copy()
        for mover in self._scene.movers:
            if mover.start_s <= time_s < mover.end_s:
                self._draw(picture, mover, time_s)
        for index, effect in enumerate(self._scene.effects):
            if effect.start_s <= time_s < effect.end_s:
                picture = self._apply(picture, effect, time_s, index)
        return np.rint(picture.clip(0, 255)).astype(np.uint8)

    def _draw(self, picture: np.ndarray, mover: Mover, time_s: float) -> None:
        elapsed = time_s - mover.start_s
        radius = 0.5 * mover.size * min(self._height, self._width)
        if mover.pulse_hz:
            radius *= 1.0 + 0.25 * (1.0 - math.cos(2 * math.pi * mover.pulse_hz * elapsed))
        x, y = mover.centre(np.array([time_s]))[0] * (self._width, self._height)
        top, bottom = max(0, int(y - radius - 1)), min(self._height, int(y + radius + 2))
        left, right = max(0, int(x - radius - 1)), min(self._width, int(x + radius + 2))
        if top >= bottom or left >= right:
            return
        v = (np.arange(top, bottom) + 0.5 - y)[:, None] / radius
        u = (np.arange(left, right) + 0.5 - x)[None, :] / radius
        inside = (1.0 - _extent(mover.shape, u, v)) * radius / SUPERSAMPLE_EDGE + 0.5
        cover = inside.clip(0.0, 1.0)[..., None]
        is_white = mover.flash_hz > 0 and int(2 * mover.flash_hz * elapsed + 1e-9) % 2 == 1
        colour = np.asarray(COLOURS["white" if is_white else mover.colour], np.float32)
        part = picture[top:bottom, left:right]
        picture[top:bottom, left:right] = part + cover * (colour - part)

    def _apply(self, picture: np.ndarray, effect: Effect, time_s: float, index: int) -> np.ndarray:
        share = (time_s - effect.start_s) / (effect.end_s - effect.start_s)
        strength = math.sin(math.pi * share)
        if effect.kind == "fade":
            return picture * (1.0 - strength)
        if effect.kind == "flash":
            return picture + strength * (255.0 - picture)
        draw = np.random.default_rng((self._scene.seed, 7, index, round(1000 * time_s)))
        reach = max(1, min(self._height, self._width) // 16)
        down, across = draw.integers(-reach, reach + 1, 2)
        return np.roll(picture, (int(down), int(across)), (0, 1))


def _extent(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far a point (u, v) lies out, 1 on the border of the shape, for a shape within the unit circle."""
    distance = np.hypot(u, v)
    if shape == "circle":
        return distance
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) / 0.8
    if shape == "diamond":
        return (np.abs(u) + np.abs(v)) / 1.0
    if shape == "triangle":  # base below, tip above
        return np.maximum(2.0 * v, math.sqrt(3.0) * np.abs(u) - v)
    if shape == "cross":
        return np.minimum(np.maximum(np.abs(u) / 0.3, np.abs(v)), np.maximum(np.abs(u), np.abs(v) / 0.3))
    if shape == "ring":
        return np.abs(distance - 0.78) / 0.22
    if shape == "star":
        return distance / (0.65 + 0.35 * np.cos(5.0 * np.arctan2(u, -v)))
    return np.maximum(np.abs(u), np.abs(v) / 0.3)


def _texture(background: Background, height: int, width: int, seed: tuple[int, ...]) -> np.ndarray:
    """Background twice beside itself [H, 2 W, 3] float32, which joins without a seam when it drifts."""
    rng = np.random.default_rng((*seed, 1))
    y, x = (np.arange(height) + 0.5)[:, None] / height, (np.arange(width) + 0.5)[None, :] / width
    if background.kind == "noise":
        pattern = _smooth_noise(rng, height, width)
    elif background.kind == "stripes":
        pattern = np.sign(np.sin(2 * math.pi * (6 * x + 2 * y)))
    elif background.kind == "checks":
        pattern = np.sign(np.sin(2 * math.pi * 4 * x) * np.sin(2 * math.pi * 3 * y))
    elif background.kind == "gradient":
        pattern = np.cos(2 * math.pi * x) * 0.6 + (2 * y - 1) * 0.4
    elif background.kind == "dots":
        pattern = np.where((np.mod(8 * x, 1) - 0.5) ** 2 + (np.mod(6 * y, 1) - 0.5) ** 2 < 0.06, 1.0, -1.0)
    else:
        pattern = np.zeros((height, width))
    base = np.asarray(COLOURS[background.colour], np.float32)
    picture = base + 127.0 * background.contrast * np.broadcast_to(pattern, (height, width))[..., None]
    return np.concatenate([picture, picture], axis=1).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Band-limited noise [H, W] in about [-1, 1] that wraps around."""
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    fy, fx = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None, :] * width
    noise = np.fft.irfft2(spectrum * np.exp(-((np.hypot(fy, fx) / 8.0) ** 2)), (height, width))
    return noise / (2.0 * noise.std() + 1e-12)
