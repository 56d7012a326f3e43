"""Recipes that people hand in: as the .json file, as the media file that it lies beside, or inside the media file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from genmm.core.errors import DataError, MediaError
from genmm.core.limits import LONG_FOOTAGE
from genmm.core.results import RECIPE_BYTES, check_recipe, read_recipe, recipe_path

__all__ = ["find_recipe"]


def find_recipe(path: str | os.PathLike[str], *, beside: bool = True, max_bytes: int = RECIPE_BYTES) -> dict[str, Any]:
    """The recipe of a result: a .json file is read itself; for sound, pictures and video the .json beside them goes
    before what their own tags hold, as a person may have changed it, unless it is no recipe or one of another kind of
    result: speech in out.wav and music in out.flac have one out.json. `beside=False` looks at the given file alone.

    Raises: DataError when there is none or it is not a recipe of genmm, MediaError when a file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        return read_recipe(path, max_bytes=max_bytes)
    if beside and recipe_path(path).is_file():
        own = _held(path)
        try:
            neighbour = read_recipe(path, max_bytes=max_bytes)
        except DataError:
            if own is None:
                raise
            return own  # what lies there is no recipe
        return own if own is not None and own["task"] != neighbour["task"] else neighbour
    if not path.is_file():
        raise DataError(f"there is no file {path}; a recipe is the .json saved beside a result, or inside the result")
    from genmm.media.tag_reader import read_tags

    held = read_tags(path, limits=LONG_FOOTAGE).get("recipe")
    if held is None:
        raise DataError(f"{path.name} holds no recipe; give the .json saved beside a result, or a file made by genmm")
    return check_recipe(held, path.name)


def _held(path: Path) -> dict[str, Any] | None:
    """The recipe inside a file, None where there is none that can be read."""
    from genmm.media.tag_reader import read_tags

    try:
        held = read_tags(path, limits=LONG_FOOTAGE).get("recipe") if path.is_file() else None
        return None if held is None else check_recipe(held, path.name)
    except (DataError, MediaError, OSError):
        return None
