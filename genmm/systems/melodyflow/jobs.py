"""The five kinds of work, each from a checked job to waveforms: generate, edit, inpaint, extend, loop.

Letters: B rows (takes), C audio channels, S samples, D latent channels, T latent frames.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from genmm.core.errors import UsageError
from genmm.core.events import Progress
from genmm.media.audio import Audio
from genmm.media.loudness import integrated_loudness, normalise
from genmm.samplers.masked import known_path, soft_keep
from genmm.systems.melodyflow.captions import Caption
from genmm.systems.melodyflow.prompts import Prompt
from genmm.systems.melodyflow.reading import merged, read_caption
from genmm.systems.melodyflow.request import LONGEST_S, MusicJob, MusicSettings, check_seconds, check_spans
from genmm.systems.melodyflow.source import Source, keep_mask, prepared, reinserted
from genmm.systems.melodyflow.studio import Studio

WALK = ("edit_steps", "edit_solver", "sway", "iterations", "keep", "regularisation")
"""Settings of an inversion; the way back takes the same steps."""
LOUDEST_LUFS = -5.0
"""A source louder than this is matched to this."""


@dataclass(frozen=True, eq=False)
class Inversion:
    """A source walked back towards noise; edits of it with any description start from here."""

    latents: Tensor
    """[B, D, T], one row per seed."""
    source: Source
    """The sound it came from."""
    strength: float
    """How far it was walked back."""
    seeds: tuple[int, ...]
    """Seeds of the rows."""
    method: str
    """regularised or plain."""
    source_text: str = ""
    """What the source was said to be."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings that it was made with, of those in WALK."""


@dataclass(frozen=True, eq=False)
class Made:
    """What a job came to."""

    samples: tuple[np.ndarray, ...]
    """[C, S] float32 per take."""
    prompts: tuple[Prompt, ...]
    """Per take."""
    seeds: tuple[int, ...]
    """Per take."""
    notes: tuple[str, ...] = ()
    more: dict = field(default_factory=dict)
    """Further entries of the settings."""


Job = Generator[Progress, None, Made]


def generate(studio: Studio, job: MusicJob) -> Job:
    """New music; longer than a window means windows sampled together and decoded once."""
    frames = frames_of(studio, job.seconds)
    parts = [[_prompt(studio, job, text, seed) for seed in job.seeds] for text in job.texts]
    made = studio.field(parts, frames, negative=_negative(studio, job, len(job.seeds)))
    latents = yield from studio.sample(made, job.seeds, frames)
    count = round(job.seconds * studio.codec.sample_rate)
    notes = [f"made in {len(made.flows)} windows that were sampled together"] if len(made.flows) > 1 else []
    samples = [_loud(studio, sound[:, :count].numpy()) for sound in studio.decode(latents)]
    first = parts[0] if len(parts) == 1 else [_together(column) for column in zip(*parts, strict=True)]
    return Made(tuple(samples), tuple(first), job.seeds, tuple(notes))


def loop(studio: Studio, job: MusicJob) -> Job:
    """Whole bars whose end joins their start; the tempo is moved by less than a hundredth so that frames fit."""
    prompts = [_prompt(studio, job, job.texts[0], seed) for seed in job.seeds]
    caption = prompts[0].caption or merged(read_caption(job.texts[0]), tempo_bpm=job.bpm).caption
    if caption.tempo_bpm is None:
        raise UsageError("a loop needs a tempo, so that its bars can be counted; give one, such as --bpm 100")
    beats = job.bars * caption.beats_per_bar
    frames = max(1, round(beats * 60.0 / caption.tempo_bpm * studio.frame_rate))
    tempo = beats * 60.0 * studio.frame_rate / frames
    check_seconds("the loop", frames / studio.frame_rate)
    prompts = [_in_tempo(prompt, caption, tempo) for prompt in prompts]
    negative = _negative(studio, job, len(prompts))
    made = studio.field([prompts], frames, negative=negative, is_circular=True)
    latents = yield from studio.sample(made, job.seeds, frames)
    samples = [_loud(studio, sound.numpy()) for sound in studio.decode(latents, is_circular=True)]
    notes = (f"{job.bars} bars at {tempo:.2f} bpm, {frames / studio.frame_rate:.2f} s; end and start join",)
    notes += (f"made in {len(made.flows)} windows that were sampled together",) if len(made.flows) > 1 else ()
    return Made(tuple(samples), tuple(prompts), job.seeds, notes, {"loop_bpm": tempo})


def invert(studio: Studio, job: MusicJob) -> Generator[Progress, None, Inversion]:
    """Walk the source back, one row per seed."""
    source = _source(studio, job)
    latents = studio.encode(source.tensor(studio.device), job.seeds)
    prompts = [studio.reader.prompt(job.source_text, None, None, seed, False) for seed in job.seeds]
    made = studio.field([prompts], latents.shape[2], whole=False)
    regularised = job.method == "regularised"
    if regularised and studio.settings.edit_solver != "euler":
        raise UsageError("the regularised inversion needs the euler solver; set edit_solver=euler or method plain")
    walked = yield from studio.invert(made, latents, job.seeds, job.strength, regularised)
    own = {name: getattr(studio.settings, name) for name in WALK}
    return Inversion(walked, source, job.strength, job.seeds, job.method, job.source_text, own)


def edit(studio: Studio, job: MusicJob) -> Job:
    """The source towards each description; several descriptions share one inversion."""
    texts, seeds = _pairs(job)
    said = job.source.source_text if isinstance(job.source, Inversion) else job.source_text
    prompts = [
        _over_source(studio, _prompt(studio, job, text, seed, told=False), said)
        for text, seed in zip(texts, seeds, strict=True)
    ]
    if job.strength == 0.0 and not isinstance(job.source, Inversion):
        source = _source(studio, job)
        notes = (*source.notes, "strength 0 gives the source back as it is")
        return Made(tuple(source.samples.copy() for _ in texts), tuple(prompts), seeds, notes)
    inversion = job.source if isinstance(job.source, Inversion) else (yield from invert(studio, job))
    studio.settings = _walked_back(studio, job, inversion)
    latents = inversion.latents.to(studio.device)
    if len(latents) != len(texts):
        latents = latents.repeat(len(texts) // len(latents), 1, 1)
    made = studio.field([prompts], latents.shape[2], negative=_negative(studio, job, len(prompts)), whole=False)
    edited = yield from studio.redo(made, latents, inversion.strength)
    count = inversion.source.samples.shape[1]
    samples = [_matched(studio, sound[:, :count].numpy(), inversion.source) for sound in studio.decode(edited)]
    # An inversion that was brought along decided these, whatever the job says.
    more = {"strength": inversion.strength, "method": inversion.method, "source_text": inversion.source_text}
    return Made(tuple(samples), tuple(prompts), seeds, inversion.source.notes, more)


def inpaint(studio: Studio, job: MusicJob) -> Job:
    """Regions made anew; outside them every sample is the source's."""
    source = _source(studio, job)
    rate = studio.codec.sample_rate
    spans = check_spans(job.spans, source.samples.shape[1] / rate)
    samples, prompts = yield from _filled(studio, job, source, spans)
    joined = [reinserted(sound, source.samples, spans, rate) for sound in samples]
    return Made(tuple(joined), tuple(prompts), job.seeds, source.notes, {"spans": [list(span) for span in spans]})


def extend(studio: Studio, job: MusicJob) -> Job:
    """The source and so many more seconds behind it."""
    source = _source(studio, job)
    rate, length = studio.codec.sample_rate, source.samples.shape[1]
    total = length + round(job.seconds * rate)
    check_seconds("the extended music", total / rate)
    longer = replace(source, samples=np.pad(source.samples, ((0, 0), (0, total - length))))
    spans = ((length / rate, total / rate),)
    samples, prompts = yield from _filled(studio, job, longer, spans)
    joined = [_continued(sound[:, :total], source.samples, rate) for sound in samples]
    return Made(tuple(joined), tuple(prompts), job.seeds, source.notes)


WORK = {"generate": generate, "edit": edit, "inpaint": inpaint, "extend": extend, "loop": loop}
"""Kind of a job -> what carries it out."""


# ---------------------------------------------------------------- parts


def frames_of(studio: Studio, seconds: float) -> int:
    """Latent frames that cover so many seconds."""
    return max(1, -(-round(seconds * studio.codec.sample_rate) // studio.codec.hop_samples))


def _filled(
    studio: Studio, job: MusicJob, source: Source, spans: Sequence[tuple[float, float]]
) -> Generator[Progress, None, tuple[list[np.ndarray], list[Prompt]]]:
    """Sample with everything but the regions known: sounds [C, S] and the prompts."""
    rate, hop = studio.codec.sample_rate, studio.codec.hop_samples
    latents = studio.encode(source.tensor(studio.device), job.seeds)
    frames = latents.shape[2]
    keep = keep_mask(frames, hop, rate, spans)
    soft = soft_keep(keep, round(studio.settings.fade_s * studio.frame_rate)).to(studio.device)
    noise = studio.noise(job.seeds, frames, "known")
    prompts = [
        _over_source(studio, _prompt(studio, job, job.texts[0], seed, told=False), job.source_text)
        for seed in job.seeds
    ]
    made = studio.field([prompts], frames, negative=_negative(studio, job, len(prompts)), whole=False)
    filled = yield from studio.sample(made, job.seeds, frames, known_path(latents, noise, soft[None, None]))
    return [sound.numpy() for sound in studio.decode(filled)], prompts


def _source(studio: Studio, job: MusicJob) -> Source:
    if not isinstance(job.source, Audio):
        raise UsageError(f"give a sound that read_audio made, got {type(job.source).__name__}")
    return prepared(job.source, studio.codec.sample_rate, studio.codec.audio_channels, LONGEST_S)


def _prompt(studio: Studio, job: MusicJob, text: str, seed: int, *, told: bool = True) -> Prompt:
    """Read a description. Only new music has open fields chosen: a source has a tempo and a key of its own."""
    return studio.reader.prompt(text, job.bpm, job.key, seed, told and studio.settings.plan)


def _over_source(studio: Studio, prompt: Prompt, source_text: str) -> Prompt:
    """What the description leaves open stays as the source was said to be, for models that read captions."""
    if prompt.caption is None or not source_text:
        return prompt
    before = studio.reader.prompt(source_text, None, None, 0, False).caption or Caption()
    whole = prompt.caption.over(before)
    kept = {name: value for name, value in whole.known().items() if name not in prompt.caption.known()}
    if not kept:
        return prompt
    sentence = f"{prompt.sentence}; kept from the source: {Caption(**kept).text()}"
    return replace(prompt, caption=whole, sentence=sentence)


def _negative(studio: Studio, job: MusicJob, rows: int) -> list[Prompt]:
    if not job.negative_text:
        return []
    return [studio.reader.prompt(job.negative_text, None, None, 0, False)] * rows


def _walked_back(studio: Studio, job: MusicJob, inversion: Inversion) -> MusicSettings:
    """The settings of an edit, which goes back as its inversion came. Raises: UsageError when it is told else."""
    other = {name: value for name, value in inversion.settings.items() if job.settings.get(name, value) != value}
    if other:
        made = ", ".join(f"{name}={value}" for name, value in other.items())
        raise UsageError(f"the inversion was made with {made}; edit it with the same, or invert again")
    return studio.settings.changed(inversion.settings)


def _pairs(job: MusicJob) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Description and seed of every take of an edit: one description and many seeds, or the other way round."""
    seeds = job.source.seeds if isinstance(job.source, Inversion) else job.seeds
    if len(job.texts) > 1 and len(seeds) > 1:
        raise UsageError("an edit takes several descriptions or several takes, not both at once")
    count = max(len(job.texts), len(seeds))
    return job.texts * (count // len(job.texts)), seeds * (count // len(seeds))


def _together(prompts: Sequence[Prompt]) -> Prompt:
    """The prompts of the parts of one long piece as one."""
    notes = dict.fromkeys(note for prompt in prompts for note in prompt.notes)
    return Prompt(
        " / ".join(prompt.text for prompt in prompts),
        prompts[0].caption,
        " / ".join(prompt.sentence for prompt in prompts),
        tuple(notes),
    )


def _in_tempo(prompt: Prompt, caption: Caption, tempo: float) -> Prompt:
    if prompt.caption is None:
        return prompt
    fitted = min(max(tempo, 60.0), 180.0)
    return replace(prompt, caption=replace(prompt.caption, tempo_bpm=fitted, metre=caption.metre))


def _loud(studio: Studio, samples: np.ndarray) -> np.ndarray:
    """New music at the wanted loudness, never above full scale."""
    target = studio.settings.loudness_lufs
    if target is None:
        return np.clip(samples, -1.0, 1.0)
    return normalise(samples, studio.codec.sample_rate, target)


def _matched(studio: Studio, samples: np.ndarray, source: Source) -> np.ndarray:
    """An edit as loud as its source."""
    wanted = integrated_loudness(source.samples, studio.codec.sample_rate)
    if not np.isfinite(wanted) or studio.settings.loudness_lufs is None:
        return np.clip(samples, -1.0, 1.0)
    return normalise(samples, studio.codec.sample_rate, min(wanted, LOUDEST_LUFS))


def _continued(made: np.ndarray, source: np.ndarray, sample_rate: int) -> np.ndarray:
    """The exact source, then what was made; the last hundredths of a second of the source blend into it."""
    length = source.shape[1]
    fade = min(length, round(0.02 * sample_rate))
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    out = np.clip(made, -1.0, 1.0).copy()
    out[:, : length - fade] = source[:, : length - fade]
    out[:, length - fade : length] = source[:, length - fade :] * (1 - ramp) + out[:, length - fade : length] * ramp
    return out
