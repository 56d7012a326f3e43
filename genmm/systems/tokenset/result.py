"""Pictures that were made, and how."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from genmm.core.results import Result
from genmm.media.image import write_image
from genmm.quantizers.multiset import TokenSet


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageResult(Result):
    """The pictures of one wish or one edit."""

    task: ClassVar[str] = "image"

    images: tuple[np.ndarray, ...]
    """[H, W, 3] uint8 each."""
    sets: tuple[TokenSet, ...]
    """The token set behind each picture."""

    def recipe(self) -> dict[str, Any]:
        """The recipe, with the tokens of every picture."""
        return {**super().recipe(), "tokens": [list(tokens) for tokens in self.sets]}

    def only(self, number: int) -> ImageResult:
        """The result as if that picture alone had been asked for."""
        return replace(
            self,
            settings={**self.settings, "count": 1},
            seeds=(self.seeds[number],),
            images=(self.images[number],),
            sets=(self.sets[number],),
        )

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write .png, .jpg or .webp with the recipe beside it (.json), in PNG also inside; gives back the paths.

        Several pictures become <stem>_1, <stem>_2 and so on, each with a recipe of its own; pictures come first in the
        answer, recipes after them.
        """
        path = Path(path)
        if len(self.images) == 1:
            return self._save_one(path)
        pairs = [
            self.only(number)._save_one(path.with_name(f"{path.stem}_{number + 1}{path.suffix}"))
            for number in range(len(self.images))
        ]
        return (*(picture for picture, _ in pairs), *(recipe for _, recipe in pairs))

    def _save_one(self, path: Path) -> tuple[Path, Path]:
        title = str(self.settings.get("text") or "")[:120]
        picture = write_image(path, self.images[0], tags={"title": title, "recipe": self.recipe()})
        return picture, self.save_recipe(path)
