"""The smallest complete training task: how to write one, and what the tests of the training code run on."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.base import BadStepPolicy, GenerativeModule, Stage
from models.optim import OptimConfig


class ToyTask(GenerativeModule):
    """Predicts the next value of a noisy wave. Batches: x [B, T, 1] float, mask [B, T] bool."""

    system = "toy"

    def __init__(
        self,
        width: int = 8,
        dropout: float = 0.3,
        poison_step: int = -1,
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
    ) -> None:
        """
        Args:
            width: Hidden channels.
            dropout: Dropout on them, so that training depends on the random state.
            poison_step: Optimizer step whose loss becomes NaN, to try what happens then; -1 for none.
            optimizer: AdamW, schedule and decay settings.
            bad_steps: What to do when a gradient is NaN or infinite.
        """
        super().__init__(optimizer=optimizer or OptimConfig(learning_rate=1e-2, warmup_steps=3), bad_steps=bad_steps)
        self.poison_step = poison_step
        self.network = nn.Sequential(nn.Linear(1, width), nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, 1))

    def losses(self, batch: dict[str, Tensor], batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        error = (self.network(batch["x"][:, :-1]) - batch["x"][:, 1:]).square().squeeze(-1)
        weight = batch["mask"][:, 1:].float()
        loss = (error * weight).sum() / weight.sum()
        if stage == "train" and self.trainer.global_step == self.poison_step:
            loss = loss * float("nan")
        return {"loss": loss, "draw": torch.rand(())}

    def export(self, folder: str | Path) -> Path:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.network.state_dict(), folder / "model.safetensors")
        return folder
