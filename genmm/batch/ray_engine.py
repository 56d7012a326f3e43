"""The Ray engine: the same batches on the actors of a Ray cluster, through Ray Data. An optional extra.

Actors load the model once, make and publish files (the run folder must lie on a file system that all machines share),
and send back records; this process alone writes the results file. Ray restarts nothing by itself here: what a lost
actor did not deliver is made at the next start, as after any other kill.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from genmm.batch.execute import BatchWorker, RunStoppedError, portable_error
from genmm.batch.folder import RunFolder
from genmm.batch.plan import Plan
from genmm.batch.results_log import Record
from genmm.batch.shards import Shard
from genmm.batch.task import BatchTask
from genmm.core.errors import GenmmError, MissingDependencyError
from genmm.core.events import CancelToken

if TYPE_CHECKING:
    from genmm.batch.runner import BatchRun


def require_ray() -> Any:
    """Import ray with Ray Data. Raises: MissingDependencyError with the line that installs it."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            "the Ray engine needs Ray Data, which is not installed; install it with: pip install 'genmm[ray]' "
            "(or leave --engine out: the local engine needs nothing more)"
        ) from error
    return ray


def ray_results(run: BatchRun, workers: int) -> Iterator[list[Record]]:
    """Yield the records of finished batches as the actors deliver them.

    Uses the cluster of RAY_ADDRESS or of an earlier `ray.init`, else starts Ray on this machine and stops it again.
    Raises: GenmmError of an actor (a checkpoint that does not load, a full disk); Cancelled.
    """
    ray = require_ray()
    own = not ray.is_initialized()
    if own:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        run.progress("starting the actors")
        for batch in _dataset(ray, run, workers).iter_batches(batch_size=None, prefetch_batches=0):
            run.cancel.check()
            for text, code in zip(batch["error"], batch["exit_code"], strict=True):
                if text:
                    raise portable_error(str(text), int(code))
            yield [Record.from_line(line) for line in batch["record"]]
    except ray.exceptions.RayError as error:
        said = str(error).strip().splitlines()[-1]
        raise RunStoppedError(f"Ray stopped the run: {said}; finished items are safe") from error
    finally:
        if own:
            ray.shutdown()


def _dataset(ray: Any, run: BatchRun, workers: int) -> Any:
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"id": job.item.id} for job in run.jobs]
    blocks = -(-len(rows) // run.batch_size)
    gpus = 1 if ray.cluster_resources().get("GPU", 0) and getattr(run.task, "device", "cpu") != "cpu" else 0
    return ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        _Actor,
        fn_constructor_args=(run.task, run.plan, str(run.folder.path.resolve()), run.folder.shard, run.batch_size),
        batch_size=run.batch_size,
        concurrency=(1, workers) if workers > 1 else 1,
        num_gpus=gpus,
        num_cpus=0 if gpus else 1,
    )


class _Actor:
    """One Ray actor: a loaded task with a staging folder of its own.

    A GenmmError travels back as data, because Ray keeps of an exception little more than its printed traceback.
    """

    def __init__(self, task: BatchTask, plan: Plan, folder: str, shard: Shard, batch_size: int) -> None:
        place = RunFolder(folder, shard)
        place.staging = place.staging / secrets.token_hex(8)
        place.staging.mkdir(parents=True)
        self.plan, self.error = plan, None
        self.worker = BatchWorker(task, place, batch_size, CancelToken())
        try:
            task.setup()
        except GenmmError as error:
            self.error = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        jobs = [self.plan.job(str(name)) for name in batch["id"]]
        try:
            lines = [] if self.error else [record.to_line() for record in self.worker.records(jobs)]
        except GenmmError as error:
            self.error = error
        if self.error:
            return {"record": [""], "error": [str(self.error)], "exit_code": [self.error.exit_code]}
        return {"record": lines, "error": [""] * len(lines), "exit_code": [0] * len(lines)}


__all__ = ["ray_results", "require_ray"]
