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
    if not 0 <= strength <= 1:
        raise UsageError(f"strength must be from 0 to 1, got {strength!r}")
    height, width = frame.shape[:2]
    rows = np.arange(height) * index_map.shape[0] // height
    columns = np.arange(width) * index_map.shape[1] // width
    ids = index_map[rows][:, columns]
    colours = token_colours(max(1, int(index_map.max()) + 1))
    tint = np.where(ids[..., None] >= 0, colours[np.maximum(ids, 0)], 0)
    mixed = (1 - strength) * frame + strength * tint
    if tokens is not None:
        mixed = np.where(np.isin(ids, list(tokens))[..., None], mixed, 0.35 * frame)
    edge = np.zeros(ids.shape, bool)
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    mixed[edge] = 0.4 * mixed[edge] + 0.6 * 255
    return np.rint(mixed).clip(0, 255).astype(np.uint8)


def overlay(
    frames: Iterable[tuple[float, np.ndarray]], index_map: np.ndarray, times_s: np.ndarray, **options: object
) -> Iterator[np.ndarray]:
    """Frames of a video, each with the map of the last moment that was tokenized before it.

    Args: frames as (time in seconds, [H, W, 3]); index_map [T, h, w] at times_s [T] ascending.
    """
    if options.get("tokens") is not None:
        options["tokens"] = frozenset(options["tokens"])  # type: ignore[arg-type]
    for time_s, frame in frames:
        moment = max(0, int(np.searchsorted(times_s, time_s + 1e-6, side="right")) - 1)
        yield overlay_frame(frame, smoothed(index_map[moment]), **options)  # type: ignore[arg-type]
