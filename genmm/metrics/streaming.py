"""How fast a stream of events delivers sound: first audio, real-time factor, gaps for a listener."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from genmm.core.events import Event, Finished, PartialAudio


@dataclass(frozen=True)
class StreamTiming:
    """What a listener of one take would have lived through."""

    first_audio_s: float | None
    """Seconds from the request to the first piece of sound; None when none came."""
    first_piece_s: float | None
    """Seconds of sound in that piece."""
    total_s: float
    """Seconds until the stream ended."""
    audio_s: float
    """Seconds of sound delivered."""
    gaps_s: float
    """Seconds of silence for a listener who starts to play at the first piece."""

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of work for a second of sound, below 1 is faster than real time; None without sound."""
        return self.total_s / self.audio_s if self.audio_s else None

    @property
    def times_real_time(self) -> float | None:
        """Seconds of sound made in a second."""
        return self.audio_s / self.total_s if self.total_s else None


def time_stream(
    events: Iterable[Event], *, take: int = 0, clock: Callable[[], float] = time.perf_counter
) -> tuple[StreamTiming, object]:
    """Run a stream to its end; gives its timing for one take, and the result of its Finished event (or None).

    The clock starts before the first event is asked for, so work that a generator does at its start counts.
    """
    start = clock()
    first = first_piece = result = None
    audio = gaps = 0.0
    for event in events:
        if isinstance(event, PartialAudio) and event.take == take and event.samples.shape[-1]:
            now, seconds = clock() - start, event.samples.shape[-1] / event.sample_rate
            if first is None:
                first, first_piece = now, seconds
            gaps = max(gaps, now - first - audio)  # playing stands still until this piece is there
            audio += seconds
        elif isinstance(event, Finished):
            result = event.result
    return StreamTiming(first, first_piece, clock() - start, audio, gaps), result
