"""A batch of one visitor: its folder, its manifest, running it with the batch runner, packing the results."""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.web.pool import ModelPool
from app.web.runs import Post
from app.web.speech_work import SYSTEM, voice_names
from app.web.storage import Storage
from genmm.batch.manifest import read_manifest
from genmm.batch.plan import make_plan
from genmm.batch.results_log import Record, read_records
from genmm.batch.runner import BatchReport, run_batch
from genmm.batch.speech import SpeechTask
from genmm.batch.task import row_fields
from genmm.core.errors import Cancelled, LimitError, UsageError
from genmm.core.events import CancelToken, Event, Finished, Progress
from genmm.core.files import atomic_path, write_text
from genmm.core.limits import DEFAULT_LIMITS, Limits, clean_text
from genmm.core.suggest import did_you_mean

__all__ = ["COLUMNS", "MAX_ROWS", "Batch", "make_batch", "pack", "run", "table"]

MAX_ROWS = 500
"""Rows of one batch on the page; the command line has no such limit."""
BATCH_SIZE = 4
"""Items made together: progress is seen, and a cancel is felt, after every batch."""
COLUMNS = ("id", "state", "seconds", "stop_reason", "seed", "text_spoken", "error")


@dataclass(frozen=True)
class Batch:
    """What a visit remembers about its latest batch."""

    folder: Path
    """A run folder of the storage; holds the manifest, the results and the zip."""
    model: str
    seed: int
    voice: str | None = None
    """Voice of rows that name none; None = the model's default."""
    report: BatchReport | None = None
    """How the latest run ended; None before the first one has."""

    @property
    def manifest(self) -> Path:
        """The checked manifest."""
        return self.folder / "manifest.jsonl"

    @property
    def results(self) -> Path:
        """Folder of the batch runner."""
        return self.folder / "results"

    @property
    def can_resume(self) -> bool:
        """Whether another run would find something to do."""
        return self.report is None or self.report.done < self.report.total


def make_batch(
    storage: Storage,
    pool: ModelPool,
    *,
    texts: str = "",
    upload: str | None = None,
    model: str | None = None,
    seed: int = 0,
    voice: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Batch:
    """Check what the visitor gave and put it into a folder of its own.

    Args: `upload` is a JSON lines manifest and goes before `texts`, which holds one text a line. `voice` is a name of
    the model's list, for rows that say nothing else.
    Raises: GenmmError naming the lines that cannot be used; nothing is left on disk then.
    """
    name = model or pool.default(SYSTEM)
    if name is None:
        raise UsageError("there is no speech model on this machine; the Status tab says how to get one")
    pool.info(name, SYSTEM)
    names = voice_names(pool, name)
    if voice and voice not in names:  # never a file of this machine
        raise UsageError(
            f"model {name} has no voice {voice[:100]!r}; it has: {', '.join(names)}{did_you_mean(voice, names)}"
        )
    batch = Batch(storage.run_folder(), name, seed, voice or None)
    try:
        if upload:
            shutil.copyfile(upload, batch.manifest)
        else:
            write_text(batch.manifest, _manifest_of(texts, limits))
        _check(batch, pool)
    except BaseException:
        storage.remove(batch.folder)
        raise
    return batch


def run(batch: Batch, pool: ModelPool, token: CancelToken, post: Post) -> None:
    """Make what is left of a batch; posts Progress, and at last Finished(BatchReport), also after a cancel.

    Raises: GenmmError.
    """
    reports: list[BatchReport] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Finished):
            reports.append(event.result)
        elif isinstance(event, Progress):
            post(event)

    post(Progress(0, None, "", "Getting the model ready"))
    task = _task(batch, pool).use(pool.get(batch.model, SYSTEM))
    token.check()
    run_batch(
        task, batch.manifest, batch.results, seed=batch.seed, batch_size=BATCH_SIZE, on_event=on_event, cancel=token
    )
    if not reports:
        raise Cancelled()
    post(Finished(reports[-1]))


def table(batch: Batch) -> list[list[Any]]:
    """One row of COLUMNS per finished or failed item, in the order of the manifest."""
    path = batch.results / "results.jsonl"
    latest: dict[str, Record] = {record.id: record for record in read_records(path)} if path.exists() else {}
    order = [row.id for row in read_manifest(batch.manifest, row_fields(SpeechTask))]
    return [_row(latest[name]) for name in order if name in latest]


def pack(batch: Batch) -> Path | None:
    """A zip of all sounds, recipes and the results file; None when there is nothing yet."""
    made = [path for path in sorted(batch.results.glob("*")) if path.is_file() and not path.name.startswith(".")]
    if not any(path.suffix == ".wav" for path in made):
        return None
    target = batch.folder / f"batch_{time.strftime('%Y%m%d_%H%M%S')}.zip"
    for old in batch.folder.glob("batch_*.zip"):
        old.unlink(missing_ok=True)
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for path in (*made, batch.manifest):
            archive.write(path, path.name)
    return target


def _manifest_of(texts: str, limits: Limits) -> str:
    """One JSON line per line of text; empty lines are left out."""
    lines = [line.strip() for line in texts.splitlines() if line.strip()]
    if not lines:
        raise UsageError("write at least one text, or upload a manifest")
    width = len(str(len(lines)))
    rows = [{"id": f"line_{n:0{width}d}", "text": clean_text(line, limits)} for n, line in enumerate(lines, 1)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _task(batch: Batch, pool: ModelPool) -> SpeechTask:
    """The work of a batch; rows may not name files on this machine."""
    model = str(pool.info(batch.model, SYSTEM).path)
    return SpeechTask(model=model, voice=batch.voice, device=pool.device, dtype=pool.dtype, allow_files=False)


def _check(batch: Batch, pool: ModelPool) -> None:
    """Read the whole manifest as the runner will. Raises: GenmmError naming the bad lines, LimitError for too many."""
    plan = make_plan(_task(batch, pool), batch.manifest, batch.seed)
    count = len(plan.rows)
    if count > MAX_ROWS:
        raise LimitError(f"there are {count} rows, this page takes {MAX_ROWS}; use `genmm batch speech` on the server")


def _row(record: Record) -> list[Any]:
    facts = record.facts
    return [
        record.id,
        record.status,
        float(facts.get("seconds", 0.0)),
        str(facts.get("stop_reason", "")),
        str(record.seed),
        str(facts.get("text_spoken", "")),
        str((record.error or {}).get("text", "")),
    ]
