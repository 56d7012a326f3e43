"""The attention blocks that turn codebook and index map into tokens: `official`, `paper` and `occupancy`.

Letters: B clips, T frames, H W grid, K clusters, D width.
All are called as `block(codebook [B, K, D], index_map [B, T, H, W], mask [B, K])` and give (tokens [B, M, D],
mask [B, M]); M is K except for `official`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genmm.core.errors import ConfigError, ShapeError
from genmm.nn.attention import attend
from genmm.quantizers.kmeans_seeding import take_rows
from genmm.systems.vqtoken.geometry import describe_occupancy, description_width, frame_counts, one_hot
from genmm.systems.vqtoken.methods import BlockName

__all__ = ["OccupancyBlock", "OfficialBlock", "PaperBlock", "PlainBlock", "make_block", "run_block"]

MOST_MAP_FRAMES = 512
"""Frames of the map that a block looks at."""
OFFICIAL_INNER = 2048
"""Width of the feed-forward of the published block, whatever the rest is."""


class PlainBlock(nn.Module):
    """No block: the codebook is the tokens. This is the path that the published code runs by default."""

    def forward(self, codebook: Tensor, index_map: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return codebook, mask


class OfficialBlock(nn.Module):
    """The published block, weight for weight.

    One query per frame, made by a linear layer from the raw ids of the frame's cells; one post-norm decoder layer over
    the codebook. The shorter of frames and codebook rows is repeated in a cycle, so there are max(T, K) tokens: the
    number of frames, not the budget, when T > K. The checkpoint is tied to its H x W, and renaming clusters changes
    the result; it is here for the published weights.
    Source: Hai-chao-Zhang/VQToken (commit 019f89f); tensor names are those of its checkpoints.
    """

    def __init__(self, cells: int, width: int, heads: int = 8) -> None:
        super().__init__()
        self.cells, self.width, self.heads = cells, width, heads
        self.to_q_proj = nn.Linear(cells, width)
        layer = nn.TransformerDecoderLayer(width, heads, OFFICIAL_INNER)
        self.transformer_decoder = nn.TransformerDecoder(layer, 1)
        self._start()

    def _start(self) -> None:
        nn.init.xavier_uniform_(self.to_q_proj.weight)
        nn.init.zeros_(self.to_q_proj.bias)
        for name, weight in self.transformer_decoder.named_parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)
            elif "norm" in name and name.endswith("weight"):
                nn.init.uniform_(weight, -0.01, 0.01)  # as published
            elif "norm" in name:
                nn.init.zeros_(weight)

    def forward(self, codebook: Tensor, index_map: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes: see the module. The cycle of a clip depends on its own frames and K alone."""
        cells = index_map[0, 0].numel()
        if cells != self.cells:
            raise ShapeError(f"this block was trained for {self.cells} cells a frame, the map has {cells}")
        return self._decode(codebook, index_map.flatten(2), mask.sum(1).clamp_min(1), frame_counts(index_map))

    def one(self, codebook: Tensor, index_map: Tensor) -> Tensor:
        """Tokens [max(T, K), D] of one clip: codebook [K, D], index_map [T, H, W] or [T, H W]."""
        used = torch.tensor([len(codebook)], device=codebook.device)
        frames = torch.full_like(used, len(index_map))
        return self._decode(codebook.unsqueeze(0), index_map.flatten(1).unsqueeze(0), used, frames)[0][0]

    def _decode(self, codebook: Tensor, ids: Tensor, used: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """codebook [B, K, D], ids [B, T, H W]; rows of the codebook `used` [B] and `frames` [B] that count."""
        counts = torch.maximum(used, frames)
        turn = torch.arange(int(counts.max()), device=used.device)
        # Published as is: ids are numbers here.
        queries = take_rows(self.to_q_proj(ids.to(codebook.dtype)), turn % frames.unsqueeze(1))
        memory = take_rows(codebook, turn % used.unsqueeze(1))
        present = turn < counts.unsqueeze(1)
        beyond = None if bool(present.all()) else ~present
        tokens = self.transformer_decoder(
            queries.transpose(0, 1),
            memory.transpose(0, 1),
            tgt_key_padding_mask=beyond,
            memory_key_padding_mask=beyond,
        ).transpose(0, 1)
        return tokens * present.unsqueeze(-1).to(tokens.dtype), present


class PaperBlock(nn.Module):
    """Equations 6 and 7 of the paper in the reading that works for any K.

    Row k of the flattened map is the indicator of cluster k; a linear layer, shared over rows, is factorised into
    learned embeddings of time, height and width (resampled to the clip's size) that are averaged over the cluster's
    cells, and a second layer follows. Attention weights come from the centroids, values from the map; then residual
    and norm. The paper leaves depth, width, residual and norm of these open.
    Source: VQToken (arXiv 2503.16980), equations 6 and 7.
    """

    POSITIONS = (32, 27, 27)

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.axes = nn.ParameterList(nn.Parameter(0.02 * torch.randn(count, width)) for count in self.POSITIONS)
        self.map_mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.norm = nn.LayerNorm(width)

    def forward(self, codebook: Tensor, index_map: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes: see the module."""
        hot = one_hot(index_map, codebook.shape[1]).to(codebook.dtype)
        size = hot.sum((2, 3, 4)).clamp_min(1.0).unsqueeze(-1)
        along = (hot.sum((3, 4)), hot.sum((2, 4)), hot.sum((2, 3)))
        lengths = (frame_counts(index_map), None, None)
        tables = [_read_at(e, x.shape[-1], n) for e, x, n in zip(self.axes, along, lengths, strict=True)]
        mixed = sum(x @ table / size for x, table in zip(along, tables, strict=True))
        values = self.to_v(self.map_mlp(mixed))
        query, key, value = (_split(x, self.heads) for x in (self.to_q(codebook), self.to_k(codebook), values))
        seen = attend(query, key, value, _key_mask(mask))
        return self.norm(codebook + _join(seen)), mask


class OccupancyBlock(nn.Module):
    """Ours: each codebook row learns where its cluster is over time, then one pre-norm attention layer over the tokens.

    The description (`describe_occupancy`) does not depend on cluster names, on the size of the grid or on the number
    of frames, and there are exactly K tokens. The attention layer adds nothing at first: tokens that are mixed before
    anything is learned hide what shape a thing has. With `zero_start` the description adds nothing either, so the block
    begins as the identity, which is what a language model that knows plain tokens wants.
    """

    def __init__(
        self, width: int, heads: int = 8, *, bins: int = 8, grid: int = 4, inner: int = 0, zero_start: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.bins, self.grid = heads, bins, grid
        inner = inner or 2 * width
        self.describe = nn.Sequential(
            nn.Linear(description_width(bins, grid), inner), nn.GELU(), nn.Linear(inner, width)
        )
        self.norm_mix, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        for layer in (self.out, self.mlp[-1], *([self.describe[-1]] if zero_start else [])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, codebook: Tensor, index_map: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes: see the module."""
        with torch.no_grad():
            seen = describe_occupancy(index_map, codebook.shape[1], bins=self.bins, grid=self.grid)
        return self.described(codebook, seen, mask), mask

    def described(self, codebook: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        """Tokens [B, K, D] where the description [B, K, N] of the map is known already."""
        return self.mix(codebook + self.describe(seen.to(codebook.dtype)), mask)

    def mix(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """The attention layer over tokens [B, K, D]; rows outside the mask come out as 0."""
        parts = self.qkv(self.norm_mix(tokens)).chunk(3, dim=-1)
        query, key, value = (_split(x, self.heads) for x in parts)
        tokens = tokens + self.out(_join(attend(query, key, value, _key_mask(mask))))
        tokens = tokens + self.mlp(self.norm_mlp(tokens))
        return tokens * mask.unsqueeze(-1).to(tokens.dtype)


def run_block(block: nn.Module, codebook: Tensor, index_map: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A block on a codebook of any number format and a map of any length.

    Of more than MOST_MAP_FRAMES frames it sees every so-many-th, so that hours of video take no more memory than
    minutes. Tokens have the number format of the block.
    """
    step = max(1, -(-index_map.shape[1] // MOST_MAP_FRAMES))
    weight = next(block.parameters(), None)
    return block(codebook if weight is None else codebook.to(weight.dtype), index_map[:, ::step], mask)


def _key_mask(mask: Tensor) -> Tensor:
    """[B, 1, 1, K] True at keys that count; where a clip has none, all do (its rows are masked anyway)."""
    return (mask | ~mask.any(1, keepdim=True))[:, None, None, :]


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _read_at(table: Tensor, count: int, lengths: Tensor | None) -> Tensor:
    """Learned positions [P, D] read at `count` equal parts, of each clip's length where given: [1 or B, count, D]."""
    ends = torch.tensor([count], device=table.device) if lengths is None else lengths
    parts = (torch.arange(count, device=table.device) + 0.5) / ends.unsqueeze(1)
    place = (parts * len(table) - 0.5).clamp(0, len(table) - 1)
    low = place.floor().long().clamp_max(len(table) - 2)
    share = (place - low).unsqueeze(-1).to(table.dtype)
    return (1 - share) * table[low] + share * table[low + 1]


def make_block(
    name: BlockName, width: int, heads: int, cells: int, *, bins: int = 8, grid: int = 4, zero_start: bool = False
) -> nn.Module:
    """The block of a name; `cells` (H x W) matters to the official one alone, bins, grid and start to occupancy.

    Raises: ConfigError when the heads do not divide the width.
    """
    if name == "none":
        return PlainBlock()
    if width % heads:
        raise ConfigError(f"block.heads must divide the width of the tokens, {width}; got {heads}")
    if name == "official":
        return OfficialBlock(cells, width, heads)
    if name == "paper":
        return PaperBlock(width, heads)
    return OccupancyBlock(width, heads, bins=bins, grid=grid, zero_start=zero_start)
