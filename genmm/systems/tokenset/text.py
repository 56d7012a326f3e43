"""A small text encoder's eyes: words and letter triples hashed into the rows of a table.

No vocabulary has to be stored, unknown words still share triples with known ones, and order plays no part, which suits
names ("red heart", "heart, red"). The vectors behind the rows are learned by the network over counts.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from genmm.core.limits import DEFAULT_LIMITS, Limits, clean_text

__all__ = ["MOST_PIECES", "text_pieces", "text_rows"]

MOST_PIECES = 96
"""Longest list of pieces; whole words come first, so that a long text loses triples."""
_WORD = re.compile(r"\w+", re.UNICODE)


def text_pieces(text: str, rows: int, limits: Limits = DEFAULT_LIMITS) -> list[int]:
    """Rows (1 to rows - 1) of a text's words and letter triples, in no meaningful order, without doubles.

    The same on every platform (CRC-32). Raises: UsageError for an empty text, LimitError for one that is too long.
    """
    words = list(dict.fromkeys(_WORD.findall(clean_text(text, limits).lower())))
    triples = [f"<{word}>"[i : i + 3] for word in words for i in range(max(1, len(word)))]
    names = [*(f"word:{word}" for word in words), *(f"part:{triple}" for triple in triples)]
    ids = [zlib.crc32(name.encode("utf-8")) % (rows - 1) + 1 for name in names]
    return list(dict.fromkeys(ids))[:MOST_PIECES]


def text_rows(pieces: Iterable[Sequence[int]]) -> Tensor:
    """A batch [B, L] int64 of lists of rows, padded with 0; an empty list stands for "no text"."""
    lists = [list(ids) for ids in pieces]
    longest = max([1, *map(len, lists)])
    return torch.tensor([ids + [0] * (longest - len(ids)) for ids in lists], dtype=torch.int64).view(-1, longest)
