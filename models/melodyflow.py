"""Training of the flow model on latents of captioned music.

Letters: B batch, T latent frames, D latent channels, F score features, L caption fields.
Source: MelodyFlow (arXiv 2407.03648) as far as its training is known: logit-normal time, minibatch coupling, condition
dropout. The dropout of single fields is ours.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genmm.core.checkpoint import save_checkpoint
from genmm.core.errors import CheckpointError, ConfigError, DataError
from genmm.losses.flow import flow_batch, flow_loss, logit_normal_times
from genmm.systems.melodyflow.config import FlowConfig
from genmm.systems.melodyflow.network import FlowNetwork
from genmm.systems.melodyflow.score import GROUPS, SCORE_FEATURES
from genmm.systems.melodyflow.text import FIELDS, CaptionText, CaptionTextConfig
from models.base import BadStepPolicy, GenerativeModule, Stage
from models.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class FlowObjective:
    """What is minimised, and what the model is told while it learns."""

    time_mean: float = 0.0
    """Mean of the normal law behind the flow steps; 0 in the paper."""
    time_deviation: float = 1.0
    """Its deviation, above 0; 1 in the paper."""
    couple: bool = True
    """Whether noise is assigned to the data of a batch by optimal transport."""
    drop_all: float = 0.15
    """Probability that an item is learned without any condition, for guidance."""
    drop_field: float = 0.15
    """Probability that a single field of the caption is left open."""
    drop_score: float = 0.25
    """Probability that the frame-wise features are left out, so that words alone are followed too."""

    def __post_init__(self) -> None:
        for name in ("drop_all", "drop_field", "drop_score"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"objective.{name} must be in [0, 1), got {getattr(self, name)}")
        if self.time_deviation <= 0:
            raise ConfigError(f"objective.time_deviation must be above 0, got {self.time_deviation}")


class MelodyFlowTask(GenerativeModule):
    """Trains a FlowNetwork with its caption encoder and writes complete checkpoint folders."""

    system = "melodyflow"

    def __init__(
        self,
        network: FlowConfig,
        text: CaptionTextConfig | None = None,
        objective: FlowObjective | None = None,
        codec: str | None = None,
        window_s: float = 10.24,
        defaults: dict[str, Any] | None = None,
        description: str = "",
        licence: str = "",
        export_dtype: str = "float32",
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
    ) -> None:
        """
        Args:
            network: Sizes of the flow network; cond_dim is that of the caption encoder.
            text: Sizes of the caption encoder.
            objective: Time law, coupling and dropout of conditions.
            codec: Folder of the codec; it becomes part of the export.
            window_s: Length of the training pieces in seconds, and so the longest that is made in one window.
            defaults: Settings of the exported model that differ from the general ones.
            description: One sentence for `genmm models`.
            licence: Licence of the exported weights.
            export_dtype: Number format of the exported weights.
            optimizer: AdamW, schedule and decay.
            bad_steps: What to do when a gradient is not finite.
        """
        super().__init__(optimizer=optimizer, bad_steps=bad_steps)
        text = text or CaptionTextConfig(width=network.cond_dim)
        if network.cond_dim != text.width:
            raise ConfigError(f"network.cond_dim {network.cond_dim} must be text.width {text.width}")
        if network.score_features not in (0, SCORE_FEATURES):
            raise ConfigError(f"network.score_features must be 0 or {SCORE_FEATURES}, got {network.score_features}")
        self.network, self.text = FlowNetwork(network), CaptionText(text)
        self.objective, self.codec_folder = objective or FlowObjective(), Path(codec) if codec else None
        self.window_s, self.defaults = window_s, defaults or {}
        self.about = {"description": description, "licence": licence}
        self.export_dtype = getattr(torch, export_dtype)
        self.register_buffer("has_statistics", torch.zeros((), dtype=torch.bool))

    def setup(self, stage: str) -> None:
        """Take the latent statistics from the training data, once."""
        source = getattr(self.trainer.datamodule, "latent_statistics", None)
        if stage == "fit" and source is not None and not bool(self.has_statistics):
            mean, deviation = source()
            self.network.latent_mean.copy_(mean.view(1, -1, 1))
            self.network.latent_std.copy_(deviation.view(1, -1, 1))
            self.has_statistics.fill_(True)

    def batch_items(self, batch: Any) -> int | None:
        """Items of a batch."""
        return len(batch["latents"])

    def losses(self, batch: dict[str, Tensor], batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        """The flow-matching loss; in validation with everything told, at evenly spread flow steps."""
        missing = [name for name in ("latents", "deviation", "ids", "tempi", "score") if name not in batch]
        if missing:
            raise DataError(f"a MelodyFlow batch lacks {', '.join(missing)}")
        mean = batch["latents"].transpose(1, 2)  # [B, T, D] -> [B, D, T]
        sample = mean + batch["deviation"].view(-1, 1, 1) * torch.randn_like(mean)
        data, noise = self.network.normalise(sample), torch.randn_like(mean)
        training = stage == "train"
        if training:
            t = logit_normal_times(len(data), mean=self.objective.time_mean, deviation=self.objective.time_deviation)
            told = self._told(batch)
        else:
            t = (torch.arange(len(data)) + 0.5) / len(data)
            told = (batch["ids"], batch["tempi"], batch["score"])
        path = flow_batch(data, noise, t.to(data), couple=training and self.objective.couple,
                          jitter=torch.randn_like(data))  # fmt: skip
        states, mask = self.text(*told[:2])
        condition = self.network.condition(states, mask, told[2] if self.network.score_proj is not None else None)
        velocity = self.network(path.state, path.t, condition)
        return {"loss": flow_loss(velocity, path.target)}

    def _told(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Caption codes, tempi and score features after dropout of fields, features, and everything."""
        rules, rows, device = self.objective, len(batch["tempi"]), batch["tempi"].device
        kept = torch.rand(rows, len(FIELDS), device=device) >= rules.drop_field
        nothing = torch.rand(rows, device=device) < rules.drop_all
        kept &= ~nothing[:, None]
        scored = (torch.rand(rows, device=device) >= rules.drop_score) & ~nothing
        tempi = torch.where(kept[:, 0], batch["tempi"], 0.0)
        ids = torch.where(kept[:, 1:], batch["ids"], -1)
        visible = scored[:, None].expand(-1, batch["score"].shape[2]).clone()
        for columns, fields in GROUPS:
            needed = kept[:, [FIELDS.index(name) for name in fields]].all(1)
            visible[:, list(columns)] &= needed[:, None]
        return ids, tempi, batch["score"] * visible[:, None, :]

    def export(self, folder: str | Path) -> Path:
        """Write the pipeline folder: network, caption encoder, codec."""
        if self.codec_folder is None or not (self.codec_folder / "config.json").is_file():
            raise CheckpointError("the export needs the codec: set model.init_args.codec to its folder")
        folder = Path(folder)
        tensors = dict(self.network.state_dict())
        tensors |= {f"text.{name}": value for name, value in self.text.state_dict().items()}
        config = {
            "system": self.system,
            "network": self.network.config.to_dict(),
            "text": {"kind": "captions", **asdict(self.text.config)},
            "window_s": self.window_s,
            "defaults": self.defaults,
            **{name: value for name, value in self.about.items() if value},
        }
        (folder / "codec").mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(self.codec_folder / name, folder / "codec" / name)
        return save_checkpoint(folder, config, tensors, dtype=self.export_dtype)
