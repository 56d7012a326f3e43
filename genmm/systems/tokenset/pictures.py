"""Pictures on their way in and out: squares of the model's size, tensors in [-1, 1], bytes.

Letters: N pictures, H height = width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genmm.core.errors import ShapeError
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.media.image import as_picture, pillow_pixels, read_image

__all__ = ["as_pixels", "as_tensor", "read_square", "square"]


def square(picture: np.ndarray, side: int) -> np.ndarray:
    """The middle square of a picture [H, W, 3] uint8, scaled to [side, side, 3]."""
    height, width = picture.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    cut = np.ascontiguousarray(picture[top : top + edge, left : left + edge])
    if edge == side:
        return cut
    return np.asarray(Image.fromarray(cut).resize((side, side), Image.Resampling.LANCZOS))


def read_square(source: Any, side: int, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """A file, bytes, stream, array or PIL picture as [side, side, 3] uint8: upright, on white, its middle square.

    Raises: MediaError, LimitError, ShapeError for what is no usable picture.
    """
    if isinstance(source, Image.Image):
        source = pillow_pixels(source)
    if isinstance(source, np.ndarray | Tensor):
        return square(as_picture(source), side)
    return square(read_image(source, limits=limits), side)


def as_tensor(pictures: Sequence[np.ndarray]) -> Tensor:
    """uint8 pictures [H, W, 3] as one float tensor [N, 3, H, H] in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(list(pictures)))
    return stacked.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def as_pixels(pictures: Tensor) -> list[np.ndarray]:
    """Tensor [N, 3, H, H], nominally in [-1, 1], as uint8 pictures [H, W, 3], rounded like the released code."""
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ShapeError(f"pictures must be [N, 3, H, H], got {tuple(pictures.shape)}")
    scaled = pictures.detach().float().mul(127.5).add(128.0).clamp(0, 255)
    return list(scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
