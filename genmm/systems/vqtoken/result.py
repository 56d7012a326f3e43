"""A tokenized video and an answer: media, recipe, files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.torch import save_file

from genmm.core.errors import UsageError
from genmm.core.events import CancelToken
from genmm.core.files import atomic_path, write_bytes
from genmm.core.limits import LONG_FOOTAGE, Limits
from genmm.core.results import Result
from genmm.media.image import write_image
from genmm.media.source import MediaInput
from genmm.media.video import iter_frames, write_video
from genmm.systems.vqtoken.overlay import overlay, overlay_frame, smoothed
from genmm.systems.vqtoken.reduced import ReducedVideo

__all__ = ["TokenizedVideo", "VideoAnswer"]

SUFFIXES = (".safetensors", ".gmvq")
OVERLAY_SIDE = 640
"""Longer side of an overlay video, in pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizedVideo(Result):
    """One video as tokens and map."""

    task: ClassVar[str] = "video"

    reduced: ReducedVideo
    """One clip."""
    times_s: np.ndarray
    """[T] float64, time of each row of the map."""
    seconds: float
    """Length of the video that was looked at."""
    frame_size: tuple[int, int]
    """Height and width of the pictures as read."""
    source_bytes: int = 0
    """Size of the file, 0 when it was not a file."""
    variance: float = 0.0
    """Squared distance of all unit features to their mean; distortions are shares of it."""

    @property
    def tokens(self) -> int:
        """Tokens of the video."""
        return int(self.reduced.num_tokens[0])

    @property
    def cells(self) -> int:
        """Tokens before the reduction."""
        return int((self.reduced.index_map >= 0).sum())

    @property
    def map(self) -> np.ndarray:
        """[T, h, w] int64."""
        return self.reduced.index_map[0].cpu().numpy()

    @property
    def lost(self) -> float:
        """Share of the features' variance around their mean direction that tokens and map lose, 0 to 1."""
        return float(self.settings["lost"])

    @property
    def lost_curve(self) -> list[float]:
        """The same for 1, 2, ... tokens where the clustering tells, else empty; above 1 where one mean does better."""
        if self.reduced.curve is None or self.variance <= 0:
            return []
        return (self.reduced.curve[0] / self.variance).tolist()

    def facts(self) -> dict[str, Any]:
        """Figures for reports: tokens, shares, bits."""
        bits = self.reduced.code_bits
        return {
            "seconds": round(self.seconds, 3),
            "frames": len(self.times_s),
            "cells": self.cells,
            "tokens": self.tokens,
            "token_share": self.tokens / max(1, self.cells),
            "lost": round(self.lost, 5),
            "code_bits": bits,
            "code_bits_per_second": round(bits / max(self.seconds, 1e-9), 1),
            "file_bytes": self.source_bytes,
        }

    def save(self, path: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write .safetensors (tokens, codebook, map and geometry) or .gmvq (the packed code), and the recipe beside."""
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise UsageError(f"tokens are written as {' or '.join(SUFFIXES)}, got {path.name!r}; change the suffix")
        if suffix == ".gmvq":
            write_bytes(path, self.reduced.to_bytes())
        else:
            one = self.reduced
            names = ("tokens", "codebook", "index_map", "counts", "positions", "spread")
            tensors = {name: getattr(one, name)[0].detach().cpu().contiguous() for name in names}
            with atomic_path(path) as temporary:
                save_file(tensors, temporary)
        facts = {**self.facts(), "times_s": [round(float(t), 4) for t in self.times_s[:100_000]]}
        return path, self.save_recipe(path, facts=facts)

    def save_overlay(
        self,
        source: MediaInput,
        path: str | os.PathLike[str],
        *,
        strength: float = 0.45,
        limits: Limits = LONG_FOOTAGE,
        cancel: CancelToken | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Path:
        """Write the part that was tokenized with its map drawn over it as .mp4 (or its middle as .png or .jpg).

        `on_progress` hears the seconds that are drawn.
        Raises: Cancelled within one frame after `cancel` was asked to; nothing is left then.
        """
        path = Path(path)
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
            return write_image(path, self.picture(source, strength=strength, limits=limits))
        fps = min(25.0, max(12.0, float(self.settings["fps"])))
        begin = float(self.times_s[0])
        span = {"start_s": begin, "end_s": begin + self.seconds + 1e-3}
        with iter_frames(source, fps=fps, max_side=OVERLAY_SIDE, limits=limits, **span) as reader:
            pairs = _timed(reader, cancel or CancelToken(), lambda time_s: on_progress and on_progress(time_s - begin))
            drawn = overlay(pairs, self.map, self.times_s, strength=strength)
            return write_video(path, drawn, fps, crf=23, preset="veryfast")

    def picture(
        self,
        source: MediaInput,
        *,
        at_s: float | None = None,
        strength: float = 0.45,
        limits: Limits = LONG_FOOTAGE,
    ) -> np.ndarray:
        """The frame that row of the map was made of, with the map, [H, W, 3] uint8; by default from the middle."""
        row = len(self.times_s) // 2 if at_s is None else int(np.abs(self.times_s - at_s).argmin())
        time_s = float(self.times_s[row])
        # On the grid that was read, as a picture may be shown since long before.
        start = {"fps": float(self.settings["fps"]), "start_s": max(0.0, time_s - 1e-3)}
        with iter_frames(source, max_side=OVERLAY_SIDE, limits=limits, **start) as reader:
            frame = next(iter(reader), None)
        if frame is None:
            raise UsageError(f"the video has no frame at {time_s:.2f} s")
        return overlay_frame(frame.image, smoothed(self.map[row]), strength=strength)


def _timed(
    reader: Iterable[Any], cancel: CancelToken, on_time: Callable[[float], Any]
) -> Iterator[tuple[float, np.ndarray]]:
    for number, frame in enumerate(reader):
        cancel.check()
        if number % 10 == 0:
            on_time(frame.time_s)
        yield frame.time_s, frame.image


@dataclass(frozen=True)
class VideoAnswer:
    """What the embedded answerer says."""

    text: str
    """The answer."""
    confidence: float
    """Its probability among all answers."""
    others: tuple[tuple[str, float], ...]
    """The next answers with their probabilities."""
