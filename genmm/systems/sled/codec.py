"""A small causal codec with continuous latents: log-mel in, inverse short-time Fourier transform out.

SLED (arXiv 2505.13181) uses EnCodec; this codec is ours and exists so that a useful model can be trained on a CPU: at
25 latents a second the language model's sequences are a third as long, and a decoder that predicts magnitude and phase
of a short-time spectrum (Vocos, arXiv 2306.00814) learns far faster than one that predicts samples.

Letters: B batch, S samples, T latent frames (25 a second), J spectral frames (100 a second), D latent channels.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from genmm.core.checkpoint import load_into, load_tensors, read_config, save_checkpoint
from genmm.core.config import read_fields
from genmm.core.errors import CheckpointError, ConfigError, ShapeError
from genmm.nn.convnext import CausalConvNeXtStack
from genmm.nn.spectral import LogMel, OverlapAddSynthesis


@dataclass(frozen=True, kw_only=True)
class SpeechCodecConfig:
    """Sizes of the codec. The defaults are those of the embedded checkpoint (chosen by us, not from a paper)."""

    sample_rate: int = 16000
    """Samples a second, at least 8000."""
    spectral_hop: int = 160
    """Samples between spectral frames; 160 at 16 kHz is 100 frames a second."""
    frames_per_latent: int = 4
    """Spectral frames that one latent stands for; 4 gives 25 latents a second."""
    channels: int = 48
    """Latent channels D, at least 1."""
    mel_bands: int = 80
    """Bands of the log-mel input."""
    analysis_window: int = 1024
    """FFT size of the log-mel input, in samples."""
    synthesis_window: int = 640
    """FFT size of the output, in samples; a multiple of `spectral_hop`."""
    encoder_width: int = 128
    """Width of the encoder at the spectral rate."""
    encoder_latent_width: int = 192
    """Width of the encoder at the latent rate."""
    encoder_depth: int = 2
    """Blocks of the encoder at the spectral rate."""
    encoder_latent_depth: int = 3
    """Blocks of the encoder at the latent rate."""
    decoder_width: int = 256
    """Width of the decoder, at both rates."""
    decoder_latent_depth: int = 3
    """Blocks of the decoder at the latent rate."""
    decoder_depth: int = 5
    """Blocks of the decoder at the spectral rate."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(f"codec.{field.name} must be at least 1, got {getattr(self, field.name)}")
        if self.synthesis_window % self.spectral_hop:
            raise ConfigError(
                "codec.synthesis_window must be a multiple of spectral_hop, "
                f"got {self.synthesis_window} and {self.spectral_hop}"
            )

    @property
    def hop_samples(self) -> int:
        """Samples that one latent stands for."""
        return self.spectral_hop * self.frames_per_latent


class SpeechEncoder(nn.Module):
    """Log-mel frames to latents before standardisation: [B, S] -> [B, T, D], causal but for the analysis window.

    Spectral frame j is centred on the middle of the synthesis frame j, so the encoder looks at most
    (analysis + synthesis) / 2 - hop samples (42 ms with the defaults) past the end of a latent's own hop.
    """

    def __init__(self, config: SpeechCodecConfig) -> None:
        super().__init__()
        shift = (config.analysis_window - config.synthesis_window) // 2
        self.frames_per_latent = config.frames_per_latent
        self.mel = LogMel(config.sample_rate, config.analysis_window, config.spectral_hop, config.mel_bands, shift)
        self.enter = nn.Linear(config.mel_bands, config.encoder_width)
        self.fine = CausalConvNeXtStack(config.encoder_width, config.encoder_depth)
        self.down = nn.Linear(config.encoder_width * config.frames_per_latent, config.encoder_latent_width)
        self.coarse = CausalConvNeXtStack(config.encoder_latent_width, config.encoder_latent_depth)
        self.norm = nn.LayerNorm(config.encoder_latent_width, eps=1e-6)
        self.leave = nn.Linear(config.encoder_latent_width, config.channels)

    def forward(self, waveform: Tensor) -> Tensor:
        """Raw latents [B, T, D]; S must be a multiple of the latent hop."""
        mel = (self.mel(waveform) + 4.0) / 4.0  # speech at -20 dB sits near -4, so the input has about unit scale
        frames = self.fine(self.enter(mel))  # [B, J, C]
        frames = frames.unflatten(1, (-1, self.frames_per_latent)).flatten(2)  # [B, J, C] -> [B, T, 4C]
        return self.leave(self.norm(self.coarse(self.down(frames))))


class SpeechDecoder(nn.Module):
    """Standardised latents to a waveform: [B, T, D] -> [B, T * hop], strictly causal."""

    def __init__(self, config: SpeechCodecConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.frames_per_latent = config.frames_per_latent
        self.enter = nn.Linear(config.channels, width)
        self.coarse = CausalConvNeXtStack(width, config.decoder_latent_depth)
        self.up = nn.Linear(width, width * config.frames_per_latent)
        self.fine = CausalConvNeXtStack(width, config.decoder_depth)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.leave = nn.Linear(width, config.synthesis_window + 2)  # log-magnitude and phase of F bins each
        self.synthesis = OverlapAddSynthesis(config.synthesis_window, config.spectral_hop)

    def _spectrum(self, frames: Tensor) -> Tensor:
        with torch.autocast(
            frames.device.type, enabled=False
        ):  # a phase in bfloat16 is off by up to 0.8 percent of a turn
            log_magnitude, phase = self.leave(self.norm(frames.float())).chunk(2, dim=-1)  # [B, J, F] each
        # e^6 = 400 is above any bin of a full-scale signal; the cap keeps early training from overflowing.
        return torch.polar(log_magnitude.clamp_max(6.0).exp(), phase)

    def forward(self, latents: Tensor) -> Tensor:
        """Waveforms of whole sequences, float32."""
        frames = self.up(self.coarse(self.enter(latents))).unflatten(2, (self.frames_per_latent, -1)).flatten(1, 2)
        return self.synthesis(self._spectrum(self.fine(frames)))

    def step(self, latents: Tensor, state: "DecoderState") -> Tensor:
        """Waveform [B, n * hop] of the next latents [B, n, D]; updates the state in place."""
        frames, state.coarse = self.coarse.step(self.enter(latents), state.coarse)
        frames = self.up(frames).unflatten(2, (self.frames_per_latent, -1)).flatten(1, 2)
        frames, state.fine = self.fine.step(frames, state.fine)
        samples, state.tail = self.synthesis.step(self._spectrum(frames), state.tail)
        return samples


@dataclass
class DecoderState:
    """What the decoder remembers between two pushes."""

    coarse: list[Tensor]
    fine: list[Tensor]
    tail: Tensor


class SpeechCodecStream:
    """Streaming decode of `batch` sequences; every push gives back k * hop samples, nothing is held back."""

    def __init__(self, decoder: SpeechDecoder, batch: int) -> None:
        self._decoder = decoder
        self._state = DecoderState(
            coarse=decoder.coarse.initial_state(batch),
            fine=decoder.fine.initial_state(batch),
            tail=decoder.enter.weight.new_zeros(batch, decoder.synthesis.tail_samples, dtype=torch.float32),
        )
        self._batch = batch

    @torch.inference_mode()
    def push(self, latents: Tensor) -> Tensor:
        """Samples [B, k * hop] of the next latents [B, k, D]."""
        if latents.ndim != 3 or latents.shape[0] != self._batch:
            raise ShapeError(f"push needs latents [{self._batch}, k, D], got {tuple(latents.shape)}")
        if latents.shape[1] == 0:
            return latents.new_zeros(self._batch, 0, dtype=torch.float32)
        return self._decoder.step(latents.to(self._decoder.enter.weight), self._state)

    def flush(self) -> Tensor:
        """Nothing is held, so [B, 0]."""
        return self._state.tail.new_zeros(self._batch, 0)


class SpeechCodec(nn.Module):
    """The codec as a whole: encoder, standardisation, decoder.

    The standardisation holds the mean and standard deviation of every latent channel over the training data, so that
    latents that leave `encode` have zero mean and unit scale.
    """

    def __init__(self, config: SpeechCodecConfig = SpeechCodecConfig()) -> None:  # noqa: B008 - frozen
        super().__init__()
        self.config = config
        self.encoder = SpeechEncoder(config)
        self.standardise = nn.BatchNorm1d(config.channels, affine=False, momentum=0.01)
        self.decoder = SpeechDecoder(config)
        self.sample_rate, self.hop_samples, self.channels = config.sample_rate, config.hop_samples, config.channels

    @property
    def frame_rate(self) -> float:
        """Latent frames a second."""
        return self.sample_rate / self.hop_samples

    def latents(self, waveform: Tensor) -> Tensor:
        """Standardised latents [B, T, D] of waveforms [B, S], S a multiple of the hop; differentiable."""
        return self.standardise(self.encoder(waveform).float().flatten(0, 1)).unflatten(0, (waveform.shape[0], -1))

    @torch.inference_mode()
    def encode(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Latents [B, T, D] of mono waveforms [B, S], T = ceil(S / hop).

        `lengths` [B] counts the real samples of each row; samples past them are treated as silence, so padding changes
        nothing. Raises ShapeError for anything but [B, S] with S >= 1.
        """
        if waveform.ndim != 2 or waveform.shape[1] < 1:
            raise ShapeError(f"encode needs waveforms [B, S] with S >= 1, got {tuple(waveform.shape)}")
        if lengths is not None:
            waveform = waveform * (torch.arange(waveform.shape[1], device=waveform.device) < lengths[:, None])
        padding = -waveform.shape[1] % self.hop_samples
        return self.latents(nn.functional.pad(waveform.float(), (0, padding)))

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Waveforms [B, T * hop] float32 of latents [B, T, D]."""
        if latents.ndim != 3 or latents.shape[2] != self.channels:
            raise ShapeError(f"decode needs latents [B, T, {self.channels}], got {tuple(latents.shape)}")
        if latents.shape[1] == 0:
            return latents.new_zeros(latents.shape[0], 0, dtype=torch.float32)
        return self.decoder(latents.to(self.decoder.enter.weight))

    def stream(self, batch: int = 1) -> SpeechCodecStream:
        """A fresh streaming decoder."""
        return SpeechCodecStream(self.decoder, batch)

    @classmethod
    def from_folder(cls, folder: Path | str) -> Self:
        """Load config.json and model.safetensors; raises CheckpointError when they are not a speech codec."""
        config = read_config(Path(folder))
        if config.get("system") != "speech-codec":
            raise CheckpointError(f"expected a speech-codec checkpoint, config.json says {config.get('system')!r}")
        codec = cls(read_fields(SpeechCodecConfig, config.get("codec"), "codec"))
        load_into(codec, {**load_tensors(Path(folder)), "standardise.num_batches_tracked": torch.tensor(0)})
        return codec.eval()

    def save(self, folder: Path | str, *, dtype: torch.dtype | None = None) -> None:
        """Write config.json and model.safetensors, atomically; `dtype` float16 halves the file."""
        tensors = {name: value for name, value in self.state_dict().items() if not name.endswith("num_batches_tracked")}
        save_checkpoint(Path(folder), {"system": "speech-codec", "codec": asdict(self.config)}, tensors, dtype=dtype)
