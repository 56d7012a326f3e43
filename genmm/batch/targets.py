"""What a batch run may write: files that are new or its own, and never one that the manifest names as a source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genmm.batch.folder import RunFolder
from genmm.batch.manifest import ManifestError, Problem
from genmm.batch.plan import Plan
from genmm.batch.task import BatchTask, item_stems


def check_item_files(task: BatchTask, plan: Plan, folder: RunFolder, names: Sequence[str]) -> None:
    """Make sure that making the items of these ids replaces no file that runs in this folder did not make.

    Sources of any row and the manifest are not replaced either, though an earlier run may have made them.
    Raises: ManifestError with the line of every item that would.
    """
    found = {name: _existing(task, folder, name, plan.requests[name]) for name in names}
    if not any(found.values()):
        return
    own, readers = folder.own_names(), _readers(task, plan)
    problems: list[Problem] = []
    for name, files in found.items():
        places = {file: (folder.path / file).resolve() for file in files}
        taken = [f"{file} ({readers[place]})" for file, place in places.items() if place in readers]
        strange = [file for file in files if file not in own]
        if taken:
            reason = " and ".join(taken)
        elif strange:
            reason = f"{' and '.join(strange)}, which this run did not make"
        else:
            continue
        text = f"id {name!r} would replace in {folder.path}: {reason}; use another --out or another id"
        problems.append((plan.rows[name].line, text))
    if problems:
        raise ManifestError(plan.manifest, problems)


def _existing(task: BatchTask, folder: RunFolder, name: str, request: Any) -> list[str]:
    """Files of an item, media and recipes, whose names are taken in the folder, also by links that lead nowhere."""
    suffixes = dict.fromkeys((task.suffix, ".json"))
    files = [f"{stem}{suffix}" for stem in item_stems(task, name, request) for suffix in suffixes]
    return [file for file in files if os.path.lexists(folder.path / file)]


def _readers(task: BatchTask, plan: Plan) -> dict[Path, str]:
    """Path of every file that the run reads -> what it is to the run."""
    readers = {plan.manifest.resolve(): "the manifest"}
    if sources := getattr(task, "sources", None):
        for name, row in plan.rows.items():
            for path in sources(plan.requests[name]):
                readers.setdefault(path, f"the source of line {row.line}")
    return readers
