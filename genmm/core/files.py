"""Files that are either whole or not there: temporary file beside the target, fsync, rename, check."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from genmm.core.errors import DataError, UsageError

__all__ = [
    "append_line",
    "atomic_path",
    "check_target",
    "check_targets",
    "free_name",
    "parse_json",
    "read_json",
    "safe_stem",
    "sync_folder",
    "write_bytes",
    "write_json",
    "write_text",
]

JSON_BYTES = 50_000_000
"""Largest JSON file that `read_json` opens unless told otherwise, in bytes."""

_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))}


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside the target to write to; on success it becomes the target in one step.

    The temporary name ends in the target's suffix, so that writers which look at the suffix work. Missing parent
    folders are made. On any error inside the block the temporary file is removed and the target stays as it was.
    Raises: UsageError when the target is a folder; OSError as the system reports it (full disk, read-only folder).
    """
    target = Path(target)
    if target.is_dir():
        raise UsageError(f"{target} is a folder; give the name of a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem[:80]}.{secrets.token_hex(6)}.partial{target.suffix}")
    try:
        mode = _mode_of_new_files(temporary)
        yield temporary
        if not temporary.is_file():
            raise OSError(f"nothing was written to {temporary}, so {target} was not made")
        os.chmod(temporary, mode)  # some writers (safetensors) make files that only their owner can read
        _sync_file(temporary)
        size = temporary.stat().st_size
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(target.parent)
    if not target.is_file() or target.stat().st_size != size:
        raise OSError(f"{target} was written, but is not there as written; another program may have changed it")


def check_target(
    target: str | os.PathLike[str], *, sources: Iterable[str | os.PathLike[str]] = (), several: bool = False
) -> Path:
    """Give back the path of a file that is to be written later; long work asks before it begins.

    `sources` are the files that the work reads; `several` says that <stem>_1, <stem>_2 and so on may be written too.
    Raises: UsageError when it is a folder or a source, when a file stands where a folder is needed, or when nothing can
    be written there. Folders that are missing are not made.
    """
    target = Path(target)
    for source in map(Path, sources):
        if _takes_its_place(target, source, several):
            raise UsageError(f"{target} would take the place of {source}, which is read; write to another file")
    if target.is_dir():
        raise UsageError(f"{target} is a folder; give the name of a file in it")
    folder = next(path for path in (target.absolute().parent, *target.absolute().parents) if path.exists())
    if not folder.is_dir():
        raise UsageError(f"{target} cannot be written: {folder} is a file, not a folder")
    probe = folder / f".{secrets.token_hex(6)}.probe"  # permissions alone do not tell of read-only disks and /proc
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written: nothing can be made in {folder} ({error.strerror}); choose another folder"
        ) from error
    return target


def check_targets(targets: Iterable[str | os.PathLike[str]], *, sources: Iterable[str | os.PathLike[str]] = ()) -> None:
    """`check_target` for several files of one run. Raises: UsageError also when two of them are the same file."""
    seen: dict[Path, Path] = {}
    sources = list(sources)
    for target in map(Path, targets):
        check_target(target, sources=sources)
        if seen.setdefault(target.resolve(), target) is not target:
            raise UsageError(
                f"{target} is named twice, and one result would take the place of the other; use two names"
            )


def _takes_its_place(target: Path, source: Path, several: bool) -> bool:
    target, source = target.resolve(), source.resolve()
    if target == source or (target.exists() and source.exists() and target.samefile(source)):
        return True
    is_beside = (target.parent, target.suffix) == (source.parent, source.suffix)
    return several and is_beside and re.fullmatch(rf"{re.escape(target.stem)}_\d+(_.*)?", source.stem) is not None


def free_name(path: str | os.PathLike[str]) -> Path:
    """The path, or <stem>-2, <stem>-3 and so on: the first at which no result, numbered results or recipe lie.

    For results that nobody named, so that the next does not take the place of the last.
    """
    path = Path(path)
    names = (path if n == 1 else path.with_name(f"{path.stem}-{n}{path.suffix}") for n in itertools.count(1))
    return next(name for name in names if not _is_used(name))


def _is_used(path: Path) -> bool:
    numbered = path.parent.glob(f"{glob.escape(path.stem)}_1[._]*")
    return path.exists() or path.with_suffix(".json").exists() or next(numbered, None) is not None


def _mode_of_new_files(path: Path) -> int:
    """Permissions that a plain new file gets here, by the user's umask; `path` is made and removed again."""
    path.touch()
    mode = path.stat().st_mode & 0o777
    path.unlink()
    return mode


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write bytes atomically; gives back the path."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 text atomically, line ends as given; gives back the path."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write a value as indented JSON atomically. Raises: UsageError when it holds NaN, infinity or a foreign type."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path} cannot be written as JSON: {error}") from error
    return write_text(path, text + "\n")


def append_line(path: str | os.PathLike[str], text: str) -> None:
    """Append one line (no line break inside) to a file in one write, and wait until it is on the disk."""
    if "\n" in text or "\r" in text:
        raise UsageError("append_line takes one line without a line break")
    data = (text + "\n").encode("utf-8")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        if os.write(handle, data) != len(data):
            raise OSError(f"{path}: the line was written only in part; the disk may be full")
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: str | os.PathLike[str], *, max_bytes: int = JSON_BYTES) -> Any:
    """Read a JSON file of at most `max_bytes`. Raises: DataError when it is missing, too large or not JSON."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > max_bytes:
        raise DataError(f"{path} is larger than {max_bytes} bytes, the limit for this kind of file")
    return parse_json(data, source=str(path))


def parse_json(data: bytes | str, *, source: str) -> Any:
    """Parse strict JSON (UTF-8, no NaN or Infinity). Raises: DataError that names `source` and the place."""
    try:
        return json.loads(data.decode("utf-8-sig") if isinstance(data, bytes) else data, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise DataError(f"{source} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 text: byte {error.start} cannot be decoded") from error
    except RecursionError as error:
        raise DataError(f"{source} is nested too deeply to be read") from error
    except ValueError as error:
        raise DataError(f"{source} is not usable JSON: {error}") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def safe_stem(text: str, *, max_chars: int = 80) -> str:
    """Turn any text into a file name without a suffix: letters, digits, '-', '_' and inner '.', never empty.

    Two texts may give one stem; callers that need different names add an id.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", plain)
    stem = re.sub(r"\.{2,}", ".", stem)[:max_chars].strip("._-") or "item"
    return f"{stem}_" if stem.split(".")[0].lower() in _RESERVED else stem


def sync_folder(folder: Path) -> None:
    """Make a finished rename in the folder survive a power cut, where the system can do that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    with suppress(OSError):  # some file systems refuse fsync on folders; the rename itself is done
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
