"""Moments of a tokenized video that are like one of them, each with a small picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.web.video_work import Seen, patient
from genmm.core.errors import UsageError
from genmm.core.limits import Limits
from genmm.media.video import iter_frames
from genmm.systems.vqtoken.search import VideoIndex, set_similarity

__all__ = ["MOMENTS", "Moment", "similar_moments"]

MOMENTS = 6
"""Similar moments that are shown."""
PICTURE_SIDE = 240
"""Longer side of their pictures, in pixels."""


@dataclass(frozen=True, eq=False)
class Moment:
    """A few seconds of a video."""

    start_s: float
    """Where it begins in the video, in seconds."""
    end_s: float
    """Where it ends."""
    score: float
    """Similarity to the moment that was asked about, at most 1; about 0 for unrelated ones."""
    picture: np.ndarray
    """A frame of its middle, [H, W, 3] uint8."""


def similar_moments(seen: Seen, at_s: float, limits: Limits) -> list[Moment]:
    """The moment of the index that holds a time, then up to MOMENTS others, the most similar first.

    Raises: UsageError when the video has no picture there.
    """
    index = VideoIndex.open(seen.index)
    own = index.moment_at(seen.form.video, at_s)
    hits = index.search(own, top=MOMENTS + 1, per_video=MOMENTS + 1)
    others = [(hit.start_s, hit.end_s, hit.score) for hit in hits if hit.start_s != own.start_s]
    found = [(own.start_s, own.end_s, set_similarity(own, own)), *others[:MOMENTS]]
    return [Moment(*hit, _picture(seen, hit[0], hit[1], limits)) for hit in found]


def _picture(seen: Seen, start_s: float, end_s: float, limits: Limits) -> np.ndarray:
    """The frame at the middle, or the first one where the middle comes after the last frame."""
    starts: Sequence[float] = ((start_s + end_s) / 2, max(0.0, start_s - 1e-3))
    for at_s in starts:
        with iter_frames(seen.form.video, max_side=PICTURE_SIDE, start_s=at_s, limits=patient(limits)) as reader:
            frame = next(iter(reader), None)
        if frame is not None:
            return frame.image
    raise UsageError(f"the video has no picture at {start_s:.1f} s")
