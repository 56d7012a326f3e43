"""The text encoder of models trained here: one token per caption field, a small transformer over them.

Letters: B captions, L tokens (one per field), W width of the states.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from genmm.core.config import read_fields
from genmm.core.errors import ConfigError
from genmm.systems.melodyflow.captions import VALUES, Caption

FIELDS = ("tempo_bpm", *VALUES)
"""The fields in the order of their tokens."""
TEMPO_WAVES = 8
"""Sines and cosines of the logarithm of the tempo."""


@dataclass(frozen=True, kw_only=True)
class CaptionTextConfig:
    """Sizes of the caption encoder."""

    width: int = 128
    """Width W of the states."""
    layers: int = 2
    """Transformer layers over the tokens; 0 leaves every token by itself."""
    heads: int = 4
    """Attention heads."""

    def __post_init__(self) -> None:
        if self.width < 8 or self.layers < 0 or self.heads < 1 or self.width % self.heads:
            raise ConfigError(f"text.width must be at least 8 and divisible by heads, layers at least 0, got {self}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a config. Raises: ConfigError."""
        return read_fields(cls, values, "text")


def caption_codes(captions: Sequence[Caption]) -> tuple[Tensor, Tensor]:
    """Ids [B, L - 1] int64 of the fields but the tempo (-1 = open) and tempi [B] float32 (0 = open)."""
    ids = [
        [VALUES[name].index(value) if (value := getattr(caption, name)) is not None else -1 for name in VALUES]
        for caption in captions
    ]
    tempi = [caption.tempo_bpm or 0.0 for caption in captions]
    return torch.tensor(ids, dtype=torch.int64).view(len(captions), len(VALUES)), torch.tensor(tempi)


class CaptionText(nn.Module):
    """Captions to states with a mask; open fields are masked, so an all-open caption is the null condition."""

    kind = "captions"

    def __init__(self, config: CaptionTextConfig = CaptionTextConfig()) -> None:  # noqa: B008 - frozen
        super().__init__()
        self.config = config
        self.values = nn.ModuleDict({name: nn.Embedding(len(values), config.width) for name, values in VALUES.items()})
        self.tempo = nn.Linear(2 * TEMPO_WAVES, config.width)
        self.place = nn.Parameter(torch.randn(len(FIELDS), config.width) * 0.1)
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, 2 * config.width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False) if config.layers else None

    @property
    def width(self) -> int:
        """W."""
        return self.config.width

    def forward(self, ids: Tensor, tempi: Tensor) -> tuple[Tensor, Tensor]:
        """States [B, L, W] and mask [B, L] of `caption_codes`; differentiable."""
        waves = torch.log2(tempi.clamp_min(1.0) / 60.0).unsqueeze(1) * self._frequencies(tempi.device)
        tokens = [self.tempo(torch.cat((waves.sin(), waves.cos()), 1))]
        tokens += [table(ids[:, index].clamp_min(0)) for index, table in enumerate(self.values.values())]
        mask = torch.cat((tempi.unsqueeze(1) > 0, ids >= 0), 1)
        states = torch.stack(tokens, 1) + self.place
        if self.layers is not None:
            # A row without any field must not be all masked for the softmax; its states are masked out below.
            hidden = ~mask & mask.any(1, keepdim=True)
            states = self.layers(states, src_key_padding_mask=hidden)
        mask = mask.to(states.dtype)
        return states * mask.unsqueeze(-1), mask

    def _frequencies(self, device: torch.device) -> Tensor:
        return math.pi * 2.0 ** torch.arange(TEMPO_WAVES, device=device)  # log2(bpm / 60) lies in [0, 1.6]

    @torch.no_grad()
    def states(self, captions: Sequence[Caption]) -> tuple[Tensor, Tensor]:
        """States and mask of captions, for sampling."""
        ids, tempi = caption_codes(captions)
        device = self.place.device
        return self(ids.to(device), tempi.to(device))

    def modules_config(self) -> dict[str, Any]:
        """What config.json says about it."""
        return asdict(self.config)
