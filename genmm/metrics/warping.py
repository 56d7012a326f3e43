"""Dynamic time warping: which frame of one recording belongs to which frame of another.

Letters: N and T frames of the two sequences, C features.
"""

from __future__ import annotations

import numpy as np

from genmm.core.errors import ShapeError


def warp(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The cheapest monotone path through all pairs of frames, by Euclidean distance.

    Shapes: left [N, C], right [T, C], N and T at least 1. Returns: [P, 2] int64, from (0, 0) to (N - 1, T - 1) in steps
    of (1, 1), (1, 0) or (0, 1), all of one weight. Cost: one [N, T] matrix in memory.
    """
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1] or not len(left) or not len(right):
        raise ShapeError(f"need sequences [N, C] and [T, C] with frames, got {left.shape} and {right.shape}")
    square = np.square(left).sum(1)[:, None] + np.square(right).sum(1) - 2.0 * left @ right.T
    return _walk_back(_accumulate(np.sqrt(np.maximum(square, 0.0))))


def _accumulate(cost: np.ndarray) -> np.ndarray:
    """Cheapest sum up to each pair, with a border of infinity: [N, T] -> [N + 1, T + 1]; diagonal by diagonal."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        total[i + 1, j + 1] = cost[i, j] + np.minimum(total[i, j], np.minimum(total[i, j + 1], total[i + 1, j]))
    return total


def _walk_back(total: np.ndarray) -> np.ndarray:
    i, j = total.shape[0] - 1, total.shape[1] - 1
    path = [(i - 1, j - 1)]
    while i > 1 or j > 1:
        steps = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        i, j = min(steps, key=lambda step: total[step])
        path.append((i - 1, j - 1))
    return np.array(path[::-1], dtype=np.int64)
