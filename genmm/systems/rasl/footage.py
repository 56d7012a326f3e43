"""Features of files on disk, extracted once and kept under the hash of their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from genmm.core.errors import CheckpointError, DataError
from genmm.core.events import CancelToken, Event
from genmm.systems.rasl.extraction import extract_features
from genmm.systems.rasl.extractors import HANDCRAFTED, VisualExtractor
from genmm.systems.rasl.feature_table import FeatureTable, load_table, save_table

__all__ = ["VIDEO_SUFFIXES", "cached_table", "content_hash", "find_footage"]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".flv")
"""Files that count as footage."""


def content_hash(path: str | os.PathLike[str]) -> str:
    """Twenty hex digits of the SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:20]


def find_footage(folder: str | os.PathLike[str]) -> list[Path]:
    """All videos below a folder, in order of their names. Raises: DataError when there is none."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the folder that holds the videos")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not files:
        raise DataError(f"{root} holds no video; accepted: {', '.join(VIDEO_SUFFIXES)}")
    return files


def cached_table(
    path: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    *,
    extractor: VisualExtractor = HANDCRAFTED,
    cancel: CancelToken | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> FeatureTable:
    """The features of a file, from the cache when this content was read before with this extractor.

    Raises: as `extract_features`.
    """
    kept = Path(cache) / f"{extractor.name}-{content_hash(path)}.safetensors"
    if kept.is_file():
        try:
            return load_table(kept)
        except (CheckpointError, DataError):
            kept.unlink()  # a damaged cache entry is made again
    table = extract_features(path, extractor=extractor, cancel=cancel, on_event=on_event)
    save_table(kept, table)
    return load_table(kept)  # rounded to what is stored, so that the first time gives the same as later ones
