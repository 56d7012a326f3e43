"""The variational codec of MelodyFlow on the layers of SEANet: 48 kHz stereo <-> 128 channels at 25 Hz as released.

Long sounds run in pieces with a halo of neighbouring frames; the LSTM alone always sees everything, so pieces give the
samples of the whole. Letters: B batch, C audio channels, S samples, D latent channels, T latent frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from genmm.core.checkpoint import load_into, load_tensors, read_config, save_checkpoint
from genmm.core.errors import CheckpointError, ShapeError
from genmm.systems.melodyflow.config import SeanetConfig
from genmm.systems.melodyflow.latents import Posterior
from genmm.systems.melodyflow.seanet import (
    CentredConv,
    CentredUpsample,
    decoder_layers,
    encoder_layers,
    fold_weight_norm,
    halo,
)

PIECE_FRAMES = 250
"""Latent frames (10 s as released) that the convolutions process at a time."""


class LayerStack(nn.Module):
    """Layers under the key `model.{index}`, as in the official checkpoint."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)


class SeanetCodec(nn.Module):
    """Encoder, posterior and decoder."""

    def __init__(self, config: SeanetConfig = SeanetConfig()) -> None:  # noqa: B008 - frozen
        super().__init__()
        self.config = config
        encoder, self._encoder_local = encoder_layers(config)
        decoder, self._decoder_whole = decoder_layers(config)
        self.encoder, self.decoder = LayerStack(encoder), LayerStack(decoder)
        self.sample_rate, self.audio_channels = config.sample_rate, config.channels
        self.hop_samples, self.channels = config.hop_samples, config.dimension
        self.encoder_halo = -(-halo(encoder[: self._encoder_local]) // self.hop_samples)
        self.decoder_halo = halo(decoder[self._decoder_whole :])

    def encoder_output(self, waveform: Tensor, piece_frames: int = PIECE_FRAMES) -> Tensor:
        """Mean and scale [B, 2 D, T] of a waveform [B, C, S], T = ceil(S / hop)."""
        if waveform.ndim != 3 or waveform.shape[1] != self.audio_channels or waveform.shape[2] < 1:
            raise ShapeError(f"encode needs a waveform [B, {self.audio_channels}, S], got {tuple(waveform.shape)}")
        local, rest = self.encoder.model[: self._encoder_local], self.encoder.model[self._encoder_local :]
        frames = -(-waveform.shape[2] // self.hop_samples)
        pieces = []
        for start in range(0, frames, piece_frames):
            low, high = max(0, start - self.encoder_halo), min(frames, start + piece_frames + self.encoder_halo)
            hidden = local(waveform[..., low * self.hop_samples : high * self.hop_samples])
            pieces.append(hidden[..., start - low : min(frames, start + piece_frames) - low])
        return rest(torch.cat(pieces, -1))

    def encode(self, waveform: Tensor) -> Posterior:
        """The posterior of a waveform [B, C, S]. Raises: ShapeError for another shape."""
        return Posterior.from_encoder(self.encoder_output(waveform.float()))

    def decode(self, latents: Tensor, piece_frames: int = PIECE_FRAMES, *, cycle: int | None = None) -> Tensor:
        """Waveform [B, C, T * hop] of latents [B, D, T]; memory does not grow with T beyond input and output.

        `cycle` changes nothing: equal latents sound equal here, wherever they stand.

        Raises: ShapeError for another shape.
        """
        if latents.ndim != 3 or latents.shape[1] != self.channels or latents.shape[2] < 1:
            raise ShapeError(f"decode needs latents [B, {self.channels}, T], got {tuple(latents.shape)}")
        whole, local = self.decoder.model[: self._decoder_whole], self.decoder.model[self._decoder_whole :]
        hidden, frames = whole(latents.float()), latents.shape[2]
        pieces = []
        for start in range(0, frames, piece_frames):
            end = min(frames, start + piece_frames)
            low, high = max(0, start - self.decoder_halo), min(frames, end + self.decoder_halo)
            samples = local(hidden[..., low:high])
            pieces.append(samples[..., (start - low) * self.hop_samples : (end - low) * self.hop_samples])
        return torch.cat(pieces, -1)

    # ------------------------------------------------------------ training and folders

    def with_weight_norm(self) -> Self:
        """Normalise the weights of all convolutions, as the original trains; undo with `without_weight_norm`."""
        for module in self.modules():
            if isinstance(module, CentredConv | CentredUpsample):
                weight_norm(module.conv)
        return self

    def without_weight_norm(self) -> Self:
        """Multiply the weight normalisation out, in place."""
        for module in self.modules():
            if isinstance(module, CentredConv | CentredUpsample) and parametrize.is_parametrized(module.conv):
                parametrize.remove_parametrizations(module.conv, "weight")
        return self

    @classmethod
    def from_official(cls, blocks: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build from an official configuration and its tensors. Raises: ConfigError or CheckpointError."""
        codec = cls(SeanetConfig.from_official(blocks))
        load_into(codec, fold_weight_norm(tensors))
        return codec.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: Path | str) -> Self:
        """Load config.json and model.safetensors. Raises: CheckpointError when they are not such a codec."""
        config = read_config(Path(folder))
        if config["system"] != "music-vae":
            raise CheckpointError(f"expected a music-vae checkpoint, config.json says {config['system']!r}")
        codec = cls(SeanetConfig.from_dict(config.get("codec")))
        load_into(codec, load_tensors(Path(folder)))
        return codec.eval().requires_grad_(False)

    def save(self, folder: Path | str, *, dtype: torch.dtype | None = None) -> None:
        """Write config.json and model.safetensors, atomically."""
        config = {"system": "music-vae", "codec": self.config.to_dict()}
        save_checkpoint(Path(folder), config, self.state_dict(), dtype=dtype)
