"""What the processes of a training agree on: sums over all of them, and rows drawn from all of them.

Every function is a collective when `shared` is set: each process calls it in the same order, with as many rows as it
has, none included, and gets the same result bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed

__all__ = ["agreed", "row_counts", "sample_rows", "several", "summed"]


def several() -> bool:
    """Whether there are other processes to agree with."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def summed(sums: Tensor, counts: Tensor, *, shared: bool) -> tuple[Tensor, Tensor]:
    """Sums [..., K, D] and counts [..., K] over all processes, in one exchange."""
    if not shared:
        return sums, counts
    both = torch.cat((sums, counts.unsqueeze(-1)), dim=-1)
    distributed.all_reduce(both)
    return both[..., :-1].contiguous(), both[..., -1].contiguous()


def row_counts(rows: Tensor, *, shared: bool) -> list[int]:
    """How many rows each process has; the host waits for the answer."""
    if not shared:
        return [len(rows)]
    sizes = torch.zeros(distributed.get_world_size(), dtype=torch.long, device=rows.device)
    sizes[distributed.get_rank()] = len(rows)
    distributed.all_reduce(sizes)
    return sizes.tolist()


def agreed(tensor: Tensor, *, shared: bool) -> Tensor:
    """The tensor of the first process; all have the shape."""
    if shared:
        distributed.broadcast(tensor, 0)
    return tensor


def sample_rows(rows: Tensor, count: int, *, shared: bool) -> Tensor:
    """Draw [count, D] from the rows [N, D] of all processes: no row twice if there are enough, else with repeats.

    There must be at least one row somewhere. The torch generator moves on equally in all processes.
    """
    sizes = row_counts(rows, shared=shared)
    total = sum(sizes)
    if total >= count:
        picked = torch.randperm(total, device=rows.device)[:count]
    else:
        picked = torch.randint(0, total, (count,), device=rows.device)
    if not shared:
        return rows[picked]
    # Each row comes from one process and is zero in the others, so that the sum is exact.
    place = agreed(picked, shared=True) - sum(sizes[: distributed.get_rank()])
    drawn = rows.new_zeros(count, rows.shape[-1])
    mine = (place >= 0) & (place < len(rows))
    drawn[mine] = rows[place[mine]]
    distributed.all_reduce(drawn)
    return drawn
