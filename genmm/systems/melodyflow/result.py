"""Music that was made, and how."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from genmm.core.files import safe_stem
from genmm.core.results import Result
from genmm.media.audio import write_audio

STEM_CHARS = 40
"""Longest part of a file name that a description becomes."""


def edit_stems(stem: str, texts: Sequence[str]) -> tuple[str, ...]:
    """File names without suffix of edits towards several descriptions: the stem, a number, words of the description."""
    return tuple(f"{stem}_{n}_{safe_stem(text or 'free', max_chars=STEM_CHARS)}" for n, text in enumerate(texts, 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class MusicResult(Result):
    """The takes of one request."""

    task: ClassVar[str] = "music"

    samples: tuple[np.ndarray, ...]
    """One [C, S] float32 for each take, full scale at 1."""
    sample_rate: int
    """Samples per second."""
    understood: tuple[str, ...]
    """For each take, what the model was told, as a sentence for people."""
    captions: tuple[dict[str, Any], ...] = ()
    """For each take, the caption fields of models that read captions."""
    network_calls: int = 0
    """Calls of the network in all."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """Length of each take."""
        return tuple(samples.shape[-1] / self.sample_rate for samples in self.samples)

    @property
    def is_many_edits(self) -> bool:
        """Whether every take is an edit towards a description of its own."""
        return self.settings.get("kind") == "edit" and len(self.settings.get("texts", ())) == len(self.samples) > 1

    @property
    def texts(self) -> tuple[str, ...]:
        """For each take, what was asked for; the parts of long music are joined by " / "."""
        texts = tuple(self.settings.get("texts", ()))
        return texts if self.is_many_edits else (" / ".join(texts),) * len(self.samples)

    def recipe(self) -> dict[str, Any]:
        """The recipe, with what was understood."""
        return {**super().recipe(), "understood": list(self.understood), "captions": [dict(c) for c in self.captions]}

    def only(self, take: int) -> MusicResult:
        """The result as if that take alone had been asked for."""
        settings = {**self.settings, "takes": 1}
        if self.is_many_edits:
            settings["texts"] = [self.texts[take]]
        return replace(
            self,
            settings=settings,
            seeds=(self.seeds[take],),
            samples=(self.samples[take],),
            understood=self.understood[take : take + 1],
            captions=self.captions[take : take + 1],
        )

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write .wav, .flac, .ogg or .mp3 with the recipe inside and beside it (.json); gives back the paths.

        Several takes become <stem>_1, <stem>_2 and so on, edits towards several descriptions <stem>_1_organ,
        <stem>_2_choir and so on, each with a recipe of its own; sounds come first in the answer, recipes after them.
        """
        path = Path(path)
        if len(self.samples) == 1:
            return self._save_take(path)
        numbers = range(1, len(self.samples) + 1)
        stems = edit_stems(path.stem, self.texts) if self.is_many_edits else [f"{path.stem}_{n}" for n in numbers]
        pairs = [self.only(take)._save_take(path.with_name(f"{stem}{path.suffix}")) for take, stem in enumerate(stems)]
        return (*(sound for sound, _ in pairs), *(recipe for _, recipe in pairs))

    def _save_take(self, path: Path) -> tuple[Path, Path]:
        title = next((text for text in self.settings.get("texts", ()) if text), "music")
        tags = {"title": str(title)[:120], "recipe": self.recipe()}
        sound = write_audio(path, self.samples[0], self.sample_rate, tags=tags)
        return sound, self.save_recipe(path)
