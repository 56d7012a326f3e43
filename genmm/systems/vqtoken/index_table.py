"""The table of a search index: which videos it holds, and the files of their tokens.

Layout of the folder: index.json with the table of videos, one safetensors file per video. Files are written whole, the
table last, so that an interrupted change leaves the index as it was. Nothing here reads tokens, so that an index is
listed at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from genmm.core.errors import DataError, UsageError
from genmm.core.files import read_json, write_json

__all__ = ["TABLE", "IndexEntry", "IndexTable"]

VERSION = 1
LOCK_S = 60.0
"""How long a writer waits for another one."""
TABLE = "index.json"


@dataclass(frozen=True)
class IndexEntry:
    """One video of an index."""

    id: str
    """Hash of path, size, time and settings; names the file of its tokens."""
    path: str
    """Where the video was when it was added."""
    bytes: int
    """Its size."""
    modified_ns: int
    """When it was changed last, in nanoseconds since 1970."""
    seconds: float
    """Its length."""
    moments: int
    """Into how many moments it was cut."""
    tokens: int
    """How many tokens they have together."""
    budget: str
    """The number of tokens that was asked for and the length of a moment."""

    def check(self, table: Path) -> None:
        """Raises: DataError when it is not as this genmm writes it; its id names files that are read and deleted."""
        numbers = (self.bytes, self.modified_ns, self.seconds, self.moments, self.tokens)
        is_sound = all(isinstance(n, int | float) and not isinstance(n, bool) and n >= 0 for n in numbers)
        is_sound &= isinstance(self.path, str) and isinstance(self.budget, str) and isinstance(self.id, str)
        if not is_sound or not re.fullmatch("[0-9a-f]{20}", self.id):
            raise DataError(f"{table} is damaged: it holds an entry that genmm does not write ({str(self.id)[:40]!r})")


class IndexTable:
    """The videos of an index in a folder. Several readers may use it while one process writes."""

    def __init__(self, folder: Path, encoder: str, entries: Sequence[IndexEntry]) -> None:
        self.folder, self.encoder, self.entries = folder, encoder, list(entries)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], encoder: str | None = None, *, create: bool = False) -> Self:
        """Open an index; `create` makes an empty one where there is none.

        Raises: UsageError when there is none or it was made with another encoder; DataError when it is damaged.
        """
        folder = Path(folder)
        path = folder / TABLE
        if not path.is_file():
            if not create or encoder is None:
                raise UsageError(
                    f"there is no index in {folder}; make one with: genmm index add VIDEO --index {folder}"
                )
            return cls(folder, encoder, [])
        table = _checked_table(read_json(path), path)
        index = cls(folder, str(table["encoder"]), [IndexEntry(**entry) for entry in table["videos"]])
        for entry in index.entries:
            entry.check(path)
        if encoder is not None and encoder != index.encoder:
            raise UsageError(
                f"the index in {folder} was made with another model (encoder {index.encoder}, this one has {encoder}); "
                "their tokens cannot be compared: give --model the one it was made with, or start a new index"
            )
        return index

    def __len__(self) -> int:
        return len(self.entries)

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Whether a video of this path is in the index."""
        return bool(self._of(path))

    def remove(self, path: str | os.PathLike[str]) -> bool:
        """Take a video out; False when it was not there."""
        if not (self.folder / TABLE).is_file():
            return False
        with self._writing():
            gone = self._of(path)
            if gone:
                self._replace(gone)
        return bool(gone)

    def facts(self) -> dict[str, Any]:
        """How large the index is: videos, moments, tokens, seconds of video, bytes of the files."""
        files = [self._file(entry) for entry in self.entries]
        return {
            "videos": len(self),
            "moments": sum(entry.moments for entry in self.entries),
            "tokens": sum(entry.tokens for entry in self.entries),
            "seconds": round(sum(entry.seconds for entry in self.entries), 2),
            "bytes": sum(file.stat().st_size for file in files if file.is_file()),
        }

    def _of(self, path: str | os.PathLike[str]) -> list[IndexEntry]:
        return [entry for entry in self.entries if entry.path in (str(Path(path).resolve()), str(path))]

    def _file(self, entry: IndexEntry) -> Path:
        """The tokens of a video."""
        return self.folder / f"{entry.id}.safetensors"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time; what another process has added meanwhile is kept."""
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock", timeout=LOCK_S)
        try:
            lock.acquire()
        except Timeout as error:
            raise UsageError(f"another process has written to {self.folder} for {LOCK_S:g} s; try again") from error
        try:
            if (self.folder / TABLE).is_file():
                self._read_again()
            yield
        finally:
            lock.release()

    def _read_again(self) -> None:
        self.entries = IndexTable.open(self.folder, self.encoder).entries

    def _replace(self, gone: Sequence[IndexEntry], *fresh: IndexEntry) -> None:
        """Write the table without some entries and with others, then delete the files that it does not need."""
        self.entries = [*(entry for entry in self.entries if entry not in gone), *fresh]
        videos = [asdict(entry) for entry in self.entries]
        write_json(self.folder / TABLE, {"version": VERSION, "encoder": self.encoder, "videos": videos})
        needed = {self._file(entry) for entry in self.entries}
        for file in {self._file(entry) for entry in gone} - needed:
            file.unlink(missing_ok=True)


def _checked_table(table: Any, path: Path) -> dict[str, Any]:
    """A table of this version with all its parts. Raises: DataError that says what another file lacks."""
    has = table if isinstance(table, dict) else {}
    if has.get("version", VERSION) != VERSION:
        raise DataError(f"{path} has version {str(has['version'])[:40]}, this genmm reads {VERSION}")
    lacks = [f'"{name}"' for name in ("version", "encoder", "videos") if name not in has]
    names = {field.name for field in fields(IndexEntry)}
    videos = has.get("videos", [])
    if not lacks and not (isinstance(videos, list) and all(isinstance(v, dict) and set(v) == names for v in videos)):
        lacks = ["the facts of each video"]
    if lacks:
        raise DataError(f"{path} is no index of videos: it lacks {', '.join(lacks)}; name another folder")
    return has
