"""The plan of a batch run: every row of a manifest checked and turned into a request, before any model is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import genmm
from genmm.batch.execute import Job
from genmm.batch.manifest import ManifestError, ManifestRow, Problem, check_rows, check_stems, read_manifest
from genmm.batch.task import BatchItem, BatchTask, item_stems, row_fields
from genmm.core.seeds import check_seed, derive_seed

COST_WINDOW = 16
"""Items of like cost are gathered within this many batches, so that results still appear about in manifest order."""


@dataclass(frozen=True)
class Plan:
    """A checked manifest with its run seed."""

    rows: Mapping[str, ManifestRow]
    """id -> row, in manifest order."""
    requests: Mapping[str, Any]
    """id -> the task's request."""
    digests: Mapping[str, str]
    """id -> digest of the row, in manifest order."""
    seed: int
    """Run seed."""
    manifest: Path
    """The file that it was read from."""

    def job(self, name: str) -> Job:
        """The work for one id, with the row's own seed or the one derived from the run seed."""
        own = self.rows[name].fields.get("seed")
        seed = derive_seed(self.seed, name) if own is None else own
        return Job(BatchItem(name, self.requests[name], seed), self.digests[name])


def make_plan(task: BatchTask, manifest: Path | str, seed: int = 0) -> Plan:
    """Read and check a whole manifest for a task, without loading its model.

    Raises: DataError; ManifestError (a ConfigError) naming every bad line; UsageError for a bad run seed.
    """
    seed = check_seed(seed)
    problems: list[Problem] = []
    rows = read_manifest(manifest, row_fields(task), problems)

    def validate(row: ManifestRow) -> Any:
        if row.fields.get("seed") is not None:
            check_seed(row.fields["seed"])
        return task.validate(row)

    requests = check_rows(rows, validate, problems)
    stems = {name: item_stems(task, name, request) for name, request in requests.items()}
    check_stems([row for row in rows if row.id in stems], stems, problems)
    if problems:
        raise ManifestError(manifest, sorted(problems, key=lambda problem: problem[0]))
    digests = {row.id: row.digest() for row in rows}
    return Plan({row.id: row for row in rows}, requests, digests, seed, Path(manifest))


def fingerprint_of(task: BatchTask, seed: int) -> dict[str, Any]:
    """What a run folder is bound to: task, its settings and model, seed, code version."""
    return {"genmm": genmm.__version__, "task": task.name, "seed": seed, "settings": dict(task.fingerprint())}


def gather_by_cost(jobs: Sequence[Job], task: BatchTask, batch_size: int) -> list[Job]:
    """Sort jobs by falling cost within windows of COST_WINDOW batches, to waste little padding; ties keep order."""
    window = COST_WINDOW * batch_size
    parts = [jobs[start : start + window] for start in range(0, len(jobs), window)]
    return [job for part in parts for job in sorted(part, key=lambda job: -task.cost(job.item.request))]


def error_limit(max_errors: int | float | None, items: int) -> float:
    """How many failures are allowed: a fraction below 1 is a share of the items, None has no limit."""
    if max_errors is None:
        return math.inf
    return math.floor(max_errors * items) if 0 < max_errors < 1 else max_errors
