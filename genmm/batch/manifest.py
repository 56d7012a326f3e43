"""Batch manifests: JSON lines in, checked rows out.

A manifest is UTF-8 text with one JSON object a line. Every object has a unique string `id`, which becomes the
name of the files made for it, and the fields of the task (`text`, `voice`, ...). Everything is checked before any
work starts, and all problems are reported together with their line numbers.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genmm.core.errors import ConfigError, DataError, GenmmError

MAX_LINE_BYTES = 1_000_000
"""Longest accepted manifest line; a longer one is almost surely not JSON lines."""
MAX_ID_BYTES = 180
"""Longest accepted id in UTF-8 bytes: with suffixes it stays below the 255 bytes a file name may have."""
SHOWN_PROBLEMS = 20
"""How many problems an error text lists; the rest are counted."""

Problem = tuple[int, str]
"""What is wrong with a manifest: line number and text."""

_FORBIDDEN_IN_NAMES = set('/\\<>:"|?*')
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul"} | {f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10)}


@dataclass(frozen=True)
class ManifestRow:
    """One line of a manifest, checked for form but not yet for the task's own rules."""

    id: str
    """Unique name of the item, safe as a file name."""
    fields: Mapping[str, Any]
    """The line's fields without `id`."""
    line: int
    """Line number in the manifest, from 1."""
    folder: Path = field(default=Path("."), compare=False)
    """Folder of the manifest; relative paths in fields start here."""

    def digest(self) -> str:
        """Short sha256 of the fields: a finished item whose row was edited later is made again."""
        text = json.dumps(dict(self.fields), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class ManifestError(ConfigError):
    """A manifest that cannot be run; `problems` lists every finding as (line number, text)."""

    def __init__(self, path: Path | str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        shown = [f"  line {line}: {text}" for line, text in self.problems[:SHOWN_PROBLEMS]]
        if len(self.problems) > SHOWN_PROBLEMS:
            shown.append(f"  ... and {len(self.problems) - SHOWN_PROBLEMS} more")
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{path} has {count}; nothing was run. Repair and start again:\n" + "\n".join(shown))


def id_problem(name: Any) -> str | None:
    """Say why `name` cannot be an id, or None when it can.

    An id is a non-empty string that is one safe file name on Linux, macOS and Windows: no path separators, no
    control characters, no leading dot, no trailing dot or space, at most MAX_ID_BYTES bytes.
    """
    if not isinstance(name, str):
        return f"id must be a string, got {_kind(name)} {_short(name)}; write it in quotes"
    if not name:
        return "id is empty; give every item a name"
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        return f"id {_short(name)} has control characters; use letters, digits, '-', '_' and '.'"
    bad = sorted(set(name) & _FORBIDDEN_IN_NAMES)
    if bad:
        return f"id {_short(name)} has {' '.join(bad)}, unsafe in a file name; use letters, digits, '-', '_' and '.'"
    if name.startswith((".", " ")) or name.endswith((".", " ")):
        return f"id {_short(name)} starts with a dot or space, or ends with one; remove it"
    if name.split(".")[0].casefold() in _WINDOWS_DEVICES:
        return f"id {_short(name)} is a reserved device name on Windows; choose another"
    size = len(name.encode())
    if size > MAX_ID_BYTES:
        return f"id {_short(name)} has {size} bytes; at most {MAX_ID_BYTES} fit into a file name with its suffix"
    return None


def read_manifest(path: Path | str, fields: Iterable[str], problems: list[Problem] | None = None) -> list[ManifestRow]:
    """Read and check a JSON lines manifest.

    Args: `fields` are the names that rows may have besides `id`. A list of `problems` takes the findings that are
    otherwise raised, so that more can be found in the good rows.
    Returns: the good rows in file order; blank lines are skipped.
    Raises: DataError when the file cannot be read or holds no rows; ManifestError naming the lines with broken
    JSON, missing, duplicate, wrongly typed or unsafe ids, and unknown fields.
    """
    path = Path(path)
    reader = _Reader(allowed=tuple(fields), folder=path.resolve().parent)
    try:
        with path.open("rb") as lines:
            while raw := lines.readline(MAX_LINE_BYTES + 1):
                reader.line += 1
                if len(raw) > MAX_LINE_BYTES:
                    reader.note(f"longer than {MAX_LINE_BYTES} bytes; a manifest has one small JSON object a line")
                    break
                reader.add(raw)
    except OSError as error:
        raise DataError(f"cannot read the manifest {path}: {error.strerror or error}") from error
    if reader.problems and problems is None:
        raise ManifestError(path, reader.problems)
    if not reader.rows and not reader.problems:
        raise DataError(f'the manifest {path} has no rows; write one JSON object a line, such as {{"id": "a", ...}}')
    if problems is not None:
        problems += reader.problems
    return reader.rows


def check_rows(
    rows: Iterable[ManifestRow], validate: Callable[[ManifestRow], Any], problems: list[Problem]
) -> dict[str, Any]:
    """Turn every row into the task's request.

    Returns: id -> request. `problems` takes the line of every row that `validate` refused by a GenmmError.
    """
    requests: dict[str, Any] = {}
    for row in rows:
        try:
            requests[row.id] = validate(row)
        except GenmmError as error:
            problems.append((row.line, str(error)))
    return requests


def check_stems(rows: Iterable[ManifestRow], stems: Mapping[str, Sequence[str]], problems: list[Problem]) -> None:
    """Make sure that no two items write one file.

    Args: `stems` is id -> names of its files without suffix; `problems` takes the line of every row whose files another
    row would write too.
    """
    owners: dict[str, ManifestRow] = {}
    for row in rows:
        for stem in stems[row.id]:
            other = owners.setdefault(_on_disk(stem), row)
            if other is not row:
                text = f"id {_short(row.id)} and id {_short(other.id)} on line {other.line} would both write {stem!r}"
                problems.append((row.line, f"{text}; rename one"))


def _on_disk(name: str) -> str:
    """Names that differ by case or by Unicode form alone are one file on macOS and Windows."""
    return unicodedata.normalize("NFC", name).casefold()


class _Reader:
    """Collects rows and problems while the lines go by."""

    def __init__(self, allowed: tuple[str, ...], folder: Path) -> None:
        self.allowed, self.folder = allowed, folder
        self.line = 0
        self.rows: list[ManifestRow] = []
        self.problems: list[Problem] = []
        self._first_line_of: dict[str, tuple[str, int]] = {}

    def note(self, problem: str) -> None:
        self.problems.append((self.line, problem))

    def add(self, raw: bytes) -> None:
        """Check one line; blank lines count for numbering alone."""
        if self.line == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if not raw.strip():
            return
        try:
            value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        except UnicodeDecodeError:
            self.note("not UTF-8 text; save the manifest as UTF-8")
        except (ValueError, RecursionError) as error:
            self.note(f"not one JSON object: {error}")
        else:
            self._add_value(value)

    def _add_value(self, value: Any) -> None:
        if not isinstance(value, dict):
            self.note(f'must be a JSON object like {{"id": ...}}, got {_kind(value)}')
        elif self._check_id(value) and self._check_names(value):
            name = value.pop("id")
            self.rows.append(ManifestRow(id=name, fields=value, line=self.line, folder=self.folder))

    def _check_id(self, value: dict[str, Any]) -> bool:
        if "id" not in value:
            self.note('has no "id"; every row needs a unique one')
            return False
        name = value["id"]
        if problem := id_problem(name):
            self.note(problem)
            return False
        key = _on_disk(name)
        if key in self._first_line_of:
            other, line = self._first_line_of[key]
            same = "is used" if other == name else f"would be the same file as {_short(other)} on some disks, used"
            self.note(f"id {_short(name)} {same} on line {line} already")
            return False
        self._first_line_of[key] = (name, self.line)
        return True

    def _check_names(self, value: dict[str, Any]) -> bool:
        unknown = [name for name in value if name != "id" and name not in self.allowed]
        for name in unknown:
            close = difflib.get_close_matches(name, self.allowed, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known fields: id, {', '.join(self.allowed)}"
            self.note(f"unknown field {_short(name)}; {hint}")
        return not unknown


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"field {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return dict(pairs)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else text[:57] + "..."
