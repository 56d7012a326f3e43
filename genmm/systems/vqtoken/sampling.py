"""Frames spread evenly over a video, as language models are trained on them."""

from __future__ import annotations

import numpy as np

from genmm.core.errors import MediaError
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.media.source import MediaInput
from genmm.media.video import iter_frames, probe

__all__ = ["sample_frames"]


def sample_frames(source: MediaInput, count: int, *, max_side: int, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Frames [count, H, W, 3] uint8 at positions linspace(0, F - 1, count) cut to whole numbers; short clips repeat.

    F frames are kept, two to four times `count`, whatever the file says of its length: when there are more, every
    second one goes. Raises: MediaError when there is no picture; as reading a video does.
    """
    seconds = probe(source, limits=limits).duration_s or 0.0
    rate = min(30.0, max(0.1, 2.0 * count / seconds)) if seconds > 0 else 30.0
    pictures: list[np.ndarray] = []
    step = 1
    with iter_frames(source, fps=rate, max_side=max_side, limits=limits) as reader:
        for number, frame in enumerate(reader):
            if number % step == 0:
                pictures.append(frame.image)
            if len(pictures) == 4 * count:
                pictures, step = pictures[::2], 2 * step
    if not pictures:
        raise MediaError("the video has no picture")
    return np.stack([pictures[i] for i in np.linspace(0, len(pictures) - 1, count).astype(int)])
