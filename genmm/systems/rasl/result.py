"""The highlights of one video: a curve, segments, and every file that can be made of them.

Letters: n clips.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from genmm.core.errors import DataError, UsageError
from genmm.core.events import CancelToken
from genmm.core.files import read_json, write_json, write_text
from genmm.core.limits import LONG_FOOTAGE, Limits
from genmm.core.results import Result, free_recipe_path
from genmm.media.edit_lists import (
    Span,
    chapters_ffmetadata,
    chapters_webvtt,
    cmx3600,
    edit_rate,
    frames_of,
    spans_csv,
)
from genmm.media.reel import REEL_SIDE, copy_reel, write_reel
from genmm.media.reel_pictures import write_contact_sheet, write_thumbnails
from genmm.media.source import MediaInput
from genmm.systems.rasl.segments import Segment, mean_score

__all__ = ["DOCUMENT_BYTES", "SCHEMA", "HighlightResult", "read_highlights"]

SCHEMA = "genmm.highlights/1"
"""Name and version of the JSON document; the number rises when an older reader could not read a newer document."""
DOCUMENT_BYTES = 50_000_000
"""Largest JSON document that is read: a line of scores for every second of a day."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HighlightResult(Result):
    """What was found in one video."""

    task: ClassVar[str] = "highlight"

    source: str
    """Name of the file."""
    duration_s: float
    """Its length in seconds."""
    info: Mapping[str, Any]
    """Frame rate, size and codecs, as far as they are known."""
    times_s: np.ndarray
    """[n, 2] float64, start and end of each clip."""
    scores: np.ndarray
    """[n] float64 in [0, 1]."""
    raw: Mapping[str, np.ndarray]
    """Stream ("v", "a", "av") -> [n] float64, as the scorer gave them."""
    curves: Mapping[str, np.ndarray]
    """Stream -> [n] float64 in [0, 1]; `scores` is one of them."""
    segments: tuple[Segment, ...]
    """Parts worth keeping, in order of time."""
    cuts_s: tuple[float, ...]
    """Times at which shots begin."""
    media: MediaInput | None = field(default=None, repr=False)
    """What was read, for cutting; None when it is gone."""
    limits: Limits = LONG_FOOTAGE

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd about the file."""
        return self.notes

    @property
    def seconds(self) -> float:
        """Length of all segments together."""
        return sum(segment.seconds for segment in self.segments)

    def with_segments(self, spans: Sequence[tuple[float, float]]) -> HighlightResult:
        """The same result with other segments, as somebody has edited them; put in order of time.

        Raises: UsageError when one is empty, outside the video, or overlaps another.
        """
        segments: list[Segment] = []
        for start, end in sorted(spans):
            if not 0 <= start < end <= self.duration_s + 0.05:
                raise UsageError(f"a segment must lie within 0 and {self.duration_s:.2f} s, got {start:g} to {end:g}")
            if segments and start < segments[-1].end_s - 1e-6:
                raise UsageError(f"segments must not overlap: {segments[-1].end_s:g} s is after {start:g} s")
            shot = int(np.searchsorted(np.asarray(self.cuts_s), start + 1e-6, side="right"))
            score = mean_score(self.times_s, self.scores, start, end)
            segments.append(Segment(float(start), float(min(end, self.duration_s)), score, shot))
        return dataclasses.replace(self, segments=tuple(segments))

    def recipe(self) -> dict[str, Any]:
        """As of any result, with the segments, which somebody may have edited."""
        spans = [{"start_s": round(s.start_s, 6), "end_s": round(s.end_s, 6)} for s in self.segments]
        return {**super().recipe(), "segments": spans}

    # ------------------------------------------------------------ documents

    def document(self) -> dict[str, Any]:
        """The highlights as a JSON document; see docs/methods/rasl.md for its schema."""
        rate = edit_rate(self.info.get("fps"))
        clips = [
            {
                "start_s": round(float(start), 6),
                "end_s": round(float(end), 6),
                "score": round(float(score), 6),
                "raw": {name: round(float(values[i]), 6) for name, values in self.raw.items()},
                "curves": {name: round(float(values[i]), 6) for name, values in self.curves.items()},
            }
            for i, ((start, end), score) in enumerate(zip(self.times_s, self.scores, strict=True))
        ]
        segments = [
            {
                "start_s": round(segment.start_s, 6),
                "end_s": round(segment.end_s, 6),
                "score": round(segment.score, 6),
                "shot": segment.shot,
                "start_frame": frames_of(segment.start_s, rate),
                "end_frame": frames_of(segment.end_s, rate),
            }
            for segment in self.segments
        ]
        source = {"name": self.source, "duration_s": round(self.duration_s, 6), **self.info}
        return {
            "schema": SCHEMA,
            **self.recipe(),
            "source": source,
            "frame_rate": f"{rate.numerator}/{rate.denominator}",
            "segments": segments,
            "clips": clips,
            "cuts_s": [round(float(cut), 6) for cut in self.cuts_s],
            "warnings": list(self.warnings),
        }

    def save_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `document`; its entry `file` is its own name, so that it is not taken for that of a reel."""
        return write_json(path, {**self.document(), "file": Path(path).name})

    def save_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the segments, one a line."""
        rows = [
            {
                "number": i,
                "start_s": f"{segment.start_s:.3f}",
                "end_s": f"{segment.end_s:.3f}",
                "seconds": f"{segment.seconds:.3f}",
                "score": f"{segment.score:.4f}",
                "shot": segment.shot,
            }
            for i, segment in enumerate(self.segments, 1)
        ]
        return write_text(path, spans_csv(rows))

    def save_edl(self, path: str | os.PathLike[str], *, discarded: bool = False) -> Path:
        """Write the segments, or what lies between them, as a CMX 3600 edit decision list."""
        spans = self.discarded() if discarded else self.spans()
        text = cmx3600(
            spans,
            fps=self.info.get("fps"),
            title=Path(self.source).stem or "highlights",
            source=self.source,
            has_picture=self.info.get("width") is not None,
            has_sound=self.info.get("audio_codec") is not None,
        )
        return write_text(path, text)

    def save_chapters(self, path: str | os.PathLike[str]) -> Path:
        """Write chapters: .vtt for web players, .txt or .ffmetadata for ffmpeg. Raises: UsageError for others."""
        suffix = Path(path).suffix.lower()
        if suffix == ".vtt":
            return write_text(path, chapters_webvtt(self.spans()))
        if suffix in (".txt", ".ffmetadata"):
            return write_text(path, chapters_ffmetadata(self.spans(), self.duration_s))
        raise UsageError(f"chapters are written as .vtt, .txt or .ffmetadata, got {suffix!r}; change the suffix")

    def spans(self) -> list[Span]:
        """The segments with names, for edit lists."""
        return [Span(s.start_s, s.end_s, f"highlight {i}, score {s.score:.2f}") for i, s in enumerate(self.segments, 1)]

    def discarded(self) -> list[Span]:
        """What lies between the segments, and before and after them."""
        edges = [0.0, *(edge for s in self.segments for edge in (s.start_s, s.end_s)), self.duration_s]
        pairs = zip(edges[::2], edges[1::2], strict=True)
        return [Span(start, end, f"left out {i}") for i, (start, end) in enumerate(pairs, 1) if end - start > 1e-3]

    # ------------------------------------------------------------ media

    def thumbnails(self, folder: str | os.PathLike[str], *, max_side: int = 320) -> list[Path]:
        """Write one JPEG for each segment, from its best moment; gives back the paths in order."""
        return write_thumbnails(folder, self._media(), self._moments(), max_side=max_side, limits=self.limits)

    def contact_sheet(self, path: str | os.PathLike[str], *, columns: int = 4, max_side: int = 320) -> Path:
        """Write one picture of all thumbnails with their times, as .png, .jpg or .webp."""
        captions = [f"{_clock(s.start_s)} - {_clock(s.end_s)}   {s.score:.2f}" for s in self.segments]
        return write_contact_sheet(
            path, self._media(), self._moments(), captions, columns=columns, max_side=max_side, limits=self.limits
        )

    def render(
        self,
        path: str | os.PathLike[str],
        *,
        mode: Literal["encode", "copy"] = "encode",
        max_side: int | None = REEL_SIDE,
        crf: int = 21,
        cancel: CancelToken | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> Path:
        """Cut the reel: mode "encode" is exact to the frame, "copy" is fast and begins parts at key frames.

        Raises: UsageError without segments or pictures; MediaError when the file cannot be read any more.
        """
        if mode not in ("encode", "copy"):
            raise UsageError(f"mode must be encode or copy, got {mode!r}")
        tags = {"title": f"Highlights of {self.source}"[:200], "recipe": self.recipe()}
        if mode == "copy":  # as it is: neither size nor quality change
            return copy_reel(path, self._media(), self.spans(), tags=tags, limits=self.limits)
        return write_reel(
            path,
            self._media(),
            self.spans(),
            max_side=max_side,
            crf=crf,
            tags=tags,
            limits=self.limits,
            cancel=cancel,
            on_progress=on_progress,
        )

    def save(self, path: str | os.PathLike[str], **options: Any) -> tuple[Path, ...]:
        """Write a reel (.mp4, .m4v, .mov) with the document beside it as .json, or the document alone (.json).

        The document beside a reel is its recipe and has the name of one, see `free_recipe_path`.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            return (self.save_json(path),)
        reel = self.render(path, **options)
        place = free_recipe_path(reel, max_bytes=DOCUMENT_BYTES)
        return reel, write_json(place, {**self.document(), "file": reel.name})

    def _media(self) -> MediaInput:
        if self.media is None:
            raise UsageError("the video that these highlights belong to is not at hand; find them again from the file")
        return self.media

    def _moments(self) -> list[float]:
        """The best time of each segment: the middle of its best clip."""
        moments = []
        for segment in self.segments:
            low, high = np.maximum(self.times_s[:, 0], segment.start_s), np.minimum(self.times_s[:, 1], segment.end_s)
            inside = np.flatnonzero(high - low > 1e-6)
            best = inside[int(self.scores[inside].argmax())] if len(inside) else 0
            moments.append(float(0.5 * (low[best] + high[best])) if len(inside) else segment.start_s)
        return moments


def read_highlights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a document that `save_json` wrote.

    Raises: DataError when it is something else, of a newer version, or its segments are not in order.
    """
    value = read_json(path)
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise DataError(f"{path} is no highlights document of this version ({SCHEMA}); it says {str(schema)[:60]!r}")
    try:
        spans = [(float(s["start_s"]), float(s["end_s"])) for s in value["segments"]]
        times = [(float(c["start_s"]), float(c["end_s"]), float(c["score"])) for c in value["clips"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    edges = [edge for span in spans for edge in span]
    if edges != sorted(edges) or any(not 0 <= score <= 1 for _, _, score in times):
        raise DataError(f"{path} is damaged: its segments are not in order or its scores are outside 0 to 1")
    return value


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(time_s, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{seconds:04.1f}" if hours else f"{minutes}:{seconds:04.1f}"
