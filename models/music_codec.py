"""Training of the music codecs: spectral and adversarial losses on stereo crops.

`MusicCodecTask` trains the small codec of the embedded model, `MusicVaeTask` the variational one of the paper.
Letters: B batch, S samples, T latent frames, D latent channels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from genmm.core.errors import ConfigError
from genmm.losses.adversarial import MultiScaleSpectrumDiscriminator
from genmm.losses.balancer import LossBalancer
from genmm.losses.spectral import MultiScaleLogMelLoss
from genmm.nn.tones import SemitoneLevels
from genmm.systems.melodyflow.config import SeanetConfig
from genmm.systems.melodyflow.spectral_codec import SpectralCodec, SpectralCodecConfig
from genmm.systems.melodyflow.vae import SeanetCodec
from models.base import BadStepPolicy, Stage
from models.codec_task import CodecTask
from models.optim import OptimConfig


def stereo_views(waveform: Tensor) -> Tensor:
    """Left, right, middle and side [B, 4, S] of stereo [B, 2, S]; the loss must hear each of them."""
    left, right = waveform.unbind(1)
    return torch.stack((left, right, 0.5 * (left + right), 0.5 * (left - right)), 1)


class StereoSpectralLoss(nn.Module):
    """Log-mel distance of left, right, middle and side, and of single lines below 4 kHz, where pitch is decided.

    Mel bands blur a semitone; single lines of long windows show whether a partial is where it should be and whether it
    stays in phase from frame to frame.
    """

    LINES_WINDOWS, LINES_HZ = (4096, 8192), 4000.0

    def __init__(self, sample_rate: int, lines_weight: float = 0.3) -> None:
        super().__init__()
        self.mel = MultiScaleLogMelLoss(sample_rate, (512, 1024, 2048, 4096), (40, 64, 96, 128))
        self.lines_weight = lines_weight
        self.lines_share = self.LINES_HZ / sample_rate
        for size in self.LINES_WINDOWS:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(self, output: Tensor, target: Tensor, turn: int | None = None) -> Tensor:
        """Loss of `output` against `target`, both [B, 2, S]; float32 scalar.

        With `turn` (the step number) only a quarter of it is computed: two window sizes, and left and right or middle
        and side; four turns in a row cover everything. On a CPU the whole costs more than the network.
        """
        output, target = stereo_views(output.float()), stereo_views(target.float())
        scales, views = list(self.mel.scales), slice(None)
        if turn is not None:
            scales, views = scales[turn % 2 :: 2], slice(0, 2) if turn // 2 % 2 else slice(2, 4)
        pairs = output[:, views].flatten(0, 1), target[:, views].flatten(0, 1)
        loss = torch.stack([(scale(pairs[0]) - scale(pairs[1])).abs().mean() for scale in scales]).mean()
        if self.lines_weight == 0.0:
            return loss
        windows = self.LINES_WINDOWS if turn is None else self.LINES_WINDOWS[turn % 2 : turn % 2 + 1]
        apart = [(self._lines(output[:, 2], n) - self._lines(target[:, 2], n)).abs().mean() for n in windows]
        return loss + self.lines_weight * torch.stack(apart).mean()

    def _lines(self, signal: Tensor, size: int) -> Tensor:
        """Logarithms [B, F, J] of the lines of [B, S]; a shorter signal gets the longest window that fits."""
        fits = min(size, 1 << (signal.shape[-1].bit_length() - 1))
        window = getattr(self, f"window_{size}") if fits == size else torch.hann_window(fits, device=signal.device)
        spectrum = torch.stft(signal, fits, fits // 4, window=window, return_complex=True)
        return (spectrum[:, : max(1, int(self.lines_share * fits))].abs() / fits * 64 + 1e-3).log()


def tone_targets(levels: Tensor) -> Tensor:
    """What oscillators should play, of semitone levels [..., N]: the levels at their peaks along pitch, else 0.

    A tone lifts the bands beside its own; an oscillator there would only beat against it.
    """
    beside = functional.pad(levels, (1, 1))
    is_peak = (levels >= beside[..., :-2]) & (levels > beside[..., 2:])
    return levels * is_peak


class MusicCodecTask(CodecTask):
    """Fits a SpectralCodec on crops [B, 2, S].

    Latents get Gaussian noise of a random size up to `latent_noise`, which bounds what they can carry and teaches the
    decoder to forgive the small errors of generated latents.

    Args:
        codec: sizes of the codec.
        total_steps: length of the run; it ends there, and the learning rate falls to a tenth along a cosine.
        mel_weight: weight of the spectral loss beside the adversarial ones.
        lines_weight: weight of single lines within the spectral loss; more of it makes pitch count more.
        tones_weight: weight of the distance between oscillators and the tones of the sound. Through the spectra alone
            a codec does not find out within thousands of steps which oscillator makes which tone.
        feature_weight: weight of feature matching, relative to the adversarial loss.
        adversarial_from: share of the run after which the discriminators join; 1 never.
        latent_noise: upper end of the noise on standardised latents, in standard deviations.
        start_from: codec folder to go on from; its sizes then replace `codec`.
        synthesis_from_hz: in Hz, replaces that of `start_from`; null leaves it.
        train_encoder: False keeps encoder and latents, so that models of the latents stay valid.
        export_dtype: number format of the exported weights.
    """

    system = "music-codec"

    def __init__(
        self,
        codec: SpectralCodecConfig = SpectralCodecConfig(),  # noqa: B008 - frozen
        total_steps: int = 6000,
        mel_weight: float = 15.0,
        lines_weight: float = 1.0,
        tones_weight: float = 1000.0,
        feature_weight: float = 2.0,
        adversarial_from: float = 1.0,
        latent_noise: float = 0.4,
        start_from: str | None = None,
        synthesis_from_hz: int | None = None,
        train_encoder: bool = True,
        export_dtype: str = "float16",
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
    ) -> None:
        if start_from is None:
            made = SpectralCodec(codec)
        else:
            made = SpectralCodec.from_folder(start_from, synthesis_from_hz=synthesis_from_hz).requires_grad_(True)
        discriminator = MultiScaleSpectrumDiscriminator((512, 1024, 2048), 16)
        super().__init__(total_steps, adversarial_from, discriminator, optimizer, bad_steps, train_encoder)
        self.spectral = StereoSpectralLoss(made.sample_rate, lines_weight)
        self.codec = made.train()
        self.mel_weight, self.feature_weight, self.tones_weight = mel_weight, feature_weight, tones_weight
        self.latent_noise, self.export_dtype = latent_noise, export_dtype
        if not train_encoder:
            self.codec.encoder.requires_grad_(False)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """One step of the codec and, once they have joined, of the discriminators."""
        codec_optimizer, judge_optimizer = self.start_step()
        latents = self.codec.latents(batch)
        size = self.latent_noise * torch.rand(len(batch), 1, 1, device=batch.device)
        output, loudness = self.codec.decoder.parts(latents + size * torch.randn_like(latents))
        spectral = self.spectral(output, batch, int(self.step_count))
        terms, loss = {"spectral": spectral.detach()}, self.mel_weight * spectral
        if loudness is not None:
            tones = self._tone_distance(loudness, batch)
            terms["tones"], loss = tones.detach(), loss + self.tones_weight * tones
        if self.is_adversarial:
            # Left and right are judged as separate sounds.
            judged = self.judged(output.flatten(0, 1), batch.flatten(0, 1), judge_optimizer)
            loss = loss + judged["fooling"] + self.feature_weight * judged["matching"]
            terms |= {name: value.detach() for name, value in judged.items()}
        codec_optimizer.zero_grad()
        self.manual_backward(loss)
        self.finish(codec_optimizer, {"loss": loss.detach(), **terms}, batch)

    def _tone_distance(self, loudness: Tensor, batch: Tensor) -> Tensor:
        """Squared distance of oscillators [B, J, 2, N] from the tones of a batch, both as loudness."""
        with torch.no_grad():
            levels = self.codec.encoder.pitch(batch.flatten(0, 1)).unflatten(0, batch.shape[:2]).transpose(1, 2)
            wanted = tone_targets(levels)
        return ((SemitoneLevels.POWER * loudness).exp() - wanted).square().mean()

    def losses(self, batch: Tensor, batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        """Distance of held-out crops through the codec, without noise, and of the sides alone."""
        output = self.codec.decode(self.codec.encode(batch).mean)[..., : batch.shape[-1]]
        loss = self.spectral(output, batch)
        return {"loss": loss, "mel": self.spectral.mel(output.flatten(0, 1), batch.flatten(0, 1))}

    def export(self, folder: str | Path) -> Path:
        """Write the codec folder."""
        return self.save_codec(folder, self.export_dtype)


class MusicVaeTask(CodecTask):
    """Fits the variational codec of the paper on crops [B, 2, S], with the public recipes that section 2.4 lists.

    Spectral, sample, adversarial and feature-matching losses share the gradient of the output through a balancer; the
    KL term, which acts on the latents, is added with its own weight.

    Args:
        codec: sizes of the codec.
        total_steps: length of the run.
        spectral_weight: share of the multi-scale mel loss.
        sample_weight: share of the L1 loss of samples.
        adversarial_weight: share of the adversarial loss.
        feature_weight: share of feature matching.
        kl_weight: weight of the KL divergence of the posterior; the paper's is not public, 1e-4 is Stable Audio's.
        adversarial_from: share of the run after which the discriminators join; 1 never.
        discriminator_windows: FFT sizes of the discriminators, in samples.
        discriminator_width: channels of their first layer.
        optimizer: learning rate and warm-up.
        bad_steps: what to do when a gradient is not finite.
    """

    system = "music-vae"

    def __init__(
        self,
        codec: SeanetConfig = SeanetConfig(),  # noqa: B008 - frozen
        total_steps: int = 400_000,
        spectral_weight: float = 2.0,
        sample_weight: float = 0.1,
        adversarial_weight: float = 4.0,
        feature_weight: float = 4.0,
        kl_weight: float = 1e-4,
        adversarial_from: float = 0.0,
        discriminator_windows: tuple[int, ...] = (2048, 1024, 512, 256, 128),
        discriminator_width: int = 32,
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
    ) -> None:
        discriminator = MultiScaleSpectrumDiscriminator(tuple(discriminator_windows), discriminator_width)
        super().__init__(total_steps, adversarial_from, discriminator, optimizer, bad_steps)
        if codec.channels != 2:
            raise ConfigError(f"the training losses are stereo, codec.channels must be 2, got {codec.channels}")
        if kl_weight < 0:
            raise ConfigError(f"kl_weight must be at least 0, got {kl_weight}")
        self.codec = SeanetCodec(codec).with_weight_norm()
        self.spectral = StereoSpectralLoss(codec.sample_rate)
        self.kl_weight = kl_weight
        self.balancer = LossBalancer(
            {"spectral": spectral_weight, "samples": sample_weight, "fooling": adversarial_weight,
             "matching": feature_weight}
        )  # fmt: skip

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """One balanced step of the codec, and one of a discriminator."""
        codec_optimizer, judge_optimizer = self.start_step()
        posterior = self.codec.encode(batch)
        output = self.codec.decode(posterior.sample(torch.randn_like(posterior.mean)))[..., : batch.shape[-1]]
        parts = {"spectral": self.spectral(output, batch), "samples": (output - batch).abs().mean()}
        terms = {}
        if self.is_adversarial:
            # Left and right are judged as separate sounds.
            judged = self.judged(output.flatten(0, 1), batch.flatten(0, 1), judge_optimizer)
            terms["judge"] = judged.pop("judge")
            parts |= judged
        divergence = posterior.divergence()
        codec_optimizer.zero_grad()
        gradient = self.balancer.gradient(parts, output)
        # One backward pass: DDP exchanges gradients in that of manual_backward alone, and the product's gradient by
        # `output` is the balanced one.
        self.manual_backward((output * gradient.detach()).sum() + self.kl_weight * divergence)
        terms |= {name: value.detach() for name, value in parts.items()} | {"kl": divergence.detach()}
        self.finish(codec_optimizer, {"loss": terms["spectral"], **terms}, batch)

    def losses(self, batch: Tensor, batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        """Spectral distance of held-out crops through the mean of the posterior."""
        posterior = self.codec.encode(batch)
        output = self.codec.decode(posterior.mean)[..., : batch.shape[-1]]
        return {"loss": self.spectral(output, batch), "kl": posterior.divergence()}

    def export(self, folder: str | Path) -> Path:
        """Write the codec folder, with the weight normalisation multiplied out."""
        plain = SeanetCodec(self.codec.config).with_weight_norm()
        plain.load_state_dict(self.codec.state_dict())
        plain.without_weight_norm().save(Path(folder))
        return Path(folder)
