"""Sizes of the flow network and of the released codec, under the official field names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from genmm.core.config import read_fields
from genmm.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """The flow network; the defaults are those of the released model (962 M parameters)."""

    dim: int = 1536
    """Width of the transformer."""
    latent_dim: int = 128
    """Channels D of a latent frame."""
    num_heads: int = 24
    """Attention heads; they divide `dim` into an even number of channels each."""
    num_layers: int = 24
    """Layers; those of the second half also read an output of the first half."""
    hidden_scale: float = 4
    """Width of the feed-forward layer, as a multiple of `dim`."""
    max_period: float = 10000.0
    """Longest period of the rotary positions, in frames."""
    cond_dim: int = 768
    """Width of the text states; 768 is T5-base."""
    score_features: int = 0
    """Features given for every frame (see `score.py`), added behind the input projection; 0 = none, as released."""
    global_text: bool = False
    """Whether the sum of the text states is also added to every frame; False as released."""

    def __post_init__(self) -> None:
        for name in ("dim", "latent_dim", "num_heads", "num_layers", "cond_dim"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"network.{name} must be a whole number of at least 1, got {value!r}")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ConfigError(
                f"network.num_heads must divide dim {self.dim} into heads of an even width, got {self.num_heads}"
            )
        if self.score_features < 0 or not math.isfinite(self.max_period) or self.hidden_scale <= 0:
            raise ConfigError("network.score_features must be at least 0, hidden_scale and max_period above 0")

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layer."""
        return int(self.hidden_scale * self.dim)

    @property
    def skips(self) -> int:
        """Projections that join an early output to a late layer."""
        return (self.num_layers - 1) // 2

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, strict: bool = True) -> Self:
        """Read a config. Raises: ConfigError for unknown fields (when strict) and bad values."""
        return read_fields(cls, values, "network", strict=strict)

    @classmethod
    def from_official(cls, blocks: Mapping[str, Any]) -> Self:
        """Read the blocks `transformer_lm` and `cond_dim` of an official configuration.

        Raises: ConfigError when the model differs from MelodyFlow in something that we do not implement.
        """
        block = dict(blocks["transformer_lm"])
        fixed = {
            "norm": "layer_norm", "norm_first": True, "bias_proj": False, "bias_ff": False, "bias_attn": False,
            "causal": False, "positional_embedding": "rope", "skip_connections": True, "add_zero_attn": True,
            "activation": "gelu", "xpos": False, "qk_layer_norm": False, "layer_scale": None, "kv_repeat": 1,
            "past_context": None,
        }  # fmt: skip
        wrong = {name: block[name] for name, value in fixed.items() if block.get(name, value) != value}
        if wrong:
            raise ConfigError(f"this is not a MelodyFlow network: {wrong} (expected {[fixed[name] for name in wrong]})")
        return cls.from_dict({**block, "cond_dim": blocks.get("cond_dim", 768)}, strict=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_dict` reads them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class SeanetConfig:
    """The codec of section 2.1 of the paper's code; the defaults are those of the released one (60 M parameters)."""

    sample_rate: int = 48000
    """Samples a second."""
    channels: int = 2
    """Channels of the waveform."""
    dimension: int = 128
    """Latent channels D; the encoder gives 2 D, mean and scale."""
    n_filters: int = 64
    """Channels next to the waveform; they double at every stride."""
    n_residual_layers: int = 1
    """Residual blocks at every stride."""
    ratios: tuple[int, ...] = (8, 8, 6, 5)
    """Strides of the decoder, first to last; their product is the hop."""
    kernel_size: int = 7
    """Kernel of the first convolution."""
    last_kernel_size: int = 7
    """Kernel of the last convolution."""
    residual_kernel_size: int = 3
    """Kernel of the wide convolution of a residual block."""
    dilation_base: int = 2
    """Residual block j has the dilation base^j."""
    compress: int = 2
    """A residual block narrows its channels by this factor."""
    true_skip: bool = True
    """Whether a residual block adds its input as it is (or through a 1x1 convolution)."""
    lstm: int = 2
    """Layers of each LSTM; 0 = none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratios", tuple(self.ratios))
        if not self.ratios or any(not isinstance(r, int) or r < 1 for r in self.ratios):
            raise ConfigError(f"codec.ratios must be whole numbers of at least 1, got {self.ratios}")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name not in ("ratios", "true_skip", "lstm") and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"codec.{entry.name} must be a whole number of at least 1, got {value!r}")

    @property
    def hop_samples(self) -> int:
        """Samples that one latent frame stands for."""
        return math.prod(self.ratios)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a config. Raises: ConfigError for unknown fields and bad values."""
        return read_fields(cls, values, "codec")

    @classmethod
    def from_official(cls, blocks: Mapping[str, Any]) -> Self:
        """Read the blocks `encodec` and `seanet` of an official configuration. Raises: ConfigError."""
        seanet, encodec = dict(blocks["seanet"]), dict(blocks.get("encodec", {}))
        fixed = {"causal": False, "activation": "snake", "norm": "weight_norm", "pad_mode": "reflect"}
        wrong = {name: seanet[name] for name, value in fixed.items() if seanet.get(name, value) != value}
        decoder = dict(seanet.get("decoder") or {})
        if wrong or encodec.get("renormalize") or decoder.get("final_activation"):
            raise ConfigError(f"this is not the codec of MelodyFlow: {wrong or {**encodec, **decoder}}")
        values = {**seanet, "sample_rate": encodec.get("sample_rate", 48000)}
        return read_fields(cls, values, "codec", strict=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_dict` reads them."""
        return {**asdict(self), "ratios": list(self.ratios)}
