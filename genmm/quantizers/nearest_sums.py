"""Sums and counts of the vectors of each code: what a moving-average codebook and k-means update from.

Letters: N vectors, D width, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmm.core.errors import ShapeError

__all__ = ["code_sums"]


def code_sums(vectors: Tensor, indices: Tensor, codes: int, *, deterministic: bool = False) -> tuple[Tensor, Tensor]:
    """Add up the vectors of each code: sums [..., K, D] float32 and counts [..., K] float32.

    Shapes: vectors [..., N, D] floating; indices [..., N] int64, those outside [0, K) stay out. Leading dimensions
    are kept: each has a codebook of its own (flatten what shares one). N may be 0. No gradient flows.
    Counts are exact to 2^24. On a CPU, and with `deterministic` on a GPU too, the order of the additions is fixed and
    results repeat bit for bit. Raises: ShapeError.
    """
    if vectors.ndim < 2 or not vectors.is_floating_point() or indices.shape != vectors.shape[:-1]:
        raise ShapeError(
            f"vectors must be floating [..., N, D] and indices [..., N], "
            f"got {vectors.dtype} {tuple(vectors.shape)} and {tuple(indices.shape)}"
        )
    if codes < 1:
        raise ShapeError(f"codes is the size of the codebook, at least 1, got {codes}")
    leading, (rows, width) = vectors.shape[:-2], vectors.shape[-2:]
    batches = leading.numel()
    with torch.no_grad(), torch.autocast(device_type=vectors.device.type, enabled=False):
        x, ids = vectors.detach().reshape(batches * rows, width).float(), indices.reshape(batches, rows)
        # One dump row behind each codebook takes the ids outside, so that nothing waits for the device.
        place = torch.where((ids < 0) | (ids > codes), codes, ids)
        place = place + (codes + 1) * torch.arange(batches, device=ids.device).unsqueeze(1)
        buffer = vectors.new_zeros(batches * (codes + 1), width + 1, dtype=torch.float32)
        place = place.reshape(-1)
        if deterministic and vectors.device.type == "cuda":
            _add_in_order(buffer, x, place)
        else:
            buffer[:, :width].index_add_(0, place, x)
            buffer[:, width].index_add_(0, place, x.new_ones(len(place)))
        buffer = buffer.view(*leading, codes + 1, width + 1)[..., :codes, :]
    return buffer[..., :width], buffer[..., width]


def _add_in_order(buffer: Tensor, x: Tensor, place: Tensor) -> None:
    """Sort the rows by code and add each run in its order."""
    counts = torch.zeros(len(buffer), dtype=torch.int64, device=x.device).scatter_add_(0, place, torch.ones_like(place))
    order = torch.sort(place, stable=True).indices
    buffer[:, :-1] = torch.segment_reduce(x[order], "sum", lengths=counts, axis=0, unsafe=True)
    buffer[:, -1] = counts
