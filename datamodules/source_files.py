"""What the files are that a cache is made from, so that a cache of other files is never taken for it."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["file_state", "sources_digest"]


def file_state(path: str | os.PathLike[str]) -> str:
    """Size in bytes and time of the last change in ns of a file, without reading it; "missing" where there is none."""
    try:
        state = os.stat(path)
    except OSError:
        return "missing"
    return f"{state.st_size}-{state.st_mtime_ns}"


def sources_digest(items: Iterable[tuple[str, Path | None]]) -> str:
    """Sixteen hex digits that change with the names of the items, their order, and the files that they lie in.

    Each item is a name, which should not depend on where the data folder is, and a file, or None for what is computed.
    Many items may share a file; every file is looked at once, and none is read.
    """
    state = functools.cache(file_state)
    total = hashlib.sha256()
    for name, path in items:
        total.update(f"{name}\0{'' if path is None else state(path)}\0".encode("utf-8", "surrogateescape"))
    return total.hexdigest()[:16]
