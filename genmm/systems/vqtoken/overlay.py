"""The token map drawn over the frames: every token a colour, with lines where tokens meet.

Shapes: frames [H, W, 3] uint8, maps [h, w] integer with -1 for no token.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator

import numpy as np

from genmm.core.errors import UsageError

__all__ = ["overlay", "overlay_frame", "smoothed", "token_colours"]

GOLDEN = 0.6180339887498949
EDGE = np.rint(0.4 * np.arange(256) + 0.6 * 255).astype(np.uint8)
"""What a line between tokens makes of a value."""


def token_colours(count: int) -> np.ndarray:
    """Colours [count, 3] uint8 that are far apart for neighbouring numbers; number k has the same colour always."""
    hues = np.mod(0.02 + GOLDEN * np.arange(count), 1.0)
    light = 0.58 - 0.12 * (np.arange(count) % 3 == 1) + 0.12 * (np.arange(count) % 3 == 2)
    pairs = zip(hues, light, strict=True)
    return np.array([[round(255 * c) for c in colorsys.hls_to_rgb(h, lt, 0.75)] for h, lt in pairs], np.uint8)


def smoothed(index_map: np.ndarray) -> np.ndarray:
    """Each cell takes the most frequent id of its 3 x 3 neighbourhood in the frame; its own where there is a tie."""
    padded = np.pad(index_map, 1, mode="edge")
    height, width = index_map.shape
    around = np.stack([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)])
    votes = (around[:, None] == around[None]).sum(1)  # how often each of the nine ids occurs
    own = votes[4]
    best = votes.argmax(0)
    chosen = np.take_along_axis(around, best[None], 0)[0]
    return np.where(votes.max(0) > own, chosen, index_map)


def overlay_frame(
    frame: np.ndarray, index_map: np.ndarray, *, strength: float = 0.45, tokens: Iterable[int] | None = None
) -> np.ndarray:
    """A frame with its token map: [H, W, 3] uint8.

    Args: `strength` is the share of colour, 0 to 1; `tokens` limits the colours to some tokens, the rest is darkened.
    """
    return _Paint(index_map, frame.shape[:2], strength, tokens)(frame)


class _Paint:
    """One map as it is drawn over frames of one size: a pixel becomes gain x itself + a colour, in 256ths."""

    def __init__(
        self, index_map: np.ndarray, size: tuple[int, ...], strength: float = 0.45, tokens: Iterable[int] | None = None
    ) -> None:
        if not 0 <= strength <= 1:
            raise UsageError(f"strength must be from 0 to 1, got {strength!r}")
        rows, columns = (np.arange(n) * cells // n for n, cells in zip(size, index_map.shape, strict=True))
        colours = token_colours(max(1, int(index_map.max()) + 1)).astype(float)
        tint = strength * np.where(index_map[..., None] >= 0, colours[np.maximum(index_map, 0)], 0.0)
        gain = np.full_like(tint, 1.0 - strength)
        if tokens is not None:
            other = ~np.isin(index_map, list(tokens))
            gain[other], tint[other] = 0.35, 0.0
        both = (np.floor(256.0 * x).astype(np.uint16)[:, columns][rows] for x in (gain, tint + 0.5))
        self._gain, self._tint = both
        self._edge = _edges(index_map[:, columns], rows)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        mixed = frame.astype(np.uint16)
        mixed *= self._gain
        mixed += self._tint
        mixed >>= 8
        drawn = mixed.astype(np.uint8)
        drawn[self._edge] = EDGE[drawn[self._edge]]
        return drawn


def _edges(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pixels [H, W] whose token is not that of the one before them: ids [h, W] of rows of cells, rows [H] of pixels."""
    across = np.zeros(ids.shape, bool)
    across[:, 1:] = ids[:, 1:] != ids[:, :-1]
    edge = across[rows]
    first = np.flatnonzero(np.diff(rows)) + 1
    edge[first] |= ids[rows[first]] != ids[rows[first - 1]]
    return edge


def overlay(
    frames: Iterable[tuple[float, np.ndarray]], index_map: np.ndarray, times_s: np.ndarray, **options: object
) -> Iterator[np.ndarray]:
    """Frames of a video, each with the map of the last moment that was tokenized before it.

    Args: frames as (time in seconds, [H, W, 3]); index_map [T, h, w] at times_s [T] ascending.
    """
    if options.get("tokens") is not None:
        options["tokens"] = frozenset(options["tokens"])  # type: ignore[arg-type]
    held: tuple[tuple[int, ...], _Paint] | None = None
    for time_s, frame in frames:
        moment = max(0, int(np.searchsorted(times_s, time_s + 1e-6, side="right")) - 1)
        key = (moment, *frame.shape)
        if held is None or held[0] != key:
            held = key, _Paint(smoothed(index_map[moment]), frame.shape[:2], **options)  # type: ignore[arg-type]
        yield held[1](frame)
