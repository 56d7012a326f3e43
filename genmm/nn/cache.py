"""Keys and values of earlier positions, kept in memory that is allocated once.

Letters: R rows, k key-value heads, d width of one head, L new positions, M capacity in positions.
All rows share one write position; a row that has nothing to say at a position is masked there, and its rotary position
does not move. So rows of different text length, and a branch that never sees text, live in one batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmm.core.errors import LimitError
from genmm.nn.attention import FAR


class KeyValueCache:
    """Preallocated cache of every decoder layer, for a batch of rows."""

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
        shape = (layers, rows, kv_heads, capacity, head_dim)
        self.capacity, self.static = capacity, static
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
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
        return self.keys.shape[1]

    def open_step(self) -> Tensor:
        """Make room for one position that is real for every row; gives back its rotary position [R, 1].

        A full cache grows; a static one raises LimitError.
        """
        self._check_room(1)
        positions = self.positions
        if self.static:
            self.bias.index_fill_(3, self.slot, 0.0)
        else:
            self.bias[..., self.length] = 0.0
        self.length += 1
        return positions

    def close_step(self) -> None:
        """End a position opened by `open_step`, after every layer has been written."""
        self.positions += 1
        self.slot += 1

    def open_block(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """Make room for L positions, some of which are padding for some rows.

        Shapes: real [R, L] bool. Returns: rotary positions [R, L], and the bias [R, 1, L, positions read] of the new
        queries, which see earlier real keys, and each one itself.
        """
        new = real.shape[1]
        self._check_room(new)
        positions = (self.positions + real.cumsum(1) - 1).clamp_min(0)
        self.bias[:, 0, 0, self.length : self.length + new] = torch.where(real, 0.0, FAR).to(self.bias.dtype)
        self.has_gaps = self.has_gaps or not bool(real.all())
        total = self.length + new
        seen = self.capacity if self.static else total
        later = torch.ones(new, seen, dtype=torch.bool, device=real.device).triu(self.length + 1)
        bias = self.bias[..., :seen].masked_fill(later, FAR)
        torch.diagonal(bias, offset=self.length, dim1=2, dim2=3).zero_()
        self.length = total
        return positions, bias

    def close_block(self, real: Tensor) -> None:
        """End a block opened by `open_block`: real [R, L] bool."""
        self.positions += real.sum(1, keepdim=True)
        self.slot += real.shape[1]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values [R, k, L, d] at the open positions; gives back all that may be attended to."""
        if self.static and keys.shape[2] == 1:
            self.keys[layer].index_copy_(2, self.slot, keys)
            self.values[layer].index_copy_(2, self.slot, values)
            return self.keys[layer], self.values[layer]
        first = self.length - keys.shape[2]
        self.keys[layer][:, :, first : self.length] = keys
        self.values[layer][:, :, first : self.length] = values
        seen = self.capacity if self.static else self.length
        return self.keys[layer][:, :, :seen], self.values[layer][:, :, :seen]

    def step_bias(self) -> Tensor | None:
        """Bias of a single new query, [R, 1, 1, positions read]; None when every key read is real."""
        if self.static:
            return self.bias
        return self.bias[..., : self.length] if self.has_gaps else None

    def reset(self) -> None:
        """Empty the cache in place, for the next run over the same memory."""
        self.bias.fill_(FAR)
        self.positions.zero_()
        self.slot.zero_()
        self.length, self.has_gaps = 0, False

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these: rows [n] int64."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.bias, self.positions = self.bias[rows], self.positions[rows]

    def _check_room(self, new: int) -> None:
        if self.length + new <= self.capacity:
            return
        if self.static:
            raise LimitError(
                f"the cache holds {self.capacity} positions, {self.length} are used and {new} more are needed; "
                "allocate a larger one or shorten text and prompt"
            )
        self._grow(max(2 * self.capacity, self.length + new))

    def _grow(self, capacity: int) -> None:
        """Move to larger memory; happens only when the length could not be known beforehand."""
        more = capacity - self.capacity
        self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, more))
        self.values = torch.nn.functional.pad(self.values, (0, 0, 0, more))
        self.bias = torch.nn.functional.pad(self.bias, (0, more), value=FAR)
        self.capacity = capacity
