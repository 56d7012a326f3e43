"""A plain loop that fits a network to videos: for adapting to one's own footage, and for studies of many seeds.

The Lightning task of this system trains the same objective with everything around it; this loop needs torch alone.
Step i draws its windows and its noise from (seed, i), so that a run that was interrupted goes on exactly.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from genmm.core.errors import CheckpointError, ConfigError, GenerationError
from genmm.core.events import CancelToken
from genmm.core.files import atomic_path
from genmm.core.seeds import derive_seed
from genmm.core.weights import read_header, read_tensors
from genmm.systems.rasl.config import ObjectiveConfig
from genmm.systems.rasl.inputs import Inputs
from genmm.systems.rasl.network import RaslNetwork
from genmm.systems.rasl.objective import rasl_losses
from genmm.systems.rasl.windows import stack_windows, window_of

__all__ = ["Fit", "FitConfig", "held_out_losses"]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and how fast."""

    steps: int = 200
    """Optimizer steps, at least 1."""
    batch_size: int = 24
    """Windows in a batch, at least 2: the contrast needs other videos."""
    window: int = 48
    """Steps (seconds) of a window, at least 8."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """Decoupled decay of matrices."""
    warmup_steps: int = 30
    """Steps of linear warm-up, before a cosine down to a twentieth."""
    sound: bool = True
    """Whether the sound takes part."""
    drop_sound: float = 0.1
    """Chance that a window is left without its sound."""
    seed: int = 0
    """Seed of windows and noise."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or self.window < 8 or self.learning_rate <= 0:
            raise ConfigError(
                f"fit: steps >= 1, batch_size >= 2, window >= 8 and learning_rate > 0 needed, got {self.steps}, "
                f"{self.batch_size}, {self.window}, {self.learning_rate}"
            )


class Fit:
    """One run of fitting; `run` yields after every step, `save` and `load` make it resumable."""

    def __init__(
        self,
        network: RaslNetwork,
        videos: Sequence[Inputs],
        config: FitConfig,
        objective: ObjectiveConfig | None = None,
    ) -> None:
        """`network` is changed in place. Raises: ConfigError without videos that have pictures."""
        self.network, self.config, self.objective = network, config, objective or ObjectiveConfig()
        self.videos = [video for video in videos if video.visual is not None]
        if not self.videos:
            raise ConfigError("fitting needs at least one video with pictures")
        decayed = [p for p in network.parameters() if p.requires_grad and p.ndim >= 2]
        others = [p for p in network.parameters() if p.requires_grad and p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        self.step = 0

    def run(self, cancel: CancelToken | None = None) -> Iterator[dict[str, float]]:
        """Go on until the last step; yields the parts of the loss after each. Raises: Cancelled, GenerationError."""
        self.network.train()
        while self.step < self.config.steps:
            if cancel is not None:
                cancel.check()
            yield self._one_step()
        self.network.eval()

    def _one_step(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "fit", self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        terms = rasl_losses(self.network, self._batch(generator), self.objective, generator)
        if not torch.isfinite(terms["loss"]):
            raise GenerationError(f"the loss became {float(terms['loss'])} at step {self.step}; lower learning_rate")
        self.optimizer.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return {name: float(value.detach()) for name, value in terms.items()}

    def _batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Windows of different videos as far as there are enough; more windows of each where there are few."""
        rounds = -(-self.config.batch_size // len(self.videos))
        order = torch.cat([torch.randperm(len(self.videos), generator=generator) for _ in range(rounds)])
        picked = [self.videos[int(i)] for i in order[: self.config.batch_size]]
        config = self.config
        items = [
            window_of(video, config.window, generator, sound=config.sound, drop_sound=config.drop_sound)
            for video in picked
        ]
        batch = stack_windows(items, self.network.config.audio_size)
        device = self.network.log_temperature.device
        return {name: value.to(device) for name, value in batch.items()}

    def _learning_rate(self) -> float:
        config = self.config
        rise = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        fall = 0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * self.step / config.steps))
        return config.learning_rate * rise * fall

    # Interrupting and going on ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write weights, optimizer state and position as one .safetensors file."""
        path = Path(path)
        tensors = {f"network.{name}": value.detach().cpu().contiguous() for name, value in self._weights().items()}
        for number, parameter in enumerate(self._parameters()):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{number}.{key}"] = value.detach().cpu().reshape(value.shape).contiguous()
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"step": str(self.step), "config": repr(self.config)})
        return path

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a file that `save` wrote. Raises: CheckpointError when it is of other settings."""
        path = Path(path)
        facts = read_header(path).metadata
        if facts.get("config") != repr(self.config):
            raise CheckpointError(f"{path} belongs to a run with other settings; start anew or use the same ones")
        tensors = read_tensors(path, dtype=None)
        self.network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("net")})
        for number, parameter in enumerate(self._parameters()):
            prefix = f"optimizer.{number}."
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if state:
                self.optimizer.state[parameter] = {k: v.to(parameter.device) if v.ndim else v for k, v in state.items()}
        self.step = int(facts["step"])

    def _weights(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


@torch.no_grad()
def held_out_losses(
    network: RaslNetwork,
    videos: Sequence[Inputs],
    config: FitConfig,
    objective: ObjectiveConfig | None = None,
    *,
    seed: int = 99,
    batches: int = 4,
) -> dict[str, float]:
    """The parts of the loss on videos that were not trained on, averaged over fixed windows and fixed noise."""
    usable = [video for video in videos if video.visual is not None]
    was_training = network.training
    network.eval()
    device = network.log_temperature.device
    sums: dict[str, float] = {}
    for number in range(batches):
        generator = torch.Generator().manual_seed(derive_seed(seed, "held out", number))
        items = [window_of(video, config.window, generator, sound=config.sound) for video in usable]
        batch = {k: v.to(device) for k, v in stack_windows(items, network.config.audio_size).items()}
        for name, value in rasl_losses(network, batch, objective or ObjectiveConfig(), generator).items():
            sums[name] = sums.get(name, 0.0) + float(value) / batches
    network.train(was_training)
    return sums
