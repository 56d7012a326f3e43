"""The page's own folder on disk: private, with a random folder for every run, swept by age and by size."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from genmm.core.errors import UsageError

__all__ = ["Storage"]

log = logging.getLogger(__name__)

GRACE_S = 60.0
"""What was touched within this many seconds is never swept: somebody may be writing or sending it."""


@dataclass(frozen=True)
class _Item:
    path: Path
    touched: float
    size: int


class Storage:
    """A temporary tree that only this user can read. Uploads, results and batches live below `files`.

    Gradio keeps its own files there too (through GRADIO_TEMP_DIR), so one sweep bounds all of it.
    """

    def __init__(self, *, keep_s: float = 6 * 3600, quota_bytes: int = 4_000_000_000) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="genmm-web-")).resolve()  # made with mode 0700
        self.files = self.root / "files"
        self.keep_s, self.quota_bytes = keep_s, quota_bytes
        self._runs = self.files / "runs"
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._sweeper: threading.Thread | None = None
        for folder in (self.files, self._runs):
            folder.mkdir(mode=0o700)

    def run_folder(self) -> Path:
        """Make an empty folder (mode 0700) whose name nobody can guess."""
        folder = self._runs / secrets.token_urlsafe(18)
        folder.mkdir(mode=0o700)
        return folder

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Whether the path, with all links followed, is a plain file below `files` and no hidden one."""
        try:
            real = Path(path).resolve(strict=True)
            inside = real.relative_to(self.files)
        except (OSError, ValueError):
            return False
        return stat.S_ISREG(real.stat().st_mode) and not any(part.startswith(".") for part in inside.parts)

    def remove(self, folder: Path) -> None:
        """Delete one run folder; a folder that is already gone is fine. Raises: UsageError for any other path."""
        if folder.parent != self._runs:
            raise UsageError("only folders made by run_folder can be removed")
        shutil.rmtree(folder, ignore_errors=True)

    def used_bytes(self) -> int:
        """Bytes on disk at present."""
        return sum(item.size for item in self._items())

    def sweep(self, now: float | None = None) -> int:
        """Delete what is older than `keep_s`, then the oldest until the rest fits the quota; gives back how many."""
        now = time.time() if now is None else now
        with self._lock:
            items = sorted(self._items(), key=lambda item: item.touched)
            excess = sum(item.size for item in items) - self.quota_bytes
            removed = 0
            for item in items:
                age = now - item.touched
                if age < GRACE_S or (age <= self.keep_s and excess <= 0):
                    continue
                shutil.rmtree(item.path, ignore_errors=True) if item.path.is_dir() else item.path.unlink(
                    missing_ok=True
                )
                excess -= item.size
                removed += 1
        if removed:
            log.info("removed %d old results and uploads", removed)
        return removed

    def start_sweeping(self, every_s: float = 120.0) -> None:
        """Sweep now and then in a background thread until `close`."""
        if self._sweeper is None:
            self._sweeper = threading.Thread(target=self._sweep_loop, args=(every_s,), name="genmm-sweep", daemon=True)
            self._sweeper.start()

    def close(self) -> None:
        """Delete everything."""
        self._stop.set()
        shutil.rmtree(self.root, ignore_errors=True)

    def _sweep_loop(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            try:
                self.sweep()
            except OSError:
                log.exception("sweeping old files failed")

    def _items(self) -> list[_Item]:
        """Run folders, and the folders and files that uploads make, each as one item."""
        found = [_measure(path) for path in _children(self._runs)]
        found += [_measure(path) for path in _children(self.files) if path != self._runs]
        return [item for item in found if item is not None]


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _measure(path: Path) -> _Item | None:
    """Size and latest change of a file or a whole folder; None when it has just gone."""
    try:
        entries = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
        facts = [entry.lstat() for entry in entries]
    except OSError:
        return None
    return _Item(path, max(fact.st_mtime for fact in facts), sum(f.st_size for f in facts if stat.S_ISREG(f.st_mode)))
