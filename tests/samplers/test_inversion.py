"""Inversion: there and back, the closed-form gradient against autograd, what regularisation does, refusals."""

import pytest
import torch

from genmm.core.errors import ShapeError, UsageError
from genmm.samplers.inversion import Regularisation, invert_regularised, patch_divergence, regularise
from genmm.samplers.ode import integrate
from genmm.samplers.schedules import flow_grid


def gaussian_velocity(mean: float, deviation: float):
    """Exact velocity from N(0, 1) noise to N(mean, deviation^2) data along t x1 + (1 - t) x0."""

    def velocity(x, t):
        variance = t**2 * deviation**2 + (1 - t) ** 2
        return mean + (t * deviation**2 - (1 - t)) / variance * (x - t * mean)

    return velocity


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2)])
def test_there_and_back_gets_exacter_with_more_steps(method, order):
    velocity = gaussian_velocity(1.5, 0.5)
    data = 1.5 + 0.5 * torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1))
    errors = []
    for steps in (8, 32):
        noise = integrate(velocity, data, flow_grid(steps, start=1.0, end=0.0), method)
        errors.append(float((integrate(velocity, noise, flow_grid(steps), method) - data).abs().max()))
    assert errors[1] < errors[0] / 4 ** (order - 0.3), "four times the steps, an error smaller by 4 to the order"


def autograd_divergence(values, reference):
    """The same quantity by unfolding and autograd."""
    values = values.clone().requires_grad_()

    def patches(x):
        b, c, t = x.shape
        x = x[:, : c // 4 * 4, : t // 4 * 4].reshape(b, c // 4, 4, t // 4, 4)
        return x.permute(0, 1, 3, 2, 4).reshape(b, -1, 16)

    p, r = patches(values), patches(reference)
    m0, m1, v0, v1 = p.mean(-1), r.mean(-1), p.var(-1), r.var(-1)
    q = torch.log((v1 + 1e-6) / (v0 + 1e-6)) + (v0 + (m0 - m1) ** 2) / (v1 + 1e-6) - 1
    q.abs().sum().backward()
    return q.abs().sum(1).detach(), values.grad


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 16, 22), (3, 10, 9)])
def test_the_closed_form_gradient_is_that_of_autograd(shape):
    generator = torch.Generator().manual_seed(3)
    values = 2.0 * torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5
    reference = torch.randn(shape, generator=generator, dtype=torch.float64)
    divergence, gradient = patch_divergence(values, reference)
    expected, expected_gradient = autograd_divergence(values, reference)
    torch.testing.assert_close(divergence, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_regularising_lowers_the_divergence_and_zero_strength_changes_nothing():
    generator = torch.Generator().manual_seed(4)
    values, reference = 3 * torch.randn(1, 16, 16, generator=generator), torch.randn(1, 16, 16, generator=generator)
    after = regularise(values, reference, 0.05, 4)
    assert patch_divergence(after, reference)[0] < patch_divergence(values, reference)[0]
    assert torch.equal(regularise(values, reference, 0.0, 4), values)


def test_weights_of_the_iterations_are_the_published_ones():
    assert Regularisation().weights == pytest.approx((0, 0, 2 / 5, 3 / 5))
    assert Regularisation(iterations=2, keep=1).weights == (0, 1)
    assert Regularisation(iterations=3, keep=3).weights == pytest.approx((0, 1 / 3, 2 / 3))


def test_regularised_inversion_counts_its_work_and_undoes_itself_better_than_one_euler_pass():
    velocity, rows, generator = gaussian_velocity(0.0, 0.4), [], torch.Generator().manual_seed(5)

    def counted(x, t):
        rows.append(len(x))
        return velocity(x, t)

    data = 0.4 * torch.randn(1, 8, 16, generator=generator)
    grid = flow_grid(8, start=1.0, end=0.0)
    done = list(
        invert_regularised(counted, data, grid, lambda: torch.randn(data.shape, generator=generator),
                           Regularisation(strength=0.0))
    )  # fmt: skip
    assert rows == [1, 1, 2, 2] * 8 and done[-1].calls == done[-1].total == 32
    plain = integrate(velocity, data, grid, "euler")

    def back(noise):
        return float((integrate(velocity, noise, flow_grid(8), "euler") - data).abs().mean())

    assert back(done[-1].state) < 0.2 * back(plain)


@pytest.mark.parametrize(
    "bad",
    [{"keep": 0}, {"keep": 5}, {"iterations": 1, "keep": 1}, {"iterations": 0}, {"strength": 1.5}, {"strength": -0.1}],
)
def test_settings_that_go_nowhere_are_refused(bad):
    with pytest.raises(UsageError):
        Regularisation(**bad)


def test_too_small_a_state_has_no_patches():
    with pytest.raises(ShapeError, match="patches"):
        patch_divergence(torch.zeros(1, 3, 8), torch.zeros(1, 3, 8))
