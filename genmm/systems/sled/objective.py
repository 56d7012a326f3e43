"""What SLED is trained on: the energy loss of the frames plus a weighted stop loss.

Letters: B batch, T frames, D latent channels, C noise channels, K valid frames of the batch.
Source: SLED (arXiv 2505.13181), losses of the official code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genmm.losses.energy import calibration_ratio, energy_loss, masked_mean
from genmm.systems.sled.head import draw_pair
from genmm.systems.sled.network import SledNetwork, TeacherForced


@dataclass(frozen=True)
class SledLosses:
    """The parts of the training objective of one batch, scalars in float32."""

    total: Tensor
    """energy + stop_weight * stop, what is minimised."""
    energy: Tensor
    """Mean energy loss of a frame; its minimum is above zero and depends on the latent scale."""
    stop: Tensor
    """Weighted cross-entropy of the stop head."""
    calibration: Tensor
    """Spread over error of the draws, 1 = calibrated; without gradient."""
    draw_1: Tensor
    """[K, D] first draws, row-major over valid frames (repeated when head_repeats > 1)."""
    draw_2: Tensor
    """[K, D] second draws."""


def stop_targets(frame_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Stop labels and which of them count: frame_mask [B, T] bool -> two [B, T + 1] tensors, float32 and bool.

    The label is 1 at the number of real frames. Position 0 counts, and one position after each real frame.
    """
    frames = frame_mask.sum(1, keepdim=True)
    steps = torch.arange(frame_mask.shape[1] + 1, device=frame_mask.device)
    counted = F.pad(frame_mask.bool(), (1, 0), value=True)
    return (steps == frames).float(), counted


def stop_loss(logits: Tensor, frame_mask: Tensor, weight: float = 100.0) -> Tensor:
    """Cross-entropy of the stop head with a weight on the single positive: logits [B, T + 1] -> scalar float32.

    The official weight of 100 suits utterances of hundreds of frames; take about the mean length for short ones.
    """
    labels, counted = stop_targets(frame_mask)
    positive = torch.tensor(weight, device=logits.device)
    terms = F.binary_cross_entropy_with_logits(logits.float(), labels, pos_weight=positive, reduction="none")
    return masked_mean(terms, counted)


def sled_losses(
    network: SledNetwork,
    forced: TeacherForced,
    latents: Tensor,
    frame_mask: Tensor,
    *,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    beta: float = 1.0,
    stop_positive_weight: float = 100.0,
    stop_weight: float = 1.0,
    head_repeats: int = 1,
) -> SledLosses:
    """Energy and stop loss of one teacher-forced batch.

    Shapes: latents [B, T, D] are the targets; frame_mask [B, T] bool; noise [2, B, T, C] to inject (one value for each
    frame, padded ones included), else it is drawn from generator (which must live on the network's device).
    The head runs on valid frames only, both draws in one pass. head_repeats > 1 uses each hidden state several times
    with fresh noise (batch multiplier of arXiv 2509.06926); 1 is official.
    """
    valid = frame_mask.bool()
    z, target = forced.z[valid], latents[valid].float()
    if noise is not None:
        drawn_noise = noise[:, valid]
    else:
        z, target = z.repeat(head_repeats, 1), target.repeat(head_repeats, 1)
        shape = (2, z.shape[0], network.config.noise_channels)
        drawn_noise = torch.randn(shape, generator=generator, device=z.device)
    draw_1, draw_2 = draw_pair(network.head, z, drawn_noise.to(z.dtype))
    energy = energy_loss(draw_1, draw_2, target, beta=beta)
    stop = stop_loss(forced.stop_logits, valid, stop_positive_weight)
    with torch.no_grad():
        calibration = calibration_ratio(draw_1, draw_2, target)
    return SledLosses(energy + stop_weight * stop, energy, stop, calibration, draw_1, draw_2)
