"""The balancer: shares of the gradient, averages that one bad step does not spoil."""

import pytest
import torch

from genmm.core.errors import ConfigError
from genmm.losses.balancer import LossBalancer


def losses_of(output: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
    return {"small": 1e-3 * scale * output.square().sum(), "large": 1e3 * (output - 1).abs().sum()}


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 5)])
def test_losses_get_their_shares_whatever_their_scale(shape):
    torch.manual_seed(0)
    output = torch.randn(shape, requires_grad=True)
    balancer = LossBalancer({"small": 1.0, "large": 3.0}, decay=0.0)
    parts = losses_of(output)
    alone = {n: LossBalancer({n: 1.0}, decay=0.0).gradient({n: parts[n]}, output) for n in parts}
    both = balancer.gradient(losses_of(output), output)
    torch.testing.assert_close(both, 0.25 * alone["small"] + 0.75 * alone["large"])
    assert float(alone["small"].reshape(6, -1).norm(dim=1).mean()) == pytest.approx(1.0, rel=1e-4)


def test_a_step_that_is_not_finite_leaves_the_averages_as_they_were():
    torch.manual_seed(0)
    output = torch.randn(4, 3, requires_grad=True)
    balancer = LossBalancer({"small": 1.0, "large": 1.0})
    balancer.gradient(losses_of(output), output)
    before = balancer.norms.clone(), balancer.seen.clone()
    spoiled = balancer.gradient({"small": float("nan") * output.sum()}, output)
    assert not bool(spoiled.isfinite().all())  # for the trainer to see and skip
    assert torch.equal(balancer.norms, before[0]) and torch.equal(balancer.seen, before[1])
    assert bool(balancer.gradient(losses_of(output), output).isfinite().all())


def test_wrong_weights_and_unknown_losses_are_refused():
    for weights in ({}, {"a": -1.0}, {"a": 0.0}):
        with pytest.raises(ConfigError):
            LossBalancer(weights)
    output = torch.ones(2, requires_grad=True)
    with pytest.raises(ConfigError, match="no weight for b"):
        LossBalancer({"a": 1.0}).gradient({"b": output.sum()}, output)
