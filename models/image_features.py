"""Training of the small network whose features judge pictures: it learns to name labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genmm.metrics.image_features import PictureFeatures, save_features
from models.base import BadStepPolicy, GenerativeModule, Stage
from models.optim import OptimConfig


class PictureFeaturesTask(GenerativeModule):
    """Classifies pictures by several labels at once from features that are then kept without the classifiers."""

    system = "picture-features"

    def __init__(
        self,
        labels: dict[str, int],
        widths: tuple[int, ...] = (24, 48, 96, 128),
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
    ) -> None:
        """
        Args:
            labels: Label field of the data -> number of its values.
            widths: Channels of each stage.
            optimizer: AdamW and its schedule.
            bad_steps: What happens when a gradient is not finite.
        """
        super().__init__(optimizer=optimizer, bad_steps=bad_steps)
        self.features = PictureFeatures(tuple(widths))
        size = 2 * self.features.widths[-1]
        self.heads = nn.ModuleDict({name: nn.Linear(size, values) for name, values in labels.items()})

    def losses(self, batch: dict[str, Any], batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        features = functional.dropout(self.features(batch["image"]), 0.2, training=stage == "train")
        terms: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            logits, ids = head(features), batch[f"label_{name}"]
            terms[f"{name}_loss"] = functional.cross_entropy(logits, ids, ignore_index=-1)
            terms[f"{name}_accuracy"] = (logits.argmax(-1) == ids)[ids >= 0].float().mean()
        terms["loss"] = torch.stack([terms[f"{name}_loss"] for name in self.heads]).sum()
        return terms

    def export(self, folder: str | Path) -> Path:
        """Write the features without the classifiers."""
        return save_features(self.features, folder)
