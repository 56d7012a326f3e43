"""EnCodec 24 kHz as a latent codec: waveform -> sum of the first residual codebook vectors -> waveform.

SLED (arXiv 2505.13181) models the *quantised* sums, 128 channels at 75 Hz, without standardisation, and decodes what it
generates without snapping it back to the codebooks. This is our own implementation of the causal configuration of
EnCodec (arXiv 2210.13438) in plain torch; weights come from a transformers folder. The weight normalisation of the
convolutions is folded into plain weights when they are loaded. Everything runs in float32.

Letters: B batch, S samples, T latent frames, D latent channels, N codebooks in use, K codes in each.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from genmm.core.checkpoint import checkpoint_file, load_into, load_tensors, read_config, save_checkpoint
from genmm.core.errors import CheckpointError, ConfigError, ShapeError
from genmm.core.files import read_json
from genmm.core.weights import read_tensors
from genmm.systems.sled.encodec_layers import (
    CausalConv,
    CausalUpsample,
    Elu,
    LayerChain,
    Memory,
    ResidualBlock,
    ResidualQuantizer,
    SkipLSTM,
    first_piece_length,
)
from genmm.systems.sled.official import official_file

BLOCK_FRAMES = 750
"""Frames that `encode` and `decode` process at a time (10 s at 75 Hz), so that memory stays flat on long audio."""


@dataclass(frozen=True, kw_only=True)
class EncodecConfig:
    """Sizes of EnCodec under the field names of transformers; the defaults are those of facebook/encodec_24khz."""

    sampling_rate: int = 24000
    """Samples a second."""
    audio_channels: int = 1
    """Channels of the waveform; only 1 is supported."""
    num_filters: int = 32
    """Channels of the convolution next to the waveform; they double at every ratio."""
    hidden_size: int = 128
    """Latent channels D."""
    codebook_dim: int | None = None
    """Width of a codebook vector; must equal `hidden_size`, which None stands for."""
    codebook_size: int = 1024
    """Codes K of every codebook."""
    upsampling_ratios: tuple[int, ...] = (8, 5, 4, 2)
    """Ratios of the decoder, first to last; their product is the hop in samples."""
    target_bandwidths: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0)
    """Bit rates in kbit/s that the codebooks were trained for, ascending."""
    num_residual_layers: int = 1
    """Residual blocks at every ratio."""
    num_lstm_layers: int = 2
    """Layers of each LSTM."""
    kernel_size: int = 7
    """Kernel of the first convolution of encoder and decoder."""
    last_kernel_size: int = 7
    """Kernel of the last convolution of encoder and decoder."""
    residual_kernel_size: int = 3
    """Kernel of the wide convolution of a residual block."""
    dilation_growth_rate: int = 2
    """Dilation of residual block j is this to the power j."""
    compress: int = 2
    """A residual block narrows its channels by this factor."""
    use_conv_shortcut: bool = True
    """Whether the input of a residual block passes a 1x1 convolution before it is added."""

    def __post_init__(self) -> None:
        if self.audio_channels != 1:
            raise ConfigError(f"encodec.audio_channels must be 1 (mono), got {self.audio_channels}; use encodec_24khz")
        if self.codebook_dim not in (None, self.hidden_size):
            raise ConfigError(f"encodec.codebook_dim must be hidden_size {self.hidden_size}, got {self.codebook_dim}")
        if not self.upsampling_ratios or not self.target_bandwidths:
            raise ConfigError("encodec.upsampling_ratios and target_bandwidths must name at least one value each")
        counts = {f.name: getattr(self, f.name) for f in fields(self) if f.type is int}
        for name, value in {**counts, "upsampling_ratios": min(self.upsampling_ratios)}.items():
            if value < 1:
                raise ConfigError(f"encodec.{name} must be at least 1, got {value}")

    @property
    def hop_samples(self) -> int:
        """Samples that one latent stands for."""
        return math.prod(self.upsampling_ratios)

    def codebooks_for(self, bandwidth: float) -> int:
        """Codebooks N that fit into `bandwidth` kbit/s, at least 1."""
        frames_a_second = math.ceil(self.sampling_rate / self.hop_samples)
        return max(1, int(bandwidth * 1000 // (math.log2(self.codebook_size) * frames_a_second)))

    @classmethod
    def from_official(cls, config: Mapping[str, Any]) -> Self:
        """Read the fields of a transformers config.json; raises ConfigError for any EnCodec but the causal one."""
        required = {
            "norm_type": "weight_norm",
            "use_causal_conv": True,
            "pad_mode": "reflect",
            "trim_right_ratio": 1.0,
            "normalize": False,
            "chunk_length_s": None,
        }
        for name, value in required.items():
            if config.get(name, value) != value:
                raise ConfigError(
                    f"encodec.{name} must be {value!r}, got {config[name]!r}: only the causal 24 kHz kind of EnCodec "
                    "streams and fits SLED; use facebook/encodec_24khz"
                )
        known = {field.name for field in fields(cls)}
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in config.items() if name in known}
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"the EnCodec configuration holds a value of the wrong kind: {error}") from error


def _encoder(config: EncodecConfig) -> LayerChain:
    width = config.num_filters
    layers: list[nn.Module] = [CausalConv(config.audio_channels, width, config.kernel_size)]
    for ratio in reversed(config.upsampling_ratios):
        layers += [_residual(config, width, j) for j in range(config.num_residual_layers)]
        layers += [Elu(), CausalConv(width, 2 * width, 2 * ratio, ratio)]
        width *= 2
    layers += [SkipLSTM(width, config.num_lstm_layers), Elu()]
    return LayerChain([*layers, CausalConv(width, config.hidden_size, config.last_kernel_size)])


def _decoder(config: EncodecConfig) -> LayerChain:
    width = config.num_filters * 2 ** len(config.upsampling_ratios)
    layers: list[nn.Module] = [CausalConv(config.hidden_size, width, config.kernel_size)]
    layers += [SkipLSTM(width, config.num_lstm_layers)]
    for ratio in config.upsampling_ratios:
        width //= 2
        layers += [Elu(), CausalUpsample(2 * width, width, ratio)]
        layers += [_residual(config, width, j) for j in range(config.num_residual_layers)]
    return LayerChain([*layers, Elu(), CausalConv(width, config.audio_channels, config.last_kernel_size)])


def _residual(config: EncodecConfig, width: int, index: int) -> ResidualBlock:
    dilation = config.dilation_growth_rate**index
    return ResidualBlock(width, config.residual_kernel_size, dilation, config.compress, config.use_conv_shortcut)


class EncodecStream:
    """Streaming decode of `batch` sequences, exact to float rounding.

    EnCodec mirrors its first latents into its start-up padding, so nothing comes out before `warmup_frames` (7) latents
    are known; afterwards each latent gives its `hop_samples` samples at once.
    """

    def __init__(self, codec: "EncodecLatents", batch: int) -> None:
        self._codec, self._batch, self._memory = codec, batch, Memory()
        self._waiting: list[Tensor] = []
        self.warmup_frames = first_piece_length(codec.decoder)

    @torch.inference_mode()
    def push(self, latents: Tensor) -> Tensor:
        """Samples [B, n] float32 that the next latents [B, k, D] complete; n is 0 while warming up, then k * hop."""
        self._codec.check_latents(latents, self._batch)
        if not self._memory:
            self._waiting.append(latents)
            if sum(piece.shape[1] for piece in self._waiting) < self.warmup_frames:
                return self._nothing()
            latents, self._waiting = torch.cat(self._waiting, dim=1), []
        return self._codec.decode_piece(latents, self._memory) if latents.shape[1] else self._nothing()

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """Samples [B, n] of latents that are still held, which is so only when fewer than 7 came in all."""
        waiting, self._waiting = [piece for piece in self._waiting if piece.shape[1]], []
        return self._codec.decode_piece(torch.cat(waiting, dim=1), Memory()) if waiting else self._nothing()

    def _nothing(self) -> Tensor:
        return torch.zeros(self._batch, 0, device=self._codec.device)


class EncodecLatents(nn.Module):
    """EnCodec behind the `LatentCodec` interface, with its codes within reach.

    Parameters have the names of transformers' EncodecModel, except that every convolution holds one folded `weight`.
    """

    def __init__(self, config: EncodecConfig, *, codebooks: int | None = None, bandwidth: float = 6.0) -> None:
        """Build with zero codebooks; `codebooks` counts those that exist (None: all that the last bandwidth needs).

        `bandwidth` in kbit/s chooses how many of them make a latent: 6.0 is SLED's choice, 8 codebooks.
        """
        super().__init__()
        self.config, self.bandwidth = config, bandwidth
        codebooks = codebooks or config.codebooks_for(config.target_bandwidths[-1])
        self.codebooks_used = min(config.codebooks_for(bandwidth), codebooks)
        self.encoder, self.decoder = _encoder(config), _decoder(config)
        self.quantizer = ResidualQuantizer(codebooks, config.codebook_size, config.hidden_size)
        self.sample_rate, self.hop_samples, self.channels = config.sampling_rate, config.hop_samples, config.hidden_size

    @property
    def frame_rate(self) -> float:
        """Latent frames a second."""
        return self.sample_rate / self.hop_samples

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.quantizer.layers[0]["codebook"].embed.device

    @torch.inference_mode()
    def encoder_frames(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encoder output [B, T, D] before quantisation of mono waveforms [B, S], T = ceil(S / hop)."""
        if waveform.ndim != 2 or waveform.shape[1] < 1:
            raise ShapeError(f"encode needs mono waveforms [B, S] with S >= 1, got {tuple(waveform.shape)}")
        waveform = waveform.to(self.device, torch.float32)
        if lengths is not None:
            places = torch.arange(waveform.shape[1], device=self.device)
            waveform = waveform * (places < lengths.to(self.device)[:, None])
        memory = Memory()
        blocks = waveform[:, None].split(BLOCK_FRAMES * self.hop_samples, dim=-1)
        return torch.cat([self.encoder(block, memory) for block in blocks], dim=-1).transpose(1, 2)

    @torch.inference_mode()
    def codes(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Codes [B, N, T] int64 of mono waveforms [B, S]."""
        return self.quantizer.encode(self.encoder_frames(waveform, lengths), self.codebooks_used)

    @torch.inference_mode()
    def latents_of(self, codes: Tensor) -> Tensor:
        """Latents [B, T, D] of codes [B, N, T]: the sums of the codebook vectors."""
        return self.quantizer.decode(codes)

    def encode(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Latents [B, T, D] of mono waveforms [B, S] at 24 kHz, T = ceil(S / hop).

        `lengths` [B] counts the real samples of each row; what lies past them is treated as silence.
        """
        return self.latents_of(self.codes(waveform, lengths))

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Waveforms [B, T * hop] float32 of latents [B, T, D], which need not lie on the codebook grid."""
        self.check_latents(latents)
        memory, samples = Memory(), [torch.zeros(latents.shape[0], 0, device=self.device)]
        samples += [self.decode_piece(piece, memory) for piece in latents.split(BLOCK_FRAMES, dim=1) if piece.shape[1]]
        return torch.cat(samples, dim=1)

    def decode_piece(self, latents: Tensor, memory: Memory) -> Tensor:
        """Samples [B, k * hop] of the next latents [B, k, D]; `memory` is updated."""
        return self.decoder(latents.to(self.device, torch.float32).transpose(1, 2), memory)[:, 0]

    def check_latents(self, latents: Tensor, batch: int | None = None) -> None:
        """Raise ShapeError unless latents are [B, T, D], with B = `batch` when it is given."""
        if latents.ndim != 3 or latents.shape[2] != self.channels or batch not in (None, latents.shape[0]):
            raise ShapeError(f"expected latents [{batch or 'B'}, T, {self.channels}], got {tuple(latents.shape)}")

    def stream(self, batch: int = 1) -> EncodecStream:
        """A fresh streaming decoder for `batch` sequences."""
        return EncodecStream(self, batch)

    @classmethod
    def from_tensors(
        cls, config: EncodecConfig | Mapping[str, Any], tensors: Mapping[str, Tensor], *, bandwidth: float = 6.0
    ) -> Self:
        """Build from a config and weights under the names of transformers.

        Accepts both namings of weight normalisation (`parametrizations.weight.original0/1`, `weight_g/weight_v`) and
        plain weights. Raises CheckpointError that lists every missing, unknown or misshapen entry.
        """
        config = config if isinstance(config, EncodecConfig) else EncodecConfig.from_official(config)
        codec = cls(config, codebooks=_count_codebooks(tensors), bandwidth=bandwidth)
        load_into(codec, fold_weight_norm(tensors))
        return codec.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: Path | str) -> Self:
        """Load the codec folder of a checkpoint: ours, or one copied from transformers' EncodecModel as it is."""
        folder = Path(folder)
        kind = read_json(checkpoint_file(folder, "config.json"))
        if isinstance(kind, dict) and kind.get("model_type") == "encodec":
            checkpoint_file(folder, "model.safetensors")
            return cls.from_official(folder)
        config = read_config(folder)
        if config["system"] != "encodec":
            raise CheckpointError(f"{folder} is no EnCodec checkpoint: config.json says {config['system']!r}")
        return cls.from_tensors(config["codec"], load_tensors(folder), bandwidth=config["bandwidth"])

    @classmethod
    def from_official(cls, folder: Path | str) -> Self:
        """Load config.json and model.safetensors as published for transformers (facebook/encodec_24khz)."""
        config = read_json(official_file(folder, "config.json"))
        kind = config.get("model_type") if isinstance(config, dict) else None
        if kind != "encodec":
            raise CheckpointError(f"{folder} is no official EnCodec folder: model_type is {kind!r}, expected 'encodec'")
        return cls.from_tensors(config, read_tensors(official_file(folder, "model.safetensors"), dtype=torch.float32))

    def save(self, folder: Path | str, *, dtype: torch.dtype | None = None) -> None:
        """Write config.json and model.safetensors with folded weights, atomically."""
        config = {"system": "encodec", "codec": asdict(self.config), "bandwidth": self.bandwidth}
        save_checkpoint(Path(folder), config, self.state_dict(), dtype=dtype)


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace magnitude g [C, 1, 1] and direction v [C, C', k] of every convolution by the weight g * v / |v|.

    The norm is taken in float64, per first dimension; entries that only training needs are dropped.
    """
    torch_now = ".parametrizations.weight.original"
    magnitude_of = {f"{torch_now}1": f"{torch_now}0", ".weight_v": ".weight_g"}
    folded = {}
    for name, value in tensors.items():
        if name.endswith((".inited", ".cluster_size", ".embed_avg", *magnitude_of.values())):
            continue
        ending = next((ending for ending in magnitude_of if name.endswith(ending)), None)
        if ending is None:
            folded[name] = value
            continue
        stem = name.removesuffix(ending)
        magnitude = tensors.get(stem + magnitude_of[ending])
        if magnitude is None:
            raise CheckpointError(f"{name} needs {stem + magnitude_of[ending]} beside it: the checkpoint is incomplete")
        direction = value.double()
        scale = magnitude.double().flatten() / direction.flatten(1).norm(dim=1)
        folded[f"{stem}.weight"] = (direction * scale[:, None, None]).to(value.dtype)
    return folded


def _count_codebooks(names: Iterable[str]) -> int:
    found = [re.fullmatch(r"quantizer\.layers\.(\d+)\.codebook\.embed", name) for name in names]
    if not any(found):
        raise CheckpointError("no codebooks (quantizer.layers.*.codebook.embed) in the file: not an EnCodec checkpoint")
    return 1 + max(int(match[1]) for match in found if match)
