"""Which parts of a video to keep: pieces between cuts, chosen under a budget.

Letters: n clips, P pieces, R tenths of a second of the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genmm.core.errors import UsageError

__all__ = ["Budget", "Segment", "choose_segments", "mean_score", "shots_of"]

TICK_S = 0.1
"""Lengths are counted in tenths of a second."""
MOST_CELLS = 20_000_000
"""Pieces times ticks beyond which the best pieces are taken in order of their score instead, so that hours of footage
cost neither time nor memory; the pieces are then so small beside the budget that it makes no difference."""


@dataclass(frozen=True)
class Segment:
    """A part worth keeping."""

    start_s: float
    end_s: float
    score: float
    """`mean_score` from its start to its end, 0 to 1."""
    shot: int
    """Number of the shot in which it begins, from 0."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end_s - self.start_s


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much to keep. Exactly one of seconds, share and count is given."""

    seconds: float | None = None
    """Length in seconds, all segments together."""
    share: float | None = None
    """Length as a share of the video, above 0 and at most 1."""
    count: int | None = None
    """Number of segments, each about `max_segment_s` / 2 long at most."""
    min_segment_s: float = 2.0
    """No segment is shorter, except in shorter videos and budgets."""
    max_segment_s: float = 20.0
    """No segment is longer."""
    pad_s: float = 0.25
    """Room before and after a segment, where no cut and no other segment is in the way."""
    gap_s: float = 4.0
    """With `count`: segments are at least this far apart."""

    def __post_init__(self) -> None:
        given = [value for value in (self.seconds, self.share, self.count) if value is not None]
        if len(given) != 1:
            raise UsageError("give one of seconds, share and count, such as seconds=30")
        if self.seconds is not None and not 0.5 <= self.seconds <= 86_400:
            raise UsageError(f"seconds must be from 0.5 to 86400, got {self.seconds}")
        if self.share is not None and not 0 < self.share <= 1:
            raise UsageError(f"share must be above 0 and at most 1, got {self.share}")
        if self.count is not None and not 1 <= self.count <= 1000:
            raise UsageError(f"count must be from 1 to 1000, got {self.count}")
        if not 0.5 <= self.min_segment_s <= self.max_segment_s or self.pad_s < 0 or self.gap_s < 0:
            raise UsageError(
                f"min_segment_s must be at least 0.5 and at most max_segment_s, pad_s and gap_s at least 0; got "
                f"{self.min_segment_s}, {self.max_segment_s}, {self.pad_s}, {self.gap_s}"
            )


@dataclass(frozen=True)
class _Piece:
    start_s: float
    end_s: float
    score: float
    shot: int


def shots_of(cuts_s: Sequence[float], duration_s: float) -> list[tuple[float, float]]:
    """Start and end of every shot, in order."""
    edges = [0.0, *sorted(cut for cut in set(cuts_s) if 0.0 < cut < duration_s), duration_s]
    return list(zip(edges[:-1], edges[1:], strict=True))


def choose_segments(
    times_s: np.ndarray, scores: np.ndarray, cuts_s: Sequence[float], budget: Budget
) -> tuple[Segment, ...]:
    """The best parts under a budget, in order of time, not overlapping, with borders on cuts where cuts are near.

    Shapes: times_s [n, 2], scores [n] in [0, 1]. A piece is what a clip and a shot have in common, joined to at least
    `min_segment_s`, across cuts only where shots are shorter than that; pieces are chosen by a 0/1 knapsack that
    maximises score times length (with equal sums the earlier ones win), then neighbours are joined.
    """
    duration_s = float(times_s[-1, 1])
    pieces = _pieces(times_s, scores, cuts_s, budget.min_segment_s)
    if budget.count is not None:
        chosen = _best_apart(pieces, budget)
    else:
        seconds = budget.seconds if budget.seconds is not None else budget.share * duration_s  # type: ignore[operator]
        chosen = pieces if seconds >= duration_s - 1e-6 else _knapsack(pieces, seconds)
        if not chosen:
            chosen = [_shortened(max(pieces, key=lambda piece: piece.score), seconds)]
    joined = _joined(chosen, budget.max_segment_s)
    room = None if budget.count is not None else seconds - sum(piece.end_s - piece.start_s for piece in joined)
    spans = _padded(joined, cuts_s, duration_s, budget, room)
    return tuple(
        Segment(start, end, mean_score(times_s, scores, start, end), piece.shot)
        for (start, end), piece in zip(spans, joined, strict=True)
    )


def mean_score(times_s: np.ndarray, scores: np.ndarray, start_s: float, end_s: float) -> float:
    """Mean score between two times, each clip [n, 2] counted by how much of it lies there; 0 where none does."""
    shares = np.minimum(times_s[:, 1], end_s) - np.maximum(times_s[:, 0], start_s)
    shares = shares.clip(0.0)
    total = float(shares.sum())
    return float(shares @ scores) / total if total > 0 else 0.0


def _pieces(times_s: np.ndarray, scores: np.ndarray, cuts_s: Sequence[float], least_s: float) -> list[_Piece]:
    """Clips cut at the shots; what is shorter than `least_s` joins the shorter neighbour of its shot."""
    pieces: list[_Piece] = []
    for number, (begin, end) in enumerate(shots_of(cuts_s, float(times_s[-1, 1]))):
        parts = []
        first = int(np.searchsorted(times_s[:, 1], begin, side="right"))
        for index in range(first, len(times_s)):
            start, stop = max(begin, float(times_s[index, 0])), min(end, float(times_s[index, 1]))
            if start >= end:
                break
            if stop - start > 1e-6:
                parts.append(_Piece(start, stop, float(scores[index]), number))
        pieces += _long_enough(parts, least_s)
    return _across_short_shots(pieces, least_s)


def _across_short_shots(pieces: list[_Piece], least_s: float) -> list[_Piece]:
    """Shots that are shorter than a segment may be join what follows them (the last one what comes before it)."""

    def is_short(piece: _Piece) -> bool:
        return piece.end_s - piece.start_s < least_s - 1e-6

    joined: list[_Piece] = []
    for piece in pieces:
        if joined and is_short(joined[-1]):
            joined[-1] = _merged(joined[-1], piece)
        else:
            joined.append(piece)
    if len(joined) > 1 and is_short(joined[-1]):
        joined[-2:] = [_merged(joined[-2], joined[-1])]
    return joined


def _long_enough(parts: list[_Piece], least_s: float) -> list[_Piece]:
    parts = list(parts)
    while len(parts) > 1:
        short = min(range(len(parts)), key=lambda i: parts[i].end_s - parts[i].start_s)
        if parts[short].end_s - parts[short].start_s >= least_s - 1e-6:
            break
        beside = [i for i in (short - 1, short + 1) if 0 <= i < len(parts)]
        other = min(beside, key=lambda i: parts[i].end_s - parts[i].start_s)
        low = min(short, other)
        parts[low : low + 2] = [_merged(parts[low], parts[low + 1])]
    return parts


def _merged(first: _Piece, second: _Piece) -> _Piece:
    lengths = first.end_s - first.start_s, second.end_s - second.start_s
    score = (first.score * lengths[0] + second.score * lengths[1]) / sum(lengths)
    return _Piece(first.start_s, second.end_s, score, first.shot)


def _knapsack(pieces: list[_Piece], seconds: float) -> list[_Piece]:
    """The pieces with the greatest sum of score times length whose lengths fit into `seconds`."""
    room = int(seconds / TICK_S + 1e-6)
    if room * len(pieces) > MOST_CELLS:
        return _best_first(pieces, seconds)
    weights = [int(np.ceil((piece.end_s - piece.start_s) / TICK_S - 1e-6)) for piece in pieces]
    value = np.zeros(room + 1)
    taken = np.zeros((len(pieces), room + 1), bool)
    for index, (piece, weight) in enumerate(zip(pieces, weights, strict=True)):
        if weight > room:
            continue
        gain = (piece.score + 1e-6) * (piece.end_s - piece.start_s)
        with_it = value[: room + 1 - weight] + gain
        better = with_it > value[weight:] + 1e-12
        taken[index, weight:] = better
        value[weight:] = np.where(better, with_it, value[weight:])
    chosen, left = [], room
    for index in range(len(pieces) - 1, -1, -1):
        if taken[index, left]:
            chosen.append(pieces[index])
            left -= weights[index]
    return chosen[::-1]


def _best_first(pieces: list[_Piece], seconds: float) -> list[_Piece]:
    """The pieces with the highest scores that fit, in order of time."""
    chosen, left = [], seconds
    for piece in sorted(pieces, key=lambda piece: (-piece.score, piece.start_s)):
        length = piece.end_s - piece.start_s
        if length <= left + 1e-9:
            chosen.append(piece)
            left -= length
    return sorted(chosen, key=lambda piece: piece.start_s)


def _best_apart(pieces: list[_Piece], budget: Budget) -> list[_Piece]:
    """The `count` best pieces that are `gap_s` apart, in order of time."""
    chosen: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: (-piece.score, piece.start_s)):
        if len(chosen) == budget.count:
            break
        if all(piece.start_s - c.end_s >= budget.gap_s or c.start_s - piece.end_s >= budget.gap_s for c in chosen):
            chosen.append(piece)
    return sorted(chosen, key=lambda piece: piece.start_s)


def _shortened(piece: _Piece, seconds: float) -> _Piece:
    """The middle of a piece that is longer than the whole budget."""
    middle, half = 0.5 * (piece.start_s + piece.end_s), 0.5 * min(seconds, piece.end_s - piece.start_s)
    return _Piece(middle - half, middle + half, piece.score, piece.shot)


def _joined(pieces: list[_Piece], longest_s: float) -> list[_Piece]:
    """Neighbours that touch become one, as long as it is not longer than `longest_s`."""
    joined: list[_Piece] = []
    for piece in pieces:
        if joined and piece.start_s - joined[-1].end_s < 1e-6 and piece.end_s - joined[-1].start_s <= longest_s + 1e-6:
            joined[-1] = _merged(joined[-1], piece)
        else:
            joined.append(piece)
    return joined


def _padded(
    pieces: list[_Piece], cuts_s: Sequence[float], duration_s: float, budget: Budget, room_s: float | None
) -> list[tuple[float, float]]:
    """Give pieces room at both ends, but not across a cut, into a neighbour, or beyond the budget or the longest."""
    cuts = np.asarray(sorted({0.0, duration_s, *cuts_s}))
    left = room_s if room_s is not None else np.inf
    spans: list[tuple[float, float]] = []
    for index, piece in enumerate(pieces):
        before = spans[-1][1] if spans else 0.0
        after = pieces[index + 1].start_s if index + 1 < len(pieces) else duration_s
        low = max(before, float(cuts[cuts <= piece.start_s + 1e-6].max()))
        high = min(after, float(cuts[cuts >= piece.end_s - 1e-6].min()))
        spare = budget.max_segment_s - (piece.end_s - piece.start_s)
        front = max(0.0, min(budget.pad_s, piece.start_s - low, left, spare))
        left -= front
        back = max(0.0, min(budget.pad_s, high - piece.end_s, left, spare - front))
        left -= back
        spans.append((piece.start_s - front, piece.end_s + back))
    return spans
