"""From a filled form to files: the part of the Music tab that knows pipelines and nothing about components."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from app.web.pool import ModelPool
from app.web.thumbnail import draw_sound_bars
from genmm.core.checkpoint import read_config
from genmm.core.errors import GenerationError, UsageError
from genmm.core.events import CancelToken, Event, Finished, Progress
from genmm.core.files import read_json, safe_stem
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.media.audio import Audio, read_audio, write_audio
from genmm.media.figures import sound_picture
from genmm.media.image import write_image
from genmm.systems.melodyflow.captions import Caption
from genmm.systems.melodyflow.prompts import parse_key
from genmm.systems.melodyflow.reading import merged, read_caption
from genmm.systems.melodyflow.request import (
    MusicSettings,
    check_seconds,
    check_strength,
    check_texts,
    clean_description,
    take_seeds,
)
from genmm.systems.melodyflow.result import MusicResult

__all__ = [
    "KINDS",
    "MAX_TAKES",
    "SYSTEM",
    "WITH_SOURCE",
    "Composed",
    "MusicForm",
    "MusicTake",
    "check_form",
    "descriptions",
    "model_settings",
    "music_events",
    "parse_tempo",
    "reads_captions",
    "understood",
]

SYSTEM = "melodyflow"
MAX_TAKES = 4
SOURCE_STEM = "source"
"""Name of the recording that was handed in, among the results."""
KINDS = {
    "generate": "New music",
    "loop": "Loop",
    "edit": "Edit a recording",
    "inpaint": "Make a part anew",
    "extend": "Continue",
}
"""Kind of a job -> what the page calls it."""
WITH_SOURCE = ("edit", "inpaint", "extend")


@dataclass(frozen=True, kw_only=True)
class MusicForm:
    """What a visitor asks for."""

    kind: str = "generate"
    """generate, loop, edit, inpaint or extend."""
    text: str = ""
    """What the music is like."""
    others: tuple[str, ...] = ()
    """Further descriptions of an edit, from the same inversion."""
    negative: str = ""
    """What it should not be."""
    bpm: float | None = None
    """Tempo, goes before the text."""
    key: str = ""
    """Key, goes before the text."""
    seconds: float = 10.0
    """Length of new music, or of what is added."""
    bars: int = 4
    """Length of a loop."""
    source: str | None = None
    """An uploaded recording."""
    source_text: str = ""
    """What the recording is; what the text leaves open stays so."""
    strength: float = 0.9
    """Of an edit."""
    method: str = "regularised"
    """Inversion of an edit."""
    region: tuple[float, float] = (0.0, 0.0)
    """Part to make anew, in seconds."""
    model: str | None = None
    """Name of a model; None takes the default."""
    guidance: float | None = None
    """None takes the model's default."""
    steps: int | None = None
    """None takes the model's default."""
    takes: int = 1
    """How many versions."""
    seeds: tuple[int, ...] = ()
    """None, one, or one per take."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of MusicSettings that differ from the model's defaults."""

    @property
    def texts(self) -> tuple[str, ...]:
        """All descriptions."""
        return (self.text, *self.others)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that differ from the model's defaults."""
        own = {"guidance": self.guidance, "steps": self.steps}
        return {**self.more, **{name: value for name, value in own.items() if value is not None}}


@dataclass(frozen=True)
class MusicTake:
    """One version on disk."""

    path: Path
    flac: Path
    recipe: Path
    picture: Path | None
    picture_dark: Path | None
    thumbnail: Path | None
    seconds: float
    seed: int
    sentence: str
    text: str
    """What was asked for."""


@dataclass(frozen=True)
class Composed:
    """What a run made, as files in one folder."""

    takes: tuple[MusicTake, ...]
    kind: str
    is_many_edits: bool
    """Whether every take is an edit towards a description of its own."""
    recipe: Mapping[str, Any]
    """Makes all takes again."""
    model: str
    source: Path | None
    """The recording as it was worked on, for comparing."""
    calls: int
    notes: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """What the takes are called, in order; edits go by what they were to become."""
        if not self.is_many_edits:
            return [f"Take {n}" for n in range(1, len(self.takes) + 1)]
        return [f"{n}: {take.text or 'left to the model'}" for n, take in enumerate(self.takes, 1)]


def descriptions(kind: str, text: str) -> tuple[str, ...]:
    """What the text box asks for: the lines that are not empty for an edit, else all of it as one description."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return tuple(lines) if kind == "edit" and lines else (text,)


def check_form(form: MusicForm, limits: Limits = DEFAULT_LIMITS) -> None:
    """Find mistakes that need no model, before the job waits in the queue. Raises: UsageError, LimitError."""
    if form.kind not in KINDS:
        raise UsageError(f"kind must be one of {', '.join(KINDS)}, got {form.kind!r}")
    for text in form.texts:
        clean_description(text)
    check_texts(form.kind, form.texts, form.takes)
    clean_description(form.negative)
    clean_description(form.source_text)
    parse_key(form.key)
    if form.bpm is not None:
        Caption(tempo_bpm=form.bpm)
    if not 1 <= form.takes <= MAX_TAKES:
        raise UsageError(f"takes must be from 1 to {MAX_TAKES}, got {form.takes}")
    take_seeds(None, form.seeds, form.takes if len(form.seeds) > 1 else 1)
    MusicSettings().changed(form.settings)
    check_seconds("the length", form.seconds)
    check_strength(form.strength)
    if form.kind in WITH_SOURCE and not form.source:
        raise UsageError("upload or record something first, or choose New music")
    if form.kind == "inpaint" and not 0.0 <= form.region[0] < form.region[1]:
        raise UsageError("mark the part to make anew: click its start and then its end on the waveform")


def model_settings(pool: ModelPool, model: str | None) -> MusicSettings:
    """The settings that a model starts with, read without loading it; plain ones when there is no model.

    Raises: UsageError for an unknown model, ConfigError for a damaged one.
    """
    name = model or pool.default(SYSTEM)
    if name is None:
        return MusicSettings()
    return MusicSettings.from_dict(read_config(pool.info(name, SYSTEM).path).get("defaults", {}))


def reads_captions(pool: ModelPool, model: str | None) -> bool:
    """Whether a model acts on caption fields alone, so that what it understands can be shown at once."""
    name = model or pool.default(SYSTEM)
    if name is None:
        return True
    return read_config(pool.info(name, SYSTEM).path).get("text", {}).get("kind") == "captions"


def parse_tempo(text: str | float | None) -> float | None:
    """The tempo that was typed, or None when nothing was. Raises: UsageError for what is no number."""
    if text is None or not str(text).strip():
        return None
    try:
        return float(str(text).lower().removesuffix("bpm").strip())
    except ValueError:
        raise UsageError(f"the tempo is a number of beats a minute, such as 96, got {str(text)[:40]!r}") from None


def understood(text: str, bpm: float | None, key: str) -> str:
    """What a model that reads captions makes of the form, as one line. Raises: UsageError, LimitError."""
    tonic, mode = parse_key(key)
    reading = merged(read_caption(clean_description(text)), tempo_bpm=bpm, tonic=tonic, mode=mode)
    return "; ".join([reading.sentence(), *reading.notes])


def music_events(
    form: MusicForm,
    pool: ModelPool,
    new_folder: Callable[[], Path],
    limits: Limits = DEFAULT_LIMITS,
    *,
    pictures: bool = True,
) -> Callable[[CancelToken], Iterator[Event]]:
    """Give back a function that does the whole job as events, the last one Finished(Composed).

    Raises (while running): GenmmError for whatever the visitor can repair, Cancelled.
    """

    def events(token: CancelToken) -> Iterator[Event]:
        yield Progress(0, None, "", "Getting the model ready")
        pipeline = pool.get(form.model, SYSTEM)
        token.check()
        source = read_audio(form.source, limits=limits) if form.kind in WITH_SOURCE and form.source else None
        token.check()
        finished: Finished[MusicResult] | None = None
        for event in pipeline.events(_job(pipeline, form, source), token):
            if isinstance(event, Finished):
                finished = event
            elif isinstance(event, Progress):
                yield replace(event, message=event.message.capitalize())
        if finished is None:
            raise GenerationError("the model ended without a result; please report it")
        if pictures:
            yield Progress(0, None, "", "Drawing")
        yield Finished(save_takes(finished.result, form, source, new_folder(), pictures))

    return events


def _job(pipeline: Any, form: MusicForm, source: Audio | None) -> Any:
    own: dict[str, Any] = {}
    if form.kind in ("generate", "extend"):
        own["seconds"] = check_seconds("the length", form.seconds)
    if form.kind == "loop":
        own["bars"] = int(form.bars)
    if source is not None:
        own |= {"source": source, "source_text": clean_description(form.source_text)}
    if form.kind == "edit":
        own |= {"strength": form.strength, "method": form.method}
    if form.kind == "inpaint":
        own["spans"] = (form.region,)
    seeds = {"seed": form.seeds[0]} if len(form.seeds) == 1 else {"seeds": form.seeds}
    return pipeline.job(
        form.kind,
        form.texts,
        negative_text=form.negative,
        bpm=form.bpm,
        key=form.key or None,
        takes=form.takes,
        settings=form.settings,
        **seeds,
        **own,
    )


def save_takes(result: MusicResult, form: MusicForm, source: Audio | None, folder: Path, pictures: bool) -> Composed:
    """Write wav, flac, recipe and, when asked for, pictures of every take into a folder."""
    stem = form.kind if result.is_many_edits else safe_stem(form.text or form.kind, max_chars=40)
    if stem == SOURCE_STEM:
        stem = f"{stem}_{form.kind}"
    paths = result.save(folder / f"{stem}.wav")
    count, takes = len(result.samples), []
    for number, (sound, recipe) in enumerate(zip(paths[:count], paths[count:], strict=True)):
        samples = result.samples[number]
        text = result.texts[number]
        tags = {"title": (text or "music")[:120], "recipe": read_json(recipe)}
        flac = write_audio(sound.with_suffix(".flac"), samples, result.sample_rate, tags=tags)
        drawn = _draw(sound, samples, result.sample_rate) if pictures else (None, None, None)
        takes.append(
            MusicTake(
                sound,
                flac,
                recipe,
                *drawn,
                result.seconds[number],
                result.seeds[number],
                result.understood[number],
                text,
            )  # fmt: skip
        )
    heard = None
    if source is not None:
        heard = write_audio(folder / f"{SOURCE_STEM}.wav", source.stereo().samples, source.sample_rate)
    return Composed(
        takes=tuple(takes),
        kind=form.kind,
        is_many_edits=result.is_many_edits,
        recipe=result.recipe(),
        model=result.model["name"],
        source=heard,
        calls=result.network_calls,
        notes=tuple(result.notes),
        timings=dict(result.timings),
    )


def _draw(sound: Path, samples: np.ndarray, sample_rate: int) -> tuple[Path, Path, Path]:
    """Waveform and spectrogram for light and for dark pages, and the thumbnail, beside the sound."""
    paths = [sound.with_name(f"{sound.stem}_{kind}.png") for kind in ("light", "dark", "small")]
    for dark in (False, True):
        write_image(paths[dark], sound_picture(samples, sample_rate, width=700, height=360, dark=dark))
    draw_sound_bars(paths[2], samples.mean(0))
    return paths[0], paths[1], paths[2]
