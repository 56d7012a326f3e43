"""Where and when each cluster is seen, read from the index map without regard to the clusters' names.

Letters: B clips, T frames, H W grid, K clusters, Q time bins, G cells of a coarse grid along one side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genmm.core.devices import widest_float
from genmm.core.errors import ShapeError

__all__ = ["Geometry", "describe_occupancy", "description_width", "frame_counts", "geometry_of"]


@dataclass(frozen=True, eq=False)
class Geometry:
    """Size, centre and extent of each cluster; all shares of the clip, 0 to 1."""

    counts: Tensor
    """[B, K] int64 cells."""
    positions: Tensor
    """[B, K, 3] float32 mean time, height and width; 0 where a cluster is empty."""
    spread: Tensor
    """[B, K, 3] float32 standard deviations of the same."""


def frame_counts(index_map: Tensor) -> Tensor:
    """Frames of each clip [B] int64: up to the last one in which any cell has a cluster, at least 1."""
    used = (index_map >= 0).flatten(2).any(2)
    last = torch.arange(1, used.shape[1] + 1, device=used.device) * used
    return last.amax(1).clamp_min(1)


def one_hot(index_map: Tensor, clusters: int) -> Tensor:
    """[B, K, T, H, W] float32, 1 where a cell belongs to the cluster."""
    if index_map.ndim != 4:
        raise ShapeError(f"an index map is [B, T, H, W], got {tuple(index_map.shape)}")
    ids = torch.arange(clusters, device=index_map.device).view(1, clusters, 1, 1, 1)
    return (index_map.unsqueeze(1) == ids).float()


def geometry_of(index_map: Tensor, clusters: int) -> Geometry:
    """Size, centre and extent of each cluster of index_map [B, T, H, W]; -1 marks cells without one.

    Takes memory for the map and for the clusters, nothing of their product, which a long video has no room for.
    Raises: ShapeError for a map of other dimensions.
    """
    if index_map.ndim != 4:
        raise ShapeError(f"an index map is [B, T, H, W], got {tuple(index_map.shape)}")
    device, ids = index_map.device, index_map.flatten(1)
    ids = torch.where(ids >= 0, ids, clusters)  # cells without a cluster go behind
    counts = ids.new_zeros(len(ids), clusters + 1).scatter_add_(1, ids, ids.new_ones(1, 1).expand_as(ids))
    # Whole numbers: up to 2^53 their sums are exact, in whatever order a device adds them.
    wide = widest_float(device)
    safe = counts[:, :clusters].clamp_min(1).to(wide)
    _, _, height, width = index_map.shape
    ends = [frame_counts(index_map), torch.tensor([height], device=device), torch.tensor([width], device=device)]
    means, spreads = [], []
    for axis, end in enumerate(ends, 1):
        place = torch.arange(index_map.shape[axis], device=device, dtype=wide)
        place = place.view([-1 if n == axis else 1 for n in range(4)]).expand_as(index_map).flatten(1)
        sums = [place.new_zeros(counts.shape).scatter_add_(1, ids, x)[:, :clusters] for x in (place, place.square())]
        mean = sums[0] / safe
        end = end.to(wide).unsqueeze(1)
        means.append(torch.where(counts[:, :clusters] > 0, (mean + 0.5) / end, 0.0).float())
        spreads.append(((sums[1] / safe - mean.square()).clamp_min(0.0).sqrt() / end).float())
    return Geometry(counts[:, :clusters], torch.stack(means, -1), torch.stack(spreads, -1))


def centres(count: int, device: torch.device) -> Tensor:
    """Centres of `count` equal parts of [0, 1]."""
    return (torch.arange(count, device=device) + 0.5) / count


def description_width(bins: int, grid: int) -> int:
    """Numbers that `describe_occupancy` gives for one cluster."""
    return bins * (5 + grid * grid) + 7


def describe_occupancy(index_map: Tensor, clusters: int, *, bins: int = 8, grid: int = 4) -> Tensor:
    """Describe where each cluster is over time: [B, K, Q (5 + G^2) + 7] float32.

    For each of `bins` equal spans of the clip: mass, centre (height, width), extent (height, width), and how full each
    cell of a coarse grid is; then size, centre and extent over the whole clip. Renaming the clusters reorders the rows
    and changes nothing else; frames, height and width of the map are free.
    Source: ours (the map's ids as numbers, as published, depend on arbitrary names).
    """
    hot = one_hot(index_map, clusters)
    _, _, frames, height, width = hot.shape
    lengths = frame_counts(index_map)
    pool = shares(bins, frames, lengths)  # [B, Q, T]
    in_bins = torch.einsum("bqt,bkthw->bkqhw", pool, hot)
    mass = in_bins.mean((3, 4))  # [B, K, Q]
    rows, columns = centres(height, hot.device) - 0.5, centres(width, hot.device) - 0.5
    safe = mass.clamp_min(1e-6)
    by_row, by_column = in_bins.mean(4), in_bins.mean(3)  # [B, K, Q, H], [B, K, Q, W]
    centre_h, centre_w = (by_row * rows).mean(-1) / safe, (by_column * columns).mean(-1) / safe
    extent_h = ((by_row * rows.square()).mean(-1) / safe - centre_h.square()).clamp_min(0.0).sqrt()
    extent_w = ((by_column * columns.square()).mean(-1) / safe - centre_w.square()).clamp_min(0.0).sqrt()
    down, across = shares(grid, height)[0].to(hot), shares(grid, width)[0].to(hot)
    cells = torch.einsum("gh,bkqhw,fw->bkqgf", down, in_bins, across)
    whole = geometry_of(index_map, clusters)
    share = whole.counts.float() / whole.counts.sum(1, keepdim=True).clamp_min(1)
    parts = [mass.sqrt(), 2 * centre_h, 2 * centre_w, 2 * extent_h, 2 * extent_w, cells.flatten(2)]
    parts += [share.sqrt().unsqueeze(-1), whole.positions, whole.spread]
    return torch.cat(parts, -1)


def shares(parts: int, items: int, lengths: Tensor | None = None) -> Tensor:
    """Averages over `parts` equal spans of `items` equal pieces: [B, parts, items] or, without lengths, [1, ...].

    Row q holds the share of span q that each item covers; items behind a clip's length count for nothing.
    """
    lengths = torch.tensor([items]) if lengths is None else lengths
    ends = lengths.float().view(-1, 1, 1)
    edges = torch.arange(parts + 1, device=lengths.device) / parts
    begin, end = (edges[:-1].view(1, -1, 1) * ends), (edges[1:].view(1, -1, 1) * ends)
    item = torch.arange(items, device=lengths.device).view(1, 1, -1).float()
    overlap = (torch.minimum(end, item + 1) - torch.maximum(begin, item)).clamp_min(0.0)
    return overlap * parts / ends
