"""Hand-crafted description of pictures, without weights: colour, gradients, light, sharpness, movement; 304 numbers.

Letters: F pictures in a step, H W image. A step is one second, described by its middle picture and by the movement
between all its pictures.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from genmm.core.errors import ShapeError
from genmm.media.shots import halved
from genmm.systems.rasl.optical_flow import dense_flow

__all__ = ["MOTION_SIZE", "SIDE", "STATIC_SIZE", "VISUAL_SIZE", "motion_features", "static_features", "visual_step"]

SIDE = 128
"""Pictures are squeezed to this side before they are described, in pixels."""
STATIC_SIZE = 296
MOTION_SIZE = 8
VISUAL_SIZE = STATIC_SIZE + MOTION_SIZE
CELLS = 4
"""Cells along each side for gradients and light."""
EDGE = 40.0
"""Gradient above which a pixel counts as a strong edge, in grey levels a pixel."""
GREY = tuple(map(np.float32, (0.299, 0.587, 0.114)))
"""Weights of red, green and blue in the brightness."""


def static_features(picture: np.ndarray) -> np.ndarray:
    """Describe one picture [SIDE, SIDE, 3] uint8 RGB by [296] float32.

    Columns: 0-127 square roots of an 8 x 4 x 4 histogram of hue, saturation, value; 128-255 gradient orientations,
    4 x 4 cells of 8 bins, L2-normalised together; 256-271 mean light of the cells; 272-287 its deviation; 288-295 mean
    and deviation of light, of saturation, of the gradient, variance of the Laplacian (log), share of strong edges.
    """
    if picture.shape != (SIDE, SIDE, 3) or picture.dtype != np.uint8:
        raise ShapeError(f"a picture must be [{SIDE}, {SIDE}, 3] uint8, got {picture.dtype} {picture.shape}")
    hue, saturation, value = _hsv(picture)
    bins = (hue * 8).astype(np.intp).clip(0, 7) * 16
    bins += (saturation * 4).astype(np.intp).clip(0, 3) * 4 + (value * 4).astype(np.intp).clip(0, 3)
    colours = np.sqrt(np.bincount(bins.ravel(), minlength=128) / bins.size)
    grey = _grey(picture)
    down, across = np.gradient(grey)
    size = np.hypot(across, down)
    light = _cells(grey) / 255.0  # [16, pixels of a cell]
    laplacian = grey[1:-1, 1:-1] * 4 - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    rest = [
        grey.mean() / 255.0,
        grey.std() / 255.0,
        saturation.mean(),
        saturation.std(),
        size.mean() / 64.0,
        size.std() / 64.0,
        np.log1p(laplacian.var()) / 10.0,
        (size > EDGE).mean(),
    ]
    parts = [colours, _orientations(across, down, size), light.mean(1), light.std(1), rest]
    return np.concatenate(parts).astype(np.float32)


def motion_features(pictures: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """Describe the movement in [F, SIDE, SIDE, 3] uint8, from the picture `before` them when there is one, by [8].

    Mean, then maximum, over the pairs of neighbours, of {mean absolute difference / 255, and mean, deviation and 95th
    percentile of the flow in pixels of a 64 x 64 picture}. Zeros where there is only one picture.
    """
    pictures = pictures if before is None else np.concatenate([before[None], pictures])
    if len(pictures) < 2:
        return np.zeros(MOTION_SIZE, np.float32)
    grey = halved(_grey(pictures))  # [F, 64, 64]
    change = np.abs(np.diff(grey, axis=0)).mean((1, 2)) / 255.0
    speed = np.linalg.norm(dense_flow(grey[:-1], grey[1:]), axis=-1).reshape(len(grey) - 1, -1)
    each = np.stack([change, speed.mean(1), speed.std(1), np.percentile(speed, 95, axis=1)])
    return np.concatenate([each.mean(1), each.max(1)]).astype(np.float32)


def visual_step(pictures: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """The description [304] float32 of one step: pictures [F, SIDE, SIDE, 3] uint8, and the last one before them."""
    middle = static_features(pictures[len(pictures) // 2])
    return np.concatenate([middle, motion_features(pictures, before)])


def _hsv(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue, saturation and value [H, W], each in [0, 1]."""
    hsv = np.asarray(Image.fromarray(picture).convert("HSV"), np.float32) / 255.0  # fifteen times as fast as NumPy
    return hsv[..., 0], hsv[..., 1], hsv[..., 2]


def _grey(pictures: np.ndarray) -> np.ndarray:
    """Brightness [..., H, W] float32 of [..., H, W, 3] uint8; as a matrix product it would wake all threads of BLAS."""
    red, green, blue = GREY
    return red * pictures[..., 0] + green * pictures[..., 1] + blue * pictures[..., 2]


def _cells(picture: np.ndarray) -> np.ndarray:
    """[SIDE, SIDE] -> [16, pixels of a cell]."""
    step = SIDE // CELLS
    return picture.reshape(CELLS, step, CELLS, step).transpose(0, 2, 1, 3).reshape(CELLS * CELLS, -1)


def _orientations(across: np.ndarray, down: np.ndarray, size: np.ndarray) -> np.ndarray:
    angle = (np.arctan2(down, across) * (8 / (2 * np.pi))).astype(np.int64) % 8
    step = SIDE // CELLS
    cell = (np.arange(SIDE) // step)[:, None] * CELLS + (np.arange(SIDE) // step)[None, :]
    histogram = np.bincount((cell * 8 + angle).ravel(), weights=size.ravel(), minlength=128)
    return histogram / max(1e-6, float(np.linalg.norm(histogram)))
