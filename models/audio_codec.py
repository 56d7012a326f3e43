"""Training of the speech codec: spectral reconstruction, then three small discriminators beside it.

Letters: B batch, S samples, T latent frames, D latent channels.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from genmm.losses.adversarial import (
    MultiScaleSpectrumDiscriminator,
    discriminator_hinge_loss,
    feature_matching_loss,
    generator_hinge_loss,
)
from genmm.losses.spectral import MultiScaleLogMelLoss
from genmm.systems.sled.codec import SpeechCodec, SpeechCodecConfig


class SpeechCodecTask(pl.LightningModule):
    """Fits a SpeechCodec on waveform crops [B, S].

    The discriminators join after `adversarial_from` of all steps, because early on they only learn to spot noise.
    Latents get Gaussian noise of a random size up to `latent_noise`, which bounds what they can carry and teaches the
    decoder to forgive the small errors of generated latents. The exponential moving average of the weights is what is
    validated and exported.

    Args:
        codec: sizes of the codec.
        total_steps: length of the run; the learning rate falls to a tenth over it along a cosine.
        learning_rate: peak rate of AdamW for the codec; the discriminators use the same.
        warmup_steps: linear warm-up of the rate.
        mel_weight: weight of the multi-scale log-mel loss.
        feature_weight: weight of feature matching, relative to the adversarial loss.
        adversarial_from: share of the run after which the discriminators join, 0 to 1; 1 never.
        latent_noise: upper end of the noise on standardised latents, in standard deviations.
        ema_decay: decay of the weight average per step.
        start_from: codec folder to go on from; its sizes then replace `codec`.
        train_encoder: False keeps encoder and latents as they are, so that models of the latents stay valid while
            the decoder gets better.
    """

    system = "speech-codec"

    def __init__(
        self,
        codec: SpeechCodecConfig = SpeechCodecConfig(),  # noqa: B008 - frozen
        total_steps: int = 6000,
        learning_rate: float = 6e-4,
        warmup_steps: int = 200,
        mel_weight: float = 15.0,
        feature_weight: float = 2.0,
        adversarial_from: float = 0.35,
        latent_noise: float = 0.25,
        ema_decay: float = 0.999,
        start_from: str | None = None,
        train_encoder: bool = True,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.codec = SpeechCodec(codec) if start_from is None else SpeechCodec.from_folder(start_from).train()
        codec = self.codec.config
        self.average = SpeechCodec(codec).requires_grad_(False)
        self.average.load_state_dict(self.codec.state_dict())
        self.discriminator = MultiScaleSpectrumDiscriminator()
        self.mel_loss = MultiScaleLogMelLoss(codec.sample_rate)
        self.total_steps, self.learning_rate, self.warmup_steps = total_steps, learning_rate, warmup_steps
        self.mel_weight, self.feature_weight = mel_weight, feature_weight
        self.adversarial_start = int(adversarial_from * total_steps)
        self.latent_noise, self.ema_decay, self.train_encoder = latent_noise, ema_decay, train_encoder
        self.register_buffer("step_count", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW for the codec and one for the discriminators."""
        return [
            torch.optim.AdamW(part.parameters(), lr=self.learning_rate, betas=(0.8, 0.99), weight_decay=0.01)
            for part in (self.codec if self.train_encoder else self.codec.decoder, self.discriminator)
        ]

    def _learning_rate(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = torch.tensor(min(1.0, step / self.total_steps))
        return self.learning_rate * (0.1 + 0.45 * (1.0 + float(torch.cos(torch.pi * progress))))

    def _reconstruct(self, waveform: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.train_encoder):
            latents = self.codec.latents(waveform)
        size = self.latent_noise * torch.rand(latents.shape[0], 1, 1, device=latents.device)
        return self.codec.decoder(latents + size * torch.randn_like(latents))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """A fixed encoder also keeps its latent statistics; the start of an epoch is not told to a resumed run."""
        self.codec.standardise.train(self.train_encoder)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """One step of the codec and, once they have joined, of the discriminators."""
        codec_optimizer, judge_optimizer = self.optimizers()
        step = int(self.step_count)
        rate = self._learning_rate(step)
        for optimizer in (codec_optimizer, judge_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = rate
        output = self._reconstruct(batch)
        mel = self.mel_loss(output, batch)
        loss = self.mel_weight * mel
        metrics = {"train/mel": mel.detach()}
        if step >= self.adversarial_start:
            loss = loss + self._adversarial_step(output, batch, judge_optimizer, metrics)
        codec_optimizer.zero_grad()
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(
            [p for p in self.codec.parameters() if p.grad is not None], 5.0 * self.mel_weight
        )
        codec_optimizer.step()
        self._update_average(step)
        self.step_count += 1
        self.log_dict(metrics, prog_bar=True)

    def _adversarial_step(
        self, output: Tensor, batch: Tensor, optimizer: torch.optim.Optimizer, metrics: dict[str, Tensor]
    ) -> Tensor:
        """Train one discriminator, give back what it says about the codec's output.

        The window sizes take turns, which costs a third of judging with all of them at every step.
        """
        judge = self.discriminator.parts[int(self.step_count) % len(self.discriminator.parts)]
        real, fake = [judge(batch)], [judge(output.detach())]
        judge_loss = discriminator_hinge_loss([logits for logits, _ in real], [logits for logits, _ in fake])
        optimizer.zero_grad()
        self.manual_backward(judge_loss)
        optimizer.step()
        judge.requires_grad_(False)
        judged = [judge(output)]
        judge.requires_grad_(True)
        fooling = generator_hinge_loss([logits for logits, _ in judged])
        matching = feature_matching_loss([features for _, features in real], [features for _, features in judged])
        metrics |= {
            "train/judge": judge_loss.detach(),
            "train/fooling": fooling.detach(),
            "train/matching": matching.detach(),
        }
        return fooling + self.feature_weight * matching

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        decay = min(self.ema_decay, (1 + step) / (10 + step))
        live = [value for value in self.codec.state_dict().values() if value.is_floating_point()]
        kept = [value for value in self.average.state_dict().values() if value.is_floating_point()]
        torch._foreach_lerp_(kept, live, 1.0 - decay)

    def on_validation_model_eval(self) -> None:
        """Put everything into evaluation mode, the average above all."""
        super().on_validation_model_eval()
        self.average.eval()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Log-mel distance of held-out crops through the averaged codec, without latent noise."""
        self.log("val/mel", self.mel_loss(self.average.decode(self.average.encode(batch)), batch), prog_bar=True)

    def export(self, folder: Path | str) -> None:
        """Write the averaged codec as a float16 checkpoint folder."""
        self.average.save(folder, dtype=torch.float16)
