"""The flow-matching objective: time law, coupling of noise and data, the regression itself.

Letters: B batch; data and noise are [B, ...] of one shape. Flow step 0 is noise, 1 is data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from genmm.core.errors import ShapeError, UsageError

JITTER = 1e-5
"""Size of the noise added to every training state, as in MelodyFlow."""


@dataclass(frozen=True, eq=False)
class FlowBatch:
    """What a network is trained on for one batch."""

    state: Tensor
    """[B, ...]: t data + (1 - t) noise (+ jitter)."""
    t: Tensor
    """Flow steps [B] float32 in (0, 1)."""
    target: Tensor
    """[B, ...]: data - noise, the velocity to regress on."""


def logit_normal_times(
    batch: int, *, mean: float = 0.0, deviation: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Flow steps [B] float32 in (0, 1): sigmoid of normal numbers, so that the middle is practised most.

    Raises: UsageError when the deviation is not above 0.
    Source: logit-normal(0, 1) of MelodyFlow's authors; Stable Diffusion 3 (arXiv 2403.03206) section 3.1.
    """
    if not deviation > 0.0:
        raise UsageError(f"the deviation of the time law must be above 0, got {deviation}; the published value is 1")
    device = generator.device if generator is not None else "cpu"
    return torch.sigmoid(mean + deviation * torch.randn(batch, generator=generator, device=device))


def coupled(noise: Tensor, data: Tensor) -> Tensor:
    """The rows of `noise` in the order that makes the summed squared distance to `data` smallest.

    Shapes: both [B, ...]. Returns: [B, ...]. Only the noise moves, so conditions stay with their data.
    Source: minibatch optimal transport (arXiv 2302.00482), by the Hungarian method as MelodyFlow does.
    Cost: one B x B matrix of distances and O(B^3) on the CPU.
    """
    if noise.shape != data.shape:
        raise ShapeError(f"noise and data need one shape, got {tuple(noise.shape)} and {tuple(data.shape)}")
    # |n|^2 and |d|^2 are fixed by row or column and do not change the best assignment.
    with torch.autocast(data.device.type, enabled=False):
        cost = -(data.flatten(1).float() @ noise.flatten(1).float().T)
    _, order = linear_sum_assignment(cost.detach().cpu().numpy())
    return noise[torch.as_tensor(order, device=noise.device)]


def flow_batch(
    data: Tensor,
    noise: Tensor,
    t: Tensor,
    *,
    couple: bool = True,
    jitter: Tensor | None = None,
) -> FlowBatch:
    """States on the straight paths from noise to data, and their velocities.

    Shapes: data, noise [B, ...], t [B]; jitter [B, ...] standard normal or None for none.
    """
    noise = coupled(noise, data) if couple and len(data) > 1 else noise
    time = t.to(data.device, torch.float32).view(-1, *[1] * (data.ndim - 1))
    state = torch.lerp(noise.float(), data.float(), time)
    if jitter is not None:
        state = state + JITTER * jitter
    return FlowBatch(state, time.flatten(), data.float() - noise.float())


def flow_loss(velocity: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of velocities [B, C, T], over the frames where mask [B, T] is set: scalar float32.

    Frames outside the mask may hold anything. Raises: ShapeError when the shapes differ. An all-zero mask gives 0.
    """
    if velocity.shape != target.shape:
        raise ShapeError(f"velocity and target need one shape, got {tuple(velocity.shape)}, {tuple(target.shape)}")
    if mask is None:
        return (velocity.float() - target.float()).square().mean()
    kept = mask.bool().unsqueeze(1)
    apart = torch.where(kept, velocity.float(), 0.0) - torch.where(kept, target.float(), 0.0)
    weight = mask.to(apart.dtype).unsqueeze(1).expand_as(apart)
    return (apart.square() * weight).sum() / weight.sum().clamp_min(1.0)
