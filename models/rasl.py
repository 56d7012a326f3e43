"""Training of RASL on feature sequences: all parts of its objective together, without any label.

Letters: B windows, T steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from genmm.core.errors import ConfigError
from genmm.systems.rasl.config import ObjectiveConfig, RaslConfig
from genmm.systems.rasl.network import RaslNetwork
from genmm.systems.rasl.objective import rasl_losses
from genmm.systems.rasl.pipeline import RaslPipeline
from genmm.systems.rasl.request import HighlightSettings
from genmm.systems.rasl.windows import fit_statistics
from models.base import BadStepPolicy, GenerativeModule, Stage
from models.optim import OptimConfig

VALIDATION_SEED = 1234
"""What is hidden and picked in validation, so that its figures can be compared between steps."""


class RaslTask(GenerativeModule):
    """Fits both branches on windows of feature sequences. Batches: see `genmm.systems.rasl.windows`."""

    system = "rasl"

    def __init__(
        self,
        network: RaslConfig | None = None,
        objective: ObjectiveConfig | None = None,
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
        start_from: str | None = None,
        scorer: Literal["model", "heuristic"] = "model",
        export_dtype: Literal["float32", "float16"] = "float16",
        description: str = "",
        licence: str = "Apache-2.0",
    ) -> None:
        """
        Args:
            network: Sizes of the branches and the reading of their activations.
            objective: Weights and rules of the parts of the loss.
            optimizer: AdamW, schedule and decay settings.
            bad_steps: What to do when a gradient is NaN or infinite.
            start_from: Checkpoint folder to go on from; its sizes and statistics then replace `network`.
            scorer: What the exported model scores with unless it is told otherwise.
            export_dtype: Number format of exported weights.
            description: One sentence for the exported config.
            licence: Licence of the exported weights.
        """
        super().__init__(optimizer=optimizer, bad_steps=bad_steps)
        if start_from is not None:
            loaded = RaslPipeline.from_folder(start_from, device="cpu")
            self.network = loaded.network.train().requires_grad_(True)  # type: ignore[union-attr]
        else:
            self.network = RaslNetwork(network or RaslConfig())
        self.objective = objective or ObjectiveConfig()
        self.scorer, self.export_dtype = scorer, export_dtype
        self.about = {"description": description, "licence": licence}
        self.keeps_statistics = start_from is not None
        self.register_buffer("has_statistics", torch.tensor(self.keeps_statistics))

    def on_fit_start(self) -> None:
        """Take the statistics of the training features, unless a checkpoint brought them."""
        super().on_fit_start()
        if bool(self.has_statistics):
            return
        videos = getattr(self.trainer.datamodule, "videos", None)
        if videos is None:
            raise ConfigError("RaslTask needs a data module with `videos`, such as HighlightFeatures")
        fit_statistics(self.network, videos("train"))
        self.has_statistics.fill_(True)

    def losses(self, batch: dict[str, Tensor], batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        generator = None if stage == "train" else torch.Generator().manual_seed(VALIDATION_SEED + batch_idx)
        return rasl_losses(self.network, batch, self.objective, generator)

    def batch_items(self, batch: Any) -> int | None:
        return len(batch["mask"])

    def export(self, folder: str | Path) -> Path:
        """Write the pipeline folder."""
        pipeline = RaslPipeline(self.network.eval(), defaults=HighlightSettings(), scorer=self.scorer, about=self.about)
        path = pipeline.save(folder, dtype=getattr(torch, self.export_dtype))
        self.network.train()
        return path
