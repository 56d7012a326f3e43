"""What a person asks for: pictures by text and labels, and how they are made."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genmm.core.errors import ConfigError, UsageError
from genmm.core.limits import DEFAULT_LIMITS, Limits, clean_text
from genmm.core.seeds import check_seed, derive_seed, fresh_seed
from genmm.samplers.fixed_sum import Engine
from genmm.samplers.fixed_sum_diffusion import DiffusionSettings, Process
from genmm.samplers.fixed_sum_guidance import GuidanceSchedule, Space

MOST_PICTURES = 64
_STYLE = re.compile(r"[,;]?\s*\b(?P<style>[\w-]+)[ -]style(?:\s+(?:emoji|picture|icon))?\s*$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """Everything but text, labels and seed that a picture depends on. A checkpoint brings its own defaults."""

    steps: int = 25
    """Sampling steps, 1 to 1000; time grows with them."""
    guidance: float | str = 2.0
    """How strongly text and labels are followed, 0 to 1000; 1 is off and twice as fast. "4_50_55" is a schedule."""
    guidance_space: Space = "log"
    """Where guidance mixes: log (log-probabilities) or probability (the paper)."""
    engine: Engine = "exact"
    """How counts with the right sum are drawn: exact, repair (faster), official (may break the sum)."""
    temperature: float = 1.0
    """Variety of the token sets, 0 to 10; lower is safer."""
    top_p: float = 0.0
    """Nucleus of each count, 0 (off) to 1."""
    process: Process = "gaussian"
    """Noise process; must be the one that the network was trained with."""
    sigma_slope: float = 100.0
    """How suddenly the noise falls near the end; 0 keeps it."""
    sigma_end: float = 0.8
    """Time at which it has fallen to a half, 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "sigma_slope", "sigma_end"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UsageError(f"{name} must be a number, got {value!r}")
        if self.guidance_space not in ("log", "probability"):
            raise UsageError(f"guidance_space must be log or probability, got {self.guidance_space!r}")
        GuidanceSchedule.parse(self.guidance)
        self.diffusion()

    def diffusion(self) -> DiffusionSettings:
        """The part that the sampler reads."""
        names = {entry.name for entry in dataclasses.fields(DiffusionSettings)}
        return DiffusionSettings(**{name: value for name, value in vars(self).items() if name in names})

    def changed(self, changes: Mapping[str, Any]) -> PictureSettings:
        """The settings with some fields replaced. Raises: UsageError for an unknown field or a bad value."""
        known = [entry.name for entry in dataclasses.fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise UsageError(f"unknown picture settings: {', '.join(unknown)}; known: {', '.join(known)}")
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PictureSettings:
        """The defaults of a checkpoint. Raises: ConfigError for a field we do not know or a bad value."""
        try:
            return cls().changed(values)
        except UsageError as error:
            raise ConfigError(f"the checkpoint's defaults cannot be used: {error}") from error


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    """One wish, in one or more pictures."""

    text: str | None = None
    """What to draw; None means no text. "red heart, noto style" also sets the label style."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Label field -> value, such as {"style": "noto"} or {"class": "207"}."""
    seed: int | None = None
    """Seed of the first picture; the others follow from it. None = a fresh one."""
    seeds: Sequence[int] = ()
    """One seed per picture, instead of `seed`."""
    count: int = 1
    """Pictures, 1 to 64."""
    settings: PictureSettings | Mapping[str, Any] = field(default_factory=dict)
    """All settings, or those that differ from the checkpoint's defaults."""

    def picture_seeds(self) -> tuple[int, ...]:
        """One seed for each picture. Raises: UsageError when count and seeds do not agree."""
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 <= self.count <= MOST_PICTURES:
            raise UsageError(f"count must be from 1 to {MOST_PICTURES} pictures, got {self.count!r}")
        if self.seeds:
            if self.seed is not None:
                raise UsageError("give seed or seeds, not both")
            if self.count not in (1, len(self.seeds)) or len(self.seeds) > MOST_PICTURES:
                raise UsageError(f"there are {len(self.seeds)} seeds for {self.count} pictures; give one for each")
            return tuple(check_seed(seed) for seed in self.seeds)
        first = fresh_seed() if self.seed is None else check_seed(self.seed)
        return (first, *(derive_seed(first, "picture", number) % 2**31 for number in range(1, self.count)))

    def resolved(self, defaults: PictureSettings) -> PictureSettings:
        """The settings of this request."""
        return self.settings if isinstance(self.settings, PictureSettings) else defaults.changed(self.settings)


@dataclass(frozen=True)
class Wish:
    """Text and labels as a model reads them."""

    text: str
    """Cleaned, without what named a label; "" for none."""
    labels: Mapping[str, str]
    """Checked field -> value."""


def read_wish(
    text: str | None,
    labels: Mapping[str, str],
    known: Mapping[str, Sequence[str]],
    *,
    reads_text: bool,
    limits: Limits = DEFAULT_LIMITS,
) -> Wish:
    """Check text and labels against what a model knows: label field -> its values.

    Raises: UsageError for an empty text, a text for a model without one, an unknown field or value (with a guess).
    """
    if not isinstance(labels, Mapping):
        raise UsageError(f'labels must be given by name, such as {{"style": "noto"}}, got {labels!r}')
    found = {str(name): _known_value(str(name), str(value), known) for name, value in labels.items()}
    if text is None:
        return Wish("", found)
    words = clean_text(text, limits)
    match = _STYLE.search(words)
    if match and "style" in known and "style" not in found and match["style"].lower() in known["style"]:
        found["style"] = match["style"].lower()
        words = words[: match.start()].strip(" ,;")
    if not words:
        return Wish("", found)
    if not reads_text:
        single = next(iter(known)) if len(known) == 1 else None
        if single is None:
            raise UsageError(f"this model reads no text; choose by {', '.join(known) or 'nothing: it draws anything'}")
        if single in found:
            raise UsageError(f"this model reads no text beside its {single}; leave the text out")
        return Wish("", {single: _known_value(single, words, known)})
    return Wish(words, found)


def _known_value(name: str, value: str, known: Mapping[str, Sequence[str]]) -> str:
    if name not in known:
        raise UsageError(f"this model has no label {name!r}; it has: {', '.join(known) or 'none'}")
    if value in known[name]:
        return value
    lower = {entry.lower(): entry for entry in known[name]}
    if value.lower() in lower:
        return lower[value.lower()]
    close = difflib.get_close_matches(value.lower(), lower, n=3)
    few = len(known[name]) <= 20
    hint = f"did you mean {' or '.join(lower[one] for one in close)}?" if close else ""
    listed = f"it knows: {', '.join(known[name])}" if few else f"it knows {known[name][0]} to {known[name][-1]}"
    raise UsageError(f"there is no {name} {value[:60]!r}; {hint or listed}")
