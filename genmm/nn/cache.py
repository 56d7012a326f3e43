"""Keys and values of earlier positions, kept in memory that is allocated once.

Letters: R rows, k key-value heads, d width of one head, L new positions, M capacity in positions.
All rows share one write position; a row that has nothing to say at a position is masked there, and its rotary position
does not move. So rows of different text length, and a branch that never sees text, live in one batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genmm.core.errors import LimitError
from genmm.nn.attention import FAR


class Opening(NamedTuple):
    """Room for new positions in every layer, and what their queries may see."""

    positions: Tensor
    """[R, L] rotary positions."""
    bias: Tensor | None
    """[R, 1, L, positions seen] added to the scores; None when everything seen is real."""
    places: tuple[Tensor, ...] | None
    """For each layer [R, 2 k, L, d], where keys and values go; None = at the slot of a static cache."""
    keys: tuple[Tensor, ...]
    """For each layer [R, k, positions seen, d]."""
    values: tuple[Tensor, ...]
    """For each layer [R, k, positions seen, d]."""


class KeyValueCache:
    """Preallocated cache of every decoder layer, for a batch of rows.

    Use: open a step or a block, `write` every layer's keys and values before attending in it, then close.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        static: bool = False,
    ) -> None:
        """Allocate for `capacity` positions.

        static: attention always reads the whole capacity and the write position is a tensor, so that the shapes never
        change from step to step (for CUDA graphs); otherwise it reads the written part only.
        """
        self.capacity, self.static, self.kv_heads = capacity, static, kv_heads
        self.memory = torch.zeros(layers, rows, 2 * kv_heads, capacity, head_dim, dtype=dtype, device=device)
        """[layers, R, 2 k, M, d]: keys, then values."""
        self.bias = torch.full((rows, 1, 1, capacity), FAR, dtype=dtype, device=device)
        """[R, 1, 1, M] what is added to the scores of each key: 0 when real, a large negative otherwise."""
        self.positions = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        """[R, 1] rotary position of the next token of each row."""
        self.length = 0
        """Positions written so far, the same for all rows."""
        self.has_gaps = False
        """Whether any written position is masked for some row."""
        self.slot = torch.zeros(1, dtype=torch.int64, device=device)

    @property
    def rows(self) -> int:
        """Rows R in the batch."""
        return self.memory.shape[1]

    def open_step(self) -> Opening:
        """Make room for one position that is real for every row; a full cache grows, a full static one raises."""
        self.claim(1)
        if self.static:
            return self.open_static_step()
        self.bias[..., self.length - 1] = 0.0
        bias = self.bias[..., : self.length] if self.has_gaps else None
        return self._opening(self.positions, bias, self.memory[:, :, :, self.length - 1 : self.length], self.length)

    def open_static_step(self) -> Opening:
        """The part of `open_step` that a CUDA graph records: no shape and no number in it changes."""
        self.bias.index_fill_(3, self.slot, 0.0)
        return self._opening(self.positions, self.bias, None, self.capacity)

    def close_step(self) -> None:
        """End a step, after every layer has been written."""
        self.positions += 1
        self.slot += 1

    def open_block(self, real: Tensor) -> Opening:
        """Make room for L positions, some of which are padding for some rows: real [n, L] bool.

        With n < R only the first n rows take part, and the block is padding for the others. The new queries see earlier
        real keys, and each one itself, so no softmax is empty.
        """
        rows, new = real.shape
        self.claim(new)
        first, seen = self.length - new, self.capacity if self.static else self.length
        positions = (self.positions[:rows] + real.cumsum(1) - 1).clamp_min(0)
        self.bias[:rows, 0, 0, first : self.length] = torch.where(real, 0.0, FAR).to(self.bias.dtype)
        self.has_gaps = self.has_gaps or rows < self.rows or not bool(real.all())
        later = torch.ones(new, seen, dtype=torch.bool, device=real.device).triu(first + 1)
        bias = self.bias[:rows, :, :, :seen].masked_fill(later, FAR)
        torch.diagonal(bias, offset=first, dim1=2, dim2=3).zero_()
        return self._opening(positions, bias, self.memory[:, :rows, :, first : self.length], seen)

    def close_block(self, real: Tensor) -> None:
        """End a block opened by `open_block`: real [n, L] bool."""
        self.positions[: len(real)] += real.sum(1, keepdim=True)
        self.slot += real.shape[1]

    def write(self, opening: Opening, layer: int, pairs: Tensor) -> None:
        """Store keys and values [R, L, 2 k, d] of the open positions."""
        pairs = pairs.transpose(1, 2)
        if opening.places is None:
            self.memory[layer].index_copy_(2, self.slot, pairs)
        else:
            opening.places[layer].copy_(pairs)

    def _opening(self, positions: Tensor, bias: Tensor | None, places: Tensor | None, seen: int) -> Opening:
        whole = self.memory[:, : len(positions), :, :seen]
        keys, values = whole[:, :, : self.kv_heads].unbind(0), whole[:, :, self.kv_heads :].unbind(0)
        return Opening(positions, bias, None if places is None else places.unbind(0), keys, values)

    def reset(self) -> None:
        """Empty the cache in place, for the next run over the same memory."""
        self.bias.fill_(FAR)
        self.positions.zero_()
        self.slot.zero_()
        self.length, self.has_gaps = 0, False

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these: rows [n] int64."""
        self.memory, self.bias, self.positions = self.memory[:, rows], self.bias[rows], self.positions[rows]

    def claim(self, new: int) -> None:
        """Count `new` further positions as used. Raises: LimitError when a static cache is full."""
        needed = self.length + new
        if needed > self.capacity and self.static:
            raise LimitError(
                f"the cache holds {self.capacity} positions, {self.length} are used and {new} more are needed; "
                "allocate a larger one or shorten text and prompt"
            )
        if needed > self.capacity:
            self._grow(max(2 * self.capacity, needed))
        self.length = needed

    def _grow(self, capacity: int) -> None:
        """Move to larger memory; happens only when the length could not be known beforehand."""
        more = capacity - self.capacity
        self.memory = F.pad(self.memory, (0, 0, 0, more))
        self.bias = F.pad(self.bias, (0, more), value=FAR)
        self.capacity = capacity
