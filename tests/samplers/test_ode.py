"""Solvers: order of convergence on closed forms, torchdiffeq as an oracle, float32 state, projection."""

import math

import pytest
import torch
from torchdiffeq import odeint

from genmm.core.errors import UsageError
from genmm.samplers.guidance import Guidance, guided, mix
from genmm.samplers.ode import Tolerance, adaptive_moves, integrate, integrate_adaptive, moves
from genmm.samplers.schedules import flow_grid


def spiral(x, t):
    """A velocity that depends on state and time and whose exact solution is known only through finer grids."""
    return torch.stack((-x[..., 1], x[..., 0]), -1) * (1.0 + t) + math.sin(3.0 * t)


def error_of(method, steps, sway=0.0):
    start = torch.tensor([[1.0, 0.3]], dtype=torch.float64)
    exact = integrate_adaptive(spiral, start, tolerance=Tolerance(relative=1e-12, absolute=1e-12, max_calls=100_000))
    return float((integrate(spiral, start, flow_grid(steps, sway=sway), method) - exact).norm())


@pytest.mark.parametrize("steps", [16, 32])
@pytest.mark.parametrize(("method", "factor"), [("euler", 2.0), ("midpoint", 4.0), ("heun", 4.0)])
def test_error_falls_with_the_order_of_the_method(method, factor, steps):
    ratio = error_of(method, steps) / error_of(method, 2 * steps)
    assert 0.85 * factor < ratio < 1.2 * factor


def test_sway_keeps_the_midpoint_method_of_second_order():
    ratio = error_of("midpoint", 64, -0.8) / error_of("midpoint", 128, -0.8)
    assert 3.3 < ratio < 4.8


@pytest.mark.parametrize(("method", "oracle"), [("euler", "euler"), ("midpoint", "midpoint"), ("heun", "heun2")])
def test_fixed_steps_are_those_of_torchdiffeq(method, oracle):
    start, width = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 8
    times = torch.linspace(0, 1, width + 1, dtype=torch.float64)
    expected = odeint(lambda t, x: spiral(x, float(t)), start, times, method=oracle)[-1]
    calls = width * (1 if method == "euler" else 2)
    torch.testing.assert_close(integrate(spiral, start, flow_grid(calls), method), expected, rtol=1e-12, atol=1e-12)


def test_the_adaptive_pair_agrees_with_torchdiffeq_and_keeps_its_promise():
    start = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = odeint(lambda t, x: spiral(x, float(t)), start, torch.tensor([0.0, 1.0], dtype=torch.float64),
                      method="dopri5", rtol=1e-10, atol=1e-10)[-1]  # fmt: skip
    fine = integrate_adaptive(spiral, start, tolerance=Tolerance(relative=1e-10, absolute=1e-10))
    torch.testing.assert_close(fine, expected, rtol=1e-8, atol=1e-8)
    rough = list(adaptive_moves(spiral, start, tolerance=Tolerance(relative=1e-3, absolute=1e-3)))
    close = list(adaptive_moves(spiral, start, tolerance=Tolerance(relative=1e-9, absolute=1e-9)))
    assert rough[-1].calls < close[-1].calls and rough[-1].t == 1.0
    assert (rough[-1].state - expected).norm() < 1e-2
    back = integrate_adaptive(spiral, fine, 1.0, 0.0, Tolerance(relative=1e-10, absolute=1e-10))
    torch.testing.assert_close(back, start, rtol=1e-7, atol=1e-7)


def test_the_adaptive_pair_keeps_known_parts_at_every_call_and_at_the_end():
    start, seen = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), []

    def project(x, t):
        return torch.cat((torch.full_like(x[:, :2], t), x[:, 2:]), 1)

    def velocity(x, t):
        seen.append(torch.equal(x[:, :2], torch.full_like(x[:, :2], t)))
        return torch.cat((torch.ones_like(x[:, :2]), spiral(x[:, 2:], t)), 1)

    steps = list(adaptive_moves(velocity, start, tolerance=Tolerance(relative=1e-9, absolute=1e-9), projection=project))
    expected = integrate_adaptive(spiral, start[:, 2:], tolerance=Tolerance(relative=1e-9, absolute=1e-9))
    assert all(seen) and len(seen) == steps[-1].calls
    assert torch.equal(steps[-1].state[:, :2], torch.ones(1, 2, dtype=torch.float64))
    torch.testing.assert_close(steps[-1].state[:, 2:], expected, rtol=1e-7, atol=1e-7)


def test_the_adaptive_pair_gives_up_at_its_call_limit():
    with pytest.raises(UsageError, match="calls"):
        integrate_adaptive(
            lambda x, t: 80.0 * torch.cos(torch.tensor(200.0 * t)) * x,
            torch.ones(1, 1),
            tolerance=Tolerance(relative=1e-6, absolute=1e-8, max_calls=40),
        )


def test_straight_paths_are_exact_in_one_move_and_adaptive_calls_few():
    target, noise = torch.randn(1, 4), torch.randn(1, 4)
    out = integrate(lambda x, t: target - noise, noise, flow_grid(1), "euler")
    torch.testing.assert_close(out, target)
    last = list(adaptive_moves(lambda x, t: target - noise, noise))[-1]
    torch.testing.assert_close(last.state, target)
    assert last.calls <= 40


def test_state_stays_float32_when_the_network_answers_in_bfloat16():
    seen = []

    def velocity(x, t):
        seen.append(x.dtype)
        return torch.full_like(x, 1e-4).bfloat16()

    out = integrate(velocity, torch.ones(1, 3, dtype=torch.bfloat16), flow_grid(20), "midpoint")
    assert set(seen) == {torch.float32} and out.dtype == torch.float32
    assert float(out[0, 0]) == pytest.approx(1.0001, abs=2e-6)  # bfloat16 state would stay at 1


def test_moves_count_calls_and_projection_touches_every_call():
    times = []

    def project(state, t):
        times.append(t)
        return torch.cat((torch.full_like(state[:, :1], t), state[:, 1:]), 1)

    done = list(moves(lambda x, t: x, torch.ones(1, 2), flow_grid(4), "midpoint", project))
    assert [move.calls for move in done] == [2, 4] and done[-1].total == 4
    assert times == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert float(done[-1].state[0, 0]) == 1.0


@pytest.mark.parametrize(("method", "steps"), [("midpoint", 5), ("heun", 3), ("magic", 4)])
def test_steps_that_a_method_cannot_spend_are_refused(method, steps):
    with pytest.raises(UsageError, match="even|one of"):
        integrate(lambda x, t: x, torch.ones(1), flow_grid(steps), method)


def test_guidance_mixes_and_rests_outside_its_interval():
    calls = []

    def conditional(x, t):
        calls.append(("one", t))
        return torch.full_like(x, 2.0)

    def pair(x, t):
        calls.append(("two", t))
        return torch.full_like(x, 2.0), torch.full_like(x, 1.0)

    velocity = guided(conditional, pair, Guidance(weight=4.0, start=0.2, end=0.8))
    x = torch.zeros(1)
    assert [float(velocity(x, t)) for t in (0.0, 0.5, 0.8)] == [2.0, 6.0, 2.0]
    assert [kind for kind, _ in calls] == ["one", "two", "one"]
    torch.testing.assert_close(mix(torch.tensor(3.0), torch.tensor(1.0), 4.0), torch.tensor(5 * 3.0 - 4 * 1.0))
    assert not Guidance(weight=0.0).works_at(0.5) and Guidance(weight=1.0).works_at(1.0)
    with pytest.raises(UsageError):
        Guidance(weight=-1.0)


def test_a_velocity_that_is_not_finite_is_said_at_once_and_nothing_takes_no_call():
    calls = []

    def broken(x, t):
        calls.append(t)
        return x * float("nan")

    with pytest.raises(UsageError, match="NaN, infinite"):
        integrate_adaptive(broken, torch.ones(1, 2))
    assert len(calls) < 10
    calls.clear()
    assert integrate_adaptive(broken, torch.ones(0, 3)).shape == (0, 3) and calls == []
