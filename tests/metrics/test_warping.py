from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm.core.errors import ShapeError
from genmm.metrics.warping import warp


def cheapest(left: np.ndarray, right: np.ndarray) -> float:
    """Cost of the best path by the plain recursion."""
    total = np.full((len(left) + 1, len(right) + 1), np.inf)
    total[0, 0] = 0.0
    for i in range(len(left)):
        for j in range(len(right)):
            before = min(total[i, j], total[i, j + 1], total[i + 1, j])
            total[i + 1, j + 1] = before + np.linalg.norm(left[i] - right[j])
    return total[-1, -1]


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 1000))
def test_the_path_is_valid_and_the_cheapest(rows, columns, seed):
    draw = np.random.default_rng(seed)
    left, right = draw.normal(size=(rows, 3)), draw.normal(size=(columns, 3))
    path = warp(left, right)
    assert tuple(path[0]) == (0, 0) and tuple(path[-1]) == (rows - 1, columns - 1)
    assert all(tuple(b - a) in {(1, 1), (1, 0), (0, 1)} for a, b in pairwise(path))
    cost = sum(np.linalg.norm(left[i] - right[j]) for i, j in path)
    assert cost == pytest.approx(cheapest(left, right))


def test_a_stretched_sequence_is_matched_without_cost():
    left = np.arange(6.0)[:, None]
    right = np.repeat(left, 3, axis=0)
    path = warp(left, right)
    assert np.array_equal(left[path[:, 0]], right[path[:, 1]])


def test_sequences_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError):
        warp(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ShapeError):
        warp(np.zeros((0, 2)), np.zeros((3, 2)))
