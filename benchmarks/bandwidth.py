"""How fast this machine reads matrices when it multiplies them with one vector: the limit of batch-1 decoding."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.timing import Measured, alternate

SIDE = 4096
"""Rows and columns of each matrix."""


def matrix_vector_bandwidth(
    *, total_bytes: int = 1 << 30, runs: int = 7, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Measured:
    """Bytes of weights read per second by matrix-vector products over matrices of `total_bytes` together.

    Take well more than the last cache level, so that no matrix is still there when its turn comes again.
    """
    count = max(1, total_bytes // (SIDE * SIDE * dtype.itemsize))
    matrices = [torch.full((SIDE, SIDE), 0.5, dtype=dtype, device=device) for _ in range(count)]
    vector = torch.ones(SIDE, dtype=dtype, device=device)

    def read_all() -> None:
        for matrix in matrices:
            torch.mv(matrix, vector)

    def measured(action: Callable[[], None]) -> Measured:
        return alternate({"read": action}, runs=runs, warm_up=2, device=device)["read"]

    with torch.inference_mode():
        return measured(read_all).per(count * SIDE * SIDE * dtype.itemsize)
