"""What the trainings of all codecs share: two optimizers by hand, discriminators that join late and take turns.

Letters: N sounds, S samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genmm.core.errors import ConfigError
from genmm.losses.adversarial import (
    MultiScaleSpectrumDiscriminator,
    discriminator_hinge_loss,
    feature_matching_loss,
    generator_hinge_loss,
)
from models.base import BadStepPolicy, GenerativeModule
from models.optim import OptimConfig, build_optimizer

BETAS = (0.8, 0.99)
"""Averages of AdamW: short ones, because what a discriminator says changes fast."""
HERE = ("betas", "schedule", "final_fraction", "total_steps")
"""What a codec's run decides itself, so the optimizer's configuration must leave it alone."""


class CodecTask(GenerativeModule):
    """Base of the codec trainings; a task sets `codec` and calls `judged` and `finish` in its training step.

    The learning rate warms up and falls to a tenth along a cosine over `total_steps`, where the run ends. Encoder and
    latents that are not trained keep their statistics too.
    """

    CLIP = 20.0
    """Bound of the norm of the codec's gradient."""

    codec: nn.Module

    def __init__(
        self,
        total_steps: int,
        adversarial_from: float,
        discriminator: MultiScaleSpectrumDiscriminator,
        optimizer: OptimConfig | None,
        bad_steps: BadStepPolicy | None,
        train_encoder: bool = True,
    ) -> None:
        """
        Args:
            total_steps: length of the run in steps of the codec, at least 1.
            adversarial_from: share of the run after which the discriminators join, 0 to 1; 1 never.
            discriminator: judges of sounds [N, S].
            optimizer: learning rates, warm-up and decay.
            bad_steps: what to do when a gradient is not finite.
            train_encoder: False keeps the latent statistics of `codec` as they are.
        Raises: ConfigError.
        """
        super().__init__(optimizer=optimizer, bad_steps=bad_steps)
        if total_steps < 1 or not 0.0 <= adversarial_from <= 1.0:
            raise ConfigError(
                f"total_steps must be at least 1 and adversarial_from in [0, 1], got {total_steps}, {adversarial_from}"
            )
        given = [name for name in HERE if getattr(self.optim_config, name) != getattr(OptimConfig(), name)]
        if given:
            raise ConfigError(
                f"a codec's run sets {', '.join(given)} itself: the rate falls to a tenth along a cosine over "
                f"model.init_args.total_steps, betas are {BETAS}; leave them out of model.init_args.optimizer"
            )
        self.automatic_optimization = False
        self.total_steps, self.adversarial_start = total_steps, int(adversarial_from * total_steps)
        self.train_encoder, self.discriminator = train_encoder, discriminator
        self.register_buffer("step_count", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One for the codec and AdamW for the discriminators; `start_step` applies the schedule."""
        config = replace(self.optim_config, betas=BETAS)
        judging = replace(config, muon_rate=None, rate_scales={})
        made = [build_optimizer(self.codec, config), build_optimizer(self.discriminator, judging)]
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in made]
        return made

    def ema_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The codec alone is averaged."""
        return ((name, value) for name, value in self.named_parameters() if name.startswith("codec."))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Here, because the start of an epoch is not told to a resumed run."""
        if not self.train_encoder:
            self.codec.standardise.eval()

    def start_step(self) -> list[Any]:
        """The two optimizers, with the learning rates of this step."""
        step, optimizers = int(self.step_count), self.optimizers()
        warm = min(1.0, (step + 1) / max(1, self.optim_config.warmup_steps))
        progress = min(1.0, step / self.total_steps)
        fall = 0.55 + 0.45 * float(torch.cos(torch.tensor(torch.pi * progress)))
        for optimizer, peaks in zip(optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * warm * fall
        self._statistics = [buffer.clone() for buffer in self._latent_statistics()]
        return optimizers

    def _latent_statistics(self) -> list[Tensor]:
        standardise = getattr(self.codec, "standardise", None)
        return [] if standardise is None else list(standardise.buffers())

    @property
    def is_adversarial(self) -> bool:
        """Whether the discriminators have joined."""
        return int(self.step_count) >= self.adversarial_start

    def judged(self, output: Tensor, target: Tensor, optimizer: Any) -> dict[str, Tensor]:
        """Train one discriminator on sounds [N, S] and give back what it says about the codec's `output`.

        The window sizes take turns, which costs a fraction of using all.
        """
        judge = self.discriminator.parts[int(self.step_count) % len(self.discriminator.parts)]
        real, fake = judge(target), judge(output.detach())
        loss = discriminator_hinge_loss([real[0]], [fake[0]])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        judge.requires_grad_(False)
        logits, features = judge(output)
        judge.requires_grad_(True)
        return {
            "judge": loss.detach(),
            "fooling": generator_hinge_loss([logits]),
            "matching": feature_matching_loss([real[1]], [features]),
        }

    def finish(self, optimizer: Any, terms: dict[str, Tensor], batch: Tensor) -> None:
        """Step the codec's optimizer, count, log, and end the run after its last step."""
        if self.check_gradients(optimizer):
            nn.utils.clip_grad_norm_(self.codec.parameters(), self.CLIP)
            optimizer.step()
        else:  # what the gradient could not bear has reached the statistics of the latents already
            for buffer, before in zip(self._latent_statistics(), self._statistics, strict=True):
                buffer.copy_(before)
        self.step_count += 1
        self.log_terms(terms, "train", len(batch))
        if int(self.step_count) >= self.total_steps:
            self.trainer.should_stop = True

    def save_codec(self, folder: str | Path, dtype: str) -> Path:
        """Write the codec folder with weights in the number format of that name."""
        self.codec.save(Path(folder), dtype=getattr(torch, dtype))
        return Path(folder)
