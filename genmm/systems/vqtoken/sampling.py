"""Frames spread evenly over a video, as language models are trained on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from genmm.core.errors import MediaError
from genmm.core.events import Progress
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.media.source import MediaInput
from genmm.media.video import iter_frames, probe

__all__ = ["sample_frames"]


def sample_frames(
    source: MediaInput,
    count: int,
    *,
    max_side: int,
    limits: Limits = DEFAULT_LIMITS,
    on_event: Callable[[Progress], None] | None = None,
    on_notes: Callable[[tuple[str, ...]], None] | None = None,
) -> np.ndarray:
    """Frames [count, H, W, 3] uint8 at positions linspace(0, F - 1, count) cut to whole numbers; short clips repeat.

    F frames are kept, two to four times `count` where the video has as many in 30 a second: when there are more, every
    second one goes; when the video ends long before the length that its file says, it is read once more. `on_event`
    hears how far the video is read, `on_notes` at the end what was unusual about it.
    Raises: MediaError when there is no picture; as reading a video does.
    """
    seconds = probe(source, limits=limits).duration_s or 0.0
    pictures, end, notes = _frames(source, _rate(count, seconds), 4 * count, max_side, limits, on_event)
    if len(pictures) < 2 * count and _rate(count, end) > 1.5 * _rate(count, seconds):
        pictures, _, notes = _frames(source, _rate(count, end), 4 * count, max_side, limits, on_event)
    if on_notes is not None:
        on_notes(notes)
    return np.stack([pictures[i] for i in np.linspace(0, len(pictures) - 1, count).astype(int)])


def _rate(count: int, seconds: float) -> float:
    """Frames a second that give twice `count`; an unknown length takes the highest."""
    return min(30.0, max(0.1, 2.0 * count / seconds)) if seconds > 0 else 30.0


def _frames(
    source: MediaInput,
    rate: float,
    most: int,
    max_side: int,
    limits: Limits,
    on_event: Callable[[Progress], None] | None,
) -> tuple[list[np.ndarray], float, tuple[str, ...]]:
    """Pictures at about that rate, fewer than `most`, the time of the last one in seconds, and notes of the reader."""
    pictures: list[np.ndarray] = []
    step, end = 1, 0.0
    with iter_frames(source, fps=rate, max_side=max_side, limits=limits) as reader:
        for number, frame in enumerate(reader):
            end = frame.time_s
            if number % step == 0:
                pictures.append(frame.image)
            if len(pictures) == most:
                pictures, step = pictures[::2], 2 * step
            if on_event is not None:
                on_event(Progress(number + 1, None, "frames", f"{end:.0f} s of video"))
        notes = reader.notes
    if not pictures:
        raise MediaError("the video has no picture")
    return pictures, end, notes
