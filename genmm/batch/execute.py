"""One batch through a task: too little memory halves it, a bad item is found and set aside, results are published.

Used by every engine: the loop in this process, worker processes, Ray actors.
"""

from __future__ import annotations

import errno
import gc
import logging
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genmm.batch.folder import RunFolder
from genmm.batch.results_log import DONE, FAILED, Record
from genmm.batch.task import BatchItem, BatchTask
from genmm.core.errors import Cancelled, GenerationError, GenmmError
from genmm.core.events import CancelToken
from genmm.core.results import Result, plain

log = logging.getLogger(__name__)

ERROR_TEXT_CHARS = 1000
"""Longest error text in a record."""
LEAST_FREE_BYTES = 1_000_000
"""A write that failed for whatever stated reason with less than this free counts as a full disk."""


class RunStoppedError(GenmmError):
    """The run cannot go on (full disk, folder not writable); what was finished is safe."""

    exit_code = 3


def portable_error(text: str, exit_code: int) -> RunStoppedError:
    """An error of another process, in a form that every process can read."""
    error = RunStoppedError(text)
    error.exit_code = exit_code
    return error


@dataclass(frozen=True)
class Job:
    """An item with what its record needs."""

    item: BatchItem
    row: str
    """Digest of its manifest row."""
    notes: tuple[str, ...] = ()


class BatchWorker:
    """Runs batches of one task and publishes their files; remembers the batch size that fits into memory."""

    def __init__(self, task: BatchTask, folder: RunFolder, batch_size: int, cancel: CancelToken) -> None:
        self.task, self.folder, self.cancel = task, folder, cancel
        self.batch_size = batch_size

    def records(self, jobs: Sequence[Job]) -> list[Record]:
        """Make, save and publish the jobs of one batch; one record each, in order.

        Raises: Cancelled; RunStoppedError when the disk refuses. Then nothing of this batch counts.
        """
        found = [self._record(job, outcome) for job, outcome in self._outcomes(jobs)]
        self.folder.sync()
        return found

    def _outcomes(self, jobs: Sequence[Job]) -> list[tuple[Job, Result | Exception]]:
        """Results or exceptions of the jobs; runs at most `self.batch_size` together."""
        outcomes: list[tuple[Job, Result | Exception]] = []
        queue = list(jobs)
        while queue:
            group = queue[: self.batch_size]
            results = self._attempt(group)
            if results is None:  # outside the handler, where the error's frames no longer hold tensors
                self._halve(len(group))
                queue = [_noted(job, self.batch_size) if job in group or job.notes else job for job in queue]
                continue
            outcomes.extend(zip(group, results, strict=True))
            queue = queue[len(group) :]
        return outcomes

    def _attempt(self, group: Sequence[Job]) -> list[Result | Exception] | None:
        """Results or exceptions of the group; None when it was too large for the memory."""
        try:
            return self._run(group)
        except Cancelled:
            raise
        except Exception as error:
            if len(group) == 1:
                return [_without_frames(error, group[0])]
            if is_out_of_memory(error):
                return None
            log.info("a batch of %d failed (%s); trying its items one by one", len(group), _name(error))
        return [result for job in group for result in self._attempt([job]) or ()]

    def _run(self, group: Sequence[Job]) -> list[Result | Exception]:
        self.cancel.check()
        results = list(self.task.run([job.item for job in group], self.cancel))
        if len(results) != len(group):
            raise GenerationError(f"task {self.task.name} gave {len(results)} results for {len(group)} items")
        if any(isinstance(result, Cancelled) for result in results):
            raise Cancelled()
        return results

    def _halve(self, size: int) -> None:
        self.batch_size = max(1, size // 2)
        log.warning("memory ran out with %d items together; going on with %d", size, self.batch_size)
        _free_memory()

    def _record(self, job: Job, outcome: Result | Exception) -> Record:
        base: dict[str, Any] = {"id": job.item.id, "seed": job.item.seed, "row": job.row, "notes": job.notes}
        if not isinstance(outcome, Exception):
            try:
                facts = plain(self.task.facts(outcome))
                staged = self._save(job.item, outcome)
                return Record(status=DONE, files=self._publish(staged), facts=facts, **base)
            except (Cancelled, RunStoppedError):
                raise
            except Exception as error:
                outcome = _without_frames(error, job)
        return Record(status=FAILED, error=describe_error(outcome), **base)

    def _save(self, item: BatchItem, result: Result) -> list[Path]:
        target = self.folder.staging / f"{item.id}{self.task.suffix}"
        try:
            written = [Path(path) for path in result.save(target)]
        except Exception as error:
            if (isinstance(error, OSError) and error.errno) or self._disk_is_full():
                raise self._stopped(error) from error
            raise
        strays = [path for path in written if path.parent != self.folder.staging or not path.is_file()]
        # A result of several media names each after the item, such as <id>_1_organ.flac; see BatchTask.stems.
        is_named = target in written or all(path.name.startswith(f"{item.id}_") for path in written)
        if strays or not written or not is_named:
            raise GenerationError(f"saving {target.name} wrote {[path.name for path in written]}, not {target.name}")
        return sorted(written, key=lambda path: path != target)

    def _publish(self, staged: Sequence[Path]) -> tuple[str, ...]:
        try:
            return self.folder.publish(staged)
        except OSError as error:
            raise self._stopped(error) from error

    def _disk_is_full(self) -> bool:
        return shutil.disk_usage(self.folder.path).free < LEAST_FREE_BYTES

    def _stopped(self, error: BaseException) -> RunStoppedError:
        return stopped_by(error, self.folder.path, full=self._disk_is_full())


def stopped_by(error: BaseException, folder: Path, *, full: bool = False) -> RunStoppedError:
    """The error that ends a run when files cannot be written: says why and how to go on."""
    number = error.errno if isinstance(error, OSError) else None
    if full or number in (errno.ENOSPC, errno.EDQUOT):
        reason = f"the disk of {folder} is full"
    else:
        reason = f"cannot write to {folder}: {getattr(error, 'strerror', None) or error}"
    return RunStoppedError(
        f"{reason}; finished items are safe. Repair this and start the same command again: it goes on where it stopped"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that the memory of the machine or of an accelerator ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    texts = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed", "not enough memory")
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in texts)


def describe_error(error: BaseException) -> Mapping[str, str]:
    """Type and text of an error for a record: one paragraph, no traceback, no control characters."""
    if is_out_of_memory(error):
        return {"type": _name(error), "text": "memory ran out for this item alone; shorten it or use a larger device"}
    words = "".join(" " if unicodedata.category(c).startswith("C") else c for c in str(error)).split()
    text = " ".join(words) or "no message"
    if len(text) > ERROR_TEXT_CHARS:
        text = text[: ERROR_TEXT_CHARS - 3] + "..."
    return {"type": _name(error), "text": text}


def _noted(job: Job, batch_size: int) -> Job:
    note = f"memory ran out; made in a batch of at most {batch_size}"
    return Job(job.item, job.row, (note,))


def _name(error: BaseException) -> str:
    return type(error).__name__


def _without_frames(error: Exception, job: Job) -> Exception:
    """Log the error in full, then drop its frames: they would keep the tensors of the failed attempt alive."""
    log.debug("item %s failed", job.item.id, exc_info=error)
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
