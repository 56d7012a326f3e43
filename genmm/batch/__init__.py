"""Batches: a manifest in, results out, resumable after anything. See `genmm.batch.runner` for the promises."""

from genmm.batch.manifest import ManifestError, ManifestRow, read_manifest
from genmm.batch.shards import Shard
from genmm.batch.task import TASKS, BatchItem, BatchTask, task_class

__all__ = [
    "TASKS",
    "BatchItem",
    "BatchReport",
    "BatchTask",
    "ManifestError",
    "ManifestRow",
    "Shard",
    "read_manifest",
    "run_batch",
    "task_class",
]


def __getattr__(name: str) -> object:
    """Import the runner, and torch with it, when it is used."""
    if name in ("BatchReport", "run_batch"):
        from genmm.batch import runner

        return getattr(runner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
