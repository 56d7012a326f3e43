"""From an upload to tokens, map, curve and index: the part of the Video tab that knows pipelines and no components."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.web.pool import ModelPool
from genmm.core.errors import GenerationError, UsageError
from genmm.core.events import CancelToken, Event, Finished, Progress, in_seconds, reported
from genmm.core.files import safe_stem
from genmm.core.limits import Limits
from genmm.core.wording import counted
from genmm.media.image import write_image
from genmm.systems.vqtoken.methods import CLUSTERING_METHODS, METHODS
from genmm.systems.vqtoken.pipeline import VqTokenPipeline, budget_of
from genmm.systems.vqtoken.result import TokenizedVideo

__all__ = [
    "MOST",
    "SYSTEM",
    "Seen",
    "VideoForm",
    "check_form",
    "frame_at",
    "page_limits",
    "patient",
    "question_events",
    "tokenize_events",
]

SYSTEM = "vqtoken"
MOST = 64
"""Upper end of the budget slider."""
DECODE_S = 300.0
"""Processor time that reading one video may take; it shows progress and can be cancelled."""
THUMBNAIL = (320, 180)


@dataclass(frozen=True, kw_only=True)
class VideoForm:
    """What a visitor asks for."""

    video: str
    """Path of the upload."""
    tokens: int = 32
    """Budget."""
    adaptive: bool = False
    """As many tokens as the video needs, at most `tokens`."""
    method: str = "vqtoken"
    """Reducer."""
    model: str | None = None
    """Name of a model; None takes the default."""

    def budget(self) -> Any:
        """What the pipeline takes."""
        if not self.adaptive:
            return self.tokens
        return dataclasses.replace(budget_of("adaptive"), least=min(4, self.tokens), most=self.tokens)


@dataclass(frozen=True, eq=False)
class Seen:
    """Everything about one finished run; belongs to one visitor."""

    form: VideoForm
    made: TokenizedVideo
    film: Path
    """The video with its map drawn over it."""
    picture: Path
    """One frame with its map."""
    thumbnail: Path
    file: Path
    """Tokens as .safetensors."""
    code: Path
    """The packed code."""
    recipe: Path
    index: Path
    """Folder of the index of this run."""
    title: str
    to_ask: list[TokenizedVideo] = field(default_factory=list)
    """The video with as many tokens as the answerer takes, once a question was asked."""

    @property
    def name(self) -> str:
        """Name of the file that was tokenized."""
        return Path(self.form.video).name

    @property
    def code_bytes(self) -> int:
        """Size of the packed code."""
        return self.code.stat().st_size if self.code.is_file() else 0


def check_form(form: VideoForm, pool: ModelPool) -> None:
    """Raises: UsageError for a missing video, an unknown model or a budget that is not allowed."""
    if not form.video or not Path(form.video).is_file():
        raise UsageError("choose a video first; mp4, mov, mkv and webm are understood")
    if not 1 <= form.tokens <= MOST:
        more = "; the command line makes more" if form.tokens > MOST else ""
        raise UsageError(f"the page makes 1 to {MOST} tokens, got {form.tokens}{more}")
    if form.method not in METHODS:
        raise UsageError(f"there is no reducer {form.method[:40]!r}; choose one of: {', '.join(METHODS)}")
    if form.adaptive and form.method not in CLUSTERING_METHODS:
        choosing = f"{', '.join(CLUSTERING_METHODS)} choose the number of tokens by themselves"
        raise UsageError(f"only {choosing}; switch that off for other reducers")
    if form.model:
        pool.info(form.model, SYSTEM)


def patient(limits: Limits) -> Limits:
    """The limits of the page, with the time that reading a whole video takes."""
    return dataclasses.replace(limits, decode_s=max(limits.decode_s, DECODE_S))


def page_limits(pipeline: VqTokenPipeline, limits: Limits) -> None:
    """Give the pipeline the limits of the page."""
    pipeline.limits = patient(limits)


def tokenize_events(
    form: VideoForm, pool: ModelPool, new_folder: Callable[[], Path], limits: Limits
) -> Callable[[CancelToken], Iterator[Event]]:
    """Give back a function that does the whole job as events, the last one Finished(Seen)."""

    def events(token: CancelToken) -> Iterator[Event]:
        yield Progress(0, None, "", "Getting the model ready")
        pipeline = pool.get(form.model, SYSTEM)
        page_limits(pipeline, limits)
        token.check()
        made: TokenizedVideo | None = None
        for event in pipeline.events(form.video, tokens=form.budget(), method=form.method, cancel=token):
            if isinstance(event, Finished):
                made = event.result
            else:
                yield Progress(event.done, event.total, event.unit, f"Reading: {counted(event.done, 'frame')}")
        if made is None:
            raise GenerationError("the model ended without a result; please report it")
        token.check()
        folder = new_folder()
        try:
            yield from _write(form, pipeline, made, folder, token)
        except Exception:  # cancelled, most of the time; nobody will ask for what is there so far
            shutil.rmtree(folder, ignore_errors=True)
            raise

    return events


def _write(
    form: VideoForm, pipeline: VqTokenPipeline, made: TokenizedVideo, folder: Path, token: CancelToken
) -> Iterator[Event]:
    from genmm.systems.vqtoken.search import VideoIndex

    title = Path(form.video).stem
    stem = safe_stem(title, max_chars=40)
    file, recipe = made.save(folder / f"{stem}.safetensors")
    code, _ = made.save(folder / f"{stem}.gmvq")
    film = yield from _film(form, made, folder / f"{stem}_map.mp4", pipeline.limits, token)
    token.check()
    picture = made.save_overlay(form.video, folder / f"{stem}_map.png", limits=pipeline.limits)
    yield Progress(0, None, "", "Indexing moments")
    index = VideoIndex.open(folder / "index", pipeline.encoder_fingerprint, create=True)
    index.add(pipeline, form.video, moment_s=_moment_s(made), cancel=token)
    thumbnail = _thumbnail(picture, folder / f"{stem}_small.png")
    yield Finished(Seen(form, made, film, picture, thumbnail, file, code, recipe, index.folder, title))


def _film(form: VideoForm, made: TokenizedVideo, path: Path, limits: Limits, token: CancelToken) -> Iterator[Event]:
    """Draw the map over the video in pieces of progress; gives back the path."""

    def draw(say: Callable[[Progress], None]) -> Path:
        drawn = in_seconds(say, made.seconds, "Drawing the map over the video")
        return made.save_overlay(form.video, path, limits=limits, cancel=token, on_progress=drawn)

    return (yield from reported(draw, token))


def _moment_s(made: TokenizedVideo) -> float:
    """Short videos have short moments, so that there are some to compare."""
    return float(min(4.0, max(0.5, made.seconds / 8)))


def _thumbnail(picture: Path, target: Path) -> Path:
    with Image.open(picture) as opened:
        small = opened.convert("RGB")
        small.thumbnail(THUMBNAIL)
        return write_image(target, np.asarray(small))


def frame_at(seen: Seen, at_s: float, limits: Limits) -> np.ndarray:
    """The frame with its map at a time, [H, W, 3] uint8. Raises: UsageError when the upload is gone."""
    if not Path(seen.form.video).is_file():
        raise UsageError("the upload is gone; uploads are kept for some hours only, so give it again")
    last_s = float(seen.made.times_s[-1])
    return seen.made.picture(seen.form.video, at_s=min(max(0.0, at_s), last_s), limits=patient(limits))


def question_events(
    form: VideoForm, question: str, pool: ModelPool, limits: Limits, seen: Seen | None = None
) -> Callable[[CancelToken], Iterator[Event]]:
    """Give back a function that asks the embedded answerer as events, the last one Finished(VideoAnswer).

    The video is read again unless `seen` holds the tokens that the answerer was trained with; then it keeps them.
    Raises (while running): UsageError for a question that it cannot read, before the video is read; Cancelled.
    """

    def events(token: CancelToken) -> Iterator[Event]:
        pipeline = pool.get(form.model, SYSTEM)
        page_limits(pipeline, limits)
        if pipeline.answerer is None:
            raise UsageError(
                f"on the page the embedded model vqtoken answers; for {pipeline.name} there is genmm ask --model"
            )
        pipeline.answerer.encode([question])
        wanted = pipeline.answerer.config.tokens
        known = [seen.made, *seen.to_ask] if seen is not None else []
        fitting = [made for made in known if made.tokens == wanted and made.settings["method"] == "vqtoken"]
        if not fitting:
            for event in pipeline.events(form.video, tokens=wanted, cancel=token):
                if isinstance(event, Finished):
                    fitting.append(event.result)
                else:
                    yield Progress(event.done, event.total, event.unit, f"Reading: {counted(event.done, 'frame')}")
            if seen is not None:
                seen.to_ask[:] = fitting
        yield Finished(pipeline.answer(fitting[0], question))

    return events
