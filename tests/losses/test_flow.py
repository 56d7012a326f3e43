"""The flow-matching objective: path, time law, coupling, mask."""

import itertools

import pytest
import torch

from genmm.core.errors import ShapeError, UsageError
from genmm.losses.flow import coupled, flow_batch, flow_loss, logit_normal_times


def test_states_lie_on_straight_paths_and_the_target_leads_to_the_data():
    data, noise, t = torch.randn(3, 2, 5), torch.randn(3, 2, 5), torch.tensor([0.0, 0.4, 1.0])
    batch = flow_batch(data, noise, t, couple=False)
    torch.testing.assert_close(batch.state[0], noise[0])
    torch.testing.assert_close(batch.state[2], data[2])
    ahead = batch.state + (1 - t).view(-1, 1, 1) * batch.target
    torch.testing.assert_close(ahead, data)


def test_coupling_finds_the_best_of_all_permutations_and_moves_noise_only():
    generator = torch.Generator().manual_seed(1)
    data, noise = torch.randn(5, 3, 2, generator=generator), torch.randn(5, 3, 2, generator=generator)

    def cost(order):
        return float((data - noise[list(order)]).square().sum())

    best = min(itertools.permutations(range(5)), key=cost)
    assert torch.equal(coupled(noise, data), noise[list(best)])
    torch.testing.assert_close(flow_batch(data, noise, torch.ones(5)).state, data)


def test_times_are_logit_normal():
    t = logit_normal_times(20000, generator=torch.Generator().manual_seed(2))
    logits = torch.logit(t)
    assert 0 < t.min() and t.max() < 1
    assert abs(float(logits.mean())) < 0.03 and abs(float(logits.std()) - 1) < 0.03
    with pytest.raises(UsageError):
        logit_normal_times(3, deviation=0.0)


def test_masked_frames_do_not_count():
    velocity, target = torch.zeros(1, 2, 4), torch.ones(1, 2, 4)
    target[..., 2:] = 100.0
    assert float(flow_loss(velocity, target, torch.tensor([[1, 1, 0, 0]]))) == 1.0
    assert float(flow_loss(velocity, target, torch.zeros(1, 4))) == 0.0
    with pytest.raises(ShapeError):
        flow_loss(velocity, target[..., :2])
    with pytest.raises(ShapeError):
        coupled(velocity, target[..., :2])


def test_frames_outside_the_mask_may_hold_anything_and_times_lie_beside_the_states():
    velocity, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    plain = flow_loss(velocity, target, mask)
    velocity[0, :, 2:], target[0, :, 3] = float("inf"), float("nan")
    velocity.requires_grad_()
    loss = flow_loss(velocity, target, mask)
    torch.testing.assert_close(loss, plain)
    loss.backward()
    assert bool(velocity.grad.isfinite().all()) and not bool(velocity.grad[0, :, 2:].any())
    batch = flow_batch(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0.1, 0.2], dtype=torch.float64))
    assert batch.t.dtype == torch.float32 and batch.t.shape == (2,)
