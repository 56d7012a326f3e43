"""Progress on the terminal: a bar on stderr for work over two seconds, plain lines where stderr is no terminal."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import IO, Any

from genmm.core.events import Event, Progress

BAR_AFTER_S = 2.0
"""Work that ends sooner shows nothing."""
LINE_EVERY_S = 10.0
"""Least time between two plain lines."""


class ProgressDisplay:
    """A context manager to which events are handed: `with ProgressDisplay("speaking") as show: show(event)`.

    Only Progress events count. Safe to call from several threads.
    """

    def __init__(self, title: str, *, stream: IO[str] | None = None, bar_after_s: float = BAR_AFTER_S) -> None:
        self.title, self.stream, self.bar_after_s = title, stream or sys.stderr, bar_after_s
        self._latest = Progress(0)
        self._lock = threading.Lock()
        self._bar: Any = None
        self._task: Any = None
        self._timer: threading.Timer | None = None
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> ProgressDisplay:
        self._started = time.monotonic()
        self._last_line = self._started + self.bar_after_s - LINE_EVERY_S
        if self.stream.isatty():
            self._timer = threading.Timer(self.bar_after_s, self._begin)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if not isinstance(event, Progress):
            return
        with self._lock:
            self._latest = event
            if self._bar is not None:
                self._update()
            elif self._timer is None and time.monotonic() - self._last_line >= LINE_EVERY_S:
                self._last_line = time.monotonic()
                print(self._line(), file=self.stream, flush=True)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._timer = None
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def _begin(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        with self._lock:
            if self._timer is None:
                return
            columns = [
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[message]}", markup=False),
            ]
            self._bar = Bar(*columns, console=Console(file=self.stream), transient=True)
            self._task = self._bar.add_task(self.title, unit="", message="", total=None)
            self._update()
            self._bar.start()

    def _update(self) -> None:
        event = self._latest
        self._bar.update(
            self._task, completed=event.done, total=event.total, unit=event.unit, message=event.message, refresh=False
        )

    def _line(self) -> str:
        event, seconds = self._latest, int(time.monotonic() - self._started)
        count = f"{event.done}/{event.total}" if event.total is not None else f"{event.done}"
        return f"{self.title}: {count} {event.unit}, {seconds} s{', ' + event.message if event.message else ''}"
