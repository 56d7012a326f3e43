"""Batches of items of similar length, in an order that is a pure function of (seed, epoch), with exact resume.

Letters: N items, E batches in an epoch on one rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from genmm.core.errors import ConfigError, DataError
from genmm.core.seeds import derive_seed


@dataclass(frozen=True)
class Pick:
    """What the sampler asks a data set for: an item and the seed of everything random about it."""

    index: int
    """Position in the data set."""
    seed: int
    """Seed of crops, noise and other augmentation of this item in this epoch."""


class BucketBatchSampler(Sampler[list[Pick]]):
    """Yields batches of similar lengths; every epoch has the same number of batches on every rank.

    Items are sorted by length and cut once into buckets of `bucket_batches` batches. Each epoch shuffles the items
    within each bucket and then the batches among themselves, with generators derived from (seed, epoch). Ranks get
    batches of one bucket at the same time, so none waits for a longer one.

    Buckets have a multiple of the ranks in batches. The bucket of the shortest items takes what is left over, in more
    and smaller batches where that is needed. So no item comes twice in an epoch, with two exceptions: fewer items than
    ranks, and batches that have room for one item only, whose number cannot grow.

    Position: `iter` starts after the batches that are already consumed in the current epoch, and `state_dict` holds
    (epoch, position). Whoever consumes batches tells the count through `seek`; prefetched batches do not count.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        max_frames: int | None = None,
        bucket_batches: int = 8,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """
        Args:
            lengths: Length of each item [N], any unit.
            batch_size: Most items in a batch, at least 1.
            max_frames: Most padded length in a batch (items times longest); None means no limit.
            bucket_batches: Batches in a bucket: 1 gives the least padding, more gives more mixing; with several ranks
                the next multiple of their number.
            shuffle: False yields the same order in every epoch.
            seed: Seed of the order and of the item seeds.
            rank: Which of the processes this is.
            ranks: Number of processes that share the batches.
        """
        if batch_size < 1 or bucket_batches < 1 or not 0 <= rank < ranks:
            raise ConfigError(
                f"the sampler needs batch_size and bucket_batches of at least 1 and rank in [0, ranks); got "
                f"{batch_size}, {bucket_batches}, rank {rank} of {ranks}"
            )
        if len(lengths) == 0:
            raise DataError("there are no items to sample from; check the manifest and its filters")
        self.batch_size, self.max_frames, self.shuffle = batch_size, max_frames, shuffle
        self.seed, self.rank, self.ranks = seed, rank, ranks
        self._buckets = self._make_buckets(np.asarray(lengths, dtype=np.int64), bucket_batches)
        # Every bucket gives each rank the same number of batches.
        self._per_rank = [-(-len(sizes) // ranks) for _, sizes in self._buckets]
        self.epoch, self.position = 0, 0

    def _make_buckets(self, lengths: np.ndarray, bucket_batches: int) -> list[tuple[np.ndarray, list[int]]]:
        """Cut the items, sorted by length, into buckets: (item indices, sizes of its batches)."""
        order = np.argsort(lengths, kind="stable")
        most_batches = -(-bucket_batches // self.ranks) * self.ranks
        buckets, end = [], len(order)
        while end > 0:  # from the longest down, so that the longest item of a bucket bounds its batch size
            longest = max(1, int(lengths[order[end - 1]]))
            size = self.batch_size if self.max_frames is None else min(self.batch_size, self.max_frames // longest)
            if size < 1:
                raise ConfigError(
                    f"an item of length {longest} is longer than max_frames {self.max_frames}; raise max_frames or "
                    "filter such items out"
                )
            start = max(0, end - size * most_batches)
            if start < self.ranks:  # too few for a bucket of their own, in which every rank needs an item
                start = 0
            items = order[start:end]
            batches = -(-len(items) // size)
            batches = min(len(items), -(-batches // self.ranks) * self.ranks)
            buckets.append((items, [len(part) for part in np.array_split(items, batches)]))
            end = start
        return buckets[::-1]

    def __len__(self) -> int:
        """Batches of one epoch on one rank, whatever the position."""
        return sum(self._per_rank)

    # Position --------------------------------------------------------------------------------------------------

    def seek(self, consumed: int) -> None:
        """Continue after `consumed` batches of this rank, counted over all epochs."""
        self.epoch, self.position = divmod(consumed, len(self))

    @property
    def consumed(self) -> int:
        """Batches of this rank before the position, over all epochs."""
        return self.epoch * len(self) + self.position

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position, "seed": self.seed, "batches": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises: DataError when the state belongs to other data, another batch size or another seed."""
        if (state["seed"], state["batches"]) != (self.seed, len(self)):
            raise DataError(
                f"the stored position belongs to seed {state['seed']} with {state['batches']} batches an epoch, this "
                f"run has seed {self.seed} with {len(self)}; resume with the same data, batch size, ranks and seed"
            )
        self.seek(state["epoch"] * len(self) + state["position"])

    # Order -----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[list[Pick]]:
        """The batches of the current epoch that are still to come."""
        epoch = self.epoch
        for indices in self.plan(epoch)[self.position :]:
            yield [Pick(int(i), derive_seed(self.seed, "item", epoch, int(i))) for i in indices]

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Item indices of every batch of this rank in an epoch."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch if self.shuffle else 0))
        batches = []
        for (items, sizes), per_rank in zip(self._buckets, self._per_rank, strict=True):
            if self.shuffle:
                items = items[torch.randperm(len(items), generator=generator).numpy()]
            parts = np.split(items, np.cumsum(sizes)[:-1])
            parts += [parts[i % len(sizes)] for i in range(per_rank * self.ranks - len(sizes))]
            batches += parts[self.rank :: self.ranks]
        if self.shuffle:
            batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        return batches
