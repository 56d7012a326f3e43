"""Training of the speech codec: spectral reconstruction, then three small discriminators beside it.

Letters: B batch, S samples.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from genmm.losses.adversarial import MultiScaleSpectrumDiscriminator
from genmm.losses.spectral import MultiScaleLogMelLoss
from genmm.systems.sled.codec import SpeechCodec, SpeechCodecConfig
from models.base import BadStepPolicy, Stage
from models.codec_task import CodecTask
from models.optim import OptimConfig


class SpeechCodecTask(CodecTask):
    """Fits a SpeechCodec on waveform crops [B, S].

    The discriminators join after `adversarial_from` of all steps, because early on they only learn to spot noise.
    Latents get Gaussian noise of a random size up to `latent_noise`, which bounds what they can carry and teaches the
    decoder to forgive the small errors of generated latents.

    Args:
        codec: sizes of the codec.
        total_steps: length of the run; it ends there, and the learning rate falls to a tenth along a cosine.
        mel_weight: weight of the multi-scale log-mel loss.
        feature_weight: weight of feature matching, relative to the adversarial loss.
        adversarial_from: share of the run after which the discriminators join, 0 to 1; 1 never.
        latent_noise: upper end of the noise on standardised latents, in standard deviations.
        start_from: codec folder to go on from; its sizes then replace `codec`.
        train_encoder: False keeps encoder and latents as they are, so that models of the latents stay valid while
            the decoder gets better.
        export_dtype: number format of the exported weights.
        optimizer: learning rate, warm-up and decay; the embedded codec has 8e-4 at first and 200 steps of warm-up.
        bad_steps: what to do when a gradient is not finite.
    """

    system = "speech-codec"
    CLIP = 75.0

    def __init__(
        self,
        codec: SpeechCodecConfig = SpeechCodecConfig(),  # noqa: B008 - frozen
        total_steps: int = 6000,
        mel_weight: float = 15.0,
        feature_weight: float = 2.0,
        adversarial_from: float = 0.35,
        latent_noise: float = 0.25,
        start_from: str | None = None,
        train_encoder: bool = True,
        export_dtype: str = "float16",
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
    ) -> None:
        discriminator = MultiScaleSpectrumDiscriminator()
        super().__init__(total_steps, adversarial_from, discriminator, optimizer, bad_steps, train_encoder)
        made = SpeechCodec(codec) if start_from is None else SpeechCodec.from_folder(start_from)
        self.codec = made.requires_grad_(True).train()
        self.codec.encoder.requires_grad_(train_encoder)
        self.mel_loss = MultiScaleLogMelLoss(made.sample_rate)
        self.mel_weight, self.feature_weight = mel_weight, feature_weight
        self.latent_noise, self.export_dtype = latent_noise, export_dtype

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """One step of the codec and, once they have joined, of one discriminator."""
        codec_optimizer, judge_optimizer = self.start_step()
        latents = self.codec.latents(batch)
        size = self.latent_noise * torch.rand(len(batch), 1, 1, device=batch.device)
        output = self.codec.decoder(latents + size * torch.randn_like(latents))
        mel = self.mel_loss(output, batch)
        terms, loss = {"mel": mel.detach()}, self.mel_weight * mel
        if self.is_adversarial:
            judged = self.judged(output, batch, judge_optimizer)
            loss = loss + judged["fooling"] + self.feature_weight * judged["matching"]
            terms |= {name: value.detach() for name, value in judged.items()}
        codec_optimizer.zero_grad()
        self.manual_backward(loss)
        self.finish(codec_optimizer, {"loss": loss.detach(), **terms}, batch)

    def losses(self, batch: Tensor, batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        """Log-mel distance of held-out crops through the codec, without latent noise."""
        return {"loss": self.mel_loss(self.codec.decode(self.codec.encode(batch)), batch)}

    def export(self, folder: str | Path) -> Path:
        """Write the codec folder."""
        return self.save_codec(folder, self.export_dtype)
