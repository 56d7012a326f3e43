"""Manifest in, results out: find what is left, work in batches, survive whatever happens.

The promises: the manifest is checked before any work; the same command continues where a run stopped, also after
kill -9 at any moment, losing at most the batch in flight; each id has one line at the end; a failed item is a record
and is tried again next time; two runs never mix in one folder; the results do not depend on batch size, shards or
restarts beyond the rounding of the task's own arithmetic.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from genmm.batch.execute import BatchWorker, Job, stopped_by
from genmm.batch.folder import RunFolder
from genmm.batch.plan import Plan, error_limit, fingerprint_of, gather_by_cost, make_plan
from genmm.batch.results_log import DONE, FAILED, Record, append_records
from genmm.batch.shards import Shard
from genmm.batch.targets import check_item_files
from genmm.batch.task import BatchTask
from genmm.core.devices import choose_device
from genmm.core.errors import Cancelled, UsageError
from genmm.core.events import CancelToken, Event, Finished, Progress

Stopped = Literal["", "errors", "asked", "cancelled"]
Results = Callable[["BatchRun"], Iterator[list[Record]]]
"""An engine: yields the records of finished batches, whose files are published already."""


@dataclass(frozen=True)
class BatchReport:
    """How a run ended, for the part of the manifest (the shard) that it worked on."""

    total: int
    """Items of this shard."""
    done: int
    """Items with a result now, earlier runs included."""
    failed: int
    """Items whose latest attempt failed."""
    made: int
    """Results made by this run."""
    results: Path
    """The results file."""
    stopped: Stopped = ""
    """Why the run ended early: too many errors, asked to finish (SIGTERM), cancelled; empty when it did not."""

    @property
    def left(self) -> int:
        """Items that were not tried."""
        return self.total - self.done - self.failed

    @property
    def exit_code(self) -> int:
        """0 all done, 3 some failed or were given up, 143 stopped on request, 130 cancelled."""
        if not self.stopped:
            return 0 if self.done == self.total else 3
        return {"asked": 143, "cancelled": 130, "errors": 3}[self.stopped]


def run_batch(
    task: BatchTask,
    manifest: Path | str,
    out_dir: Path | str,
    *,
    seed: int = 0,
    shard: Shard | str | None = None,
    workers: int = 1,
    batch_size: int = 8,
    retry_failed: bool = True,
    max_errors: int | float | None = None,
    engine: Literal["local", "ray"] = "local",
    on_event: Callable[[Event], None] | None = None,
    cancel: CancelToken | None = None,
    stop: threading.Event | None = None,
) -> BatchReport:
    """Make the results of a manifest in a folder, going on where an earlier run of the same kind stopped.

    Args:
        seed: run seed in [0, 2**63); an item's seed is derived from it and the id unless its row has one.
        shard: "i/n" or Shard: work on every n-th row only; all shards together make the same as one run.
        workers: processes (local) or actors (Ray), at least 1; with several GPUs each takes its own.
        batch_size: items made together, at least 1; halved when memory runs out. Tasks that make one item after
            another (video, highlight, music) keep each as soon as it is made, whatever is given here.
        retry_failed: try items again that failed in an earlier run.
        max_errors: give up when more items than this failed in this run; a fraction below 1 is a share of the items
            to do. None never gives up.
        on_event: called with Progress after every batch, and with Finished(report).
        cancel: stops at once; the batch in flight is not kept. stop: finishes the batch in flight, then stops.
    Returns: the report; a run that stopped early says why in it.
    Raises: GenmmError for wrong usage, a bad manifest, a folder of another run or in use, files in the way that this
        run did not make; RunStoppedError when the disk refuses. Finished items are safe in every case.
    """
    _check_numbers(workers, batch_size, max_errors)
    run = BatchRun(
        task=task,
        plan=make_plan(task, manifest, seed),
        folder=RunFolder(out_dir, _shard(shard)),
        batch_size=batch_size,
        retry_failed=retry_failed,
        max_errors=max_errors,
        on_event=on_event or (lambda event: None),
        cancel=cancel or CancelToken(),
        stop=stop or threading.Event(),
    )
    report = _engine(engine, workers)(run)
    run.on_event(Finished(report))
    return report


def check_batch(
    task: BatchTask,
    manifest: Path | str,
    out_dir: Path | str,
    *,
    seed: int = 0,
    shard: Shard | str | None = None,
    workers: int = 1,
    batch_size: int = 8,
    max_errors: int | float | None = None,
    engine: Literal["local", "ray"] = "local",
) -> tuple[Plan, BatchReport]:
    """What `run_batch` would find with the same arguments: its plan, and the items that are done or failed already.

    No model is loaded, nothing is made or changed.
    Raises: whatever `run_batch` would refuse before it loads the model, but for a folder in use.
    """
    _check_numbers(workers, batch_size, max_errors)
    _engine(engine, workers)
    if isinstance(device := getattr(task, "device", None), str):
        choose_device(device)
    plan, folder = make_plan(task, manifest, seed), RunFolder(out_dir, _shard(shard))
    folder.check(fingerprint_of(task, plan.seed))
    run = BatchRun(task=task, plan=plan, folder=folder, batch_size=batch_size)
    run.check_files()
    run.refresh(retry_failed=False)
    return plan, run.report()


def _shard(shard: Shard | str | None) -> Shard:
    return Shard.parse(shard) if isinstance(shard, str) else shard or Shard()


def _engine(engine: str, workers: int) -> Callable[[BatchRun], BatchReport]:
    """What works on a run. Raises: UsageError for an unknown engine, MissingDependencyError without Ray."""
    if engine == "ray":
        from genmm.batch.ray_engine import ray_results, require_ray

        require_ray()
        return lambda run: run.work(lambda run: ray_results(run, workers))
    if engine != "local":
        raise UsageError(f"engine must be local or ray, got {engine!r}")
    if workers > 1:
        from genmm.batch.workers import run_workers

        return lambda run: run_workers(run, workers)
    return lambda run: run.work(local_results)


@dataclass(kw_only=True)
class BatchRun:
    """One run over one shard; the engines work on it."""

    task: BatchTask
    plan: Plan
    folder: RunFolder
    batch_size: int
    retry_failed: bool = True
    max_errors: int | float | None = None
    on_event: Callable[[Event], None] = lambda event: None
    cancel: CancelToken = field(default_factory=CancelToken)
    stop: threading.Event = field(default_factory=threading.Event)
    known: dict[str, Record] = field(default_factory=dict)
    """Current records of this shard's items, failed ones that are to be tried again left out."""
    pending: list[str] = field(default_factory=list)
    """Ids still to do when the run started, in manifest order."""
    made: int = 0
    errors: int = 0

    def __post_init__(self) -> None:
        if getattr(self.task, "one_by_one", False):
            self.batch_size = 1

    @property
    def mine(self) -> list[str]:
        """Ids of this shard in manifest order."""
        return self.folder.shard.select(list(self.plan.rows))

    @property
    def jobs(self) -> list[Job]:
        """The pending work in the order in which it is best done."""
        return gather_by_cost([self.plan.job(name) for name in self.pending], self.task, self.batch_size)

    def open(self) -> None:
        """Bind the folder to this run without taking it.

        Raises: ConfigError when it belongs to another run, or when files are in the way; then nothing is changed.
        """
        fingerprint = fingerprint_of(self.task, self.plan.seed)
        self.folder.check_owner(fingerprint)
        self.check_files()
        self.folder.prepare()
        self.folder.claim(fingerprint)

    def check_files(self) -> None:
        """See whether the items to do replace nothing but files of this run. Raises: ManifestError."""
        self.refresh(retry_failed=self.retry_failed)
        check_item_files(self.task, self.plan, self.folder, self.pending)

    def work(self, results: Results) -> BatchReport:
        """Take the folder, log the batches that `results` yields, leave one line per id, merge when all is done."""
        self.open()
        try:
            with self.folder.locked():
                self.resume()
                try:
                    stopped = self._collect(results)
                finally:
                    self._tidy()
            if not self.folder.shard.is_whole:
                self.folder.merge(self.plan.digests)
        except OSError as error:
            raise stopped_by(error, self.folder.path) from error
        return self.report(stopped)

    def resume(self) -> None:
        """Clean up after whatever came before, and find what is left to do."""
        self.folder.clean_staging()
        self.folder.repair()
        self.folder.compact(self.plan.digests)
        self.refresh(retry_failed=self.retry_failed)

    def refresh(self, *, retry_failed: bool) -> None:
        """Read the folder's records and set what is known and pending; failed items to be retried are pending."""
        found = self.folder.known(self.plan.digests)
        mine = {name: found[name] for name in self.mine if name in found}
        current = {name: record for name, record in mine.items() if record.row == self.plan.digests[name]}
        if retry_failed:
            current = {name: record for name, record in current.items() if record.status == DONE}
        self.known = current
        self.pending = [name for name in self.mine if name not in current]

    def report(self, stopped: Stopped = "") -> BatchReport:
        """Count the records of this shard's items."""
        states = [record.status for record in self.known.values()]
        results = self.folder.results
        return BatchReport(
            total=len(self.mine),
            done=states.count(DONE),
            failed=states.count(FAILED),
            made=self.made,
            results=results if results.exists() else self.folder.path / Shard().results_name,
            stopped=stopped,
        )

    def progress(self, message: str = "") -> None:
        """Tell how many items of this shard have a record."""
        failed = f"{self.errors} failed" if self.errors else ""
        self.on_event(Progress(len(self.known), len(self.known) + self._left(), "items", message or failed))

    def _left(self) -> int:
        return sum(name not in self.known for name in self.pending)

    def _collect(self, results: Results) -> Stopped:
        if not self.pending:
            return ""
        allowed = error_limit(self.max_errors, len(self.pending))
        self.progress()
        batches = results(self)
        try:
            while not self.stop.is_set():
                if (batch := next(batches, None)) is None:
                    return ""
                self.keep(batch)
                if self.errors > allowed:
                    return "errors"
                self.progress()
        except Cancelled:
            return "cancelled"
        finally:
            batches.close()  # type: ignore[attr-defined]
        return "asked" if self._left() else ""

    def keep(self, batch: Sequence[Record]) -> None:
        """Append a batch's records to the results file and count them. Raises: OSError when the disk refuses."""
        append_records(self.folder.results, batch)
        self.count(batch)

    def count(self, batch: Iterable[Record]) -> None:
        """Take records into the figures of this run."""
        for record in batch:
            self.known[record.id] = record
            self.errors += record.status == FAILED
            self.made += record.status == DONE

    def _tidy(self) -> None:
        """Leave one line per id; what a full disk prevents now, the next start does."""
        with suppress(OSError):
            self.folder.compact(self.plan.digests)
        self.folder.remove_staging()


def local_results(run: BatchRun) -> Iterator[list[Record]]:
    """The local engine: work in this process, batch by batch."""
    run.progress("loading the model")
    run.task.setup()
    worker = BatchWorker(run.task, run.folder, run.batch_size, run.cancel)
    waiting = run.jobs
    while waiting:
        batch, waiting = waiting[: worker.batch_size], waiting[worker.batch_size :]
        yield worker.records(batch)


def _check_numbers(workers: int, batch_size: int, max_errors: int | float | None) -> None:
    if not 1 <= workers <= 1024:
        raise UsageError(f"workers must be from 1 to 1024, got {workers}")
    if not 1 <= batch_size <= 4096:
        raise UsageError(f"batch size must be from 1 to 4096, got {batch_size}")
    if max_errors is not None and not (max_errors >= 0 and math.isfinite(max_errors)):
        raise UsageError(f"max errors is a count (0, 1, 2, ...) or a share below 1 (such as 0.05), got {max_errors}")
