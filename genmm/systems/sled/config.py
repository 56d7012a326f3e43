"""The sizes of a SLED network, in the field names of the published configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from genmm.core.config import read_fields
from genmm.core.errors import ConfigError

# Fields of a Hugging Face config that we do not model: each may only hold the value that our network implements.
_FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "rope_scaling": None,
}


@dataclass(frozen=True, kw_only=True)
class SledConfig:
    """Sizes and training switches of one SLED network; the defaults are the released 203 M parameter model."""

    vocab_size: int = 16384
    """Text tokens, including <s>, <pad>, </s> and <unk> with the ids 0 to 3."""
    max_position_embeddings: int = 2048
    """Longest text + speech in positions."""
    hidden_size: int = 1024
    """Width H of the decoder."""
    intermediate_size: int = 2752
    """Inner width of the feed-forward."""
    num_hidden_layers: int = 12
    """Decoder layers."""
    num_attention_heads: int = 16
    """Query heads; must divide hidden_size unless head_dim is given."""
    num_key_value_heads: int | None = None
    """Key-value heads, a divisor of num_attention_heads; None means one for each query head."""
    head_dim: int | None = None
    """Width of one head; None means hidden_size / num_attention_heads."""
    rms_norm_eps: float = 1e-6
    """Added to the mean of squares before the root."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    vae_embed_dim: int = 128
    """Channels D of one speech latent."""
    diffloss_d: int = 3
    """Residual blocks of the generator head; 3 is the default of the official class, the released model has 6."""
    diffloss_w: int = 1024
    """Width W of the generator head."""
    noise_channels: int = 128
    """Noise values N that the head gets for one frame."""
    training_cfg: float = 0.0
    """Probability that a training row loses its text, so that guidance works later; 0.1 in the paper."""
    dropout: float = 0.0
    """Dropout on the output of attention and feed-forward."""
    attention_dropout: float = 0.0
    """Dropout on attention weights."""
    activation_dropout: float = 0.0
    """Dropout on the gated product inside the feed-forward."""
    bos_token_id: int = 0
    """Id of <s>."""
    pad_token_id: int | None = None
    """Id fed at padded text positions; masked, so any valid id will do. None means 1."""
    eos_token_id: int = 2
    """Id of </s>, the only text that the unconditional branch sees."""
    stream_n: int = 0
    """Text tokens read in one turn of the streaming layout; 0 means the offline layout (all text first)."""
    stream_m: int = 0
    """Speech frames written in one turn of the streaming layout; 0 with the offline layout."""
    stream_positions: Literal["slots", "real"] = "slots"
    """Positions in streaming training: "slots" counts padded slots as the official code does, "real" skips them,
    which is what generation sees. Keep "slots" when continuing from official weights."""
    voice_channels: int = 0
    """Length of the voice statistics vector that is added to every position; 0 means none (official)."""

    def __post_init__(self) -> None:
        self._check_positive()
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}; "
                "change one of them or give head_dim"
            )
        if self.num_attention_heads % self.kv_heads:
            raise ConfigError(
                f"num_key_value_heads {self.kv_heads} must divide num_attention_heads {self.num_attention_heads}"
            )
        if (self.stream_n > 0) != (self.stream_m > 0) or min(self.stream_n, self.stream_m) < 0:
            raise ConfigError(
                f"stream_n and stream_m must both be 0 (offline) or both at least 1, "
                f"got {self.stream_n} and {self.stream_m}; the released streaming model has 5 and 45"
            )
        for name in ("training_cfg", "dropout", "attention_dropout", "activation_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must be in [0, 1), got {getattr(self, name)}; the paper has 0.1")
        if self.stream_positions not in ("slots", "real"):
            raise ConfigError(f'stream_positions must be "slots" or "real", got {self.stream_positions!r}')

    def _check_positive(self) -> None:
        names = "vocab_size max_position_embeddings hidden_size intermediate_size num_hidden_layers "
        names += "num_attention_heads vae_embed_dim diffloss_d diffloss_w noise_channels rms_norm_eps rope_theta"
        for name in names.split():
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be greater than 0, got {getattr(self, name)}")
        if self.voice_channels < 0:
            raise ConfigError(f"voice_channels must be 0 (no voice vector) or more, got {self.voice_channels}")
        if not 0 <= self.eos_token_id < self.vocab_size:
            raise ConfigError(f"eos_token_id {self.eos_token_id} is outside the vocabulary of {self.vocab_size}")

    @property
    def kv_heads(self) -> int:
        """Key-value heads with the default filled in."""
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def width_of_head(self) -> int:
        """Width of one attention head with the default filled in."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def is_streaming(self) -> bool:
        """Whether text and speech are interleaved."""
        return self.stream_n > 0

    @property
    def padding_id(self) -> int:
        """Id to feed where there is no text."""
        return min(1, self.vocab_size - 1) if self.pad_token_id is None else self.pad_token_id

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, for config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, strict: bool = True) -> SledConfig:
        """Build from config.json of ours (strict) or from an official one (strict=False: other HF fields are skipped).

        Raises: ConfigError for a field we do not know (strict), and for one that asks for something else than we build.
        """
        if not isinstance(values, Mapping):
            return read_fields(cls, values, "network")  # says what is wrong
        for name, only in _FIXED.items():
            if values.get(name, only) != only:
                raise ConfigError(f"{name}={values[name]!r} is not supported, only {only!r}")
        own = {name: value for name, value in values.items() if name not in (*_FIXED, "model_type")}
        return read_fields(cls, own, "network", strict=strict)
