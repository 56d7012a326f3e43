"""From decoded video frames to RGB pictures: colour, transparency, pixel shape, rotation and size."""

from __future__ import annotations

from typing import Any

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from genmm.media.containers import check_size
from genmm.media.source import MediaSource

__all__ = ["PictureMaker"]

PIXEL_SHAPES = (0.1, 10.0)
"""Pixel aspect ratios outside this are broken headers and ignored."""

NEARLY_SQUARE = 0.02
"""Pixels this close to square are left as they are, rather than blurred by a resampling that nobody would see."""

_SAME = Interpolation.BICUBIC  # without further flags FFmpeg takes its fast path, three times as fast
_SMALLER = Interpolation.AREA | Interpolation.ACCURATE_RND


class PictureMaker:
    """Converts frames of one stream; the first frame decides the size of all pictures."""

    def __init__(self, first: Any, stream: Any, media: MediaSource, max_side: int | None) -> None:
        """Raises: LimitError when a picture is above the limits."""
        self.quarter_turns = round(first.rotation / 90) % 4
        """Counter-clockwise turns from stored to shown."""
        width, height = _square_pixels(first, stream)
        check_size(first.width, first.height, media)
        check_size(width, height, media)
        scale = 1.0 if max_side is None else min(1.0, max_side / max(width, height))
        self._size = max(1, round(width * scale)), max(1, round(height * scale))
        self._reformatter = VideoReformatter()

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of the pictures, in pixels."""
        return self._size if self.quarter_turns % 2 == 0 else (self._size[1], self._size[0])

    def __call__(self, frame: Any) -> np.ndarray:
        """The frame as [H, W, 3] uint8, in memory of its own."""
        has_alpha = any(component.is_alpha for component in frame.format.components)
        width, height = self._size
        converted = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgba" if has_alpha else "rgb24",
            interpolation=_SMALLER if width < frame.width else _SAME,
            threads=1,
        ).to_ndarray()
        if has_alpha:
            converted = _over_white(converted)
        return np.ascontiguousarray(np.rot90(converted, self.quarter_turns))


def _square_pixels(frame: Any, stream: Any) -> tuple[int, int]:
    """Width and height after making pixels square, by widening or narrowing."""
    ratio = float(stream.sample_aspect_ratio or 1)
    if abs(ratio - 1.0) < NEARLY_SQUARE or not PIXEL_SHAPES[0] <= ratio <= PIXEL_SHAPES[1]:
        return frame.width, frame.height
    return max(1, round(frame.width * ratio)), frame.height


def _over_white(picture: np.ndarray) -> np.ndarray:
    alpha = picture[..., 3:].astype(np.uint16)
    return ((picture[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
