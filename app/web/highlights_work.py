"""From a video to scores, a reel and files: the part of the Highlights tab that knows pipelines and no components."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.web.pool import ModelPool
from genmm.core.errors import GenerationError, MediaError, UsageError
from genmm.core.events import CancelToken, Event, Finished, Progress, in_seconds, reported
from genmm.core.files import safe_stem
from genmm.core.limits import Limits
from genmm.systems.rasl.extraction import extraction_events
from genmm.systems.rasl.feature_table import FeatureTable
from genmm.systems.rasl.pipeline import RaslPipeline
from genmm.systems.rasl.request import HighlightSettings
from genmm.systems.rasl.result import HighlightResult

__all__ = ["HEURISTIC", "SYSTEM", "Found", "HighlightForm", "check_form", "cut_events", "find_events", "model_names"]

SYSTEM = "rasl"
HEURISTIC = "heuristic"
"""Name of the choice that needs no model."""
DECODE_S = 900.0
"""Processor time that reading one video may take; it shows progress and can be cancelled."""
PREVIEW_SIDE = 854
"""Longest side of reels that the page cuts, in pixels."""


@dataclass(frozen=True, kw_only=True)
class HighlightForm:
    """What a visitor asks for."""

    video: str
    """Path of the upload."""
    model: str = HEURISTIC
    """A model's name, or HEURISTIC."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of HighlightSettings."""

    def chosen(self) -> HighlightSettings:
        """The settings. Whoever chooses a model means its scores. Raises: UsageError."""
        scorer = "heuristic" if self.model == HEURISTIC else "model"
        return HighlightSettings().changed({"scorer": scorer, **self.settings})


@dataclass(frozen=True, eq=False)
class Found:
    """Everything about one finished run; belongs to one visitor."""

    form: HighlightForm
    table: FeatureTable
    """Features of the video, from which other settings are scored at once."""
    result: HighlightResult
    folder: Path
    """Where the files lie."""
    reel: Path | None = None
    sheet: Path | None = None
    thumbnails: tuple[Path, ...] = ()
    documents: Mapping[str, Path] = field(default_factory=dict)
    """Kind ("json", "csv", "edl", "chapters", "vtt") -> file."""


def model_names(pool: ModelPool) -> list[str]:
    """What can score: the heuristic, which is the default, and the models of this system."""
    return [HEURISTIC, *pool.choices(SYSTEM)]


def check_form(form: HighlightForm, pool: ModelPool) -> None:
    """Raises: UsageError for a missing video, an unknown model or settings that are not allowed."""
    if not form.video or not Path(form.video).is_file():
        raise UsageError("choose a video first; mp4, mov, mkv and webm are understood, with or without sound")
    if form.model not in model_names(pool):
        raise UsageError(f"there is no model {form.model[:60]!r} here; choose one of {', '.join(model_names(pool))}")
    form.chosen()


def pipeline_of(form: HighlightForm, pool: ModelPool) -> RaslPipeline:
    """The pipeline that a form names."""
    return RaslPipeline.heuristic() if form.model == HEURISTIC else pool.get(form.model, SYSTEM)


def find_events(
    form: HighlightForm, pool: ModelPool, new_folder: Callable[[], Path], limits: Limits, *, cut: bool = True
) -> Callable[[CancelToken], Iterator[Event]]:
    """Give back a function that reads, scores and cuts as events, the last one Finished(Found).

    Raises (while running): GenmmError for whatever the visitor can repair, Cancelled.
    """
    limits = dataclasses.replace(limits, decode_s=max(DECODE_S, limits.decode_s))

    def events(token: CancelToken) -> Iterator[Event]:
        yield Progress(0, None, "", "Getting the model ready")
        pipeline = pipeline_of(form, pool)
        table: FeatureTable | None = None
        for event in extraction_events(form.video, extractor=pipeline.extractor, limits=limits, cancel=token):
            if isinstance(event, Finished):
                table = event.result
            else:
                yield dataclasses.replace(event, message="Watching and listening")
        if table is None:
            raise GenerationError("the video was read without a result; please report it")
        yield Progress(0, None, "", "Choosing the best moments")
        result = pipeline.score(table, form.chosen(), media=form.video, limits=limits)
        found = Found(form, table, result, new_folder())
        yield from _finished(found, token, cut)

    return events


def cut_events(
    found: Found, spans: Sequence[tuple[float, float]], new_folder: Callable[[], Path]
) -> Callable[[CancelToken], Iterator[Event]]:
    """The same for segments that the visitor has edited: only the files are made anew, in a folder of their own, so
    that the history keeps what was cut before."""

    def events(token: CancelToken) -> Iterator[Event]:
        edited = dataclasses.replace(found, result=found.result.with_segments(spans), folder=new_folder())
        yield from _finished(edited, token, True)

    return events


def rescored(found: Found, pool: ModelPool, modality: str) -> Found:
    """The same video scored by other streams, without reading it again; its files are made by `cut_events`."""
    form = dataclasses.replace(found.form, settings={**found.form.settings, "modality": modality})
    old = found.result
    result = pipeline_of(form, pool).score(found.table, form.chosen(), media=old.media, limits=old.limits)
    return dataclasses.replace(found, form=form, result=result)


def _finished(found: Found, token: CancelToken, cut: bool) -> Iterator[Event]:
    """Write all files of a result, the reel last."""
    result, folder = found.result, found.folder
    if not result.segments:
        raise UsageError("no segment is left; keep at least one")
    stem = safe_stem(Path(result.source).stem, max_chars=40)
    documents = {
        "json": result.save_json(folder / f"{stem}_highlights.json"),
        "csv": result.save_csv(folder / f"{stem}_highlights.csv"),
        "edl": result.save_edl(folder / f"{stem}_highlights.edl"),
        "chapters": result.save_chapters(folder / f"{stem}_chapters.txt"),
        "vtt": result.save_chapters(folder / f"{stem}_chapters.vtt"),
    }
    found = dataclasses.replace(found, documents=documents, reel=None, sheet=None, thumbnails=())
    if found.table.has_picture:
        yield Progress(0, None, "", "Taking pictures")
        token.check()
        found = dataclasses.replace(
            found,
            thumbnails=tuple(result.thumbnails(folder / "pictures")),
            sheet=result.contact_sheet(folder / f"{stem}_sheet.jpg"),
        )
        if cut:
            found = dataclasses.replace(found, reel=(yield from _cut(found, folder / f"{stem}_reel.mp4", token)))
    yield Finished(found)


def _cut(found: Found, path: Path, token: CancelToken) -> Iterator[Event]:
    """Cut the reel in pieces of progress; gives back its path, None when the pictures cannot be read again."""
    seconds = found.result.seconds

    def render(say: Callable[[Progress], None]) -> Path:
        cut = in_seconds(say, seconds, f"Cutting a reel of {max(1, round(seconds))} s")
        cut(0.0)
        return found.result.render(path, max_side=PREVIEW_SIDE, cancel=token, on_progress=cut)

    try:
        return (yield from reported(render, token))
    except MediaError:
        return None
