"""Splitting a manifest: `i/n` takes every n-th row, so shards are disjoint, balanced, and together the whole.

Item seeds depend on the run seed and the id alone, so a shard makes the same results as the undivided run. Each
shard appends to a results file of its own; `merge` folds them into `results.jsonl` when every item has a record.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from genmm.core.errors import UsageError

T = TypeVar("T")

MAX_SHARDS = 100_000
"""Most shards that one run may have."""


@dataclass(frozen=True)
class Shard:
    """One of `count` parts, numbered from 1."""

    index: int = 1
    """Which part, from 1 to count."""
    count: int = 1
    """Number of parts."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_SHARDS or not 1 <= self.index <= self.count:
            raise UsageError(
                f"a shard is i/n with 1 <= i <= n <= {MAX_SHARDS}, got {self.index}/{self.count}; "
                "the first of four is 1/4"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "2/8". Raises: UsageError for anything else."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if not match:
            raise UsageError(f"a shard is written i/n, such as 2/8 for the second of eight, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def is_whole(self) -> bool:
        """Whether this is the undivided run."""
        return self.count == 1

    def select(self, rows: Sequence[T]) -> list[T]:
        """Rows of this part, in order."""
        return list(rows[self.index - 1 :: self.count])

    def split(self, parts: int) -> list[Shard]:
        """Divide this part again into `parts`; together they select what this one selects."""
        return [Shard(self.index + k * self.count, self.count * parts) for k in range(parts)]

    @property
    def results_name(self) -> str:
        """Name of the results file that this part appends to."""
        return "results.jsonl" if self.is_whole else f"results.shard-{self.index:05d}-of-{self.count:05d}.jsonl"
