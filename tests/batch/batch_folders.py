"""Manifests for the runner's tests, and what a run folder holds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_manifest(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tones(count: int, **more: Any) -> list[dict[str, Any]]:
    """Rows for `count` different tones."""
    return [{"id": f"tone-{i:03d}", "hertz": 100 + 10 * i, **more} for i in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run folder that a person sees, with its bytes; nothing half-made may lie there."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    staged = [name for name in files if "staging" in name or "partial" in name]
    assert not staged, f"unfinished files were left: {staged}"
    return {name: data for name, data in files.items() if not name.startswith(".run")}


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of results.jsonl."""
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
