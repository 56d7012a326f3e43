"""Exponential moving average of the weights: used for validation and export, stored in every checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from genmm.core.errors import CheckpointError, ConfigError

log = logging.getLogger(__name__)
STATE_KEY = "genmm.ema"


class EMA(Callback):
    """Keeps a float32 average of the trainable weights; validation and export see the average, training never does.

    An average that was never updated is never used. The average is stored under its own key: `state_dict` of a
    checkpoint always holds the raw weights. Decay warms up as min(decay, 1 - (1 + n / gamma) ** -power) after n
    updates, so the first update copies the weights. Source: the inverse-gamma warm-up of k-diffusion.
    Buffers are not averaged. Not for sharded strategies.
    """

    def __init__(
        self, decay: float = 0.999, gamma: float = 1.0, power: float = 2 / 3, start_step: int = 0, enabled: bool = True
    ) -> None:
        """
        Args:
            decay: Highest decay, in [0, 1); 0.999 averages over about the last 1,000 steps.
            gamma: Scale of the warm-up in steps, above 0.
            power: Speed of the warm-up, above 0; 2/3 reaches 0.999 after about 31,000 steps.
            start_step: First optimizer step that is averaged.
            enabled: False trains, validates and exports the raw weights; a resumed run then drops its average.
        """
        if not 0 <= decay < 1 or gamma <= 0 or power <= 0 or start_step < 0:
            raise ConfigError(
                f"ema: decay in [0, 1), gamma and power above 0, start_step at least 0; "
                f"got decay {decay}, gamma {gamma}, power {power}, start_step {start_step}"
            )
        self.decay, self.gamma, self.power, self.start_step, self.enabled = decay, gamma, power, start_step, enabled
        self.updates = 0
        self.last_step = 0
        self.average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] | None = None

    @property
    def state_key(self) -> str:
        return STATE_KEY

    @property
    def ready(self) -> bool:
        """Whether there is an average to use."""
        return self.enabled and self.updates > 0

    def decay_at(self, updates: int) -> float:
        """Decay of the update after `updates` earlier ones: 0 for the first."""
        return min(self.decay, 1.0 - (1.0 + updates / self.gamma) ** -self.power)

    @torch.no_grad()
    def update(self, module: LightningModule) -> None:
        """Move the average towards the current weights once."""
        current = averaged_parameters(module)
        if self.updates == 0:
            self.average = {name: p.detach().float().clone() for name, p in current.items()}
        else:
            for name, p in current.items():
                if self.average[name].device != p.device:
                    self.average[name] = self.average[name].to(p.device)
            weight = 1.0 - self.decay_at(self.updates)
            targets = [p.detach().float() for p in current.values()]
            torch._foreach_lerp_([self.average[name] for name in current], targets, weight)
        self.updates += 1

    @contextmanager
    def averaged(self, module: LightningModule) -> Iterator[bool]:
        """Within the block `module` holds the averaged weights; afterwards the raw ones. Yields False when unused."""
        took_over = self.swap_in(module)
        try:
            yield took_over or self._raw is not None
        finally:
            if took_over:
                self.swap_out(module)

    @torch.no_grad()
    def swap_in(self, module: LightningModule) -> bool:
        """Put the average into `module`, keeping the raw weights aside; False when there is none or it is in."""
        if not self.ready or self._raw is not None:
            return False
        current = averaged_parameters(module)
        self._raw = {name: p.detach().clone() for name, p in current.items()}
        for name, p in current.items():
            p.copy_(self.average[name])
        return True

    @torch.no_grad()
    def swap_out(self, module: LightningModule) -> None:
        """Give `module` its raw weights back, bit for bit; does nothing when they are in."""
        if self._raw is None:
            return
        for name, p in averaged_parameters(module).items():
            p.copy_(self._raw[name])
        self._raw = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.enabled and trainer.global_step > max(self.last_step, self.start_step):
            self.update(pl_module)
            self.last_step = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.swap_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.swap_out(pl_module)  # checkpoint callbacks come after this one and see the raw weights

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.swap_out(pl_module)

    def state_dict(self) -> dict[str, Any]:
        if not self.enabled:  # else an average of long ago would be tested and exported
            return {"updates": 0, "last_step": 0, "average": {}}
        return {"updates": self.updates, "last_step": self.last_step, "average": dict(self.average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.enabled:
            return
        self.updates, self.last_step = int(state_dict["updates"]), int(state_dict["last_step"])
        self.average = {name: value.float().clone() for name, value in state_dict["average"].items()}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._raw is not None:  # a save in the middle of a validation
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._raw}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        missing = set(averaged_parameters(pl_module)) ^ set(self.average) if self.updates else set()
        if missing:
            raise CheckpointError(
                f"the checkpoint averages other parameters than this model has: {sorted(missing)[:5]} "
                f"({len(missing)} differ); start a new run, or set ema.enabled: false"
            )


def averaged_parameters(module: LightningModule) -> dict[str, torch.nn.Parameter]:
    """Averaged parameters by their name in state_dict: those of module.ema_parameters, else all trainable ones."""
    chooser = getattr(module, "ema_parameters", None)
    pairs = chooser() if chooser is not None else module.named_parameters()
    return {name: p for name, p in pairs if p.requires_grad}


def averaged_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """`state_dict` of a checkpoint with the averaged weights put in where the checkpoint has an average."""
    state = dict(checkpoint["state_dict"])
    stored = (checkpoint.get("callbacks") or {}).get(STATE_KEY)
    if stored and stored["updates"] > 0:
        state.update({name: value.to(state[name].dtype) for name, value in stored["average"].items()})
    return state
