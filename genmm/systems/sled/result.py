"""Speech that was made, and how."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from genmm.core.results import Result
from genmm.media.audio import write_audio


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechResult(Result):
    """The takes of one text."""

    task: ClassVar[str] = "speech"

    samples: tuple[np.ndarray, ...]
    """One [S] float32 for each take, full scale at 1."""
    sample_rate: int
    """Samples per second."""
    stop_reasons: tuple[str, ...]
    """Why each take ended: "stop" is the model's own decision; "length", "collapse" and "not finite" are cuts."""
    text_spoken: str
    """The text as the model read it."""

    @property
    def seconds(self) -> tuple[float, ...]:
        """Length of each take."""
        return tuple(len(samples) / self.sample_rate for samples in self.samples)

    def recipe(self) -> dict[str, Any]:
        """The recipe, with the text as it was read and how the takes ended."""
        return {**super().recipe(), "text_spoken": self.text_spoken, "stop_reasons": list(self.stop_reasons)}

    def only(self, take: int) -> SpeechResult:
        """The result as if that take alone had been asked for."""
        return replace(
            self,
            settings={**self.settings, "takes": 1},
            seeds=(self.seeds[take],),
            samples=(self.samples[take],),
            stop_reasons=(self.stop_reasons[take],),
        )

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write .wav, .flac, .ogg or .mp3 with the recipe inside and beside it (.json); gives back the paths.

        Several takes become <stem>_1, <stem>_2 and so on, each with a recipe of its own; sounds come first in the
        answer, recipes after them.
        """
        path = Path(path)
        if len(self.samples) == 1:
            return self._save_take(path)
        pairs = [
            self.only(take)._save_take(path.with_name(f"{path.stem}_{take + 1}{path.suffix}"))
            for take in range(len(self.samples))
        ]
        return (*(sound for sound, _ in pairs), *(recipe for _, recipe in pairs))

    def _save_take(self, path: Path) -> tuple[Path, Path]:
        tags = {"title": self.text_spoken[:120], "recipe": self.recipe()}
        sound = write_audio(path, self.samples[0], self.sample_rate, tags=tags)
        return sound, self.save_recipe(path)
