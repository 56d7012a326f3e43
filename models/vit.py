"""Self-supervised training of the vision transformer: fill in hidden patches, and know a frame again.

Letters: B pairs of frames, H W pixels, h w grid cells, D width.
Sources: masked pixels as in SimMIM (arXiv 2111.09886); the contrastive term is InfoNCE (arXiv 1807.03748) between two
views of a moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmm.core.errors import ConfigError
from genmm.nn.vit import PATCH, VisionConfig, VisionTransformer
from genmm.systems.vqtoken.config import FrameConfig, VqTokenConfig
from models.base import BadStepPolicy, GenerativeModule, Stage
from models.optim import OptimConfig

__all__ = ["VisionObjective", "VisionTask"]


@dataclass(frozen=True, kw_only=True)
class VisionObjective:
    """What is minimised."""

    hidden_share: float = 0.5
    """Share of the patches that are hidden in the first view, in (0, 1)."""
    contrast_weight: float = 0.1
    """Weight of the contrastive loss beside the reconstruction."""
    temperature: float = 0.1
    """Of the contrastive loss, above 0."""
    colour_jitter: float = 0.2
    """Largest change of brightness and contrast of the second view."""
    projection: int = 64
    """Width of the vectors that are contrasted."""

    def __post_init__(self) -> None:
        if not 0 < self.hidden_share < 1 or self.temperature <= 0 or self.projection < 1:
            raise ConfigError("objective: hidden_share in (0, 1), temperature above 0, projection at least 1")
        if min(self.contrast_weight, self.colour_jitter) < 0:
            raise ConfigError("objective: contrast_weight and colour_jitter must be at least 0")


class VisionTask(GenerativeModule):
    """Trains a VisionTransformer on pairs of frames of one moment, {"first", "second"}: uint8 [B, 3, H, W]."""

    system = "vqtoken"

    def __init__(
        self,
        vision: VisionConfig = VisionConfig(),  # noqa: B008 - frozen
        frames: FrameConfig = FrameConfig(),  # noqa: B008 - frozen
        objective: VisionObjective | None = None,
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
    ) -> None:
        """
        Args:
            vision: Sizes of the transformer.
            frames: How the exported model turns videos into frames.
            objective: What is minimised.
            optimizer: AdamW, schedule and decay settings.
            bad_steps: What to do when a gradient is NaN or infinite.
        """
        super().__init__(optimizer=optimizer, bad_steps=bad_steps)
        self.objective, self.frames = objective or VisionObjective(), frames
        self.vision = VisionTransformer(vision)
        self.paint = nn.Linear(vision.width, 3 * PATCH * PATCH)
        self.project = nn.Sequential(
            nn.Linear(vision.width, vision.width), nn.GELU(), nn.Linear(vision.width, self.objective.projection)
        )

    def losses(self, batch: Any, batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        """Terms: paint (squared error on hidden patches), contrast, accuracy (share of pairs found in the batch)."""
        goal = self.objective
        first, second = (batch[name].float() / 127.5 - 1.0 for name in ("first", "second"))
        hidden = self._hidden(first, stage, batch_idx)
        pixels = hidden.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2).unsqueeze(1)
        seen = self.vision(first * ~pixels)
        target = F.pixel_unshuffle(first, PATCH).permute(0, 2, 3, 1)  # [B, h, w, 3 * 64]
        paint = (self.paint(seen).float() - target).square().mean(-1)[hidden].mean()
        other = self.vision(self._jittered(second) if stage == "train" else second)
        contrast, accuracy = self._contrast(seen, other)
        return {
            "loss": paint + goal.contrast_weight * contrast,
            "paint": paint,
            "contrast": contrast,
            "accuracy": accuracy,
        }

    def _hidden(self, frames: Tensor, stage: Stage, batch_idx: int) -> Tensor:
        """Which patches are hidden, [B, h, w] bool: the same number in every frame."""
        batch, height, width = len(frames), frames.shape[2] // PATCH, frames.shape[3] // PATCH
        generator = None if stage == "train" else torch.Generator().manual_seed(batch_idx)
        order = torch.rand(batch, height * width, generator=generator).argsort(1)
        count = max(1, round(self.objective.hidden_share * height * width))
        return (order < count).view(batch, height, width).to(frames.device)

    def _jittered(self, frames: Tensor) -> Tensor:
        reach = self.objective.colour_jitter
        change = (torch.rand(2, len(frames), 1, 1, 1, device=frames.device) * 2 - 1) * reach
        return (frames * (1 + change[0]) + change[1]).clamp(-1.0, 1.0)

    def _contrast(self, seen: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        views = [F.normalize(self.project(x.mean((1, 2))).float(), dim=-1) for x in (seen, other)]
        logits = views[0] @ views[1].T / self.objective.temperature
        target = torch.arange(len(logits), device=logits.device)
        loss = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
        return loss, (logits.argmax(1) == target).float().mean()

    def export(self, folder: str | Path) -> Path:
        """Write a VQToken folder whose encoder is this transformer; its reducer is untrained until an answer task
        starts from the folder."""
        from genmm.systems.vqtoken.pipeline import VqTokenPipeline

        config = VqTokenConfig(vision=self.vision.config, frames=self.frames)
        pipeline = VqTokenPipeline.fresh(config)
        pipeline.vision.load_state_dict(self.vision.state_dict())
        return pipeline.save(folder)
