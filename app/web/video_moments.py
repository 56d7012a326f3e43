"""Moments of a tokenized video that are like one of them, each with a small picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.web.pool import ModelPool
from app.web.video_work import SYSTEM, Seen, page_limits, patient
from genmm.core.errors import UsageError
from genmm.core.limits import Limits
from genmm.media.video import iter_frames
from genmm.systems.vqtoken.pipeline import VqTokenPipeline
from genmm.systems.vqtoken.search import Hit, TokenSet, VideoIndex, moment_set

__all__ = ["MOMENTS", "Moment", "similar_moments"]

MOMENTS = 6
"""Similar moments that are shown."""
PICTURE_SIDE = 240
"""Longer side of their pictures, in pixels."""


@dataclass(frozen=True, eq=False)
class Moment:
    """A few seconds of a video."""

    start_s: float
    end_s: float
    score: float
    """Similarity to the moment that was asked about, at most 1; about 0 for unrelated ones."""
    picture: np.ndarray
    """A frame of its middle, [H, W, 3] uint8."""


def similar_moments(seen: Seen, at_s: float, pool: ModelPool, limits: Limits) -> list[Moment]:
    """The moment of the index that holds a time, then up to MOMENTS others, the most similar first.

    Raises: UsageError when the video has no picture there.
    """
    pipeline = pool.get(seen.form.model, SYSTEM)
    page_limits(pipeline, limits)
    index = VideoIndex.open(seen.index)
    own = _moment_at(index, seen, at_s)
    hits = index.search(_tokens_of(own, seen, pipeline), top=MOMENTS + 1, per_video=MOMENTS + 1)
    others = [hit for hit in hits if hit.start_s != own.start_s][:MOMENTS]
    return [Moment(hit.start_s, hit.end_s, hit.score, _picture(seen, hit, limits)) for hit in (own, *others)]


def _moment_at(index: VideoIndex, seen: Seen, at_s: float) -> Hit:
    """The last moment that begins by this time, or the first one of all."""
    count = sum(entry.moments for entry in index.entries)
    every = index.search(TokenSet.of(seen.made.reduced), top=count, per_video=count)  # only their times matter here
    begun = [hit for hit in every if hit.start_s <= at_s + 1e-6]
    return max(begun, key=lambda hit: hit.start_s) if begun else min(every, key=lambda hit: hit.start_s)


def _tokens_of(moment: Hit, seen: Seen, pipeline: VqTokenPipeline) -> TokenSet:
    """Tokens of the same frames that the index has of a moment; in between them a window would resemble two of them."""
    fps, side = pipeline.config.frames.fps, 2 * pipeline.config.frames.side
    span = {"start_s": max(0.0, moment.start_s - 1e-3), "end_s": moment.end_s - 0.5 / fps}
    with iter_frames(seen.form.video, fps=fps, max_side=side, limits=pipeline.limits, **span) as reader:
        frames = [frame.image for frame in reader]
    if not frames:
        raise UsageError(f"the video has no picture at {moment.start_s:.1f} s")
    return moment_set(pipeline, frames)


def _picture(seen: Seen, moment: Hit, limits: Limits) -> np.ndarray:
    """The frame at the middle, or the first one where the middle comes after the last frame."""
    starts: Sequence[float] = ((moment.start_s + moment.end_s) / 2, max(0.0, moment.start_s - 1e-3))
    for start_s in starts:
        with iter_frames(seen.form.video, max_side=PICTURE_SIDE, start_s=start_s, limits=patient(limits)) as reader:
            frame = next(iter(reader), None)
        if frame is not None:
            return frame.image
    raise UsageError(f"the video has no picture at {moment.start_s:.1f} s")
