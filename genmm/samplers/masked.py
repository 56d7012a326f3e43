"""Sampling in which a part of the result is known: inpainting and continuation with any velocity.

Letters: B batch, C channels, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmm.core.errors import ShapeError, UsageError
from genmm.samplers.ode import Projection, as_state


def known_path(target: Tensor, noise: Tensor, keep: Tensor) -> Projection:
    """A projection that puts the known part where the flow would have it: t target + (1 - t) noise.

    Shapes: target, noise [B, C, T]; keep [B, 1, T] or anything that broadcasts, in [0, 1]; fractions blend (see
    `soft_keep`). The noise is fixed, so at t = 1 the kept part is exactly the target.
    Raises: ShapeError when target and noise differ, UsageError for a mask outside [0, 1].
    """
    if target.shape != noise.shape:
        raise ShapeError(f"target and noise need one shape, got {tuple(target.shape)} and {tuple(noise.shape)}")
    target, noise, keep = as_state(target), as_state(noise), as_state(keep)
    if bool((keep < 0).any()) or bool((keep > 1).any()):
        raise UsageError("the keep mask must lie in [0, 1]: 1 keeps, 0 makes anew")

    def project(state: Tensor, t: float) -> Tensor:
        return torch.lerp(state, torch.lerp(noise, target, t), keep)

    return project


def soft_keep(keep: Tensor, fade_frames: int) -> Tensor:
    """Let a hard mask fall from 1 to 0 over `fade_frames` frames on the kept side of every seam.

    Shapes: keep [..., T] of zeros and ones; returns the same. Frames to be made anew stay 0; a kept frame at distance d
    (1 for the neighbour) from the nearest new one gets min(1, d / (fade_frames + 1)).
    Raises: UsageError when fade_frames is negative.
    """
    if fade_frames < 0:
        raise UsageError(f"fade_frames must be at least 0, got {fade_frames}")
    hard = (keep > 0.5).to(torch.float32)
    if fade_frames == 0:
        return hard
    total = torch.zeros_like(hard)
    eroded = hard
    for _ in range(fade_frames + 1):
        total = total + eroded
        padded = torch.nn.functional.pad(eroded, (1, 1), value=1.0)
        eroded = torch.minimum(eroded, torch.minimum(padded[..., :-2], padded[..., 2:]))
    return total / (fade_frames + 1)
