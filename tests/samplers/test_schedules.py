"""Grids: end points, order, the sway curve, reading backwards."""

import math

import pytest

from genmm.core.errors import UsageError
from genmm.samplers.schedules import flow_grid


@pytest.mark.parametrize("sway", [-1.0, -0.8, 0.0, 1.0, 1.75])
@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_grids_ascend_between_exact_ends(steps, sway):
    grid = flow_grid(steps, start=0.12, end=1.0, sway=sway)
    assert len(grid) == steps + 1 and grid[0] == 0.12 and grid[-1] == 1.0
    assert all(a < b for a, b in zip(grid, grid[1:], strict=False))


def test_no_sway_is_uniform():
    assert flow_grid(4) == (0.0, 0.25, 0.5, 0.75, 1.0)


def test_sway_is_the_published_curve():
    for k, point in enumerate(flow_grid(10, sway=-0.8)):
        s = k / 10
        assert math.isclose(point, s - 0.8 * (math.cos(math.pi / 2 * s) - 1 + s), abs_tol=1e-12)


def test_a_descending_grid_is_the_ascending_one_backwards():
    assert flow_grid(9, start=1.0, end=0.1, sway=-0.8) == flow_grid(9, start=0.1, end=1.0, sway=-0.8)[::-1]


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0}, {"steps": 2.5}, {"steps": True}, {"steps": 4, "start": -0.1}, {"steps": 4, "end": 1.5},
        {"steps": 4, "sway": -1.2}, {"steps": 4, "sway": 2.0},
    ],
)  # fmt: skip
def test_impossible_grids_are_refused(bad):
    with pytest.raises(UsageError):
        flow_grid(**bad)
