"""The sizes of the set tokenizer and of the network over counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from genmm.core.config import read_fields
from genmm.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SetTokenizerConfig:
    """An image as an unordered set of codes; the defaults are the released tokenizer (203 M parameters)."""

    image_size: int = 256
    """Height and width of the picture in pixels; a multiple of patch_size."""
    patch_size: int = 16
    """Height and width of a patch in pixels."""
    tokens: int = 128
    """Latent queries, hence the largest set."""
    sizes: tuple[int, ...] = ()
    """Set sizes that the tokenizer was trained for; () means `tokens` alone."""
    codes: int = 4096
    """Codes C of the codebook."""
    code_width: int = 12
    """Width D of a code."""
    width: int = 768
    """Width W of encoder and decoder."""
    depth: int = 12
    """Blocks of the encoder, and of the decoder."""
    heads: int = 12
    """Attention heads; must divide width."""
    mlp_ratio: float = 4.0
    """Inner width of the feed-forward as a multiple of width."""
    features: int = 256
    """Channels of the map between decoder and pixels."""
    pixels: Literal["maskgit", "shuffle"] = "maskgit"
    """Pixel decoder: that of MaskGIT-VQGAN, or a light one with pixel shuffles."""
    pixel_channels: int = 128
    """Base channels of the pixel decoder."""
    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Channels of each resolution, finest first (maskgit); 2^(n - 1) must be patch_size."""
    res_blocks: int = 2
    """Residual blocks per resolution."""
    legacy_mixing: bool = True
    """The released code's faults, which its weights need: latents are reshaped instead of transposed before the
    projection, and the pixel decoder's shortcut is applied to the block's output. Off for new models."""

    def __post_init__(self) -> None:
        for name in (
            "image_size", "patch_size", "tokens", "codes", "code_width", "width", "depth", "heads", "features",
            "pixel_channels", "res_blocks",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"tokenizer.{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ConfigError(f"heads {self.heads} must divide width {self.width}")
        if self.tokens > self.codes:
            raise ConfigError(
                f"a set of {self.tokens} tokens needs at least as many codes, got {self.codes}; raise codes"
            )
        if self.pixels not in ("maskgit", "shuffle"):
            raise ConfigError(f"pixels must be maskgit or shuffle, got {self.pixels!r}")
        if self.pixels == "maskgit" and 2 ** (len(self.channel_mult) - 1) != self.patch_size:
            raise ConfigError(
                f"channel_mult has {len(self.channel_mult)} entries, which scales up by "
                f"{2 ** (len(self.channel_mult) - 1)}; patch_size is {self.patch_size}"
            )
        if self.pixels == "shuffle" and self.patch_size % 2:
            raise ConfigError(f"patch_size must be even for the shuffle decoder, got {self.patch_size}")
        if any(not 1 <= size <= self.tokens for size in self.sizes):
            raise ConfigError(f"sizes must be from 1 to {self.tokens} tokens, got {self.sizes}")
        if self.legacy_mixing and self.sizes not in ((), (self.tokens,)):
            raise ConfigError("legacy_mixing ties the tokenizer to one set size; leave sizes empty or switch it off")

    @property
    def grid(self) -> int:
        """Patches in a row or column."""
        return self.image_size // self.patch_size

    @property
    def set_sizes(self) -> tuple[int, ...]:
        """All sizes the tokenizer may be asked for."""
        return self.sizes or (self.tokens,)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, for config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SetTokenizerConfig:
        """From config.json. Raises: ConfigError for an unknown field or a bad value."""
        return read_fields(cls, values, "tokenizer")


@dataclass(frozen=True, kw_only=True)
class CountNetworkConfig:
    """The denoiser over count vectors; the defaults are the released small network (36 M parameters)."""

    codes: int = 4096
    """Codes C."""
    tokens: int = 128
    """Sum M of the counts."""
    width: int = 384
    """Width of the transformer."""
    depth: int = 12
    """Blocks."""
    heads: int = 6
    """Attention heads; must divide width."""
    mlp_ratio: float = 4.0
    """Inner width of the feed-forward as a multiple of width."""
    group: int = 1
    """Neighbouring codes that share a position; 1 is the paper, 8 makes the sequence 8 times shorter."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What a picture can be asked for: name of a field ("class", "style") -> its values in order."""
    text_rows: int = 0
    """Rows of the table of hashed words and letter triples; 0 means no text."""
    time_scale: float = 1.0
    """Factor on t before the sinusoids; 1 is the released network, 1000 lets all frequencies move."""
    count_rows: int = 0
    """Rows of the count table; 0 means M + 1. The released network has C + 1, of which M + 1 are used."""
    dropout: float = 0.1
    """Probability that a training row loses its condition, so that guidance works."""

    def __post_init__(self) -> None:
        for name in ("codes", "tokens", "width", "depth", "heads", "group"):
            if getattr(self, name) < 1:
                raise ConfigError(f"network.{name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ConfigError(f"heads {self.heads} must divide width {self.width}")
        if int(self.width * self.mlp_ratio) < 1:
            raise ConfigError(f"network.mlp_ratio must be above 0, got {self.mlp_ratio}; 4 is usual")
        if self.codes % self.group:
            raise ConfigError(f"group {self.group} must divide the {self.codes} codes")
        if self.tokens > self.codes:
            raise ConfigError(f"a set of {self.tokens} tokens needs at least as many codes, got {self.codes}")
        if 0 < self.count_rows <= self.tokens or self.count_rows < 0:
            raise ConfigError(f"count_rows must be 0 or above {self.tokens}, got {self.count_rows}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}; the paper has 0.1")
        if self.text_rows < 0:
            raise ConfigError(f"text_rows must be 0 (no text) or more, got {self.text_rows}")

    @property
    def values(self) -> int:
        """K: a count can be 0 to M."""
        return self.tokens + 1

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, for config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CountNetworkConfig:
        """From config.json. Raises: ConfigError for an unknown field or a bad value."""
        return read_fields(cls, values, "network")
