"""Recipes that people hand in: as the .json file, as the media file that it lies beside, or inside the media file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from genmm.core.errors import DataError
from genmm.core.results import check_recipe, read_recipe, recipe_path

__all__ = ["find_recipe"]


def find_recipe(path: str | os.PathLike[str], *, beside: bool = True) -> dict[str, Any]:
    """The recipe of a result: a .json file is read itself; for sound, pictures and video the .json beside them goes
    before what their own tags hold. `beside=False` looks at the given file alone.

    Raises: DataError when there is none or it is not a recipe of genmm, MediaError when a file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() == ".json" or (beside and recipe_path(path).is_file()):
        return read_recipe(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}; a recipe is the .json saved beside a result, or inside the result")
    from genmm.media.tag_reader import read_tags

    held = read_tags(path).get("recipe")
    if held is None:
        raise DataError(f"{path.name} holds no recipe; give the .json saved beside a result, or a file made by genmm")
    return check_recipe(held, path.name)
