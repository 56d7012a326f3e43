from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from genmm.core.events import Event, Finished, PartialAudio, Progress
from genmm.metrics.streaming import time_stream


class Clock:
    """A clock that the stream moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def stream(clock: Clock, pieces: list[tuple[float, float]], take: int = 0) -> Iterator[Event]:
    """Pieces of (seconds of work before it, seconds of sound in it)."""
    for work, seconds in pieces:
        clock.now += work
        yield Progress(1)
        yield PartialAudio(np.zeros(int(1000 * seconds), np.float32), 1000, take)
    clock.now += 0.25
    yield Finished("result")


def test_first_sound_speed_and_result():
    clock = Clock()
    timing, result = time_stream(stream(clock, [(0.2, 0.1), (0.1, 0.5), (0.45, 0.4)]), clock=clock)
    assert result == "result"
    assert timing.first_audio_s == pytest.approx(0.2) and timing.first_piece_s == pytest.approx(0.1)
    assert timing.audio_s == pytest.approx(1.0) and timing.total_s == pytest.approx(1.0)
    assert timing.real_time_factor == pytest.approx(1.0) and timing.times_real_time == pytest.approx(1.0)
    assert timing.gaps_s == 0.0


def test_gaps_are_what_a_listener_waits():
    clock = Clock()
    # Play starts at 1.0; the second piece comes at 1.5 while sound ends at 1.2: 0.3 s of silence; the third comes
    # at 2.2 while sound, moved back by the gap, ends at 2.0: 0.2 s more.
    timing, _ = time_stream(stream(clock, [(1.0, 0.2), (0.5, 0.5), (0.7, 0.1)]), clock=clock)
    assert timing.gaps_s == pytest.approx(0.5)


def test_other_takes_and_empty_pieces_do_not_count():
    clock = Clock()
    timing, _ = time_stream(stream(clock, [(0.2, 0.5)], take=1), clock=clock)
    assert timing.first_audio_s is None and timing.real_time_factor is None
    clock = Clock()
    timing, _ = time_stream(stream(clock, [(0.2, 0.0), (0.2, 0.1)]), clock=clock)
    assert timing.first_audio_s == pytest.approx(0.4)
