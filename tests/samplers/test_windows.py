"""Joint windows and the circle: covering, weights, equality with the whole where windows agree."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm.core.errors import UsageError
from genmm.samplers.ode import integrate
from genmm.samplers.schedules import flow_grid
from genmm.samplers.windows import circular, cover, cover_circle, joint


@settings(deadline=None, max_examples=40)
@given(total=st.integers(1, 400), width=st.integers(1, 60), overlap=st.integers(0, 59))
def test_windows_cover_everything_and_their_weights_sum_to_one(total, width, overlap):
    overlap = min(overlap, width - 1)
    windows = cover(total, width, overlap)
    summed = torch.zeros(total)
    for start, weight in zip(windows.starts, windows.weights(), strict=True):
        assert 0 <= start <= total - windows.width
        summed[start : start + windows.width] += weight
    torch.testing.assert_close(summed, torch.ones(total))
    gaps = [b - a for a, b in zip(windows.starts, windows.starts[1:], strict=False)]
    assert all(0 < gap <= windows.width - overlap for gap in gaps)


def test_frame_wise_velocities_give_what_one_window_gives():
    state = torch.randn(2, 3, 25)
    windows = cover(25, 10, 4)
    grid = flow_grid(6)
    whole = integrate(lambda x, t: torch.cos(x + t), state, grid, "midpoint")
    parts = integrate(joint(lambda x, t, index: torch.cos(x + t), windows), state, grid, "midpoint")
    torch.testing.assert_close(parts, whole)


def test_each_window_is_told_its_index():
    windows, seen = cover(20, 8, 2), []
    joint(lambda x, t, index: seen.append(index) or x, windows)(torch.zeros(1, 1, 20), 0.0)
    assert seen == list(range(len(windows.starts)))


def test_turning_changes_nothing_for_a_velocity_without_positions_and_moves_the_seam_otherwise():
    state, seen = torch.arange(6.0).view(1, 1, 6), []
    turned = circular(lambda x, t, shift: seen.append((x.clone(), shift)) or x * 2, [0, 2])
    assert torch.equal(turned(state, 0.0), state * 2) and torch.equal(turned(state, 0.5), state * 2)
    assert seen[1][0].flatten().tolist() == [4, 5, 0, 1, 2, 3] and [shift for _, shift in seen] == [0, 2]


@settings(deadline=None, max_examples=40)
@given(total=st.integers(3, 300), width=st.integers(2, 60), overlap=st.integers(0, 59))
def test_windows_on_a_circle_leave_no_seam(total, width, overlap):
    width = min(width, total - 1)
    windows = cover_circle(total, width, min(overlap, width - 1))
    summed = torch.zeros(total)
    for index, weight in enumerate(windows.weights()):
        summed[windows.places(index)] += weight
    torch.testing.assert_close(summed, torch.ones(total))
    gaps = [(b - a) % total for a, b in zip(windows.starts, (*windows.starts[1:], windows.starts[0]), strict=True)]
    assert all(gap <= width - min(overlap, width - 1) for gap in gaps)
    state = torch.randn(2, 3, total)
    torch.testing.assert_close(joint(lambda x, t, index: torch.cos(x), windows)(state, 0.0), torch.cos(state))


def test_windows_on_a_circle_see_the_end_before_the_start():
    windows, seen = cover_circle(10, 4, 1), []
    joint(lambda x, t, index: seen.append(x.flatten().tolist()) or x, windows)(torch.arange(10.0).view(1, 1, 10), 0.0)
    assert [8, 9, 0, 1] in seen and len(seen) == 4


@pytest.mark.parametrize("bad", [(10, 10, 2), (10, 4, 4), (10, 0, 0)])
def test_impossible_circles_are_refused(bad):
    with pytest.raises(UsageError):
        cover_circle(*bad)


@pytest.mark.parametrize("bad", [(0, 4, 1), (10, 4, 4), (10, 0, 0), (10, 4, -1)])
def test_impossible_windows_are_refused(bad):
    with pytest.raises(UsageError):
        cover(*bad)
    with pytest.raises(UsageError):
        circular(lambda x, t, shift: x, [])
