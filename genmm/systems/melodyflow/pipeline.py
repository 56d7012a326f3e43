"""Music from words and edits of real tracks: the object that the page, the command line and the batch runner call."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from genmm.core.checkpoint import UnsetWeights, load_into, load_tensors, read_config, save_checkpoint
from genmm.core.devices import choose_device, choose_dtype
from genmm.core.errors import CheckpointError, UsageError
from genmm.core.events import CancelToken, Event, Finished, drain
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.core.pipelines import CheckpointPipeline
from genmm.media.audio import Audio
from genmm.nn.packed import Packing
from genmm.systems.melodyflow.config import FlowConfig
from genmm.systems.melodyflow.jobs import WORK, Inversion, Made, invert
from genmm.systems.melodyflow.latents import MusicCodec
from genmm.systems.melodyflow.network import FlowNetwork
from genmm.systems.melodyflow.prompts import CaptionReader, Prompt, T5Reader, TextReader
from genmm.systems.melodyflow.request import (
    MusicJob,
    MusicSettings,
    check_seconds,
    check_strength,
    clean_description,
    take_seeds,
)
from genmm.systems.melodyflow.result import MusicResult
from genmm.systems.melodyflow.spectral_codec import SpectralCodec
from genmm.systems.melodyflow.studio import Studio
from genmm.systems.melodyflow.t5 import T5Text
from genmm.systems.melodyflow.text import CaptionText, CaptionTextConfig
from genmm.systems.melodyflow.vae import SeanetCodec

CODECS: Mapping[str, type] = {"music-codec": SpectralCodec, "music-vae": SeanetCodec}
"""System named in codec/config.json -> codec class."""


class MelodyFlowPipeline(CheckpointPipeline):
    """One MelodyFlow checkpoint. Several threads may use one pipeline."""

    system = "melodyflow"
    title = "MelodyFlow"

    def __init__(
        self,
        network: FlowNetwork,
        codec: MusicCodec,
        reader: TextReader,
        *,
        window_s: float = 30.0,
        defaults: MusicSettings | None = None,
        name: str = "melodyflow",
        folder: Path | None = None,
        about: Mapping[str, Any] | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """Put the parts together. Raises: CheckpointError when they do not fit each other."""
        if codec.channels != network.config.latent_dim:
            raise CheckpointError(f"the codec has {codec.channels} channels, the network {network.config.latent_dim}")
        if reader.encoder.width != network.config.cond_dim:  # type: ignore[attr-defined]
            raise CheckpointError("text encoder and network differ in the width of text states")
        super().__init__(name=name, folder=folder, about=about, limits=limits)
        self.network, self.codec, self.reader, self.window_s = network, codec, reader, window_s
        self.defaults = defaults or MusicSettings()

    # ------------------------------------------------------------ folders and devices

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike[str], *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
    ) -> MelodyFlowPipeline:
        """Load a checkpoint folder. Raises: CheckpointError or ConfigError when something in it does not fit."""
        folder = Path(folder)
        config = cls._read_config(folder)
        stored = load_tensors(folder, dtype=None)
        with UnsetWeights():
            network = FlowNetwork(FlowConfig.from_dict(config.get("network"))).eval().requires_grad_(False)
        text = {name.removeprefix("text."): value for name, value in stored.items() if name.startswith("text.")}
        load_into(network, {name: value for name, value in stored.items() if not name.startswith("text.")})
        kind = read_config(folder / "codec")["system"]
        if kind not in CODECS:
            raise CheckpointError(f"{folder}/codec holds {kind!r}; known: {', '.join(CODECS)}")
        pipeline = cls(
            network,
            CODECS[kind].from_folder(folder / "codec"),
            _read_reader(folder, config.get("text", {}), text),
            window_s=float(config.get("window_s", 30.0)),
            defaults=MusicSettings.from_dict(config.get("defaults", {})),
            **cls._identity(folder, config),
        )
        return pipeline.to(device, dtype)

    def to(
        self,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        packing: Packing = "live",
    ) -> MelodyFlowPipeline:
        """Move to a device and number format, in place; codec, text encoder and solver stay float32.

        packing="int8" quantises the products of a float32 network on a CPU, which is faster and a little less exact;
        float16 and split are for steps of few rows, as in speech, and gain nothing here.
        Raises: UsageError for a device, format or packing that this machine cannot run.
        """
        weight = self.network.in_proj.weight
        place = weight.device if device is None else choose_device(device)
        number = weight.dtype if dtype is None else choose_dtype(dtype, place)
        statistics = {name: getattr(self.network, name).float() for name in ("latent_mean", "latent_std")}
        frequencies = self.network.transformer.rope.frequencies.float()
        self.network.to(place, number)
        for name, value in statistics.items():
            setattr(self.network, name, value.to(place))
        self.network.transformer.rope.frequencies = frequencies.to(place)
        if isinstance(self.codec, torch.nn.Module):
            self.codec.to(place, torch.float32)
        encoder = self.reader.encoder  # type: ignore[attr-defined]
        encoder.to(place)
        self.network.pack(packing)
        return self

    def save(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
        """Write a checkpoint folder with network, text encoder and codec; gives back the folder."""
        folder = Path(folder)
        tensors, text = dict(self.network.state_dict()), {"kind": self.reader.kind}
        encoder = self.reader.encoder  # type: ignore[attr-defined]
        if isinstance(encoder, CaptionText):
            tensors |= {f"text.{name}": value for name, value in encoder.state_dict().items()}
            text |= encoder.modules_config()
        else:
            encoder.save(folder / "text", dtype=dtype)
        config = {
            "system": self.system,
            "network": self.network.config.to_dict(),
            "text": text,
            "window_s": self.window_s,
            "defaults": dataclasses.asdict(self.defaults),
            **self.about,
        }
        self.codec.save(folder / "codec", dtype=dtype)
        return save_checkpoint(folder, config, tensors, dtype=dtype, extra_files=self._card())

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.network.in_proj.weight.device

    @property
    def sample_rate(self) -> int:
        """Samples per second of all sound that comes out."""
        return self.codec.sample_rate

    def _parts(self) -> Iterable[torch.nn.Module]:
        return [self.network]

    def _facts(self) -> dict[str, Any]:
        return {
            "sample_rate": self.sample_rate,
            "frame_rate": self.codec.sample_rate / self.codec.hop_samples,
            "window_s": self.window_s,
            "text": self.reader.kind,
        }

    # ------------------------------------------------------------ music

    def understand(self, text: str, *, bpm: float | None = None, key: str | None = None, seed: int = 0) -> Prompt:
        """What the model would be told for a text, without making anything."""
        return self.reader.prompt(clean_description(text), bpm, key, seed, self.defaults.plan)

    def generate(self, text: str | Sequence[str], *, duration_s: float = 10.0, **asked: Any) -> MusicResult:
        """Make music from a description; see `job` for the other arguments.

        Longer than the model's window it is made as `long_form` does.
        Raises: UsageError, LimitError for what cannot be made; GenerationError when nothing usable came out; Cancelled.
        """
        return self._done(asked, "generate", text, seconds=check_seconds("duration_s", duration_s))

    def long_form(self, texts: Sequence[str] | str, *, duration_s: float = 60.0, **asked: Any) -> MusicResult:
        """Music of any length up to five minutes, with descriptions that follow each other over its length.

        Overlapping windows are sampled together, and the whole is decoded once. Raises: as `generate`.
        """
        return self._done(asked, "generate", texts, seconds=check_seconds("duration_s", duration_s))

    def edit(
        self,
        source: Audio | Inversion,
        text: str | Sequence[str],
        *,
        strength: float = 1.0,
        method: Literal["regularised", "plain"] = "regularised",
        source_text: str = "",
        **asked: Any,
    ) -> MusicResult:
        """Bring a sound closer to a description while it stays recognisable.

        `strength` is how far it is taken back towards noise: 0 gives the source, 1 the strongest edit. Several
        descriptions (8 at most) make one take each from a single inversion; an Inversion from `invert` saves even
        that, and brings its own strength, method, source text and steps.
        Raises: as `generate`; MediaError for a silent or broken sound.
        """
        own = {"source": source, "strength": check_strength(strength), "method": method,
               "source_text": clean_description(source_text)}  # fmt: skip
        return self._done(asked, "edit", text, **own)

    def invert(
        self,
        source: Audio,
        *,
        strength: float = 1.0,
        method: Literal["regularised", "plain"] = "regularised",
        source_text: str = "",
        on_event: Callable[[Event], None] | None = None,
        cancel: CancelToken | None = None,
        **asked: Any,
    ) -> Inversion:
        """Walk a sound back towards noise once, for any number of edits of it. Raises: as `edit`."""
        if check_strength(strength) == 0.0:
            raise UsageError("strength 0 needs no inversion; give one above 0")
        own = {"source": source, "strength": float(strength), "method": method,
               "source_text": clean_description(source_text)}  # fmt: skip
        job = self.job("edit", "", **own, **asked)
        work, studio = None, self._studio(job, cancel)
        steps = invert(studio, job)
        try:
            while True:
                event = next(steps)
                if on_event is not None:
                    on_event(event)
        except StopIteration as end:
            work = end.value
        return work

    def inpaint(
        self, source: Audio, spans: Sequence[Sequence[float]], text: str = "", *, source_text: str = "", **asked: Any
    ) -> MusicResult:
        """Make regions (start and end in seconds) anew; samples outside stay exact.

        What the description leaves open is as `source_text` says of the sound. Raises: as `edit`.
        """
        own = {"source": source, "spans": tuple(tuple(span) for span in spans),
               "source_text": clean_description(source_text)}  # fmt: skip
        return self._done(asked, "inpaint", text, **own)

    def continue_(
        self, source: Audio, extra_s: float, text: str = "", *, source_text: str = "", **asked: Any
    ) -> MusicResult:
        """Go on for so many seconds behind the end of a sound, which stays as it is but for its last 20 ms.

        What the description leaves open is as `source_text` says of the sound. Raises: as `edit`.
        """
        own = {"source": source, "seconds": check_seconds("extra_s", extra_s),
               "source_text": clean_description(source_text)}  # fmt: skip
        return self._done(asked, "extend", text, **own)

    def loop(self, text: str, *, bars: int = 4, **asked: Any) -> MusicResult:
        """Whole bars whose end joins their start without a seam. Raises: as `generate`."""
        if isinstance(bars, bool) or not isinstance(bars, int) or not 1 <= bars <= 64:
            raise UsageError(f"bars must be a whole number from 1 to 64, got {bars!r}")
        return self._done(asked, "loop", text, bars=bars)

    # ------------------------------------------------------------ jobs

    def job(
        self,
        kind: str,
        text: str | Sequence[str],
        *,
        negative_text: str = "",
        bpm: float | None = None,
        key: str | None = None,
        seed: int | None = None,
        seeds: Sequence[int] = (),
        takes: int = 1,
        settings: Mapping[str, Any] | None = None,
        **own: Any,
    ) -> MusicJob:
        """A checked request.

        Args: `negative_text` is what the music should not be; `bpm` and `key` ("A minor") go before what the text says;
        `seed` starts the first take, the others follow from it, `seeds` gives one per take; `takes` are the variations,
        1 to 8; `settings` differ from the checkpoint's defaults (see MusicSettings).
        Raises: UsageError, LimitError.
        """
        texts = (text,) if isinstance(text, str) else tuple(text)
        job = MusicJob(
            kind=kind,  # type: ignore[arg-type]
            texts=tuple(clean_description(part) for part in texts),
            negative_text=clean_description(negative_text),
            bpm=bpm,
            key=key,
            seeds=take_seeds(seed, tuple(seeds), takes),
            settings=dict(settings or {}),
            **own,
        )
        self.defaults.changed(job.settings)
        return job

    def events(self, job: MusicJob, cancel: CancelToken | None = None) -> Iterator[Event]:
        """Carry a job out: Progress on the way, at last Finished with a MusicResult. Raises: as `generate`."""
        started, studio = time.perf_counter(), self._studio(job, cancel)
        made = yield from WORK[job.kind](studio, job)
        yield Finished(self._result(job, studio, made, started))

    def _done(self, asked: dict[str, Any], kind: str, text: str | Sequence[str], **own: Any) -> MusicResult:
        asked = dict(asked)
        cancel, on_event = asked.pop("cancel", None), asked.pop("on_event", None)
        try:
            job = self.job(kind, text, **own, **asked)
        except TypeError as error:
            raise UsageError(f"an argument is unknown or of the wrong kind: {error}") from error
        return drain(self.events(job, cancel), on_event)

    def _studio(self, job: MusicJob, cancel: CancelToken | None) -> Studio:
        frames = max(1, round(self.window_s * self.codec.sample_rate / self.codec.hop_samples))
        return Studio(self.network, self.codec, self.reader, self.defaults.changed(job.settings), frames, cancel)

    def _result(self, job: MusicJob, studio: Studio, made: Made, started: float) -> MusicResult:
        settings = {
            **dataclasses.asdict(studio.settings),
            "kind": job.kind,
            "texts": list(job.texts),
            "takes": len(made.samples),
            **{name: value for name, value in (("bpm", job.bpm), ("key", job.key)) if value is not None},
            **({"negative_text": job.negative_text} if job.negative_text else {}),
            **_own_settings(job),
            **made.more,
        }
        notes = dict.fromkeys((*made.notes, *(note for prompt in made.prompts for note in prompt.notes)))
        return MusicResult(
            settings=settings,
            seeds=made.seeds,
            model=self.model,
            timings={**studio.timings, "total_s": time.perf_counter() - started},
            notes=tuple(notes),
            samples=made.samples,
            sample_rate=self.sample_rate,
            understood=tuple(prompt.sentence for prompt in made.prompts),
            captions=tuple(prompt.caption.to_dict() if prompt.caption else {} for prompt in made.prompts),
            network_calls=studio.calls,
        )


def _own_settings(job: MusicJob) -> dict[str, Any]:
    """What the recipe says about a job beside its settings."""
    own: dict[str, dict[str, Any]] = {
        "generate": {"duration_s": job.seconds},
        "edit": {"strength": job.strength, "method": job.method, "source_text": job.source_text},
        "inpaint": {"source_text": job.source_text},
        "extend": {"extra_s": job.seconds, "source_text": job.source_text},
        "loop": {"bars": job.bars},
    }
    return own[job.kind]


def _read_reader(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> TextReader:
    kind = config.get("kind") if isinstance(config, Mapping) else None
    if kind == "t5":
        return T5Reader(T5Text.from_folder(folder / "text"))
    if kind != "captions":
        raise CheckpointError(f"{folder}/config.json names the text encoder {kind!r}; known: captions, t5")
    with UnsetWeights():
        encoder = CaptionText(CaptionTextConfig.from_dict({k: v for k, v in config.items() if k != "kind"}))
    load_into(encoder, tensors)
    return CaptionReader(encoder.eval().requires_grad_(False))
