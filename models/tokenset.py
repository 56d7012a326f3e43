"""Training of the network over counts on token sets that a tokenizer has made.

Letters: B batch, C codes, K values of a count.
Source: TokenSet (arXiv 2503.16425) section 3.3: noise the counts at a random time, predict the clean ones.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genmm.core.errors import ConfigError
from genmm.core.seeds import derive_seed
from genmm.losses.fixed_sum import clean_count_loss, loss_per_time
from genmm.samplers.fixed_sum import Engine, RowNoise
from genmm.samplers.fixed_sum_diffusion import FIRST_TIME, Process, noised_counts
from genmm.systems.tokenset.checkpoint import load_tokenizer
from genmm.systems.tokenset.config import CountNetworkConfig
from genmm.systems.tokenset.network import Condition, CountNetwork
from genmm.systems.tokenset.pipeline import TokenSetPipeline
from genmm.systems.tokenset.request import PictureSettings
from models.base import BadStepPolicy, GenerativeModule, Stage
from models.callbacks import run_seed
from models.optim import OptimConfig


class TokenSetTask(GenerativeModule):
    """Fits a `CountNetwork` on batches {counts [B, C], label_<field> [B], text [B, L]}."""

    system = "tokenset"

    def __init__(
        self,
        network: CountNetworkConfig,
        tokenizer: str,
        process: Process = "gaussian",
        engine: Engine = "repair",
        late_share: float = 0.0,
        start_from: str | None = None,
        export_dtype: str = "float32",
        defaults: dict[str, Any] | None = None,
        description: str = "",
        licence: str = "",
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
    ) -> None:
        """
        Args:
            network: Sizes.
            tokenizer: Checkpoint folder of the set tokenizer that made the counts; it goes into the export.
            process: Noise: the paper's discretised Gaussian, or tokens replaced one by one (an ablation).
            engine: How noisy counts get their sum: repair (fast) or exact.
            late_share: Share of the rows whose time is drawn from the first half only, where there is more to learn.
            start_from: Model folder whose network the training goes on from.
            export_dtype: Number format of the exported weights, float32 or float16.
            defaults: Drawing settings that the exported model starts from.
            description: One sentence about the model, for its folder.
            licence: Licence of the weights.
            optimizer: AdamW and its schedule.
            bad_steps: What happens when a gradient is not finite.
        """
        super().__init__(optimizer=optimizer, bad_steps=bad_steps)
        if not 0 <= late_share <= 1:
            raise ConfigError(f"late_share must be from 0 to 1, got {late_share}")
        self.network = CountNetwork(network)
        if start_from is not None:
            self.network.load_state_dict(TokenSetPipeline.from_folder(start_from, device="cpu").network.state_dict())
        self.tokenizer_folder, self.process, self.engine, self.late_share = tokenizer, process, engine, late_share
        self.export_dtype, self.defaults = (
            export_dtype,
            PictureSettings.from_dict({"process": process, **(defaults or {})}),
        )
        if self.defaults.process != process:
            raise ConfigError(f"defaults.process must be the process of the training, {process}; leave it out")
        self.about = {key: text for key, text in (("description", description), ("licence", licence)) if text}

    def condition(self, batch: dict[str, Tensor]) -> Condition:
        """The condition of a batch: the network's label fields and, where it reads texts, the text."""
        missing = [name for name in self.network.config.labels if f"label_{name}" not in batch]
        if missing:
            raise ConfigError(f"the data has no labels {', '.join(missing)}; change network.labels or the data")
        labels = {name: batch[f"label_{name}"] for name in self.network.config.labels}
        return Condition(labels, batch.get("text") if self.network.config.text_rows else None)

    def losses(self, batch: dict[str, Tensor], batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        clean, given = batch["counts"], self.condition(batch)
        rows = len(clean)
        if stage == "train":
            given = self.network.dropped(given)
            t = torch.rand(rows, device=clean.device)
            t = torch.where(torch.rand(rows, device=clean.device) < self.late_share, t / 2, t)
        else:
            t = (torch.arange(rows, device=clean.device) + 0.5) / rows  # every time equally, the same in every epoch
        t = FIRST_TIME + (1.0 - FIRST_TIME) * t
        step = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed if self._trainer is not None else 0
        names = ("noise", stage, step if stage == "train" else batch_idx, self.global_rank)
        noise = RowNoise([derive_seed(run_seed(), *names, row) for row in range(rows)], clean.device)
        with torch.autocast(clean.device.type, enabled=False):
            noisy = noised_counts(clean, t, noise, process=self.process, engine=self.engine)
        logits = self.network(noisy, t, given)
        per_row = clean_count_loss(logits, clean).sum(-1)  # nats of each set
        recall = torch.minimum(logits.argmax(-1), clean).sum() / clean.sum()
        terms = {"loss": per_row.mean() / clean[0].sum(), "recall": recall.float()}
        return {**terms, **(loss_per_time(per_row.detach(), t) if stage != "train" else {})}

    def on_fit_start(self) -> None:
        """Say at once when names and data do not agree: ids are positions in the lists of the configuration."""
        super().on_fit_start()
        values = getattr(self.trainer.datamodule, "label_values", None)
        for name, known in (values() if values is not None else {}).items():
            own = self.network.config.labels.get(name)
            if own is not None and tuple(own) != tuple(known):
                raise ConfigError(f"network.labels.{name} must list the values of the data in order: {list(known)}")

    def pipeline(self) -> TokenSetPipeline:
        """Tokenizer and present network as a pipeline."""
        config = dataclasses.replace(self.network.config)
        network = CountNetwork(config).eval().requires_grad_(False)
        network.load_state_dict(self.network.state_dict())
        tokenizer = load_tokenizer(self.tokenizer_folder)
        return TokenSetPipeline(tokenizer, network, defaults=self.defaults, about=self.about)

    def export(self, folder: str | Path) -> Path:
        """Write the model folder: network, tokenizer, defaults."""
        return self.pipeline().save(folder, dtype=getattr(torch, self.export_dtype))
