"""What a person asks for: the settings of all music tasks, and one job with its checks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from genmm.core.errors import ConfigError, LimitError, UsageError
from genmm.core.limits import clean_text
from genmm.core.seeds import check_seed, derive_seed, fresh_seed
from genmm.samplers.guidance import Guidance
from genmm.samplers.inversion import Regularisation
from genmm.samplers.ode import CALLS, check_steps
from genmm.samplers.schedules import SWAY_HIGHEST, SWAY_LOWEST

MOST_TAKES = 8
LONGEST_S = 300.0
"""Longest music that is made or edited in one go, in seconds."""
SHORTEST_S = 0.5
"""Shortest music that is made or taken, in seconds."""
Kind = Literal["generate", "edit", "inpaint", "extend", "loop"]


@dataclass(frozen=True, kw_only=True)
class MusicSettings:
    """Everything but texts, sounds and seeds that music depends on. A checkpoint brings its own defaults."""

    steps: int = 64
    """Network calls of a generation, 1 to 512; even for midpoint and heun."""
    solver: Literal["midpoint", "euler", "heun", "adaptive"] = "midpoint"
    """How the flow is followed; midpoint is the published choice. adaptive chooses its calls by `tolerance`."""
    tolerance: float = 1e-2
    """Error that one move of the adaptive solver may make, 1e-5 to 0.1; it leaves `steps` and `sway` aside."""
    guidance: float = 4.0
    """How strongly the text is followed, 0 to 15; 0 is off and twice as fast, 4 is the published value."""
    guidance_start: float = 0.0
    """Flow step from which guidance works, 0 (noise) to 1."""
    guidance_end: float = 1.0
    """Flow step from which guidance rests, 0 to 1; 0.8 saves a tenth of the work."""
    sway: float = -0.8
    """Where the steps lie: negative near noise, 0 evenly, -1 to 1.75."""
    edit_steps: int = 25
    """Steps of an inversion, and of the way back, 1 to 256."""
    edit_solver: Literal["euler", "midpoint"] = "euler"
    """Solver of edits; the regularised inversion needs euler."""
    iterations: int = 4
    """Inner iterations of a regularised inversion step, 2 to 16."""
    keep: int = 2
    """How many of the last iterations count, 1 to iterations."""
    regularisation: float = 0.2
    """Strength of the regularisation, 0 to 1."""
    plan: bool = True
    """Whether tempo, key and chords that the text leaves open are chosen by seed, where the model can be told."""
    loudness_lufs: float | None = -16.0
    """Loudness of new music in LUFS, -40 to 0; None leaves it as the model made it."""
    overlap: float = 0.5
    """Share that neighbouring windows of long music have in common, 0.1 to 0.9."""
    fade_s: float = 0.25
    """Length of the soft seams of inpainting and extending, 0 to 2 seconds."""

    def __post_init__(self) -> None:
        ranges = {
            "steps": (1, 512), "guidance": (0, 15), "guidance_start": (0, 1), "guidance_end": (0, 1),
            "sway": (SWAY_LOWEST, SWAY_HIGHEST), "edit_steps": (1, 256), "iterations": (2, 16), "keep": (1, 16),
            "regularisation": (0, 1), "overlap": (0.1, 0.9), "fade_s": (0, 2), "tolerance": (1e-5, 0.1),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UsageError(f"{name} must be from {low:g} to {high:.3g}, got {value!r}")
        for name in ("steps", "edit_steps", "iterations", "keep"):
            if not isinstance(getattr(self, name), int):
                raise UsageError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        if self.solver not in (*CALLS, "adaptive"):
            raise UsageError(f"solver must be one of {', '.join(CALLS)} or adaptive, got {self.solver!r}")
        if self.solver != "adaptive":
            check_steps(self.steps, self.solver)
        if self.edit_solver not in ("euler", "midpoint"):
            raise UsageError(f"edit_solver must be euler or midpoint, got {self.edit_solver!r}")
        check_steps(self.edit_steps if self.edit_solver == "midpoint" else 1, self.edit_solver)
        if self.keep > self.iterations:
            raise UsageError(f"keep must be at most the {self.iterations} iterations, got {self.keep}")
        if not isinstance(self.plan, bool):
            raise UsageError(f"plan must be true or false, got {self.plan!r}")
        loudness = self.loudness_lufs
        is_number = isinstance(loudness, int | float) and not isinstance(loudness, bool)
        if loudness is not None and not (is_number and -40.0 <= loudness <= 0.0):
            raise UsageError(f"loudness_lufs must be from -40 to 0, or null, got {loudness!r}")
        self.guide()

    def guide(self) -> Guidance:
        """The guidance of these settings."""
        return Guidance(weight=self.guidance, start=self.guidance_start, end=self.guidance_end)

    def regularise(self) -> Regularisation:
        """The regularised inversion of these settings."""
        return Regularisation(iterations=self.iterations, keep=self.keep, strength=self.regularisation)

    def changed(self, changes: Mapping[str, Any]) -> MusicSettings:
        """The settings with some fields replaced. Raises: UsageError for an unknown field or a bad value."""
        known = [entry.name for entry in dataclasses.fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise UsageError(f"unknown music settings: {', '.join(unknown)}; known: {', '.join(known)}")
        try:
            return dataclasses.replace(self, **changes)
        except TypeError as error:
            raise UsageError(f"a music setting has the wrong type: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MusicSettings:
        """The defaults of a checkpoint. Raises: ConfigError for a field we do not know or a bad value."""
        try:
            return cls().changed(values)
        except UsageError as error:
            raise ConfigError(f"the checkpoint's defaults cannot be used: {error}") from error


def clean_description(text: Any) -> str:
    """A description without control characters; "" is allowed and means that nothing is asked for.

    Raises: UsageError when it is no string, LimitError when it is too long.
    """
    if isinstance(text, str) and not text.strip():
        return ""
    return clean_text(text)


def take_seeds(seed: int | None, seeds: Sequence[int], takes: int) -> tuple[int, ...]:
    """One seed for each take; the first is `seed`. Raises: UsageError when they do not agree."""
    if isinstance(takes, bool) or not isinstance(takes, int) or not 1 <= takes <= MOST_TAKES:
        raise UsageError(f"takes must be from 1 to {MOST_TAKES}, got {takes!r}")
    if seeds:
        if seed is not None:
            raise UsageError("give seed or seeds, not both")
        if takes not in (1, len(seeds)) or len(seeds) > MOST_TAKES:
            raise UsageError(f"there are {len(seeds)} seeds for {takes} takes; give one for each take")
        return tuple(check_seed(value) for value in seeds)
    first = fresh_seed() if seed is None else check_seed(seed)
    return (first, *(derive_seed(first, "take", take) % 2**31 for take in range(1, takes)))


def check_texts(kind: str, texts: Sequence[str], takes: int) -> None:
    """Whether a kind of work can have so many descriptions and takes.

    Raises: UsageError where one description is all that is taken, or several meet several takes; LimitError for too
    many edits at once.
    """
    if len(texts) < 2 or kind == "generate":
        return
    if kind != "edit":
        raise UsageError(f"{kind} takes one description, got {len(texts)}; only an edit takes several")
    if takes > 1:
        raise UsageError(f"an edit takes several descriptions or several takes, not both; got {len(texts)} and {takes}")
    if len(texts) > MOST_TAKES:
        raise LimitError(f"an edit takes at most {MOST_TAKES} descriptions, got {len(texts)}; edit again for the rest")


def check_seconds(name: str, value: Any, low: float = SHORTEST_S, high: float = LONGEST_S) -> float:
    """A length in seconds. Raises: UsageError below `low`, LimitError above `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < low:
        raise UsageError(f"{name} must be a number of seconds, at least {low:g}, got {value!r}")
    if value > high:
        raise LimitError(f"{name} may be at most {high:g} seconds, got {value:g}; make it in parts")
    return float(value)


def check_strength(value: Any) -> float:
    """How strong an edit is. Raises: UsageError outside [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise UsageError(f"strength must be from 0 (the source as it is) to 1 (made anew), got {value!r}")
    return float(value)


def check_spans(spans: Sequence[Sequence[float]], seconds: float) -> tuple[tuple[float, float], ...]:
    """Regions in seconds, in order, without overlap, cut to the sound.

    Raises: UsageError when there is none, one is empty or backwards, or lies outside the sound.
    """
    checked: list[tuple[float, float]] = []
    for span in sorted(tuple(map(float, span)) for span in spans):
        if len(span) != 2 or not all(map(math.isfinite, span)) or span[0] < 0 or span[0] >= span[1]:
            raise UsageError(f"a region is a start and a later end in seconds, got {span}")
        if span[0] >= seconds:
            raise UsageError(f"the region from {span[0]:g} s lies behind the end of the sound ({seconds:.2f} s)")
        start, end = span[0], min(span[1], seconds)
        if checked and start <= checked[-1][1]:
            start, end = checked[-1][0], max(end, checked.pop()[1])
        checked.append((start, end))
    if not checked:
        raise UsageError("give at least one region to make anew, as start and end in seconds")
    return tuple(checked)


@dataclass(frozen=True, kw_only=True)
class MusicJob:
    """One checked request; `pipeline.events` carries it out."""

    kind: Kind
    """What is done."""
    texts: tuple[str, ...]
    """One description; several for the parts of long music, or for edits of one source."""
    negative_text: str = ""
    """What the music should not be; "" for nothing in particular."""
    bpm: float | None = None
    """Tempo beside the text."""
    key: str | None = None
    """Key beside the text, such as "A minor"."""
    seeds: tuple[int, ...]
    """One per take."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the model's defaults."""
    seconds: float = 10.0
    """Length of new music; of what is added when extending."""
    source: Any = None
    """The sound that is worked on: an Audio, or an Inversion."""
    strength: float = 1.0
    """Of an edit."""
    method: Literal["regularised", "plain"] = "regularised"
    """Inversion of an edit."""
    source_text: str = ""
    """What the source is; what the description leaves open stays so."""
    spans: tuple[tuple[float, float], ...] = ()
    """Regions to make anew, in seconds."""
    bars: int = 4
    """Bars of a loop."""

    def __post_init__(self) -> None:
        if self.method not in ("regularised", "plain"):
            raise UsageError(f"method must be regularised or plain, got {self.method!r}")
        if not self.texts:
            raise UsageError('give a description; "" lets the model choose')
        check_texts(self.kind, self.texts, len(self.seeds))


def calls_of(job: MusicJob, settings: MusicSettings) -> int:
    """Network calls of a job for one window, for progress."""
    if job.kind != "edit":
        return settings.steps
    back = settings.edit_steps
    return back + back * (settings.iterations if job.method == "regularised" else 1)
