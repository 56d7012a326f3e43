"""A stereo codec that a CPU can train: log spectra in, oscillators and an inverse Fourier transform out, 12.5 Hz.

In: mel bands, semitone bands (pitch) and a short window (onsets). Out: one oscillator for each semitone holds pitch, an
inverse short-time Fourier transform adds all else.

The released codec works on samples and takes GPUs; this one is ours and exists so that the embedded model can be
trained on two cores. It meets the flow model through the same posterior and latent statistics.

Letters: B batch, C audio channels (2), S samples, J spectral frames (100 a second), T latent frames, D latent channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from genmm.core.checkpoint import load_into, load_tensors, read_config, save_checkpoint
from genmm.core.config import read_fields
from genmm.core.errors import CheckpointError, ConfigError, ShapeError
from genmm.nn.spectral import LogMel, OverlapAddSynthesis
from genmm.nn.tones import SemitoneLevels, ToneBank, semitone_hz
from genmm.systems.melodyflow.latents import Posterior

QUIET = -9.0
"""Log-amplitude with which oscillators start."""
PITCH_SCALE = 12.0
"""Brings semitone levels to about the range of log-mel bands."""
PIECE_FRAMES = 250
"""Latent frames (20 s) that are encoded or decoded at a time."""


@dataclass(frozen=True, kw_only=True)
class SpectralCodecConfig:
    """Sizes of the codec, chosen by us; configs/melodyflow/codec_demo.yaml has those of the embedded checkpoint."""

    sample_rate: int = 48000
    """Samples a second."""
    spectral_hop: int = 480
    """Samples between spectral frames."""
    frames_per_latent: int = 8
    """Spectral frames that one latent stands for; 8 gives 12.5 latents a second."""
    channels: int = 64
    """Latent channels D."""
    mel_bands: int = 96
    """Bands of the log-mel input of left, right and their sum."""
    analysis_window: int = 4096
    """FFT size of the input, in samples; long, so that bass notes are told apart."""
    onset_window: int = 1024
    """FFT size of a second, coarser input that sees when notes begin."""
    onset_bands: int = 32
    """Bands of the second input."""
    semitones: int = 0
    """Semitones from C1 upwards with a band of their own in the input and an oscillator in the output; 0 for none."""
    pitch_window: int = 8192
    """FFT size of the semitone bands, in samples."""
    synthesis_window: int = 1920
    """FFT size of the output, in samples; a multiple of `spectral_hop`."""
    width: int = 192
    """Width at the spectral rate."""
    latent_width: int = 192
    """Width at the latent rate."""
    encoder_depth: int = 2
    """Blocks of the encoder at the spectral rate."""
    latent_depth: int = 2
    """Blocks of encoder and decoder at the latent rate, each."""
    decoder_depth: int = 4
    """Blocks of the decoder at the spectral rate."""
    synthesis_from_hz: int = 0
    """Below this, in Hz, oscillators alone make the output; 0 leaves the inverse transform all frequencies. Its frames
    buzz at multiples of their rate, 100 Hz, which are wrong notes where harmony lies."""
    output_gain: float = 1.0
    """Factor on the log-magnitudes that the decoder gives; more of it lets them find their range in fewer steps."""
    deviation: float = 0.1
    """Deviation of the posterior around the standardised latents, in [0, 2]."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            least = 0 if entry.name in ("semitones", "synthesis_from_hz") else 1
            is_whole = entry.name not in ("deviation", "output_gain")
            if is_whole and (not isinstance(value, int) or value < least):
                raise ConfigError(f"codec.{entry.name} must be a whole number of at least {least}, got {value!r}")
        if self.semitones and float(semitone_hz(self.semitones)[-1]) >= self.sample_rate / 2:
            raise ConfigError(
                f"codec.semitones = {self.semitones} from C1 upwards do not fit below half of {self.sample_rate} Hz"
            )
        if self.synthesis_window % self.spectral_hop:
            raise ConfigError(
                f"codec.synthesis_window must be a multiple of spectral_hop, "
                f"got {self.synthesis_window} and {self.spectral_hop}"
            )
        if self.synthesis_from_hz and (not self.semitones or self.synthesis_from_hz >= self.sample_rate / 2):
            raise ConfigError(
                f"codec.synthesis_from_hz needs oscillators (semitones) and must lie below {self.sample_rate / 2:g}, "
                f"got {self.synthesis_from_hz} with {self.semitones} semitones"
            )
        if not 0.0 < self.output_gain <= 100.0:
            raise ConfigError(f"codec.output_gain must be above 0 and at most 100, got {self.output_gain}")
        if not 0.0 <= self.deviation <= 2.0:
            raise ConfigError(f"codec.deviation must be in [0, 2], got {self.deviation}")

    @property
    def hop_samples(self) -> int:
        """Samples that one latent stands for."""
        return self.spectral_hop * self.frames_per_latent

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a config. Raises: ConfigError for unknown fields and bad values."""
        return read_fields(cls, values, "codec")


class CentredBlock(nn.Module):
    """A ConvNeXt block over time that sees both sides: [B, T, C] -> [B, T, C].

    Source: ConvNeXt (arXiv 2201.03545) as used over time by Vocos (arXiv 2306.00814).
    """

    KERNEL = 7

    def __init__(self, width: int, expansion: int = 3) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, self.KERNEL, padding=self.KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, frames: Tensor) -> Tensor:
        """Add what a frame and its neighbours say."""
        mixed = self._mixed(frames)
        return frames + self.scale * self.contract(functional.gelu(self.expand(self.norm(mixed))))

    def _mixed(self, frames: Tensor) -> Tensor:
        """The depthwise convolution as shifted products: on a CPU several times faster than the kernel for it."""
        half, length = self.KERNEL // 2, frames.shape[1]
        if frames.device.type != "cpu":
            return self.mix(frames.transpose(1, 2)).transpose(1, 2)
        padded = functional.pad(frames, (0, 0, half, half))
        weight = self.mix.weight[:, 0].to(frames.dtype)  # [C, k]
        total = self.mix.bias.to(frames.dtype).expand_as(frames)
        for tap in range(self.KERNEL):
            total = torch.addcmul(total, padded[:, tap : tap + length], weight[:, tap])
        return total


def blocks(width: int, depth: int) -> nn.Sequential:
    """Several blocks in a row."""
    return nn.Sequential(*(CentredBlock(width) for _ in range(depth)))


class SpectralEncoder(nn.Module):
    """Waveform [B, 2, S] -> latents before standardisation [B, T, D]; S a multiple of the latent hop."""

    def __init__(self, config: SpectralCodecConfig) -> None:
        super().__init__()
        self.frames_per_latent = config.frames_per_latent
        rate, hop = config.sample_rate, config.spectral_hop
        self.mels = nn.ModuleList(
            LogMel(
                rate,
                window,
                hop,
                bands,
                (window - config.synthesis_window) // 2 if window > config.synthesis_window else 0,
            )
            for window, bands in (
                (config.analysis_window, config.mel_bands),
                (config.onset_window, config.onset_bands),
            )
        )
        self.pitch = None
        if config.semitones:
            self.pitch = SemitoneLevels(rate, config.pitch_window, hop, config.semitones, config.synthesis_window // 2)
        self.enter = nn.Linear(3 * (config.mel_bands + config.semitones) + config.onset_bands, config.width)
        self.fine = blocks(config.width, config.encoder_depth)
        self.down = nn.Linear(config.width * config.frames_per_latent, config.latent_width)
        self.coarse = blocks(config.latent_width, config.latent_depth)
        self.norm = nn.LayerNorm(config.latent_width, eps=1e-6)
        self.leave = nn.Linear(config.latent_width, config.channels)

    @property
    def halo(self) -> int:
        """Latent frames to each side that one latent frame can depend on."""
        half = CentredBlock.KERNEL // 2
        spectra = [*self.mels, *([] if self.pitch is None else [self.pitch])]
        fine = half * len(self.fine) + max(spectrum.n_fft // spectrum.hop + 1 for spectrum in spectra)
        return half * len(self.coarse) + -(-fine // self.frames_per_latent)

    def forward(self, waveform: Tensor) -> Tensor:
        """Raw latents."""
        middle = waveform.mean(1, keepdim=True)
        signals = torch.cat((waveform, middle), 1)
        parts = [self._bands(self.mels[0], signals), self.mels[1](middle[:, 0])]
        if self.pitch is not None:
            parts.append(PITCH_SCALE * self._bands(self.pitch, signals))
        features = torch.cat(parts, -1) / 4.0 + 1.0
        frames = self.fine(self.enter(features))
        frames = frames.unflatten(1, (-1, self.frames_per_latent)).flatten(2)  # [B, J, W] -> [B, T, 8 W]
        return self.leave(self.norm(self.coarse(self.down(frames))))

    @staticmethod
    def _bands(spectrum: nn.Module, signals: Tensor) -> Tensor:
        """Log bands of several signals [B, C, S] side by side, [B, J, C * bands]."""
        return spectrum(signals.flatten(0, 1)).unflatten(0, signals.shape[:2]).transpose(1, 2).flatten(2)


class SpectralDecoder(nn.Module):
    """Standardised latents [B, T, D] -> waveform [B, 2, T * hop]."""

    def __init__(self, config: SpectralCodecConfig) -> None:
        super().__init__()
        self.frames_per_latent = config.frames_per_latent
        self.enter = nn.Linear(config.channels, config.latent_width)
        self.coarse = blocks(config.latent_width, config.latent_depth)
        self.up = nn.Linear(config.latent_width, config.width * config.frames_per_latent)
        self.fine = blocks(config.width, config.decoder_depth)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.bins = config.synthesis_window // 2 + 1
        self.gain = config.output_gain
        self.leave = nn.Linear(config.width, 4 * self.bins)  # log-magnitude and phase of two channels
        self.tones = None
        if config.semitones:
            self.loudness = nn.Linear(config.width, 2 * config.semitones)  # log-amplitude in two channels
            nn.init.zeros_(self.loudness.bias)
            self.tones = ToneBank(config.sample_rate, config.spectral_hop, config.semitones)
        self.synthesis = OverlapAddSynthesis(config.synthesis_window, config.spectral_hop)
        hertz = torch.linspace(0.0, config.sample_rate / 2, self.bins)
        rising = (hertz / max(1, config.synthesis_from_hz) * 2.0 - 1.0).clamp(0.0, 1.0)  # over the octave below
        self.register_buffer("opening", rising if config.synthesis_from_hz else torch.ones(self.bins), persistent=False)

    @property
    def halo(self) -> int:
        """Latent frames to each side that one latent frame of output can depend on."""
        half = CentredBlock.KERNEL // 2
        fine = half * len(self.fine) + self.synthesis.window_samples // self.synthesis.hop
        return half * len(self.coarse) + -(-fine // self.frames_per_latent)

    def forward(self, latents: Tensor, first: int = 0, cycle: int | None = None) -> Tensor:
        """Waveforms in float32. `first` counts the latents before the given ones; oscillators run on from there, and
        come back to where they were after `cycle` latents.
        """
        return self.parts(latents, first, cycle)[0]

    def parts(self, latents: Tensor, first: int = 0, cycle: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Waveforms, and log-amplitudes [B, J, 2, N] of the oscillators if there are any."""
        frames = self.up(self.coarse(self.enter(latents))).unflatten(2, (self.frames_per_latent, -1)).flatten(1, 2)
        frames = self.norm(self.fine(frames).float())
        log_magnitude, phase = self.leave(frames).float().unflatten(2, (2, 2, self.bins)).unbind(2)
        spectrum = torch.polar((self.gain * log_magnitude).clamp_max(7.0).exp() * self.opening, phase)  # [B, J, 2, F]
        spectrum = spectrum.transpose(1, 2).flatten(0, 1)
        waveform, loudness = self.synthesis(spectrum), None
        if self.tones is not None:
            loudness = (QUIET + self.gain * self.loudness(frames).float()).clamp_max(1.0)
            loudness = loudness.unflatten(2, (2, -1))  # [B, J, 2, N]
            amplitudes = loudness.exp().transpose(1, 2).flatten(0, 1)
            rate = self.frames_per_latent
            cycle = None if cycle is None else cycle * rate
            waveform = waveform + self.tones(amplitudes, first * rate, cycle)
        return waveform.unflatten(0, (latents.shape[0], 2)), loudness


class SpectralCodec(nn.Module):
    """Encoder, standardisation of the latents, decoder."""

    def __init__(self, config: SpectralCodecConfig = SpectralCodecConfig()) -> None:  # noqa: B008 - frozen
        super().__init__()
        self.config = config
        self.encoder, self.decoder = SpectralEncoder(config), SpectralDecoder(config)
        self.standardise = nn.BatchNorm1d(config.channels, affine=False, momentum=0.01)
        self.sample_rate, self.audio_channels = config.sample_rate, 2
        self.hop_samples, self.channels = config.hop_samples, config.channels

    def latents(self, waveform: Tensor) -> Tensor:
        """Standardised latents [B, T, D] of waveforms [B, 2, S], S a multiple of the hop; differentiable."""
        raw = self.encoder(waveform).float()
        return self.standardise(raw.flatten(0, 1)).unflatten(0, (waveform.shape[0], -1))

    @torch.inference_mode()
    def encode(self, waveform: Tensor, piece_frames: int = PIECE_FRAMES) -> Posterior:
        """The posterior [B, D, T] of waveforms [B, 2, S], T = ceil(S / hop), in pieces with a halo. Raises: ShapeError.

        Spectra take many times the memory of the sound, so a long one is never turned into spectra as a whole.
        """
        if waveform.ndim != 3 or waveform.shape[1] != 2 or waveform.shape[2] < 1:
            raise ShapeError(f"encode needs a waveform [B, 2, S], got {tuple(waveform.shape)}")
        padded = functional.pad(waveform.float(), (0, -waveform.shape[2] % self.hop_samples))
        frames, halo, pieces = padded.shape[2] // self.hop_samples, self.encoder.halo, []
        for start in range(0, frames, piece_frames):
            end = min(frames, start + piece_frames)
            low, high = max(0, start - halo), min(frames, end + halo)
            latents = self.latents(padded[..., low * self.hop_samples : high * self.hop_samples])
            pieces.append(latents[:, start - low : end - low])
        mean = torch.cat(pieces, 1).transpose(1, 2)
        return Posterior(mean, torch.full_like(mean, self.config.deviation))

    @torch.inference_mode()
    def decode(self, latents: Tensor, piece_frames: int = PIECE_FRAMES, *, cycle: int | None = None) -> Tensor:
        """Waveform [B, 2, T * hop] float32 of latents [B, D, T], in pieces with a halo. Raises: ShapeError.

        `cycle`: latent frames after which the sound is to repeat, for loops.
        """
        if latents.ndim != 3 or latents.shape[1] != self.channels or latents.shape[2] < 1:
            raise ShapeError(f"decode needs latents [B, {self.channels}, T], got {tuple(latents.shape)}")
        steps, frames, pieces = latents.float().transpose(1, 2), latents.shape[2], []
        for start in range(0, frames, piece_frames):
            end = min(frames, start + piece_frames)
            low, high = max(0, start - self.decoder.halo), min(frames, end + self.decoder.halo)
            samples = self.decoder(steps[:, low:high], low, cycle)
            pieces.append(samples[..., (start - low) * self.hop_samples : (end - low) * self.hop_samples])
        return torch.cat(pieces, -1)

    # ------------------------------------------------------------ folders

    @classmethod
    def from_folder(cls, folder: Path | str, *, synthesis_from_hz: int | None = None) -> Self:
        """Load config.json and model.safetensors; `synthesis_from_hz` replaces the stored one, no weight depends on it.

        Raises: CheckpointError when they are not such a codec.
        """
        config = read_config(Path(folder))
        if config["system"] != "music-codec":
            raise CheckpointError(f"expected a music-codec checkpoint, config.json says {config['system']!r}")
        sizes = SpectralCodecConfig.from_dict(config.get("codec"))
        codec = cls(sizes if synthesis_from_hz is None else replace(sizes, synthesis_from_hz=synthesis_from_hz))
        load_into(codec, {**load_tensors(Path(folder)), "standardise.num_batches_tracked": torch.tensor(0)})
        return codec.eval().requires_grad_(False)

    def save(self, folder: Path | str, *, dtype: torch.dtype | None = None) -> None:
        """Write config.json and model.safetensors, atomically."""
        tensors = {name: value for name, value in self.state_dict().items() if not name.endswith("num_batches_tracked")}
        config = {"system": "music-codec", "codec": asdict(self.config)}
        save_checkpoint(Path(folder), config, tensors, dtype=dtype)
