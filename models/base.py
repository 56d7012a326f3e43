"""The LightningModule that every training task extends: optimizer, schedule, safety, logging, export."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from genmm.core.checkpoint import load_into
from genmm.core.errors import ConfigError, GenmmError
from models.ema import averaged_state
from models.optim import OptimConfig, apply_schedule, build_optimizer, build_schedule, gradient_norm

log = logging.getLogger(__name__)
Stage = Literal["train", "val", "test"]


class TrainingDiverged(GenmmError):
    """Loss or gradient became NaN or infinite; the last good checkpoint stays untouched."""


@dataclass(frozen=True, kw_only=True)
class BadStepPolicy:
    """What happens when a gradient is NaN or infinite."""

    action: Literal["stop", "skip"] = "stop"
    """stop: end the run with an error. skip: leave weights and Adam's averages as they are, count, go on."""
    allowed_in_a_row: int = 20
    """With skip: more bad steps than this one after another end the run all the same."""


class GenerativeModule(pl.LightningModule):
    """Base of all training tasks.

    A task implements `losses(batch, batch_idx, stage)` and `export(folder)`. `losses` returns named scalar tensors;
    "loss" is minimised, the others are logged as `<stage>/<name>`. `system` names the run folder.
    """

    system: str = "model"

    def __init__(self, *, optimizer: OptimConfig | None = None, bad_steps: BadStepPolicy | None = None) -> None:
        """
        Args:
            optimizer: AdamW, schedule and decay settings.
            bad_steps: What to do when a gradient is NaN or infinite.
        """
        super().__init__()
        self.optim_config = optimizer or OptimConfig()
        self.bad_step_policy = bad_steps or BadStepPolicy()
        self.bad_steps = 0
        self.bad_steps_in_a_row = 0
        self._asked: list[list[dict[str, Any]]] = []

    # What a task implements ------------------------------------------------------------------------------------

    @abstractmethod
    def losses(self, batch: Any, batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        """Named scalars of one batch, among them "loss"."""

    def export(self, folder: str | Path) -> Path:
        """Write the pipeline folder of the weights this module holds now (callers put the average in first)."""
        raise ConfigError(f"{type(self).__name__} has no export; train a task that writes a pipeline folder")

    def batch_items(self, batch: Any) -> int | None:
        """Number of items in `batch`, for averages over an epoch: the size of the first tensor found."""
        if isinstance(batch, dict):
            values = list(batch.values())
        else:
            values = [batch] if isinstance(batch, Tensor) else list(vars(batch).values())
        return next((len(v) for v in values if isinstance(v, Tensor) and v.ndim), None)

    def ema_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters that are averaged and exported; override to leave out e.g. discriminators."""
        return self.named_parameters()

    # Steps -----------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        terms = self.losses(batch, batch_idx, "train")
        self.log_terms(terms, "train", self.batch_items(batch))
        return terms["loss"]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log_terms(self.losses(batch, batch_idx, "val"), "val", self.batch_items(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log_terms(self.losses(batch, batch_idx, "test"), "test", self.batch_items(batch))

    def log_terms(self, terms: dict[str, Tensor], stage: Stage, items: int | None = None) -> None:
        """Log each term as `<stage>/<name>`; training per step, the others as epoch means over items and ranks."""
        training = stage == "train"
        for name, value in terms.items():
            self.log(
                f"{stage}/{name}",
                value.detach().float() if isinstance(value, Tensor) else float(value),
                on_step=training,
                on_epoch=not training,
                prog_bar=name == "loss",
                batch_size=items,
                sync_dist=not training,
            )

    # Optimizer -------------------------------------------------------------------------------------------------

    def schedule_steps(self) -> int:
        """Length of the schedule in optimizer steps: from the config, else from the Trainer."""
        if self.optim_config.total_steps is not None:
            return self.optim_config.total_steps
        if self.trainer.max_steps and self.trainer.max_steps > 0:
            return self.trainer.max_steps
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ConfigError("the run has no end: set trainer.max_steps, trainer.max_epochs or optimizer.total_steps")
        return int(steps)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = build_optimizer(self, self.optim_config)
        endless = self.optim_config.schedule == "constant"
        schedule = build_schedule(optimizer, self.optim_config, 1 if endless else self.schedule_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Remember what the configuration asks of each optimizer, before a checkpoint puts its own values there."""
        if not self.automatic_optimization and self.trainer.precision == "16-mixed":
            raise ConfigError(
                f"{type(self).__name__} steps its optimizers itself, which float16 with loss scaling does not allow; "
                "set trainer.precision to bf16-mixed or 32-true"
            )
        self._asked = [_settings(optimizer) for optimizer in self.trainer.optimizers]

    def on_train_start(self) -> None:
        """A resumed run goes on with the rates and decay of its configuration, not with those it was saved with."""
        schedules = {id(config.scheduler.optimizer): config.scheduler for config in self.trainer.lr_scheduler_configs}
        for optimizer, asked in zip(self.trainer.optimizers, self._asked, strict=False):
            schedule = schedules.get(id(optimizer))
            if schedule is not None and not isinstance(schedule, LambdaLR):
                continue  # what such a schedule has come to is known to itself alone
            for group, settings in zip(optimizer.param_groups, asked, strict=True):
                group.update(settings)
            if schedule is not None:
                apply_schedule(schedule)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self.automatic_optimization or self.trainer.precision == "16-mixed":
            return  # manual tasks call check_gradients themselves; float16 has its own loss scaler
        self.check_gradients(optimizer)

    def check_gradients(self, optimizer: torch.optim.Optimizer, name: str = "grad_norm") -> bool:
        """Apply the bad-step policy to the gradients of `optimizer`, log their norm; False when the step is void.

        A void step has all its gradients removed, so AdamW changes neither weights nor averages. With several
        processes the gradients are already summed, so all of them decide alike.
        Raises: TrainingDiverged.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = gradient_norm(parameters)
        if torch.isfinite(norm):
            self.bad_steps_in_a_row = 0
            self.log(f"train/{name}", norm, on_step=True)
            return True
        self.bad_steps += 1
        self.bad_steps_in_a_row += 1
        if self.bad_step_policy.action == "stop" or self.bad_steps_in_a_row > self.bad_step_policy.allowed_in_a_row:
            raise TrainingDiverged(
                f"the gradient is not finite at step {self.trainer.global_step} ({self.bad_steps} bad steps so far); "
                "the last good checkpoint is kept. Lower the learning rate, check the data, or set "
                "model.init_args.bad_steps.action: skip"
            )
        for p in parameters:
            p.grad = None
        log.warning("step %d skipped: gradient not finite (%d so far)", self.trainer.global_step, self.bad_steps)
        self.log("train/bad_steps", float(self.bad_steps), on_step=True)
        return False

    # Checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["genmm.bad_steps"] = {"total": self.bad_steps, "in_a_row": self.bad_steps_in_a_row}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        counts = checkpoint.get("genmm.bad_steps", {})
        self.bad_steps, self.bad_steps_in_a_row = counts.get("total", 0), counts.get("in_a_row", 0)
        if self._trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            checkpoint["state_dict"] = averaged_state(checkpoint)
        load_into(self, checkpoint["state_dict"])  # says what does not fit, which Lightning's own load does not


def _settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What each parameter group is set to."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
