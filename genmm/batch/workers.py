"""The local engine with several processes: each works on a shard of the shard, on its own GPU where there are some.

Every worker is a process of its own, so one that crashes takes its batch in flight with it and nothing else. Workers
end by themselves when the parent is gone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from genmm.batch.execute import portable_error
from genmm.batch.folder import RunFolder
from genmm.batch.plan import error_limit
from genmm.batch.results_log import Record
from genmm.batch.runner import BatchReport, BatchRun, Stopped, local_results
from genmm.batch.shards import Shard
from genmm.batch.task import on_device
from genmm.core.errors import GenmmError
from genmm.core.events import CancelToken

log = logging.getLogger(__name__)

GRACE_S = 10.0
"""How long workers may take to end after a cancel, in seconds, before they are killed."""


@dataclass
class _Worker:
    number: int
    process: Any
    pipe: Connection


def run_workers(run: BatchRun, count: int) -> BatchReport:
    """Divide the run's shard among `count` processes and gather what they do.

    Raises: the error that kept a worker from working (RunStoppedError, CheckpointError, ...) once all have ended.
    A worker that crashes leaves its items for the next start; the report counts them as left.
    """
    run.open()
    run.refresh(retry_failed=run.retry_failed)
    if not run.pending:
        _merge(run)
        return _finish(run, "")
    parts = run.folder.shard.split(min(count, len(run.pending)))
    gathering = _Gathering(run, [_start(run, part, k, len(parts)) for k, part in enumerate(parts)])
    try:
        gathering.until_all_ended()
    finally:
        gathering.end()
        _merge(run)
    if gathering.error:
        raise gathering.error
    return _finish(run, gathering.stopped)


class _Gathering:
    """The parent's loop over the messages of its workers."""

    def __init__(self, run: BatchRun, workers: list[_Worker]) -> None:
        self.run, self.workers = run, workers
        self.open = {worker.pipe: worker for worker in workers}
        self.allowed = error_limit(run.max_errors, len(run.pending))
        self.told: set[str] = set()
        self.stopped: Stopped = ""
        self.error: GenmmError | None = None

    def until_all_ended(self) -> None:
        self.run.progress("loading the model")
        while self.open:
            for pipe in wait(list(self.open), timeout=0.2):
                self._take(pipe)  # type: ignore[arg-type]
            if self.run.cancel.cancelled:
                self._tell("cancel", "cancelled")
            if self.run.stop.is_set():
                self._tell("stop", "asked")

    def end(self) -> None:
        """Cancel whoever still works, and wait for the end."""
        self._tell("cancel", "cancelled")
        for worker in self.workers:
            worker.process.join(GRACE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _tell(self, order: str, reason: Stopped) -> None:
        if order in self.told or not self.open:
            return
        self.told.add(order)
        self.stopped = self.stopped or reason
        for pipe in self.open:
            with suppress(OSError):  # the worker has ended; `_take` will see it
                pipe.send(order)

    def _take(self, pipe: Connection) -> None:
        try:
            kind, value = pipe.recv()
        except (EOFError, OSError):
            self._ended(self.open.pop(pipe))
            return
        if kind == "records":
            self.run.count(value)
            self.run.progress()
            if self.run.errors > self.allowed:
                self._tell("stop", "errors")
        else:
            self.error = self.error or value
            self._tell("stop", "errors")

    def _ended(self, worker: _Worker) -> None:
        worker.process.join()
        code = worker.process.exitcode
        if code:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            log.error("worker %d ended with %s; start the same command again for its items", worker.number, how)


def _start(run: BatchRun, part: Shard, k: int, count: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    settings = {name: getattr(run, name) for name in ("plan", "batch_size", "retry_failed")}
    settings |= {"task": _placed(run, k), "folder": RunFolder(run.folder.path.resolve(), part), "max_errors": None}
    process = context.Process(target=_work, args=(settings, count, theirs), daemon=True)
    process.start()
    theirs.close()  # the worker's end is the only one left, so its death closes the pipe
    return _Worker(k + 1, process, ours)


def _placed(run: BatchRun, k: int) -> Any:
    gpus = torch.cuda.device_count()
    if gpus > 1 and getattr(run.task, "device", "cpu") in ("auto", "cuda"):
        return on_device(run.task, f"cuda:{k % gpus}")
    return run.task


def _work(settings: dict[str, Any], count: int, pipe: Connection) -> None:
    """A worker process from start to end."""
    stop, cancel = threading.Event(), CancelToken()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent decides
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    threading.Thread(target=_obey, args=(pipe, stop, cancel), daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    run = BatchRun(**settings, on_event=lambda event: None, cancel=cancel, stop=stop)

    def results(run: BatchRun) -> Iterator[list[Record]]:
        for records in local_results(run):
            yield records
            pipe.send(("records", records))  # the runner has logged them when it asks for the next

    try:
        run.work(results)
    except GenmmError as error:
        pipe.send(("error", portable_error(str(error), error.exit_code)))


def _obey(pipe: Connection, stop: threading.Event, cancel: CancelToken) -> None:
    """Take the parent's orders; end the process when the parent is gone."""
    while True:
        try:
            order = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)
        (stop.set if order == "stop" else cancel.cancel)()


def _merge(run: BatchRun) -> None:
    run.folder.merge(run.plan.digests, partial=run.folder.shard.is_whole)


def _finish(run: BatchRun, stopped: Stopped) -> BatchReport:
    run.refresh(retry_failed=False)
    report = run.report(stopped)
    return replace(report, stopped="") if report.left == 0 and stopped == "asked" else report
