"""From data back to the noise that leads to it, so that another condition can lead somewhere else.

Plain inversion is `moves` on a descending grid. The regularised one evaluates the velocity at the end of each move,
where it will be needed on the way back, and keeps its local statistics those of velocities of really noised data.

Letters: B batch, C channels, T frames, K inner iterations; patches are 4 channels x 4 frames.
Source: MelodyFlow (arXiv 2407.03648), after ReNoise (arXiv 2403.14602) with the patch-wise KL term alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genmm.core.errors import ShapeError, UsageError
from genmm.samplers.ode import Move, Velocity, as_state

PATCH = 4
"""Channels and frames of a patch."""
CLIP = 100.0
"""Largest entry of the gradient."""
EPSILON = 1e-6
"""Added to variances."""
JITTER = 1e-5
"""Size of the second noise of a reference, as in the training objective."""


@dataclass(frozen=True, kw_only=True)
class Regularisation:
    """Settings of the regularised inversion; the defaults are those of MelodyFlow's code."""

    iterations: int = 4
    """Inner iterations K of a move, at least 1; each calls the network once."""
    keep: int = 2
    """How many of the last iterations are averaged, 1 to K; these call the network for a reference too."""
    strength: float = 0.2
    """Size lambda of a gradient step, 0 to 1; 0 leaves the velocities as they are."""
    gradient_steps: int = 4
    """Gradient steps on each kept velocity."""

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.gradient_steps < 0 or not 0.0 <= self.strength <= 1.0:
            raise UsageError(
                "regularised inversion needs at least 1 iteration, gradient steps of at least 0 and a strength in "
                f"[0, 1], got {self.iterations}, {self.gradient_steps} and {self.strength}"
            )
        if not 1 <= self.keep <= self.iterations:
            raise UsageError(
                f"keep must be from 1 to the {self.iterations} iterations, got {self.keep}; with 0 nothing would move"
            )
        if self.iterations == 1:
            raise UsageError("regularised inversion needs at least 2 iterations: the first has no weight; take 4")

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each iteration in the average: j / sum for the kept ones, 0 before."""
        first = self.iterations - self.keep
        whole = sum(range(first, self.iterations))
        return tuple(j / whole if j >= first else 0.0 for j in range(self.iterations))


def _patches(values: Tensor) -> Tensor:
    """[B, C, T] -> [B, 1, C // 4, 4, T // 4, 4], a view."""
    if values.ndim != 3 or values.shape[1] < PATCH or values.shape[2] < PATCH:
        raise ShapeError(f"patches of {PATCH} x {PATCH} need [B, C >= 4, T >= 4], got {tuple(values.shape)}")
    channels, frames = (size // PATCH for size in values.shape[1:])
    whole = values[:, : channels * PATCH, : frames * PATCH]
    return whole.reshape(values.shape[0], 1, channels, PATCH, frames, PATCH)


def patch_divergence(values: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over patches of |log(v1/v0) + (v0 + (m0 - m1)^2) / v1 - 1| for each row, and its gradient by `values`.

    Shapes: values, reference [B, C, T]. Returns: [B], and [B, C, T] that is zero where no whole patch lies.
    The gradient is the closed form, sign(q) [(1/v1 - 1/v0) 2 (x - m0) / 15 + 2 (m0 - m1) / (16 v1)]; no graph is built.
    Source: MelodyFlow's code (twice the KL divergence of normal distributions, its absolute value).
    """
    if values.shape != reference.shape:
        raise ShapeError(f"values and reference need one shape, got {tuple(values.shape)}, {tuple(reference.shape)}")
    patches = _patches(values)
    own_mean = patches.mean((3, 5), keepdim=True)
    own_variance = patches.var((3, 5), unbiased=True, keepdim=True)
    other = _patches(reference)
    mean = other.mean((3, 5), keepdim=True)
    variance = other.var((3, 5), unbiased=True, keepdim=True) + EPSILON
    gap = own_mean - mean
    apart = torch.log(variance / (own_variance + EPSILON)) + (own_variance + gap.square()) / variance - 1.0
    count = PATCH * PATCH
    slope = (1.0 / variance - 1.0 / (own_variance + EPSILON)) * (2.0 / (count - 1)) * (patches - own_mean)
    slope = torch.sign(apart) * (slope + 2.0 * gap / (count * variance))
    gradient = torch.zeros_like(values)
    rows, channels, frames = patches.shape[0], patches.shape[2] * PATCH, patches.shape[4] * PATCH
    gradient[:, :channels, :frames] = slope.reshape(rows, channels, frames)
    return apart.abs().flatten(1).sum(1), gradient


def regularise(values: Tensor, reference: Tensor, strength: float = 0.2, gradient_steps: int = 4) -> Tensor:
    """Bring the patch statistics of a velocity [B, C, T] nearer to those of a reference, by a few gradient steps."""
    values, reference = as_state(values), as_state(reference)
    for _ in range(gradient_steps):
        values = values - strength * patch_divergence(values, reference)[1].clamp(-CLIP, CLIP)
    return values


def invert_regularised(
    velocity: Velocity,
    source: Tensor,
    grid: Sequence[float],
    noise: Callable[[], Tensor],
    settings: Regularisation | None = None,
) -> Iterator[Move]:
    """Walk from data down the grid (1 ... a) to the latent that leads back to it; one Move for each interval.

    Shapes: source [B, C, T] at grid[0]. `noise()` gives standard normals like the source, two at every kept iteration.
    The velocity is called with 2 B rows where a reference is needed: the second half belongs to the same conditions as
    the first. Calls per interval: K (rows: K + keep times B).
    """
    settings = settings or Regularisation()
    source = as_state(source)
    state, intervals = source, len(grid) - 1
    for k, (start, end) in enumerate(zip(grid, grid[1:], strict=False)):
        estimate, total = state, torch.zeros_like(state)
        for index, weight in enumerate(settings.weights):
            if index < settings.iterations - settings.keep:
                slope = as_state(velocity(estimate, end))
            else:
                reference = (1.0 - end) * noise() + end * source + JITTER * noise()
                both = as_state(velocity(torch.cat((estimate, reference)), end))
                slope = regularise(*both.chunk(2), settings.strength, settings.gradient_steps)
                total = total + weight * slope
            estimate = state + slope * (end - start)
        state = state + total * (end - start)
        yield Move(state, end, (k + 1) * settings.iterations, intervals * settings.iterations)
