"""Dense optical flow of small grey pictures: coarse-to-fine Lucas-Kanade with box windows.

Letters: N pairs, H W image. Flow is in pixels, (across, down).
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates, uniform_filter

from genmm.core.errors import ShapeError
from genmm.media.shots import halved

__all__ = ["dense_flow"]

LEVELS = 3
"""Sizes of the pyramid: whole, half, a quarter."""
ROUNDS = 2
"""Refinements on every size."""
WINDOW = 9
"""Side of the window over which movement is taken to be one, in pixels."""
DAMPING = 25.0
"""Added to the diagonal of the structure matrix, in squared grey levels (0 to 255); holds still what has no texture."""


def dense_flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where each pixel of `before` has gone to in `after`.

    Shapes: both [N, H, W], grey levels 0 to 255, sides of at least 16 that 4 divides. Returns: [N, H, W, 2] float32.
    Raises: ShapeError.
    Source: Lucas and Kanade 1981 with the pyramid of Bouguet 2001, solved at every pixel.
    """
    if (
        before.shape != after.shape
        or before.ndim != 3
        or min(before.shape[1:]) < 16
        or any(side % 4 for side in before.shape[1:])
    ):
        raise ShapeError(f"flow needs two [N, H, W] with sides of 16 or more, got {before.shape} and {after.shape}")
    pyramid = [(before.astype(np.float32), after.astype(np.float32))]
    for _ in range(LEVELS - 1):
        pyramid.append(tuple(halved(picture) for picture in pyramid[-1]))  # type: ignore[arg-type]
    coarsest = pyramid[-1][0].shape
    across, down = np.zeros(coarsest, np.float32), np.zeros(coarsest, np.float32)
    for level, (first, second) in enumerate(reversed(pyramid)):
        if level:
            across, down = (2.0 * part.repeat(2, axis=1).repeat(2, axis=2) for part in (across, down))
        for _ in range(ROUNDS):
            step_across, step_down = _step(first, _warped(second, across, down))
            across, down = across + step_across, down + step_down
    return np.stack([across, down], axis=-1)


def _warped(picture: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """picture[n, y + down, x + across], borders continued."""
    y = np.arange(picture.shape[1], dtype=np.float32)[None, :, None] + down
    x = np.arange(picture.shape[2], dtype=np.float32)[None, None, :] + across
    warped = np.empty_like(picture)
    for n, single in enumerate(picture):  # one call for all costs twice the time: it interpolates over n as well
        map_coordinates(single, [y[n], x[n]], order=1, mode="nearest", output=warped[n])
    return warped


def _step(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One least-squares step of the flow from `first` to the warped `second`."""
    mean = 0.5 * (first + second)
    down, across = np.gradient(mean, axis=(1, 2))
    change = second - first
    products = np.stack([across * across, across * down, down * down, across * change, down * change])
    xx, xy, yy, xt, yt = uniform_filter(products, size=WINDOW, mode="nearest", axes=(2, 3))
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = xx * yy - xy * xy
    step_across, step_down = (xy * yt - yy * xt) / determinant, (xy * xt - xx * yt) / determinant
    return step_across.clip(-2.0, 2.0), step_down.clip(-2.0, 2.0)
