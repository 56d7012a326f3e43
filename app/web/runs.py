"""Work that is going on for visitors: each run has its own cancel token, and a thread of its own.

A run belongs to one session. Cancelling touches only the runs of that session. Leaving the stream of events for any
reason (the client cancelled, closed the page, lost the connection) asks the work to stop and waits until it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from genmm.core.errors import Cancelled
from genmm.core.events import CancelToken, Event

__all__ = ["RUN_THREAD", "Run", "RunBook", "stream_events", "stream_work"]

RUN_THREAD = "genmm-run"
"""Name of the threads that do the work."""
_END = object()
Post = Callable[[Event], None]
"""Hands one event to the page, from any thread."""


@dataclass(frozen=True, eq=False)
class Run:
    """One piece of work of one visitor."""

    session: str
    """The visitor's session, an opaque text."""
    task: str
    """Which tab it belongs to ("speech")."""
    number: int
    """Counts runs of this server from 1."""
    token: CancelToken = field(default_factory=CancelToken)
    """Asks the work to stop."""
    started: float = field(default_factory=time.monotonic)
    """Clock reading at the start, in seconds."""


class RunBook:
    """All runs of a server that have not ended; safe from any thread."""

    def __init__(self) -> None:
        self._runs: dict[int, Run] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def open(self, session: str, task: str) -> Iterator[Run]:
        """Enter a run in the book for the length of a with block; it is cancelled when the block is left."""
        run = Run(session, task, next(self._numbers))
        with self._lock:
            self._runs[run.number] = run
        try:
            yield run
        finally:
            run.token.cancel()
            with self._lock:
                self._runs.pop(run.number, None)

    def cancel(self, session: str, task: str | None = None) -> int:
        """Ask the runs of one session (of one task, or all) to stop; gives back how many there were."""
        with self._lock:
            mine = [run for run in self._runs.values() if run.session == session and task in (None, run.task)]
        for run in mine:
            run.token.cancel()
        return len(mine)

    def cancel_all(self) -> None:
        """Ask every run to stop, at shutdown."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.token.cancel()

    def active(self) -> list[Run]:
        """Runs that have not ended, oldest first."""
        with self._lock:
            return list(self._runs.values())


async def stream_events(make: Callable[[CancelToken], Iterator[Event]], token: CancelToken) -> AsyncIterator[Event]:
    """Run an iterator of events in a thread and pass its events on as they come; see `stream_work`.

    `make` is called in the thread with the token.
    """

    def work(token: CancelToken, post: Post) -> None:
        _pump(make(token), token, post)

    async with contextlib.aclosing(stream_work(work, token)) as events:
        async for event in events:
            yield event


async def stream_work(work: Callable[[CancelToken, Post], None], token: CancelToken) -> AsyncIterator[Event]:
    """Run a function in a thread that posts events, and pass them on as they come.

    When the consumer leaves, whatever the reason, the token is set and this generator waits for the thread, so that
    the device is free when it returns.
    Raises: Cancelled when the token was set from elsewhere; any error of the work.
    """
    loop = asyncio.get_running_loop()
    box: asyncio.Queue[Any] = asyncio.Queue()
    gone = asyncio.Event()

    def post(item: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped and nobody listens
            loop.call_soon_threadsafe(box.put_nowait, item)

    def run() -> None:
        try:
            work(token, post)
            post(_END)
        except BaseException as error:
            post(error)
        finally:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(gone.set)

    threading.Thread(target=run, name=RUN_THREAD, daemon=True).start()
    try:
        while (item := await box.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        token.cancel()
        await _wait_through_cancel(gone)


def _pump(events: Iterator[Event], token: CancelToken, post: Post) -> None:
    """Hand every event on, and stop at the first one after the token was set even if the work does not look at it."""
    try:
        for event in events:
            if token.cancelled:
                raise Cancelled()
            post(event)
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()


async def _wait_through_cancel(gone: asyncio.Event) -> None:
    """Wait until the thread has ended even when this task is cancelled meanwhile; the cancellation is passed on."""
    cancelled: asyncio.CancelledError | None = None
    while not gone.is_set():
        try:
            await gone.wait()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
