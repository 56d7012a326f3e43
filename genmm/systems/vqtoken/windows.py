"""Long videos at flat memory: every window is clustered by itself, and the clusters of all are merged as they come.

Letters: T frames of a window, H W grid, N = T H W rows, D width, C clusters carried along, K clusters of the result.
Kept for every cell is one id; features are dropped window by window. Distortions of merged clusters are those of all
their rows, because counts, sums and the distances of the rows to their mean are carried.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from genmm.core.errors import ShapeError, UsageError
from genmm.quantizers.adaptive import Curves, choose, nest
from genmm.quantizers.k_center import farthest_first, k_center
from genmm.quantizers.kmeans import (
    SAME_COSINE,
    Clusters,
    KMeansConfig,
    assign,
    clusters_of,
    first_appearance,
    spherical_kmeans,
)
from genmm.quantizers.nearest import full_precision
from genmm.systems.vqtoken.blocks import PlainBlock, run_block
from genmm.systems.vqtoken.geometry import geometry_of
from genmm.systems.vqtoken.methods import Clustering, Scale
from genmm.systems.vqtoken.reduced import ReducedVideo
from genmm.systems.vqtoken.reducer import Budget, Fixed, as_budget

__all__ = ["WindowMerger"]

SPARE = 2
"""Each window gets this many times the budget of clusters, so that merging has something to choose from."""


class WindowMerger:
    """Takes windows of features [T, H, W, D] one after another; `finish` gives one ReducedVideo of all of them."""

    def __init__(
        self,
        budget: Budget | int,
        *,
        block: nn.Module | None = None,
        scale: Scale = "raw",
        clustering: Clustering = "kmeans",
        seed: int = 0,
        kmeans: KMeansConfig | None = None,
    ) -> None:
        self.budget = as_budget(budget)
        self.block, self.scale = block or PlainBlock(), scale
        self.most = self.budget.tokens if isinstance(self.budget, Fixed) else self.budget.most
        self.width = max(SPARE * self.most, 16)
        self._way: _Way = _Members() if clustering == "k_center" else _Means(seed, kmeans)
        self._maps: list[np.ndarray] = []
        self._alias = np.zeros(0, np.int64)  # first id of a cluster -> row of the tables now
        self._tables: Tables = {}
        self._grid: tuple[int, int] | None = None

    @property
    def frames(self) -> int:
        """Frames taken so far."""
        return sum(len(part) for part in self._maps)

    def add(self, features: Tensor) -> None:
        """Cluster a window and merge its clusters into those before. Raises: ShapeError when the grid changes."""
        if features.ndim != 4 or (self._grid is not None and tuple(features.shape[1:3]) != self._grid):
            raise ShapeError(f"windows must be [T, H, W, D] on one grid {self._grid}, got {tuple(features.shape)}")
        self._grid = tuple(features.shape[1:3])
        rows = features.flatten(0, 2)
        fresh, labels = self._way.tables(rows, self.width)
        used = len(fresh["counts"])
        known = len(self._tables["counts"]) if self._tables else 0
        first = len(self._alias)
        labels = labels.cpu().numpy()
        self._maps.append(np.where(labels < 0, -1, labels + first).astype(np.int32).reshape(features.shape[:3]))
        self._alias = np.concatenate([self._alias, known + np.arange(used)])
        self._tables = {n: torch.cat([self._tables[n], t]) for n, t in fresh.items()} if known else fresh
        if len(self._tables["counts"]) > 3 * self.width:
            mergers = self._way.solve(self._tables, self.width)
            self._merge(mergers, min(self.width, int(mergers.curves.used[0])))

    def _merge(self, mergers: _Mergers, count: int) -> None:
        self._tables, parents = mergers.into(count)
        self._alias = parents.cpu().numpy()[self._alias]

    def finish(self) -> ReducedVideo:
        """Merge down to the budget, number the clusters by their first cell, run the block.

        Raises: UsageError when no window was added, or none had a usable token.
        """
        if not self._tables:
            raise UsageError("there was no window to reduce; the video has no frames")
        if not len(self._tables["counts"]):
            raise UsageError("all tokens of all windows are zero, NaN or infinite, so there is nothing to reduce")
        mergers = self._way.solve(self._tables, self.most)
        if isinstance(self.budget, Fixed):
            count = max(1, min(self.budget.tokens, int(mergers.curves.used[0])))
        else:
            count = int(choose(mergers.curves, self.budget)[0])
        self._merge(mergers, count)
        ids = np.concatenate(self._maps).astype(np.int64)
        flat = torch.from_numpy(np.where(ids < 0, -1, self._alias[np.maximum(ids, 0)]))
        device = self._tables["counts"].device
        ordered = first_appearance(flat.flatten().clamp_min(0)[None], (flat.flatten() >= 0)[None], count)[0][0]
        rename = torch.zeros(count, dtype=torch.int64)
        valid = ordered >= 0
        rename[flat.flatten()[valid]] = ordered[valid]
        return self._result(ordered.view(flat.shape), rename.argsort().to(device), mergers.curves.distortion, count)

    def _result(self, index_map: Tensor, order: Tensor, curve: Tensor, count: int) -> ReducedVideo:
        tables = {name: table[order] for name, table in self._tables.items()}
        mean_length = float(tables["length"].sum()) / max(1, int(tables["counts"].sum()))
        codebook = self._way.codebook(tables, self.scale, mean_length).unsqueeze(0)
        device = codebook.device
        index_map = index_map.unsqueeze(0).to(device)
        place = geometry_of(index_map, count)
        mask = (tables["counts"] > 0).unsqueeze(0)
        with torch.no_grad():
            tokens, token_mask = run_block(self.block, codebook, index_map, mask)
        most = min(curve.shape[1], self.width)
        stats = {"windows": len(self._maps), "distortion": float(self._way.spread(tables).sum())}
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


Tables = dict[str, Tensor]
"""Columns with a row for each cluster that is carried along. All have `counts` [C], `unit` [C, D], the sums of the unit
rows, `within` [C], the squared distances of those to their mean, and `length` [C], the sum of the lengths of the
rows."""


@dataclass(frozen=True, eq=False)
class _Mergers:
    """The ways to merge the clusters of some tables."""

    curves: Curves
    into: Callable[[int], tuple[Tables, Tensor]]
    """Number of clusters -> (the merged tables, [C] int64 the cluster of each row of the tables before)."""


class _Way(ABC):
    """How windows are clustered and clusters merged."""

    @abstractmethod
    def tables(self, rows: Tensor, width: int) -> tuple[Tables, Tensor]:
        """Cluster the rows [N, D] of a window: (tables of at most `width` clusters, labels [N])."""

    @abstractmethod
    def solve(self, tables: Tables, most: int) -> _Mergers:
        """Find the mergers into up to `most` clusters (Ward's: into any number)."""

    @abstractmethod
    def spread(self, tables: Tables) -> Tensor:
        """[C] sum of the squared distances of a cluster's unit rows to its codebook row."""

    @abstractmethod
    def codebook(self, tables: Tables, scale: Scale, mean_length: float) -> Tensor:
        """[C, D]."""


def _summed(rows: Tensor, found: Clusters, *, raw: bool) -> Tables:
    """The tables of the clusters in use of rows [N, D]; `raw` adds the sums [C, D] of the rows as they are."""
    used, labels = int(found.used[0]), found.labels[0]
    finite = torch.where(labels.unsqueeze(1) >= 0, rows.float(), 0.0)
    hot = (labels == torch.arange(used, device=rows.device).unsqueeze(1)).float()
    with full_precision(rows.device):
        own = {"length": hot @ finite.norm(dim=-1)} | ({"raw": hot @ finite} if raw else {})
    return own | {"counts": found.counts[0, :used], "unit": found.sums[0, :used], "within": found.within[0, :used]}


def _merged(tables: Tables, parents: Tensor, count: int) -> Tables:
    """The tables with every cluster added to the one of `count` that `parents` [C] names."""
    made = {n: t.new_zeros(count, *t.shape[1:]).index_add(0, parents, t) for n, t in tables.items()}
    moved = (_mean(tables) - _mean(made)[parents]).square().sum(-1) * tables["counts"]
    return made | {"within": made["within"].index_add(0, parents, moved)}


def _mean(tables: Tables) -> Tensor:
    """[C, D] mean of the unit rows of each cluster."""
    return tables["unit"] / tables["counts"].clamp_min(1).unsqueeze(1)


class _Means(_Way):
    """k-means in each window, Ward's mergers, codebook rows are means. Further table: raw [C, D], sums of the rows."""

    def __init__(self, seed: int, kmeans: KMeansConfig | None) -> None:
        self.seed, self.kmeans = seed, kmeans

    def tables(self, rows: Tensor, width: int) -> tuple[Tables, Tensor]:
        found = spherical_kmeans(rows.unsqueeze(0), width, seeds=[self.seed], config=self.kmeans)
        return _summed(rows, found, raw=True), found.labels[0]

    def solve(self, tables: Tables, most: int) -> _Mergers:
        # Clusters of one direction, which every window of a still picture brings, are one cluster.
        directions = nn.functional.normalize(tables["unit"], dim=-1)
        same = (directions @ directions.T >= SAME_COSINE).fill_diagonal_(True)
        _, alias = same.int().argmax(1).unique(return_inverse=True)
        count = int(alias.max()) + 1
        own = {name: table.unsqueeze(0) for name, table in _merged(tables, alias, count).items()}
        labels = torch.arange(count, device=directions.device).unsqueeze(0)
        directions = nn.functional.normalize(own["unit"], dim=-1)
        nested = nest(Clusters(labels, directions, own["counts"], own["unit"], own["within"], 0))

        def into(count: int) -> tuple[Tables, Tensor]:
            parents = nested.parents[0, count - 1][alias]
            return _merged(tables, parents, count), parents

        return _Mergers(nested, into)

    def spread(self, tables: Tables) -> Tensor:
        return tables["within"]

    def codebook(self, tables: Tables, scale: Scale, mean_length: float) -> Tensor:
        counts = tables["counts"].clamp_min(1).unsqueeze(1)
        if scale == "norm":
            return nn.functional.normalize(tables["unit"], dim=-1) * mean_length
        return tables["raw" if scale == "raw" else "unit"] / counts


class _Members(_Way):
    """Farthest first in each window, then over the centres of all windows. Further table: token [C, D], the centre."""

    def tables(self, rows: Tensor, width: int) -> tuple[Tables, Tensor]:
        found, _ = k_center(rows.unsqueeze(0), width)
        centres = found.centres[0][found.centres[0] >= 0]
        means = clusters_of(rows.unsqueeze(0), found.labels, max(1, len(centres)))
        return _summed(rows, means, raw=False) | {"token": rows[centres].float()}, found.labels[0]

    def solve(self, tables: Tables, most: int) -> _Mergers:
        found = farthest_first(tables["token"].unsqueeze(0), most, weights=tables["counts"].float().unsqueeze(0))

        def into(count: int) -> tuple[Tables, Tensor]:
            tokens = tables["token"][found.rows[0, :count]]
            every = torch.ones(1, count, dtype=torch.bool, device=tokens.device)
            centres = nn.functional.normalize(tokens, dim=-1)
            parents = assign(tables["token"].unsqueeze(0), centres.unsqueeze(0), every)[0][0]
            sums = {name: table for name, table in tables.items() if name != "token"}
            return _merged(sums, parents, count) | {"token": tokens}, parents

        return _Mergers(replace(found, distortion=self._curve(tables, found.rows[0])), into)

    def _curve(self, tables: Tables, rows: Tensor) -> Tensor:
        """[1, K] what `spread` sums to after merging into the first 1, 2, ... of the centres `rows` [K]."""
        directions = nn.functional.normalize(tables["token"], dim=-1)
        centres, counts = directions[rows.clamp_min(0)], tables["counts"].unsqueeze(1)
        near = (directions @ centres.T).masked_fill(rows < 0, -2.0)
        parents = near.cummax(1).indices  # [C, K] the nearest of the first k
        means = _mean(tables)
        to_centre = (means @ centres.T).gather(1, parents)
        apart = means.square().sum(-1, keepdim=True) + 1.0 - 2.0 * to_centre
        return (tables["within"].unsqueeze(1) + counts * apart).sum(0, keepdim=True).clamp_min(0.0)

    def spread(self, tables: Tables) -> Tensor:
        centres = nn.functional.normalize(tables["token"], dim=-1)
        return tables["within"] + tables["counts"] * (_mean(tables) - centres).square().sum(-1)

    def codebook(self, tables: Tables, scale: Scale, mean_length: float) -> Tensor:
        if scale == "raw":
            return tables["token"]
        return nn.functional.normalize(tables["token"], dim=-1) * (mean_length if scale == "norm" else 1.0)
