"""Results of single items on disk, so that a measurement that stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genmm.core.files import append_line


class Journal:
    """Key -> JSON value; with a folder also in a file that belongs to one set of settings."""

    def __init__(self, folder: Path | None = None, name: str = "items", settings: Mapping[str, Any] | None = None):
        """Open `folder/name-<hash of settings>.jsonl`; other settings have another file, so nothing is mixed up."""
        self.path: Path | None = None
        self._values: dict[str, Any] = {}
        if folder is not None:
            text = json.dumps(dict(settings or {}), sort_keys=True)
            self.path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.jsonl"
            self._read()

    def __len__(self) -> int:
        return len(self._values)

    def kept(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of a key; made and written down when it is not there yet."""
        if key not in self._values:
            value = make()
            line = json.dumps([key, value], allow_nan=False)
            if self.path is not None:
                append_line(self.path, line)
            self._values[key] = json.loads(line)[1]  # the same types whether it was read or made
        return self._values[key]

    def _read(self) -> None:
        if self.path is None or not self.path.is_file():
            return
        text = self.path.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):  # a run was killed while it wrote; its last line counts for nothing
            append_line(self.path, "")
        for line in text.splitlines():
            try:
                key, value = json.loads(line)
            except ValueError:
                continue
            self._values[key] = value
