"""Results know how they were made: media plus a recipe from which they can be made again."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import genmm
from genmm.core.errors import DataError, UsageError
from genmm.core.files import read_json, write_json

__all__ = ["Result", "check_recipe", "free_recipe_path", "plain", "read_recipe", "recipe_path"]

RECIPE_BYTES = 5_000_000
"""Largest recipe that is read back, in bytes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Base of everything that a pipeline gives back. Subclasses add the media and implement `save`.

    Results hold arrays, so they compare by identity; declare subclasses with eq=False too.
    """

    task: ClassVar[str] = ""
    """What was done ("speech"), set by the subclass; a page or command refuses a recipe of another task."""

    settings: Mapping[str, Any]
    """Every setting that the result depends on, seeds apart; JSON-able."""
    seeds: tuple[int, ...]
    """One seed per take, in order."""
    model: Mapping[str, str]
    """The keys name, system and fingerprint of the checkpoint."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds per stage; not part of what is made again."""
    notes: tuple[str, ...] = ()
    """Sentences for the person about anything unusual, such as a text that was cut."""

    def recipe(self) -> dict[str, Any]:
        """All that is needed to make this result again, as a dict that JSON can hold."""
        return {
            "genmm": genmm.__version__,
            "task": self.task,
            "model": plain(self.model),
            "settings": plain(self.settings),
            "seeds": plain(self.seeds),
            "timings": plain(self.timings),
            "notes": plain(self.notes),
        }

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write the media and the recipe beside it; gives back the paths written, the recipe last."""
        raise NotImplementedError(f"{type(self).__name__} holds no media to save")

    def save_recipe(self, media: str | os.PathLike[str], **more: Any) -> Path:
        """Write the recipe of a media file beside it, with further top-level entries in `more`; gives back its path.

        See `free_recipe_path` for its name.
        """
        return write_json(free_recipe_path(media), {**self.recipe(), **plain(more), "file": Path(media).name})


def recipe_path(media: str | os.PathLike[str]) -> Path:
    """Where the recipe of a media file lies: `dir/name.wav.json` where there is one, else `dir/name.json`."""
    media = Path(media)
    if media.suffix.lower() == ".json":
        raise UsageError(f"{media} is the name of a recipe; give the media file a media suffix such as .wav")
    return _full_path(media) if _full_path(media).is_file() else media.with_suffix(".json")


def free_recipe_path(media: str | os.PathLike[str], *, max_bytes: int = RECIPE_BYTES) -> Path:
    """Where the recipe of a media file can be written: nobody's file is replaced.

    That is `dir/name.json` for `dir/name.wav`, or `dir/name.wav.json` where the first is no recipe or that of another
    file which is still there. A recipe names its media file in the entry `file`.
    """
    place, media = recipe_path(media), Path(media)
    return _full_path(media) if place.is_file() and not _belongs(place, media, max_bytes) else place


def _full_path(media: Path) -> Path:
    return media.with_name(f"{media.name}.json")


def _belongs(place: Path, media: Path, max_bytes: int) -> bool:
    """Whether a file beside the media is its recipe, or one whose media file is gone."""
    try:
        recipe = read_json(place, max_bytes=max_bytes)
    except DataError:
        return False
    if _recipe_problem(recipe):
        return False
    owner = recipe.get("file", media.name)
    return owner == media.name or not isinstance(owner, str) or not (place.parent / Path(owner).name).is_file()


def read_recipe(path: str | os.PathLike[str], *, max_bytes: int = RECIPE_BYTES) -> dict[str, Any]:
    """Read a recipe from its own file or through the media file that it lies beside.

    Raises: DataError when there is none, or when it is not a recipe of genmm.
    """
    path = Path(path)
    source = path if path.suffix.lower() == ".json" else recipe_path(path)
    if not source.is_file():
        raise DataError(f"there is no recipe at {source}; a recipe is the .json file saved beside a result")
    return check_recipe(read_json(source, max_bytes=max_bytes), str(source))


def check_recipe(recipe: Any, source: str) -> dict[str, Any]:
    """Give back a recipe that was found in `source` when it is one. Raises: DataError that names what is wrong."""
    problem = _recipe_problem(recipe)
    if problem:
        raise DataError(f"{source} is not a recipe: {problem}")
    return recipe


def _recipe_problem(recipe: Any) -> str:
    if not isinstance(recipe, dict):
        return f"expected an object, found {type(recipe).__name__}"
    kinds = {"genmm": str, "task": str, "model": dict, "settings": dict, "seeds": list}
    for key, kind in kinds.items():
        if not isinstance(recipe.get(key), kind):
            return f"the entry {key!r} is missing or of the wrong kind"
    if not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in recipe["seeds"]):
        return "the seeds are not whole numbers"
    return ""


def plain(value: Any) -> Any:
    """Turn settings into what JSON holds: dicts, lists, strings, finite numbers, booleans, None.

    Dataclasses become dicts, paths strings, NumPy and torch scalars numbers.
    Raises: UsageError for NaN, infinity and for anything else, such as a tensor.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"a recipe cannot hold the number {value}")
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return plain(value.item())
    raise UsageError(f"a recipe cannot hold a {type(value).__name__}; store its name or its settings")
