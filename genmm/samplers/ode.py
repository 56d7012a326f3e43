"""Solvers for d state / d t = velocity(state, t) that know nothing of what flows.

A velocity is any function (state [B, ...], t) -> [B, ...]; t is a Python float, so that nothing waits for a GPU. The
state is kept in float32 (or float64 when it starts so) whatever the network computes in.

`steps` counts calls of the velocity, as in MelodyFlow: a method that calls twice (midpoint, Heun) spends two grid
intervals on one move and needs an even number.
Letters: N calls, s_k grid point k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genmm.core.errors import UsageError

Velocity = Callable[[Tensor, float], Tensor]
"""(state [B, ...], flow step) -> velocity [B, ...]."""
Projection = Callable[[Tensor, float], Tensor]
"""(state, flow step) -> state: applied before every call and at the end, for parts of the state that are known."""
Method = Literal["euler", "midpoint", "heun"]

CALLS: dict[str, int] = {"euler": 1, "midpoint": 2, "heun": 2}
"""Calls of the velocity in one move, which is also how many grid intervals it covers."""


@dataclass(frozen=True, eq=False)
class Move:
    """Where a solver stands after one move."""

    state: Tensor
    """[B, ...] at flow step `t`."""
    t: float
    """Flow step reached."""
    calls: int
    """Calls of the velocity so far."""
    total: int | None
    """Calls in all; None for the adaptive solver, which does not know."""


def check_steps(steps: int, method: str) -> None:
    """Raise UsageError unless the method is known and can spend exactly `steps` calls."""
    if method not in CALLS:
        raise UsageError(f"solver must be one of {', '.join(CALLS)}, got {method!r}")
    if steps % CALLS[method]:
        raise UsageError(
            f"{method} calls the network {CALLS[method]} times a move, so steps must be even, got {steps}; "
            f"take {steps + 1}, or the euler solver"
        )


def integrate(
    velocity: Velocity,
    state: Tensor,
    grid: Sequence[float],
    method: Method = "midpoint",
    projection: Projection | None = None,
) -> Tensor:
    """The state at grid[-1], from the state at grid[0]. See `moves`."""
    for move in moves(velocity, state, grid, method, projection):
        state = move.state
    return state


def moves(
    velocity: Velocity,
    state: Tensor,
    grid: Sequence[float],
    method: Method = "midpoint",
    projection: Projection | None = None,
) -> Iterator[Move]:
    """Solve along the grid (ascending or descending, N + 1 points for N calls); one Move after each move.

    euler: x += v(x, s_k) (s_{k+1} - s_k). midpoint: y = x + v(x, s_k) (s_{k+1} - s_k), x += v(y, s_{k+1}) (s_{k+2} -
    s_k); on a swayed grid the inner point is not the exact middle, as in MelodyFlow. heun: the mean of the velocities
    at both ends of [s_k, s_{k+2}].
    Raises: UsageError for an unknown method or a number of calls that it cannot spend.
    """
    steps = len(grid) - 1
    check_steps(steps, method)
    project = projection or (lambda value, t: value)
    move = {"euler": _euler, "midpoint": _midpoint, "heun": _heun}[method]
    stride = CALLS[method]
    state = project(as_state(state), grid[0])
    for k in range(0, steps, stride):
        points = grid[k : k + stride + 1]
        state = project(move(velocity, project, state, points), points[-1])
        yield Move(state, points[-1], k + stride, steps)


def as_state(state: Tensor) -> Tensor:
    """The tensor in the number format of solver states: float32, or float64 when it is float64."""
    return state if state.dtype == torch.float64 else state.float()


def _euler(velocity: Velocity, project: Projection, state: Tensor, points: Sequence[float]) -> Tensor:
    start, end = points
    return torch.add(state, velocity(state, start).to(state.dtype), alpha=end - start)


def _midpoint(velocity: Velocity, project: Projection, state: Tensor, points: Sequence[float]) -> Tensor:
    start, inner, end = points
    half = torch.add(state, velocity(state, start).to(state.dtype), alpha=inner - start)
    return torch.add(state, velocity(project(half, inner), inner).to(state.dtype), alpha=end - start)


def _heun(velocity: Velocity, project: Projection, state: Tensor, points: Sequence[float]) -> Tensor:
    start, _, end = points
    first = velocity(state, start).to(state.dtype)
    guess = torch.add(state, first, alpha=end - start)
    second = velocity(project(guess, end), end).to(state.dtype)
    return torch.add(state, first + second, alpha=(end - start) / 2.0)


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How exact the adaptive solver is."""

    relative: float = 1e-3
    """Error allowed in one move, relative to the size of the state."""
    absolute: float = 1e-4
    """Error allowed in one move where the state is near zero."""
    max_calls: int = 1000
    """Calls of the velocity after which it gives up."""

    def __post_init__(self) -> None:
        if self.relative <= 0 or self.absolute <= 0 or self.max_calls < 7:
            raise UsageError(f"tolerances must be above 0 and max_calls at least 7, got {self}")


# Dormand and Prince 1980, the pair of order 5(4); the last stage of a move is the first of the next.
_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def adaptive_moves(
    velocity: Velocity,
    state: Tensor,
    start: float = 0.0,
    end: float = 1.0,
    tolerance: Tolerance | None = None,
    projection: Projection | None = None,
) -> Iterator[Move]:
    """Solve from `start` to `end` with moves as long as the tolerance allows; one Move after each accepted one.

    The error of a move is measured over the whole batch (root mean square), so rows are not independent of each other.
    Every move waits for the device once, to decide its length. A projection costs one more call for each move, because
    the last stage no longer starts the next one.
    Raises: UsageError when `tolerance.max_calls` do not suffice.
    Source: Dormand and Prince 1980; step control after Hairer, Norsett and Wanner, Solving ODEs I, II.4.
    """
    tolerance = tolerance or Tolerance()
    project = projection or (lambda value, t: value)
    state, t = project(as_state(state), start), start
    if not state.numel():
        return
    slope, calls = velocity(state, t).to(state.dtype), 1
    span = abs(end - start)
    length = _first_length(state, slope, tolerance, span)
    while abs(end - t) > 1e-9 * max(span, 1e-9):
        if calls + 6 > tolerance.max_calls:
            raise UsageError(
                f"the adaptive solver reached flow step {t:.3f} of {end} after {calls} calls and may make "
                f"{tolerance.max_calls}; loosen the tolerance, or take the midpoint solver"
            )
        is_last = length >= abs(end - t)
        step = (end - t) if is_last else length * (1.0 if end > start else -1.0)
        slopes = [slope]
        for node, weights in zip(_NODES[1:], _STAGES[1:], strict=True):
            at = state + step * sum(weight * k for weight, k in zip(weights, slopes, strict=True) if weight)
            at = project(at, t + node * step)
            slopes.append(velocity(at, t + node * step).to(state.dtype))
        calls += 6
        error = step * sum(weight * k for weight, k in zip(_ERROR, slopes, strict=True) if weight)
        allowed = tolerance.absolute + tolerance.relative * torch.maximum(state.abs(), at.abs())
        ratio = float((error / allowed).square().mean().sqrt())
        if not math.isfinite(ratio):
            raise UsageError(f"the velocity at flow step {t:.3f} is NaN, infinite or too large for its number format")
        if ratio <= 1.0:
            state, slope, t = at, slopes[-1], end if is_last else t + step
            if projection is not None:
                state = project(state, t)
                if not is_last:
                    slope, calls = velocity(state, t).to(state.dtype), calls + 1
            yield Move(state, t, calls, None)
        length = abs(step) * min(5.0, max(0.2, 0.9 * (ratio + 1e-10) ** -0.2))


def integrate_adaptive(
    velocity: Velocity, state: Tensor, start: float = 0.0, end: float = 1.0, tolerance: Tolerance | None = None
) -> Tensor:
    """The state at `end`, from the state at `start`. See `adaptive_moves`."""
    for move in adaptive_moves(velocity, state, start, end, tolerance):
        state = move.state
    return as_state(state)


def _first_length(state: Tensor, slope: Tensor, tolerance: Tolerance, span: float) -> float:
    """A careful length of the first move: one that changes the state by about a hundredth of its size."""
    allowed = tolerance.absolute + tolerance.relative * state.abs()
    size, speed = (float((value / allowed).square().mean().sqrt()) for value in (state, slope))
    return min(span, 1e-3 * span if min(size, speed) < 1e-5 else 0.01 * size / speed)
