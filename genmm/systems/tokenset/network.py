"""The denoiser over count vectors: counts, time and condition in, probabilities of the clean counts out.

Letters: B batch, C codes, K = M + 1 values of a count, W width, g codes of one position, L pieces of a text.
Source: TokenSet (arXiv 2503.16425) section 3.3, "DiT-1D": one position for every code. Ours besides: g codes may share
a position, and pictures may be asked for by several labels and a text instead of one class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genmm.core.errors import ShapeError, UsageError
from genmm.systems.tokenset.blocks import ModulatedBlock, modulated
from genmm.systems.tokenset.config import CountNetworkConfig

SINUSOIDS = 256
"""Width of the time embedding before its layers."""
SLOWEST = 10_000.0
"""Longest period of the sinusoids."""


@dataclass(frozen=True)
class Condition:
    """What pictures are asked for, one row each."""

    labels: dict[str, Tensor]
    """Field -> ids [B] int64; the number of values of the field means "not given"."""
    text: Tensor | None = None
    """Rows of the text table [B, L] int64; 0 is padding, a row of zeros means "no text"."""

    def __len__(self) -> int:
        parts = [*self.labels.values(), *([self.text] if self.text is not None else [])]
        return len(parts[0]) if parts else 0

    def to(self, device: torch.device | str) -> Condition:
        """The same on another device."""
        text = None if self.text is None else self.text.to(device)
        return Condition({name: ids.to(device) for name, ids in self.labels.items()}, text)

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        text = None if self.text is None else self.text[rows]
        return Condition({name: ids[rows] for name, ids in self.labels.items()}, text)

    def joined(self, other: Condition) -> Condition:
        """This batch followed by another one."""
        text = None
        if self.text is not None and other.text is not None:
            length = max(self.text.shape[1], other.text.shape[1])
            pad = torch.nn.functional.pad
            text = torch.cat([pad(part, (0, length - part.shape[1])) for part in (self.text, other.text)])
        return Condition({name: torch.cat((ids, other.labels[name])) for name, ids in self.labels.items()}, text)


class TimeEmbedder(nn.Module):
    """t [B] -> [B, W]: sinusoids and two layers."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.mlp = nn.Sequential(nn.Linear(SINUSOIDS, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        half = SINUSOIDS // 2
        rates = torch.exp(-math.log(SLOWEST) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angles = self.scale * t.float()[:, None] * rates
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1)
        return self.mlp(waves.to(self.mlp[0].weight.dtype))


class TextEmbedder(nn.Module):
    """The mean of a text's piece vectors and two layers: [B, L] -> [B, W]. A small text encoder of our own."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, width, padding_idx=0)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.nothing = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.table.weight, std=1.0)

    def forward(self, pieces: Tensor) -> Tensor:
        given = (pieces > 0).to(self.table.weight.dtype)
        times = given.sum(-1, keepdim=True)
        pooled = (self.table(pieces) * given[..., None]).sum(1) / times.clamp_min(1.0).sqrt()
        return torch.where(times > 0, self.mlp(pooled), self.nothing.to(pooled.dtype))


class FinalLayer(nn.Module):
    """Modulated norm and the logits."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        return self.linear(modulated(self.norm_final(x), shift, scale))


class CountEmbedder(nn.Module):
    """Counts [B, C] -> [B, C / g, W]: the sum of one table row for each of a position's g counts."""

    def __init__(self, rows: int, group: int, width: int) -> None:
        super().__init__()
        self.rows, self.group = rows, group
        self.embedding_table = nn.Embedding(rows * group, width)
        nn.init.normal_(self.embedding_table.weight, std=0.02 if group == 1 else group**-0.5)

    def forward(self, counts: Tensor) -> Tensor:
        if self.group == 1:
            return self.embedding_table(counts)
        places = torch.arange(self.group, device=counts.device) * self.rows
        rows = counts.unflatten(-1, (-1, self.group)) + places
        return nn.functional.embedding_bag(rows.reshape(-1, self.group), self.embedding_table.weight, mode="sum").view(
            counts.shape[0], -1, self.embedding_table.embedding_dim
        )


class CountNetwork(nn.Module):
    """Counts [B, C], t [B], condition -> logits [B, C, K] of the clean counts."""

    def __init__(self, config: CountNetworkConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.pos_embed = nn.Parameter(torch.zeros(1, config.codes // config.group, width))
        self.x_embedder = CountEmbedder(config.count_rows or config.values, config.group, width)
        self.t_embedder = TimeEmbedder(width, config.time_scale)
        self.label_embedders = nn.ModuleDict(
            {name: nn.Embedding(len(values) + 1, width) for name, values in config.labels.items()}
        )
        self.text_embedder = TextEmbedder(config.text_rows, width) if config.text_rows else None
        self.blocks = nn.ModuleList(ModulatedBlock(width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.final_layer = FinalLayer(width, config.group * config.values)
        self._start()

    def _start(self) -> None:
        """The paper's start: nothing is modulated, the logits are 0; ours with g > 1 knows that most counts are 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for embedder in self.label_embedders.values():
            nn.init.normal_(embedder.weight, std=0.02)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for owner in (*self.blocks, self.final_layer):
            nn.init.zeros_(owner.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)
        if self.config.group > 1:
            nn.init.normal_(self.pos_embed, std=0.02)
            share = self.config.tokens / self.config.codes
            start = torch.log(share ** torch.arange(self.config.values).float().clamp_max(8) + 1e-9)
            with torch.no_grad():
                self.final_layer.linear.bias.copy_(start.repeat(self.config.group))

    def condition(self, rows: int, device: torch.device, given: Condition | None) -> Tensor:
        """The sum of all embedded labels and the text, [B, W]."""
        total = torch.zeros(rows, self.config.width, device=device, dtype=self.pos_embed.dtype)
        for name, embedder in self.label_embedders.items():
            none = len(self.config.labels[name])
            ids = given.labels.get(name) if given is not None else None
            total = total + embedder(torch.full((rows,), none, device=device) if ids is None else ids)
        if self.text_embedder is not None:
            pieces = given.text if given is not None else None
            none_pieces = torch.zeros(rows, 1, dtype=torch.int64, device=device)
            total = total + self.text_embedder(none_pieces if pieces is None else pieces)
        return total

    def forward(self, counts: Tensor, t: Tensor, given: Condition | None = None) -> Tensor:
        """Raises: ShapeError for another number of codes, UsageError for a count above what the table knows."""
        if counts.ndim != 2 or counts.shape[1] != self.config.codes:
            raise ShapeError(f"counts must be [B, {self.config.codes}], got {tuple(counts.shape)}")
        if not counts.is_cuda and counts.numel() and int(counts.max()) >= self.x_embedder.rows:
            raise UsageError(f"a count must be below {self.x_embedder.rows}, got {int(counts.max())}")
        x = self.x_embedder(counts) + self.pos_embed
        whole = self.t_embedder(t) + self.condition(len(counts), counts.device, given)
        for block in self.blocks:
            x = block(x, whole)
        return self.final_layer(x, whole).view(len(counts), self.config.codes, self.config.values)

    def dropped(self, given: Condition, generator: torch.Generator | None = None) -> Condition:
        """A training batch in which some rows lose their condition: everything, or single parts of it."""
        rows = len(given)
        device = given.text.device if given.text is not None else next(iter(given.labels.values())).device
        several = len(given.labels) + (given.text is not None) > 1
        share = self.config.dropout
        all_gone = torch.rand(rows, device=device, generator=generator) < share

        def lost() -> Tensor:
            return all_gone | ((torch.rand(rows, device=device, generator=generator) < share) & several)

        labels = {name: ids.masked_fill(lost(), len(self.config.labels[name])) for name, ids in given.labels.items()}
        return Condition(labels, None if given.text is None else given.text.masked_fill(lost()[:, None], 0))
