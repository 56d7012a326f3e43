"""Long videos at flat memory: every window is clustered by itself, and the clusters of all are merged as they come.

Letters: T frames of a window, H W grid, D width, C clusters carried along, K clusters of the result.
Kept for every cell is one id; features are dropped window by window. Distances of merged clusters are exact, because
sums and counts are carried.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genmm.core.errors import ShapeError, UsageError
from genmm.quantizers.adaptive import choose, nest
from genmm.quantizers.kmeans import Clusters, KMeansConfig, first_appearance, spherical_kmeans
from genmm.systems.vqtoken.blocks import PlainBlock
from genmm.systems.vqtoken.geometry import geometry_of
from genmm.systems.vqtoken.reduced import ReducedVideo
from genmm.systems.vqtoken.reducer import Budget, Fixed, Scale

__all__ = ["WindowMerger"]

SPARE = 2
"""Each window gets this many times the budget of clusters, so that merging has something to choose from."""
MOST_MAP_FRAMES = 512
"""Frames of the map that a block looks at; of a longer video it sees every so-many-th."""


class WindowMerger:
    """Takes windows of features [T, H, W, D] one after another; `finish` gives one ReducedVideo of all of them."""

    def __init__(
        self,
        budget: Budget | int,
        *,
        block: nn.Module | None = None,
        scale: Scale = "raw",
        seed: int = 0,
        kmeans: KMeansConfig | None = None,
    ) -> None:
        self.budget = Fixed(tokens=budget) if isinstance(budget, int) else budget
        self.block, self.scale, self.seed, self.kmeans = block or PlainBlock(), scale, seed, kmeans
        most = self.budget.tokens if isinstance(self.budget, Fixed) else self.budget.most
        self.width = max(SPARE * most, 16)
        self._maps: list[np.ndarray] = []
        self._alias = np.zeros(0, np.int64)  # first id of a cluster -> row of the tables now
        self._tables: dict[str, Tensor] = {}
        self._grid: tuple[int, int] | None = None
        self._length_sum = 0.0

    @property
    def frames(self) -> int:
        """Frames taken so far."""
        return sum(len(part) for part in self._maps)

    def add(self, features: Tensor) -> None:
        """Cluster a window and merge its clusters into those before. Raises: ShapeError when the grid changes."""
        if features.ndim != 4 or (self._grid is not None and tuple(features.shape[1:3]) != self._grid):
            raise ShapeError(f"windows must be [T, H, W, D] on one grid {self._grid}, got {tuple(features.shape)}")
        self._grid = tuple(features.shape[1:3])
        rows = features.flatten(0, 2).unsqueeze(0)
        found = spherical_kmeans(rows, self.width, seeds=[self.seed], config=self.kmeans)
        used = int(found.used[0])
        hot = (found.labels[0] == torch.arange(used, device=rows.device).unsqueeze(1)).float()
        finite = torch.where(found.labels[0].unsqueeze(1) >= 0, rows[0].float(), torch.zeros_like(rows[0].float()))
        self._length_sum += float(finite.norm(dim=-1).sum())
        fresh = {
            "unit": found.sums[0, :used],
            "raw": hot @ finite,
            "counts": found.counts[0, :used],
            "spread": self._spread(found, used),
        }
        known = len(self._tables["counts"]) if self._tables else 0
        first = len(self._alias)
        labels = found.labels[0].cpu().numpy()
        self._maps.append(np.where(labels < 0, -1, labels + first).astype(np.int32).reshape(features.shape[:3]))
        self._alias = np.concatenate([self._alias, known + np.arange(used)])
        self._tables = {n: torch.cat([self._tables[n], t]) for n, t in fresh.items()} if known else fresh
        if len(self._tables["counts"]) > 3 * self.width:
            self._merge_down(self.width)

    @staticmethod
    def _spread(found: Clusters, used: int) -> Tensor:
        """Squared distances of the rows of each cluster to its mean, [K]."""
        counts = found.counts[0, :used].float()
        return (counts - found.sums[0, :used].square().sum(-1) / counts.clamp_min(1)).clamp_min(0.0)

    def _as_clusters(self) -> Clusters:
        tables = self._tables
        total = tables["spread"].sum()
        count = len(tables["counts"])
        labels = torch.arange(count, device=total.device).unsqueeze(0)
        unit = tables["unit"].unsqueeze(0)
        directions = nn.functional.normalize(unit, dim=-1)
        return Clusters(labels, directions, tables["counts"].unsqueeze(0), unit, total.view(1), 0)

    def _merge_down(self, count: int) -> Any:
        nested = nest(self._as_clusters())
        self._apply(nested.parents[0, count - 1], count)
        return nested

    def _apply(self, parents: Tensor, count: int) -> None:
        """Merge the tables as `parents` says (row -> new row)."""
        counts = self._tables["counts"].float()
        within = self._tables["unit"].square().sum(-1) / counts.clamp_min(1)
        merged = {}
        for name, table in self._tables.items():
            merged[name] = table.new_zeros(count, *table.shape[1:]).index_add(0, parents, table)
        after = merged["unit"].square().sum(-1) / merged["counts"].clamp_min(1).float()
        between = torch.zeros_like(after).index_add(0, parents, within) - after
        merged["spread"] = merged["spread"] + between.clamp_min(0.0)
        self._tables = merged
        self._alias = parents.cpu().numpy()[self._alias]

    def finish(self) -> ReducedVideo:
        """Merge down to the budget, number the clusters by their first cell, run the block.

        Raises: UsageError when no window was added.
        """
        if not self._tables:
            raise UsageError("there was no window to reduce; the video has no frames")
        nested = nest(self._as_clusters())
        used = int((self._tables["counts"] > 0).sum())
        if isinstance(self.budget, Fixed):
            count = max(1, min(self.budget.tokens, used))
        else:
            count = int(choose(nested, self.budget)[0])
        self._apply(nested.parents[0, count - 1], count)
        ids = np.concatenate(self._maps).astype(np.int64)
        flat = torch.from_numpy(np.where(ids < 0, -1, self._alias[np.maximum(ids, 0)]))
        device = self._tables["raw"].device
        ordered = first_appearance(flat.flatten().clamp_min(0)[None], (flat.flatten() >= 0)[None], count)[0][0]
        rename = torch.zeros(count, dtype=torch.int64)
        valid = ordered >= 0
        rename[flat.flatten()[valid]] = ordered[valid]
        return self._result(ordered.view(flat.shape), rename.argsort().to(device), nested.distortion, count)

    def _result(self, index_map: Tensor, order: Tensor, curve: Tensor, count: int) -> ReducedVideo:
        tables = {name: table[order] for name, table in self._tables.items()}
        codebook = self._codebook(tables).unsqueeze(0)
        device = codebook.device
        index_map = index_map.unsqueeze(0).to(device)
        step = -(-index_map.shape[1] // MOST_MAP_FRAMES)
        seen = index_map[:, ::step]
        place = geometry_of(seen, count)
        mask = (tables["counts"] > 0).unsqueeze(0)
        with torch.no_grad():
            tokens, token_mask = self.block(codebook, seen, mask)
        most = min(curve.shape[1], self.width)
        stats = {"windows": len(self._maps), "distortion": float(tables["spread"].sum())}
        return ReducedVideo(
            tokens=tokens,
            token_mask=token_mask,
            codebook=codebook,
            index_map=index_map,
            counts=tables["counts"].unsqueeze(0),
            positions=place.positions,
            spread=place.spread,
            curve=curve[:, :most],
            stats=stats,
        )

    def _codebook(self, tables: dict[str, Tensor]) -> Tensor:
        counts = tables["counts"].clamp_min(1).unsqueeze(1)
        if self.scale == "raw":
            return tables["raw"] / counts
        if self.scale == "unit":
            return tables["unit"] / counts
        mean_length = self._length_sum / max(1, int(tables["counts"].sum()))
        return nn.functional.normalize(tables["unit"], dim=-1) * mean_length
