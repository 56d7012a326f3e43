"""A waveform without margins, on which a click is a place in time, with the chosen region marked."""

from __future__ import annotations

import numpy as np

__all__ = ["HEIGHT", "WIDTH", "moved_region", "region_picture", "seconds_at"]

WIDTH, HEIGHT = 960, 140
GROUND, WAVE, MARKED, MARKED_WAVE = (238, 240, 244), (116, 128, 150), (255, 226, 190), (214, 102, 24)
"""Colours that can be read on light and on dark pages."""


def region_picture(samples: np.ndarray, seconds: float, region: tuple[float, float] | None) -> np.ndarray:
    """Waveform [HEIGHT, WIDTH, 3] uint8 of samples [C, S] over its whole width; the region in seconds is marked."""
    mono = samples.mean(0)
    edges = np.linspace(0, len(mono), WIDTH + 1).astype(int)
    peaks = np.array([np.abs(mono[a : max(b, a + 1)]).max(initial=0.0) for a, b in zip(edges, edges[1:], strict=False)])
    peaks = peaks / max(float(peaks.max()), 1e-6)
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[:] = GROUND
    marked = np.zeros(WIDTH, bool)
    if region is not None and seconds > 0:
        first, last = (round(place / seconds * WIDTH) for place in region)
        marked[max(0, first) : max(first + 1, last)] = True
    picture[:, marked] = MARKED
    rows = np.abs(np.arange(HEIGHT)[:, None] - HEIGHT / 2 + 0.5) <= np.maximum(peaks * (HEIGHT / 2 - 6), 0.8)
    picture[rows & ~marked] = WAVE
    picture[rows & marked] = MARKED_WAVE
    return picture


def seconds_at(column: float, seconds: float) -> float:
    """The place in time of a click on column `column`, to a hundredth of a second."""
    return round(min(max(float(column) / WIDTH, 0.0), 1.0) * seconds, 2)


def moved_region(region: tuple[float, float], place: float, is_start: bool, seconds: float) -> tuple[float, float]:
    """The region after a click: the first click sets the start, the second the end; never empty, never backwards."""
    if is_start:
        return place, min(seconds, max(place + 0.1, region[1]) if region[1] > place else place + min(1.0, seconds))
    start, end = sorted((region[0], place))
    return start, max(end, min(seconds, start + 0.1))
