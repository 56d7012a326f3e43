"""Word errors between what was asked for and what a recogniser heard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Edit = Literal["match", "substitution", "deletion", "insertion"]


@dataclass(frozen=True)
class WordErrors:
    """Counts of one alignment, or of many added up."""

    substitutions: int = 0
    """Words heard as another word."""
    deletions: int = 0
    """Words asked for and not heard."""
    insertions: int = 0
    """Words heard and not asked for."""
    words: int = 0
    """Words asked for."""

    @property
    def errors(self) -> int:
        """All three kinds together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Word error rate, errors over words asked for; it can exceed 1. None without words."""
        return self.errors / self.words if self.words else None

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.words + other.words,
        )


def align_words(reference: Sequence[str], heard: Sequence[str]) -> list[tuple[Edit, str, str]]:
    """The cheapest way from the reference to what was heard: (edit, reference word or "", heard word or "").

    Every edit costs one. Among equal ways a match or substitution is preferred to a deletion, that to an insertion.
    """
    cost = _costs(reference, heard)
    edits: list[tuple[Edit, str, str]] = []
    i, j = len(reference), len(heard)
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (reference[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            edits.append(("match" if reference[i] == heard[j] else "substitution", reference[i], heard[j]))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            edits.append(("deletion", reference[i], ""))
        else:
            j -= 1
            edits.append(("insertion", "", heard[j]))
    return edits[::-1]


def _costs(reference: Sequence[str], heard: Sequence[str]) -> np.ndarray:
    """Edit distance between all beginnings: [len(reference) + 1, len(heard) + 1]."""
    cost = np.zeros((len(reference) + 1, len(heard) + 1), dtype=np.int64)
    cost[:, 0], cost[0] = np.arange(len(reference) + 1), np.arange(len(heard) + 1)
    for i, wanted in enumerate(reference, 1):
        for j, got in enumerate(heard, 1):
            cost[i, j] = min(cost[i - 1, j - 1] + (wanted != got), cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    return cost


def word_errors(reference: Sequence[str], heard: Sequence[str]) -> WordErrors:
    """Count the edits of the cheapest alignment."""
    edits = [edit for edit, _, _ in align_words(reference, heard)]
    return WordErrors(edits.count("substitution"), edits.count("deletion"), edits.count("insertion"), len(reference))


def total_errors(parts: Iterable[WordErrors]) -> WordErrors:
    """Add up the counts of many utterances; its rate weights every word, not every utterance, alike."""
    return sum(parts, WordErrors())
