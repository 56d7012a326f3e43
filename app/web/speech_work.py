"""From a filled form to files: the part of the Speech tab that knows pipelines and nothing about components."""

from __future__ import annotations

import dataclasses
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
from genmm.core.files import safe_stem
from genmm.core.limits import DEFAULT_LIMITS, Limits, clean_text
from genmm.media.audio import read_audio
from genmm.media.figures import sound_picture
from genmm.media.image import write_image
from genmm.systems.sled.request import SpeechRequest, SpeechSettings
from genmm.systems.sled.result import SpeechResult
from genmm.systems.sled.voice import VoiceShelf

__all__ = [
    "FILE_FORMATS",
    "GUIDANCE",
    "MAX_TAKES",
    "SYSTEM",
    "TEMPERATURE",
    "SpeechForm",
    "Spoken",
    "Take",
    "check_form",
    "further_settings",
    "model_settings",
    "speak_events",
    "voice_names",
]

MAX_TAKES = 4
"""Versions of one click."""

SYSTEM = "sled"
GUIDANCE = (1.0, 5.0)
"""Range of the guidance slider."""
TEMPERATURE = (0.0, 1.5)
"""Range of the temperature slider."""
RECORDING_S = 60.0
"""Longest recording of a voice that is accepted, in seconds; the pipeline uses the first 12."""
FILE_FORMATS = ("wav", "flac", "mp3", "ogg")
"""Kinds of sound file that a visitor can have."""
ON_THE_PAGE = ("guidance", "temperature", "voice")
"""Settings that have a control of their own."""


@dataclass(frozen=True, kw_only=True)
class SpeechForm:
    """What a visitor asks for."""

    text: str
    """What to say."""
    model: str | None = None
    """Name of a model; None takes the default."""
    voice: str | None = None
    """Name of a voice of the model; None takes its default."""
    recording: str | None = None
    """An uploaded recording of a voice, which goes before `voice`."""
    transcript: str = ""
    """What is said in the recording; empty when nobody knows."""
    guidance: float | None = None
    """Guidance scale; None takes the model's default."""
    temperature: float | None = None
    """Spread of the noise; None takes the model's default."""
    takes: int = 1
    """How many versions."""
    seeds: tuple[int, ...] = ()
    """None, one, or one per take."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of SpeechSettings that differ from the model's defaults."""
    file_format: str = FILE_FORMATS[0]
    """One of FILE_FORMATS, the suffix of the sound files."""


@dataclass(frozen=True)
class Take:
    """One version on disk."""

    path: Path
    recipe: Path
    picture: Path | None
    """Waveform and spectrogram for light pages; None when no pictures were asked for."""
    picture_dark: Path | None
    thumbnail: Path | None
    seconds: float
    seed: int
    stop_reason: str


@dataclass(frozen=True)
class Spoken:
    """What a run made, as files in one folder."""

    takes: tuple[Take, ...]
    text: str
    """What the visitor wrote."""
    text_spoken: str
    """What the model was given after numbers and signs were spelled out."""
    model: str
    voice: str
    notes: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)


def check_form(form: SpeechForm, limits: Limits = DEFAULT_LIMITS) -> None:
    """Find mistakes that need no model, before the job waits in the queue. Raises: UsageError, LimitError."""
    clean_text(form.text, limits)
    if form.file_format not in FILE_FORMATS:
        raise UsageError(f"the file format must be one of {', '.join(FILE_FORMATS)}, got {form.file_format!r}")
    if not 1 <= form.takes <= MAX_TAKES:
        raise UsageError(f"takes must be from 1 to {MAX_TAKES}, got {form.takes}")
    request = SpeechRequest(
        text=form.text,
        takes=form.takes,
        guidance=form.guidance,
        temperature=form.temperature,
        settings=dict(form.more),
        **_seeds(form),
    )
    request.take_seeds()
    request.resolved(SpeechSettings())
    if form.transcript.strip():
        clean_text(form.transcript, limits)


def model_settings(pool: ModelPool, model: str | None) -> SpeechSettings:
    """The settings that a model starts with, read without loading it; plain ones when there is no model.

    Raises: UsageError for an unknown model, ConfigError for a damaged one.
    """
    name = model or pool.default(SYSTEM)
    if name is None:
        return SpeechSettings()
    return SpeechSettings.from_dict(read_config(pool.info(name, SYSTEM).path).get("defaults", {}))


def voice_names(pool: ModelPool, model: str | None) -> list[str]:
    """Voices that come with a model, its default first, without loading it. Raises: UsageError for an unknown model."""
    name = model or pool.default(SYSTEM)
    if name is None:
        return []
    names = list(VoiceShelf(folder=pool.info(name, SYSTEM).path / "voices"))
    first = model_settings(pool, name).voice
    return sorted(names, key=lambda voice: voice != first)


def further_settings(settings: Mapping[str, Any], start: SpeechSettings) -> dict[str, Any]:
    """Settings of a recipe that have no control on the page and differ from where the model starts.

    Raises: UsageError when one of them has a value that is not allowed.
    """
    names = {entry.name for entry in dataclasses.fields(start)} - set(ON_THE_PAGE)
    more = {name: settings[name] for name in names if name in settings and settings[name] != getattr(start, name)}
    start.changed(more)
    return more


def speak_events(
    form: SpeechForm,
    pool: ModelPool,
    new_folder: Callable[[], Path],
    limits: Limits = DEFAULT_LIMITS,
    *,
    pictures: bool = True,
) -> Callable[[CancelToken], Iterator[Event]]:
    """Give back a function that does the whole job as events, the last one Finished(Spoken).

    Args: `new_folder` makes the folder for the results; `pictures` draws waveform and spectrogram.
    Raises (while running): GenmmError for whatever the visitor can repair, Cancelled.
    """

    def events(token: CancelToken) -> Iterator[Event]:
        yield Progress(0, None, "", "Getting the model ready")
        pipeline = pool.get(form.model, SYSTEM)
        token.check()
        voice = _voice(pipeline, form, limits)
        token.check()
        finished: Finished[SpeechResult] | None = None
        for event in pipeline.events(form.text, voice=voice, cancel=token, **_options(form)):
            if isinstance(event, Finished):
                finished = event
            else:
                yield event
        if finished is None:
            raise GenerationError("the model ended without a result; please report it")
        if pictures:
            yield Progress(0, None, "", "Drawing")
        yield Finished(save_takes(finished.result, form, new_folder(), pictures))

    return events


def _options(form: SpeechForm) -> dict[str, Any]:
    """Only what the visitor set; the model has defaults for the rest."""
    return {
        "takes": form.takes,
        "guidance": form.guidance,
        "temperature": form.temperature,
        "settings": dict(form.more),
        **_seeds(form),
    }


def _seeds(form: SpeechForm) -> dict[str, Any]:
    """One seed starts all takes, several are one each."""
    return {"seed": form.seeds[0]} if len(form.seeds) == 1 else {"seeds": form.seeds}


def _voice(pipeline: Any, form: SpeechForm, limits: Limits) -> Any:
    if form.recording is None:
        return form.voice
    audio = read_audio(form.recording, mono=True, limits=replace(limits, audio_s=min(limits.audio_s, RECORDING_S)))
    return pipeline.voice(audio.samples, audio.sample_rate, form.transcript.strip() or None)


def save_takes(result: SpeechResult, form: SpeechForm, folder: Path, pictures: bool) -> Spoken:
    """Write sound, recipe and, when asked for, pictures of every take into a folder."""
    paths = result.save(folder / f"{safe_stem(form.text, max_chars=40)}.{form.file_format}")
    count = len(result.samples)
    takes = []
    for number, (sound, recipe) in enumerate(zip(paths[:count], paths[count:], strict=True)):
        drawn = _draw(sound, result.samples[number], result.sample_rate) if pictures else (None, None, None)
        takes.append(
            Take(
                path=sound,
                recipe=recipe,
                picture=drawn[0],
                picture_dark=drawn[1],
                thumbnail=drawn[2],
                seconds=result.seconds[number],
                seed=result.seeds[number],
                stop_reason=result.stop_reasons[number],
            )
        )
    return Spoken(
        takes=tuple(takes),
        text=form.text,
        text_spoken=result.text_spoken,
        model=result.model["name"],
        voice="own recording" if form.recording else str(result.settings["voice"]) or "chosen by the model",
        notes=tuple(result.notes),
        timings=dict(result.timings),
    )


def _draw(sound: Path, samples: np.ndarray, sample_rate: int) -> tuple[Path, Path, Path]:
    """Waveform and spectrogram for light and for dark pages, and the thumbnail, beside the sound."""
    paths = [sound.with_name(f"{sound.stem}_{kind}.png") for kind in ("light", "dark", "small")]
    for dark in (False, True):
        write_image(paths[dark], sound_picture(samples, sample_rate, width=700, height=360, dark=dark))
    draw_sound_bars(paths[2], samples)
    return paths[0], paths[1], paths[2]
