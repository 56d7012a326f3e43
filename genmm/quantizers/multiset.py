"""Multisets of codes and their count vectors: two views of one thing, and the algebra of sets of tokens.

Letters: B batch, M tokens of a set, C codes.
Source: TokenSet (arXiv 2503.16425) section 3.2, the dual transformation. A set may hold a code several times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genmm.core.errors import ShapeError, UsageError

__all__ = ["MOST_CODES", "TokenSet", "check_counts", "dense_counts", "sparse_counts", "to_counts", "to_tokens"]

MOST_CODES = 65_536
"""Largest codebook that is supported."""


def to_counts(tokens: Tensor, codes: int, *, keep: Tensor | None = None) -> Tensor:
    """How often each code occurs.

    Shapes: tokens [..., M] of whole numbers in [0, codes), in any order; keep [..., M] bool says which of them count
    (None: all), so that sets of different sizes share a batch. Returns: counts [..., C] int64.
    Raises: ShapeError for other types, UsageError for a code outside the codebook.
    """
    _check_codes(codes)
    if tokens.is_floating_point() or tokens.ndim < 1:
        raise ShapeError(f"tokens must be whole numbers [..., M], got {tokens.dtype} {tuple(tokens.shape)}")
    if keep is not None:
        tokens = torch.where(keep.bool(), tokens, torch.zeros_like(tokens))  # padding may be any number
    _check_range(tokens, 0, codes - 1, "token")
    ones = torch.ones_like(tokens, dtype=torch.int64) if keep is None else keep.to(torch.int64)
    counts = torch.zeros((*tokens.shape[:-1], codes), dtype=torch.int64, device=tokens.device)
    return counts.scatter_add_(-1, tokens.long(), ones.expand_as(tokens))


def to_tokens(counts: Tensor, size: int | None = None, *, padding: int = 0) -> tuple[Tensor, Tensor]:
    """The codes of each set in ascending order, the inverse of `to_counts`.

    Shapes: counts [..., C] of whole numbers, at least 0. Returns: tokens [..., M] int64 and keep [..., M] bool, where
    M is `size`, else the largest set of the batch; places behind the end of a smaller set hold `padding`.
    Raises: UsageError for a negative count, and when a set has more than `size` tokens.
    """
    if counts.is_floating_point() or counts.ndim < 1:
        raise ShapeError(f"counts must be whole numbers [..., C], got {counts.dtype} {tuple(counts.shape)}")
    ends = counts.long().cumsum(-1)  # [..., C]: where the copies of each code end
    largest = int(ends[..., -1].max()) if counts.numel() else 0
    if counts.numel() and int(counts.min()) < 0:
        raise UsageError("a count is negative; counts are 0 or more")
    size = largest if size is None else size
    if largest > size:
        raise UsageError(f"a set has {largest} tokens, more than the {size} asked for")
    places = torch.arange(size, device=counts.device).expand(*counts.shape[:-1], size).contiguous()
    tokens = torch.searchsorted(ends.contiguous(), places, right=True)
    keep = places < ends[..., -1:]
    return torch.where(keep, tokens, torch.full_like(tokens, padding)), keep


def check_counts(counts: Tensor, total: int | None = None, codes: int | None = None) -> Tensor:
    """Give back counts [..., C] as int64 after checking them.

    Raises: ShapeError for another number of codes or numbers that are not whole; UsageError for a negative count or
    another sum than `total`.
    """
    if counts.ndim < 1 or (codes is not None and counts.shape[-1] != codes):
        raise ShapeError(f"counts must be [..., {codes or 'C'}], got {tuple(counts.shape)}")
    if counts.is_floating_point():
        if not bool((counts == counts.round()).all()):
            raise ShapeError("counts must be whole numbers; round them first, see largest_remainder")
        counts = counts.round()
    counts = counts.long()
    _check_range(counts, 0, None, "count")
    sums = counts.sum(-1)
    if total is not None and not bool((sums == total).all()):
        found = sorted(set(sums.flatten().tolist()))[:5]
        raise UsageError(f"counts must sum to {total}, they sum to {', '.join(map(str, found))}")
    return counts


def sparse_counts(counts: Tensor) -> tuple[Tensor, Tensor]:
    """The codes that occur and how often: counts [C] -> (codes [N], times [N]) int64, ascending, at most M pairs."""
    if counts.ndim != 1:
        raise ShapeError(f"counts must be [C], got {tuple(counts.shape)}")
    codes = check_counts(counts).nonzero().flatten()
    return codes, counts[codes].long()


def dense_counts(codes: Tensor, times: Tensor, size: int) -> Tensor:
    """The inverse of `sparse_counts`: counts [size] int64. Raises: as `to_counts`."""
    _check_codes(size)
    if codes.is_floating_point() or times.is_floating_point():
        raise ShapeError(f"codes and times must be whole numbers, got {codes.dtype} and {times.dtype}")
    _check_range(times, 0, None, "time")
    _check_range(codes, 0, size - 1, "token")
    return torch.zeros(size, dtype=torch.int64, device=codes.device).index_add_(0, codes.long(), times.long())


def _check_codes(codes: int) -> None:
    if not 1 <= codes <= MOST_CODES:
        raise UsageError(f"a codebook has 1 to {MOST_CODES} codes, got {codes}")


def _check_range(values: Tensor, low: int, high: int | None, what: str) -> None:
    if not values.numel():
        return
    least, most = int(values.min()), int(values.max())
    if least < low or (high is not None and most > high):
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise UsageError(f"every {what} must be {allowed}, got {least if least < low else most}")


@dataclass(frozen=True)
class TokenSet:
    """One multiset of codes: hashable, comparable, and with the algebra of multisets. Order plays no part.

    `a | b` keeps the larger count of each code, `a & b` the smaller one, `a + b` and `a - b` add and take away (never
    below 0), as collections.Counter does. `size_of_union` and so on are just `len`.
    """

    pairs: tuple[tuple[int, int], ...]
    """(code, times) in ascending order of codes, times at least 1."""
    codes: int
    """Size C of the codebook."""

    def __post_init__(self) -> None:
        _check_codes(self.codes)
        ids = [code for code, _ in self.pairs]
        if ids != sorted(set(ids)) or any(not 0 <= code < self.codes or times < 1 for code, times in self.pairs):
            raise UsageError(f"a token set lists codes from 0 to {self.codes - 1} in ascending order, each once")

    @classmethod
    def from_tokens(cls, tokens: Iterable[int] | Tensor, codes: int) -> TokenSet:
        """A set from its tokens in any order. Raises: UsageError for a code outside the codebook."""
        ids = tokens if isinstance(tokens, Tensor) else torch.tensor(list(tokens), dtype=torch.int64)
        return cls.from_counts(to_counts(ids.flatten(), codes))

    @classmethod
    def from_counts(cls, counts: Tensor) -> TokenSet:
        """A set from its count vector [C]."""
        ids, times = sparse_counts(counts.cpu())
        return cls(tuple(zip(ids.tolist(), times.tolist(), strict=True)), len(counts))

    @classmethod
    def from_mapping(cls, times: Mapping[int, int], codes: int) -> TokenSet:
        """A set from code -> times; codes with 0 are left out."""
        return cls(tuple(sorted((int(code), int(count)) for code, count in times.items() if count)), codes)

    @property
    def counts(self) -> Tensor:
        """Count vector [C] int64."""
        counts = torch.zeros(self.codes, dtype=torch.int64)
        for code, times in self.pairs:
            counts[code] = times
        return counts

    @property
    def tokens(self) -> Tensor:
        """The codes in ascending order, [M] int64, repeated as often as they occur."""
        return torch.tensor([code for code, times in self.pairs for _ in range(times)], dtype=torch.int64)

    def __len__(self) -> int:
        return sum(times for _, times in self.pairs)

    def __iter__(self) -> Iterator[int]:
        return (code for code, times in self.pairs for _ in range(times))

    def __contains__(self, code: object) -> bool:
        return any(code == own for own, _ in self.pairs)

    def __or__(self, other: TokenSet) -> TokenSet:
        return self._joined(other, max)

    def __and__(self, other: TokenSet) -> TokenSet:
        return self._joined(other, min)

    def __add__(self, other: TokenSet) -> TokenSet:
        return self._joined(other, lambda own, its: own + its)

    def __sub__(self, other: TokenSet) -> TokenSet:
        return self._joined(other, lambda own, its: max(0, own - its))

    def _joined(self, other: TokenSet, rule) -> TokenSet:
        if not isinstance(other, TokenSet) or other.codes != self.codes:
            raise UsageError("only token sets of one codebook can be joined")
        own, its = dict(self.pairs), dict(other.pairs)
        return TokenSet.from_mapping({c: rule(own.get(c, 0), its.get(c, 0)) for c in {*own, *its}}, self.codes)
