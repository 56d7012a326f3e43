"""When each decoded frame is shown, from time stamps that may be missing or wrong, and picking frames on a grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from genmm.core.errors import LimitError
from genmm.media.containers import Notes, decoded, zero_s
from genmm.media.media_info import average_fps
from genmm.media.source import MediaSource

__all__ = ["FALLBACK_FPS", "MAX_FPS", "TimedFrames", "on_grid"]

MAX_FPS = 240.0
"""Frames per second that may be asked for; a file may not hold more on average than this over `limits.video_s`."""

FALLBACK_FPS = 25.0
"""Assumed where neither time stamps nor the header tell a rate."""

STAMP_ERROR_S = 1e-3
"""Time stamps are rounded (to 1 ms in Matroska), so a frame this much late counts as in time."""


class TimedFrames:
    """Decoded frames with the time at which each is shown, ascending, counted against the limits."""

    def __init__(self, container: Any, stream: Any, media: MediaSource, notes: Notes) -> None:
        self._frames = decoded(container, stream, media, notes)
        self._media, self._notes = media, notes
        self._zero_s = zero_s(container)
        self._usual_s = 1.0 / (average_fps(stream) or FALLBACK_FPS)
        self._declared_s = float(stream.duration * stream.time_base) if stream.duration else None
        self._time_base: tuple[Fraction | None, float] = (None, 0.0)
        self.count = 0
        self.end_s = 0.0
        """When the last frame so far stops being shown."""

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        last_s = -math.inf
        for frame in self._frames:
            time_s = self._time_of(frame, last_s)
            self._count(time_s)
            last_s, self.end_s = time_s, time_s + self._duration_of(frame, time_s)
            yield time_s, frame
        self._note_shortfall()

    def _time_of(self, frame: Any, last_s: float) -> float:
        """Its time stamp; frames without a later one than the frame before follow that at the usual distance."""
        stamp = frame.pts if frame.pts is not None else frame.dts
        if stamp is not None and frame.time_base:
            time_s = max(0.0, stamp * self._second(frame.time_base) - self._zero_s)
            if time_s > last_s:
                return time_s
        if last_s == -math.inf:
            return 0.0
        self._notes.add("some frames have no usable time stamp; they follow at the usual distance")
        return last_s + self._usual_s

    def _duration_of(self, frame: Any, time_s: float) -> float:
        own_s = frame.duration * self._second(frame.time_base) if frame.duration and frame.time_base else 0.0
        left_s = self._media.limits.video_s - time_s
        return own_s if 0 < own_s <= left_s else self._usual_s

    def _second(self, time_base: Fraction) -> float:
        """Seconds of one tick; a product of fractions for every frame would cost more than its thumbnail."""
        if time_base != self._time_base[0]:
            self._time_base = (time_base, float(time_base))
        return self._time_base[1]

    def _count(self, time_s: float) -> None:
        limits, name = self._media.limits, self._media.name
        self.count += 1
        if time_s > limits.video_s:
            raise LimitError(f"{name} is longer than {limits.video_s:g} s, the limit for video; cut it into parts")
        if self.count > limits.video_s * MAX_FPS:
            raise LimitError(f"{name} holds more than {limits.video_s * MAX_FPS:.0f} frames; cut it into parts")

    def _note_shortfall(self) -> None:
        if self._declared_s and self._declared_s - self.end_s > max(0.5, 0.05 * self._declared_s):
            self._notes.add(f"the video is incomplete: {self.end_s:.2f} s of {self._declared_s:.2f} s were there")


def on_grid(timed: TimedFrames, fps: float) -> Iterator[tuple[float, Any]]:
    """The frame that is shown at 0, 1/fps, 2/fps ... s; the first frame also stands for the time before it."""
    tick, held = 0, None
    for time_s, frame in timed:
        while held is not None and tick / fps < time_s - STAMP_ERROR_S:
            yield tick / fps, held
            tick += 1
        held = frame
    while held is not None and tick / fps < timed.end_s - STAMP_ERROR_S:
        yield tick / fps, held
        tick += 1
