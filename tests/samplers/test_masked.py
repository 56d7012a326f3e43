"""Known parts stay known, on the flow's own path, and seams are soft."""

import pytest
import torch

from genmm.core.errors import ShapeError, UsageError
from genmm.samplers.masked import known_path, soft_keep
from genmm.samplers.ode import integrate
from genmm.samplers.schedules import flow_grid


def test_kept_frames_end_as_the_target_and_are_noised_on_the_way():
    target, noise = torch.randn(1, 2, 6), torch.randn(1, 2, 6)
    keep = torch.tensor([1.0, 1, 0, 0, 1, 1]).view(1, 1, 6)
    seen = {}

    def velocity(x, t):
        seen[t] = x
        return torch.ones_like(x)

    out = integrate(velocity, noise, flow_grid(4), "euler", known_path(target, noise, keep))
    kept = keep.bool().expand_as(target)
    assert torch.equal(out[kept], target[kept])
    torch.testing.assert_close(out[~kept], (noise + 1.0)[~kept])
    for t, state in seen.items():
        torch.testing.assert_close(state[kept], (t * target + (1 - t) * noise)[kept])


def test_soft_masks_fall_on_the_kept_side_only():
    keep = torch.tensor([1.0, 1, 1, 1, 0, 0, 1, 1])
    assert soft_keep(keep, 1).tolist() == [1, 1, 1, 0.5, 0, 0, 0.5, 1]
    assert soft_keep(keep, 3).tolist() == [1, 0.75, 0.5, 0.25, 0, 0, 0.25, 0.5]
    assert torch.equal(soft_keep(keep, 0), keep)
    assert soft_keep(torch.zeros(3), 2).tolist() == [0, 0, 0] and soft_keep(torch.ones(3), 2).tolist() == [1, 1, 1]


def test_bad_masks_are_refused():
    x = torch.zeros(1, 2, 4)
    with pytest.raises(UsageError, match="keep mask"):
        known_path(x, x, torch.tensor([2.0]))
    with pytest.raises(ShapeError):
        known_path(x, x[..., :2], torch.ones(1))
    with pytest.raises(UsageError):
        soft_keep(torch.ones(3), -1)
