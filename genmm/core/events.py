"""What long work says while it runs: progress, sound as it appears, the end; and the way to stop it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from genmm.core.errors import Cancelled, GenerationError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["CancelToken", "Event", "Finished", "PartialAudio", "Progress", "drain", "in_seconds", "reported"]

R = TypeVar("R")


@dataclass(frozen=True)
class Progress:
    """How far the work is."""

    done: int
    """Units finished, at least 0."""
    total: int | None = None
    """Units in all, or None when nobody knows yet."""
    unit: str = "steps"
    """What is counted, in the plural ("frames", "items")."""
    message: str = ""
    """What happens now, one short line."""

    @property
    def fraction(self) -> float | None:
        """Share done in [0, 1], or None without a total."""
        return None if self.total is None else min(1.0, self.done / self.total) if self.total > 0 else 1.0


@dataclass(frozen=True, eq=False)
class PartialAudio:
    """The next piece of a sound that is still being made; the pieces of one take join to the whole."""

    samples: np.ndarray | Tensor
    """float32 in [-1, 1], [S] mono or [C, S]."""
    sample_rate: int
    """Samples per second."""
    take: int = 0
    """Which of the takes this piece belongs to, from 0."""


@dataclass(frozen=True, eq=False)
class Finished(Generic[R]):
    """The last event of every stream that was not cancelled and did not fail."""

    result: R
    """What the work made."""


Event: TypeAlias = Progress | PartialAudio | Finished[Any]


class CancelToken:
    """A request to stop, shared between the thread that asks and the thread that works; it cannot be taken back."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop; safe from any thread and from a signal handler, and harmless when repeated."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise Cancelled when somebody has asked; long work calls this once a step."""
        if self._event.is_set():
            raise Cancelled()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Sleep until somebody asks or the time is over; says whether somebody has asked."""
        return self._event.wait(timeout_s)


def drain(events: Iterable[Event], on_event: Callable[[Event], None] | None = None) -> Any:
    """Run a stream of events to its end and give back the result of its Finished event.

    Each event, the last included, is first handed to `on_event`. The stream is closed when that callback raises.
    Raises: GenerationError when the stream ends without a Finished event.
    """
    try:
        for event in events:
            if on_event is not None:
                on_event(event)
            if isinstance(event, Finished):
                return event.result
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()
    raise GenerationError("the work ended without a result; this is a fault in the pipeline, please report it")


def in_seconds(say: Callable[[Progress], None], seconds: float, message: str) -> Callable[[float], None]:
    """A callback for work that counts seconds: it hands `say` how many of `seconds` are done, as Progress."""
    total = max(1, round(seconds))
    return lambda done: say(Progress(min(total, int(done)), total, "seconds", message))


def reported(work: Callable[[Callable[[Progress], None]], R], cancel: CancelToken) -> Generator[Progress, None, R]:
    """Work that tells its progress through a callback, as a stream: `result = yield from reported(work, cancel)`.

    The work runs in a thread of its own and must heed `cancel`: whoever leaves the stream early asks it to stop and
    waits until it has. Raises: what the work raises.
    """
    said: queue.SimpleQueue[Progress | _Ended[R]] = queue.SimpleQueue()

    def run() -> None:
        try:
            said.put(_Ended(result=work(said.put)))
        except BaseException as error:  # it is raised where the stream is read
            said.put(_Ended(error=error))

    thread = threading.Thread(target=run, name="genmm-reported", daemon=True)
    thread.start()
    event: Progress | _Ended[R] | None = None
    try:
        while not isinstance(event := said.get(), _Ended):
            yield event
    finally:
        if not isinstance(event, _Ended):
            cancel.cancel()
        thread.join()
    if event.error is not None:
        raise event.error
    return event.result


@dataclass(frozen=True)
class _Ended(Generic[R]):
    result: R | None = None
    error: BaseException | None = None
