"""The results of a batch run: JSON lines, appended durably, folded to one line per id.

While a run works, records are appended to its file and synced to the disk after the media they name are there. A
process that is killed can tear the last line at most; `repair_tail` cuts it off. At the end of a run the file is
rewritten with exactly one line per id in manifest order. Lines hold nothing that depends on when, where or in how
many pieces the work was done, so that two runs of the same manifest give the same bytes.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from genmm.core.errors import DataError
from genmm.core.files import sync_folder

log = logging.getLogger(__name__)

DONE: Literal["done"] = "done"
FAILED: Literal["failed"] = "failed"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What became of one manifest item."""

    id: str
    status: Literal["done", "failed"]
    seed: int
    """The item's own seed; with it and the row the item can be made alone."""
    row: str
    """Digest of the manifest row (`ManifestRow.digest`), to notice rows that were edited later."""
    files: tuple[str, ...] = ()
    """Names of the files made, relative to the run folder; the media file first."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the task says about the result (seconds, stop reason, ...); JSON values that depend on the input alone."""
    error: Mapping[str, str] | None = None
    """For a failed item: {"type": error class, "text": message}; never a traceback."""
    notes: tuple[str, ...] = ()
    """Remarks such as a batch that was halved because memory ran out."""

    def to_line(self) -> str:
        """Return the record as one JSON line with its newline; empty parts are left out."""
        value: dict[str, Any] = {"id": self.id, "status": self.status, "seed": self.seed, "row": self.row}
        if self.files:
            value["files"] = list(self.files)
        if self.facts:
            value["facts"] = dict(self.facts)
        if self.error:
            value["error"] = dict(self.error)
        if self.notes:
            value["notes"] = list(self.notes)
        return json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: bytes | str) -> Record:
        """Read `to_line` back. Raises: ValueError when the line is no record."""
        value = json.loads(line)
        if not isinstance(value, dict) or value.get("status") not in (DONE, FAILED):
            raise ValueError("not a result record")
        try:
            return cls(
                id=_typed(value["id"], str),
                status=value["status"],
                seed=_typed(value["seed"], int),
                row=_typed(value["row"], str),
                files=tuple(_typed(name, str) for name in value.get("files", ())),
                facts=_typed(value.get("facts", {}), dict),
                error=_typed(value["error"], dict) if "error" in value else None,
                notes=tuple(_typed(note, str) for note in value.get("notes", ())),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a result record: {error}") from error


def repair_tail(path: Path) -> int:
    """Cut off a last line that has no newline, or that is no JSON: what a killed process or a lost power leaves.

    Returns: the number of bytes removed; 0 when the file is whole or missing.
    """
    if not path.exists():
        return 0
    data = path.read_bytes()
    keep = data.rfind(b"\n") + 1
    while keep:  # a crash of the machine can leave a last block of zeros that ends in a newline
        start = data.rfind(b"\n", 0, keep - 1) + 1
        try:
            json.loads(data[start:keep])
            break
        except ValueError:
            keep = start
    removed = len(data) - keep
    if removed:
        with path.open("r+b") as file:
            file.truncate(keep)
            os.fsync(file.fileno())
        log.warning("removed %d bytes of an unfinished line at the end of %s", removed, path.name)
    return removed


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a results file in file order; a missing file has none.

    Lines that are no records are reported as a warning and left out, so that their items are made again.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    lines.pop()  # empty, or a line that another process is writing at this moment
    for number, line in enumerate(lines, start=1):
        try:
            yield Record.from_line(line)
        except ValueError:
            log.warning("line %d of %s is damaged; its item will be made again", number, path.name)


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Append records with one write and sync them to the disk. Raises: OSError, for example when the disk is full."""
    data = "".join(record.to_line() for record in records).encode()
    with path.open("ab", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def fold(records: Iterable[Record], digests: Mapping[str, str] = MappingProxyType({})) -> dict[str, Record]:
    """Keep one record per id: success beats failure, the newest wins among equals.

    Records of different row digests are about different inputs: the one that fits `digests` (id -> digest of the
    manifest at hand) wins, else the newest.
    """
    kept: dict[str, Record] = {}
    for record in records:
        old = kept.get(record.id)
        if old is None or not _beats(old, record, digests.get(record.id)):
            kept[record.id] = record
    return kept


def _beats(old: Record, new: Record, digest: str | None) -> bool:
    if old.row == new.row:
        return old.status == DONE and new.status == FAILED
    return old.row == digest


def rewrite(path: Path, records: Iterable[Record], scratch: Path) -> None:
    """Replace a results file by exactly these records in one step; `scratch` is a folder on the same file system."""
    temporary = scratch / path.name
    with temporary.open("wb") as file:
        file.write("".join(record.to_line() for record in records).encode())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value
