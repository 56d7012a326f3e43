"""Where shots change: hard cuts and fades through black, found frame by frame with flat memory.

What is looked at is a thumbnail of the brightness of every frame, so the cost beside decoding is small.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Any

import numpy as np

from genmm.core.errors import ShapeError

__all__ = ["MIN_SHOT_S", "ShotFinder", "brightness_thumbnail", "halved"]

THUMBNAIL = (18, 32)
"""Rows and columns of the brightness thumbnail."""
MIN_SHOT_S = 0.5
"""A shot is at least this long; the later of two changes that are closer does not count."""
LEAST_CHANGE = 0.14
"""No change below this is a cut, on a scale from 0 to 1."""
TIMES_SPREAD = 6.0
"""A cut stands out from the median of its surroundings by this many times their median deviation."""
SURROUNDINGS = 24
"""Changes before a frame that count as its surroundings."""
FLASH_S = 0.4
"""When the picture is back as it was after this time, the change was a flash."""
SAME = 0.5
"""A picture is back when it differs from the one before by less than this share of the change."""
BLACK = 20.0
"""Mean brightness below which a picture is black, 0 to 255."""
FADE_S = 3.0
"""Black that begins within this time after a bright picture belongs to a fade."""


def brightness_thumbnail(frame: Any) -> np.ndarray:
    """A thumbnail of the brightness of a PyAV frame, [18, 32] float32, 0 to 255.

    Planar formats with eight bits are sampled where they lie in memory; others are converted.
    """
    rows, columns = THUMBNAIL
    if frame.format.name in ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuvj422p", "yuvj444p", "nv12", "gray"):
        plane = frame.planes[0]
        picture = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    else:
        picture = frame.reformat(width=4 * columns, height=4 * rows, format="gray").to_ndarray()
    return thumbnail_of(picture)


def thumbnail_of(picture: np.ndarray) -> np.ndarray:
    """A thumbnail [18, 32] float32 of brightness [H, W] uint8: the mean of four samples for each of its places."""
    if picture.ndim != 2 or 0 in picture.shape:
        raise ShapeError(f"brightness must be [H, W], got {picture.shape}")
    rows, columns = _places(picture.shape)
    samples = picture.take(rows, axis=0).take(columns, axis=1).astype(np.float32)  # twice as fast as both at once
    return halved(samples)


def halved(pictures: np.ndarray) -> np.ndarray:
    """Half the size by the mean of each 2 x 2 block: [..., H, W] float32, both even -> [..., H / 2, W / 2]."""
    pairs = pictures[..., ::2, :] + pictures[..., 1::2, :]
    return (pairs[..., ::2] + pairs[..., 1::2]) * np.float32(0.25)  # five times as fast as a mean over two axes


@lru_cache(maxsize=8)
def _places(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the samples in a picture [H, W]."""
    sides = zip(THUMBNAIL, shape, strict=True)
    rows, columns = (((np.arange(2 * few) + 0.5) * side / (2 * few)).astype(np.intp) for few, side in sides)
    return rows, columns


class ShotFinder:
    """Takes thumbnails in order of time; `cuts_s` holds the times at which new shots begin."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._changes: deque[float] = deque(maxlen=SURROUNDINGS)
        self._pending: tuple[float, float, np.ndarray] | None = None
        self._last_bright_s: float | None = None
        self._black_since_s: float | None = None
        self.cuts_s: list[float] = []
        """Times of the cuts so far, in seconds, ascending; call `finish` before reading the last."""

    def push(self, time_s: float, thumbnail: np.ndarray) -> None:
        """Take the thumbnail of the frame that is shown from `time_s` on."""
        was_flash = self._settle(time_s, thumbnail)
        if self._last is not None:
            change = _difference(self._last, thumbnail)
            if self._pending is None and not was_flash and self._stands_out(change):
                self._pending = (time_s, change, self._last)
            self._changes.append(change)
        self._follow_fade(time_s, float(thumbnail.mean()))
        self._last = thumbnail

    def finish(self) -> tuple[float, ...]:
        """All cuts, in seconds, ascending."""
        if self._pending is not None:
            self._add(self._pending[0])
            self._pending = None
        return tuple(sorted(self.cuts_s))

    def _stands_out(self, change: float) -> bool:
        if change < LEAST_CHANGE:
            return False
        around = np.asarray(self._changes)
        if len(around) < 3:
            return True
        middle = float(np.median(around))
        return change > middle + TIMES_SPREAD * max(0.01, float(np.median(np.abs(around - middle))))

    def _settle(self, time_s: float, thumbnail: np.ndarray) -> bool:
        """Decide about a change once it is clear whether the old picture comes back; True when it just came back."""
        if self._pending is None:
            return False
        cut_s, change, before = self._pending
        if _difference(before, thumbnail) < SAME * change:
            self._pending = None
            return True
        if time_s - cut_s >= FLASH_S:
            self._pending = None
            self._add(cut_s)
        return False

    def _follow_fade(self, time_s: float, brightness: float) -> None:
        """A way from bright to black and back to bright is a change of shot in the middle of the black."""
        if brightness >= BLACK:
            if self._black_since_s is not None and self._last_bright_s is not None:
                self._add(0.5 * (self._black_since_s + time_s))
            self._last_bright_s, self._black_since_s = time_s, None
        elif self._black_since_s is None and self._last_bright_s is not None:
            self._black_since_s = time_s if time_s - self._last_bright_s < FADE_S else None

    def _add(self, time_s: float) -> None:
        if time_s >= MIN_SHOT_S and all(abs(time_s - cut) >= MIN_SHOT_S for cut in self.cuts_s[-3:]):
            self.cuts_s.append(time_s)


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    """How different two thumbnails are, 0 to 1: half from the places, half from the brightness histograms.

    Movement changes the places, a flash of light the histogram; a cut usually both.
    """
    places = float(np.abs(first - second).sum()) / (255.0 * first.size)
    moved = np.bincount(_sixteenth(first), minlength=16) - np.bincount(_sixteenth(second), minlength=16)
    return 0.5 * min(1.0, 2.0 * places) + 0.25 * float(np.abs(moved).sum()) / first.size


def _sixteenth(thumbnail: np.ndarray) -> np.ndarray:
    """Which of sixteen steps of brightness each place has, [18 * 32]."""
    return thumbnail.astype(np.uint8).ravel() >> 4
