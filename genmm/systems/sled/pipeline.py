"""SLED from text to sound: the object that the page, the command line, the batch runner and scripts all call."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from genmm.core.checkpoint import UnsetWeights, load_into, load_tensors, save_checkpoint
from genmm.core.devices import choose_device, choose_dtype
from genmm.core.errors import CheckpointError, GenmmError, UsageError
from genmm.core.events import CancelToken, Event, Finished
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.core.pipelines import CheckpointPipeline
from genmm.nn.packed import PackingChoice, choose_packing
from genmm.systems.sled.codec import SpeechCodec
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.encodec import EncodecLatents
from genmm.systems.sled.engine import DecodeEngine
from genmm.systems.sled.latents import LatentCodec
from genmm.systems.sled.network import SledNetwork
from genmm.systems.sled.planning import Overheard, Plan, Planner
from genmm.systems.sled.request import SpeechRequest, SpeechSettings
from genmm.systems.sled.result import SpeechResult
from genmm.systems.sled.speaking import LiveTakes, Spoken, Studio, check_sound
from genmm.systems.sled.text import TextRules
from genmm.systems.sled.tokenizer import SledTokenizer
from genmm.systems.sled.voice import Voice, VoiceShelf, encode_voice

CODECS: Mapping[str, type] = {"genmm": SpeechCodec, "encodec": EncodecLatents}
"""Kind in config.json -> codec class."""
FIRST_PIECE_S, PIECE_S = 0.12, 0.48
"""Length of the first piece of live sound and of the others, in seconds."""


class SledPipeline(CheckpointPipeline):
    """Text to speech with one SLED checkpoint. Several threads may use one pipeline."""

    system = "sled"
    title = "SLED"

    def __init__(
        self,
        network: SledNetwork,
        codec: LatentCodec,
        tokenizer: SledTokenizer,
        *,
        text_rules: TextRules | None = None,
        defaults: SpeechSettings | None = None,
        voices: Mapping[str, Voice] | None = None,
        name: str = "sled",
        folder: Path | None = None,
        about: Mapping[str, Any] | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """Put the parts together. Raises: CheckpointError when they do not fit each other."""
        _check_fit(network.config, codec, tokenizer)
        super().__init__(name=name, folder=folder, about=about, limits=limits)
        self.network, self.codec, self.tokenizer = network, codec, tokenizer
        self.text_rules, self.defaults = text_rules or TextRules(), defaults or SpeechSettings()
        self.voices = voices if isinstance(voices, VoiceShelf) else VoiceShelf(voices)
        self.engine = DecodeEngine(network)
        self._graphs = False

    # ------------------------------------------------------------ folders and devices

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> SledPipeline:
        """Load a checkpoint folder. Raises: CheckpointError or ConfigError when something in it does not fit."""
        folder = Path(folder)
        config = cls._read_config(folder)
        kind = config.get("codec", {}).get("kind")
        if kind not in CODECS:
            raise CheckpointError(f"{folder}/config.json names the codec {kind!r}; known: {', '.join(CODECS)}")
        with UnsetWeights():
            network = SledNetwork(SledConfig.from_dict(config.get("network"))).eval().requires_grad_(False)
        load_into(network, load_tensors(folder))
        pipeline = cls(
            network,
            CODECS[kind].from_folder(folder / "codec"),
            SledTokenizer.from_folder(folder),
            text_rules=TextRules.from_dict(config.get("text", {})),
            defaults=SpeechSettings.from_dict(config.get("defaults", {})),
            voices=VoiceShelf(folder=folder / "voices"),
            **cls._identity(folder, config),
        )
        return pipeline.to(device, dtype)

    def to(
        self,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        packing: PackingChoice = "auto",
        graphs: bool = False,
    ) -> SledPipeline:
        """Move to a device and number format, in place; the codec stays float32. None keeps what there is.

        packing is how a CPU reads the weights of a float32 network (see `genmm.nn.packed`): "live" as they are, "split"
        faster and as exact, "float16" and "int8" in fewer bytes; "auto" takes float16 when the weights are float16
        numbers already, else split.
        graphs=True plays steps back as CUDA graphs, which is faster on a GPU once speech is longer than a few seconds.
        Raises: UsageError for a device, format or packing that this machine cannot run.
        """
        weight = self.network.z_proj.weight
        place = weight.device if device is None else choose_device(device)
        number = weight.dtype if dtype is None else choose_dtype(dtype, place)
        if graphs and place.type != "cuda":
            raise UsageError(f"graphs need a CUDA device, the model is on {place}; leave graphs off")
        self._graphs = graphs
        self.network.to(place, number)
        if isinstance(self.codec, torch.nn.Module):
            self.codec.to(place, torch.float32)
        self.engine = DecodeEngine(self.network, choose_packing(packing, list(self.network.parameters())))
        return self

    def save(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
        """Write a checkpoint folder with network, codec, tokenizer and voices; gives back the folder."""
        folder = Path(folder)
        config = {
            "system": self.system,
            "network": self.network.config.to_dict(),
            "codec": {"kind": next(kind for kind, codec in CODECS.items() if isinstance(self.codec, codec))},
            "text": self.text_rules.to_dict(),
            "defaults": dataclasses.asdict(self.defaults),
            **self.about,
        }
        extra = {**self.tokenizer.files(), **self.voices.files(), **self._card()}
        self.codec.save(folder / "codec")
        return save_checkpoint(folder, config, self.network.state_dict(), dtype=dtype, extra_files=extra)

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.engine.device

    @property
    def sample_rate(self) -> int:
        """Samples per second of all sound that comes out."""
        return self.codec.sample_rate

    def _parts(self) -> Iterable[torch.nn.Module]:
        return [self.network]

    def _facts(self) -> dict[str, Any]:
        return {
            "sample_rate": self.sample_rate,
            "frame_rate": self.codec.frame_rate,
            "streaming_text": self.network.config.is_streaming,
            "voices": list(self.voices),
        }

    # ------------------------------------------------------------ speaking

    def voice(
        self, samples: np.ndarray | Tensor, sample_rate: int, transcript: str | None = None, *, name: str = "recording"
    ) -> Voice:
        """Make a voice from a recording [S] or [C, S] of 1 to 12 seconds, to use again and again.

        The transcript lets speech continue the recording; without it a network with voice statistics is needed.
        Raises: UsageError for a recording without enough sound.
        """
        return encode_voice(samples, sample_rate, self.codec, transcript=transcript, name=name)

    def generate(
        self,
        text: str,
        *,
        voice: str | Voice | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        seeds: Sequence[int] = (),
        takes: int = 1,
        settings: SpeechSettings | Mapping[str, Any] | None = None,
        cancel: CancelToken | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> SpeechResult:
        """Speak a text. See `SpeechRequest` for the arguments.

        Raises: UsageError, LimitError for what cannot be spoken; GenerationError when nothing usable came out;
        Cancelled within one step after `cancel` was asked to.
        """
        request = _request(text, voice, guidance, temperature, seed, seeds, takes, settings)
        return self.generate_batch([request], cancel=cancel, on_event=on_event)[0]

    def generate_batch(
        self,
        requests: Sequence[SpeechRequest],
        *,
        batch_size: int = 16,
        errors: Literal["raise", "return"] = "raise",
        cancel: CancelToken | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> list[Any]:
        """Speak many texts together: one SpeechResult for each request, in order.

        Parts and takes of all requests are sorted by length into batches of at most `batch_size` rows. A result does
        not depend on the others beyond float rounding (with int8 weights a little more). With errors="return" the
        GenmmError of a request that cannot be spoken takes the place of its result. Raises: as `generate`.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        started = time.perf_counter()
        studio, planner = Studio(self.engine, self.codec, self._graphs), self._planner()
        plans = [_attempt(errors, planner.plan, number, request) for number, request in enumerate(requests)]
        tasks = [task for plan in plans if isinstance(plan, Plan) for task in plan.tasks]
        spoken = iter(studio.speak(tasks, batch_size, cancel, on_event))
        results: list[Any] = []
        for plan in plans:
            if isinstance(plan, Plan):
                own = [next(spoken) for _ in plan.tasks]
                results.append(_attempt(errors, self._result, plan, own, studio, started))
            else:
                results.append(plan)
        return results

    def events(
        self,
        text: str | Iterable[str],
        *,
        voice: str | Voice | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        seeds: Sequence[int] = (),
        takes: int = 1,
        settings: SpeechSettings | Mapping[str, Any] | None = None,
        cancel: CancelToken | None = None,
        first_piece_s: float = FIRST_PIECE_S,
        piece_s: float = PIECE_S,
    ) -> Iterator[Event]:
        """Speak a text and give the sound piece by piece while it is made: Progress, PartialAudio, at last Finished.

        The pieces of a take, joined, are its samples in the result. A line that fails is not tried again, because it
        has been heard. A streaming checkpoint also takes an iterable of strings (at least a word each works best) and
        speaks while it is still being written; such text is not changed by the text rules.
        """
        started = time.perf_counter()
        live_text = None if isinstance(text, str) else Overheard(text)
        request = _request("" if live_text else text, voice, guidance, temperature, seed, seeds, takes, settings)
        planner = self._planner()
        plan = planner.plan(0, request) if live_text is None else planner.plan_live(request, live_text)
        studio = Studio(self.engine, self.codec, self._graphs)
        by_part = [[task for task in plan.tasks if task.line.part == part] for part in range(len(plan.parts))]
        for event in studio.live(by_part, first_piece_s, piece_s, cancel):
            if not isinstance(event, LiveTakes):
                yield event
                continue
            if live_text is not None:
                plan = dataclasses.replace(plan, spoken=live_text.heard)
            yield Finished(self._finish(plan, event.samples, event.reasons, studio.timings, started, _notes(plan)))

    def _planner(self) -> Planner:
        return Planner(
            name=self.name,
            config=self.network.config,
            codec=self.codec,
            tokenizer=self.tokenizer,
            rules=self.text_rules,
            defaults=self.defaults,
            voices=self.voices,
            limits=self.limits,
        )

    # ------------------------------------------------------------ results

    def _result(self, plan: Plan, spoken: Sequence[Spoken], studio: Studio, started: float) -> SpeechResult:
        pairs = list(zip(plan.tasks, spoken, strict=True))
        samples, reasons, notes = [], [], _notes(plan)
        for take in range(len(plan.seeds)):
            own = [(task, one) for task, one in pairs if task.line.take == take]
            samples.append(studio.sound(own))
            reasons.append(next((one.reason for _, one in own if one.reason != "stop"), "stop"))
            again = sum(one.attempts - 1 for _, one in own)
            if again:
                notes.append(f"take {take + 1} took {again + 1} attempts, because a part did not end by itself")
        return self._finish(plan, samples, reasons, studio.timings, started, notes)

    def _finish(
        self,
        plan: Plan,
        samples: Sequence[np.ndarray],
        reasons: Sequence[str],
        timings: Mapping[str, float],
        started: float,
        notes: Sequence[str],
    ) -> SpeechResult:
        check_sound(samples)
        cut = [str(take + 1) for take, reason in enumerate(reasons) if reason != "stop"]
        more = [f"take {', '.join(cut)} did not end by itself and was cut; another seed may do better"] if cut else []
        if len(plan.parts) > 1:
            more.append(f"the text is long and was spoken in {len(plan.parts)} parts")
        settings = dataclasses.asdict(plan.settings)
        settings |= {
            "text": plan.spoken if plan.request.text == "" else plan.request.text,
            "voice": plan.voice.name if plan.voice else "",
            "takes": len(plan.seeds),
            "precision": f"{str(self.engine.dtype).removeprefix('torch.')} {self.engine.packing}",
        }
        return SpeechResult(
            settings=settings,
            seeds=plan.seeds,
            model=self.model,
            timings={**timings, "total_s": time.perf_counter() - started},
            notes=(*notes, *more),
            samples=tuple(samples),
            sample_rate=self.sample_rate,
            stop_reasons=tuple(reasons),
            text_spoken=plan.spoken,
        )


def _notes(plan: Plan) -> list[str]:
    return list(plan.voice.notes) if plan.voice else []


def _attempt(errors: str, action: Callable[..., Any], *arguments: Any) -> Any:
    """The answer of the action, or with errors="return" the GenmmError that it raised."""
    try:
        return action(*arguments)
    except GenmmError as error:
        if errors == "raise":
            raise
        return error


def _request(
    text: str,
    voice: str | Voice | None,
    guidance: float | None,
    temperature: float | None,
    seed: int | None,
    seeds: Sequence[int],
    takes: int,
    settings: SpeechSettings | Mapping[str, Any] | None,
) -> SpeechRequest:
    return SpeechRequest(
        text=text,
        voice=voice,
        guidance=guidance,
        temperature=temperature,
        seed=seed,
        seeds=tuple(seeds or ()),
        takes=takes,
        settings=settings or {},
    )


def _check_fit(config: SledConfig, codec: LatentCodec, tokenizer: SledTokenizer) -> None:
    if codec.channels != config.vae_embed_dim:
        raise CheckpointError(f"the codec has {codec.channels} channels, the network speaks {config.vae_embed_dim}")
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the network knows {config.vocab_size} of them"
        )
    if config.voice_channels not in (0, 2 * codec.channels):
        raise CheckpointError(
            f"voice_channels must be 0 or {2 * codec.channels} (mean and deviation of each latent channel), "
            f"got {config.voice_channels}"
        )
