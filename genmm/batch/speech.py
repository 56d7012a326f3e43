"""Speech in batches: rows with a text become <id>.wav, each with its own voice, guidance and seed where it says so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genmm.batch.manifest import ManifestRow
from genmm.batch.task import BatchItem
from genmm.core.errors import GenmmError, UsageError
from genmm.core.events import CancelToken
from genmm.core.limits import clean_text
from genmm.core.results import Result

if TYPE_CHECKING:
    from genmm.systems.sled.pipeline import SledPipeline
    from genmm.systems.sled.voice import Voice

KEPT_VOICES = 64
"""Recordings whose encoded voice is kept for later rows."""


def option(text: str, default: Any = None, **more: Any) -> Any:
    """A task field that is an option on the command line."""
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class VoiceFile:
    """A recording whose voice is to speak."""

    path: Path
    transcript: str | None = None

    def fingerprint(self) -> str:
        """Short sha256 of the recording and its transcript."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        digest.update((self.transcript or "").encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class SpeechJob:
    """A checked row."""

    text: str
    voice: str | VoiceFile | None
    """Name, recording, "" for no voice, None for the model's default."""
    settings: Mapping[str, Any]
    """Speech settings that differ from the model's defaults."""


@dataclass
class SpeechTask:
    """Speak every row's text into a sound file."""

    name: ClassVar[str] = "speech"
    fields: ClassVar[Mapping[str, str]] = {
        "text": "what to say (required), at most 2000 characters",
        "voice": 'name of a voice of the model, or a recording (path from the manifest\'s folder); "" for no voice',
        "transcript": "what is said in the recording, where the model continues it",
        "guidance": "how strongly the text is followed, 0 to 10",
        "temperature": "variety of the voice, 0 to 4",
        "settings": 'object with further speech settings, such as {"pause_s": 0.3, "extra_frames": 4}',
    }
    examples: ClassVar[str] = """\
manifest:
  {"id": "greeting", "text": "Welcome to the museum."}
  {"id": "room-1", "text": "Please go to room one.", "voice": "voices/ann.wav", "transcript": "Hello, I am Ann."}

examples:
  genmm batch speech --manifest in.jsonl --out spoken/
  genmm batch speech --manifest in.jsonl --out spoken/ --batch-size 32 --format flac --max-errors 5%
  genmm batch speech --manifest in.jsonl --out spoken/ --shard 2/4      on the second of four machines
"""

    model: str = option("model, see `genmm models`", "sled", metavar="NAME|FOLDER")
    voice: str | None = option("voice name, or a recording. Default: the model's", metavar="NAME|FILE")
    transcript: str | None = option("what is said in that recording", metavar="TEXT")
    guidance: float | None = option("0 to 10; 1 is off and twice as fast. Default: the model's", metavar="X")
    temperature: float | None = option("0 to 4; lower is calmer. Default: the model's", metavar="X")
    format: str = option("format of the sound files", "wav", choices=("wav", "flac", "mp3", "ogg"))
    device: str = option("auto, cpu, cuda, cuda:N or mps", "auto", metavar="NAME")
    dtype: str = option("auto, float32, bfloat16 or float16", "auto", metavar="NAME")
    packing: str = option(
        "how a CPU reads the weights of a float32 model; fewer bytes are faster, int8 is least exact; auto takes "
        "float16 where that loses nothing, else split",
        "auto",
        choices=("auto", "live", "split", "float16", "int8"),
    )
    allow_files: bool = True
    """Whether rows may name recordings on this machine; off where strangers bring the manifest."""

    _pipeline = None  # not a field: it does not travel to other processes
    _voices = None

    @property
    def suffix(self) -> str:
        """Suffix of the sound files."""
        return f".{self.format}"

    def use(self, pipeline: SledPipeline) -> SpeechTask:
        """Work with a pipeline that is loaded already; gives back the task."""
        self._pipeline = pipeline
        return self

    def validate(self, row: ManifestRow) -> SpeechJob:
        """Check a row. Raises: UsageError, LimitError."""
        given = {name: value for name, value in row.fields.items() if value is not None}
        if "text" not in given:
            raise UsageError('has no "text"; write what is to be said')
        return SpeechJob(
            text=clean_text(given["text"]),
            voice=self._row_voice(given, row.folder),
            settings=self._settings(given),
        )

    def cost(self, request: SpeechJob) -> float:
        """Characters: time and memory grow with them."""
        return len(request.text)

    def sources(self, request: SpeechJob) -> tuple[Path, ...]:
        """The recording of the voice, where it is one."""
        return (request.voice.path,) if isinstance(request.voice, VoiceFile) else ()

    def fingerprint(self) -> dict[str, Any]:
        """Model, voice, settings and format; not the device."""
        voice = self._default_voice
        return {
            "model": self._model_fingerprint,
            "voice": voice.fingerprint() if isinstance(voice, VoiceFile) else voice,
            "settings": self._own_settings,
            "format": self.format,
            "dtype": self.dtype,
            **({} if self.packing == "auto" else {"packing": self.packing}),
        }

    def setup(self) -> None:
        """Load the model unless `use` brought it. Raises: GenmmError when it cannot be loaded."""
        if self._pipeline is None:
            import genmm

            self._pipeline = genmm.load(self.model, device=self.device, dtype=self.dtype, packing=self.packing)
        if self._pipeline.system != "sled":
            raise UsageError(f"model {self.model} is of the system {self._pipeline.system}, which does not speak")

    def run(self, items: Sequence[BatchItem], cancel: CancelToken) -> list[Result | Exception]:
        """Speak the items together; a GenmmError stands in for an item that cannot be spoken."""
        from genmm.systems.sled.request import SpeechRequest

        outcomes: dict[int, Result | Exception] = {}
        requests: dict[int, SpeechRequest] = {}
        for number, item in enumerate(items):
            job: SpeechJob = item.request
            try:
                voice = self._heard(job.voice) if isinstance(job.voice, VoiceFile) else job.voice
                requests[number] = SpeechRequest(text=job.text, voice=voice, seed=item.seed, settings=job.settings)
            except GenmmError as error:
                outcomes[number] = error
        answers = self._pipeline.generate_batch(
            list(requests.values()), batch_size=max(1, len(requests)), errors="return", cancel=cancel
        )
        outcomes.update(zip(requests, answers, strict=True))
        return [outcomes[number] for number in range(len(items))]

    def facts(self, result: Any) -> dict[str, Any]:
        """Length, how it ended ("stop" is good, anything else a cut), and the text as it was read."""
        facts = {
            "seconds": round(result.seconds[0], 3),
            "stop_reason": result.stop_reasons[0],
            "text_spoken": result.text_spoken,
        }
        return {**facts, "notes": list(result.notes)} if result.notes else facts

    def __getstate__(self) -> dict[str, Any]:
        """The options alone."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    # ------------------------------------------------------------ voices and settings

    def _row_voice(self, given: Mapping[str, Any], folder: Path) -> str | VoiceFile | None:
        transcript = given.get("transcript")
        if transcript is not None:
            transcript = clean_text(transcript)
        if "voice" not in given:
            if transcript is not None:
                raise UsageError("has a transcript but no voice; a transcript belongs to a recording")
            return self._default_voice
        return self._find_voice(given["voice"], transcript, folder, files=self.allow_files)

    def _find_voice(self, voice: Any, transcript: str | None, folder: Path, *, files: bool) -> str | VoiceFile:
        if not isinstance(voice, str):
            raise UsageError(f"voice must be a string, got {voice!r}")
        if voice in self._names or not voice:
            return voice
        path = folder / Path(voice).expanduser()
        if files and "\0" not in voice and path.is_file():
            return VoiceFile(path.resolve(), transcript)
        names = ", ".join(sorted(self._names)) or "none"
        also = f", and there is no file {voice!r} in {folder}" if files else ""
        raise UsageError(f"there is no voice {voice[:100]!r} in model {self.model} (it has: {names}){also}")

    @property
    def _default_voice(self) -> str | VoiceFile | None:
        if self.voice is None:
            return None
        return self._find_voice(self.voice, self.transcript, Path.cwd(), files=True)

    def _settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        from genmm.systems.sled.request import SpeechSettings

        more = given.get("settings", {})
        if not isinstance(more, Mapping):
            raise UsageError(f"settings must be an object, got {more!r}")
        own = {name: given[name] for name in ("guidance", "temperature") if name in given}
        settings = {**self._own_settings, **more, **own}
        try:
            SpeechSettings().changed(settings)
        except TypeError as error:
            raise UsageError(f"a setting has the wrong type: {error}") from error
        return settings

    @property
    def _own_settings(self) -> dict[str, Any]:
        own = {"guidance": self.guidance, "temperature": self.temperature}
        return {name: value for name, value in own.items() if value is not None}

    def _heard(self, file: VoiceFile) -> Voice:
        """The voice of a recording, encoded once."""
        from genmm.media.audio import read_audio

        voices = self._voices = self._voices if self._voices is not None else {}
        if file not in voices:
            audio = read_audio(file.path)
            if len(voices) >= KEPT_VOICES:
                voices.pop(next(iter(voices)))
            voices[file] = self._pipeline.voice(audio.samples, audio.sample_rate, file.transcript)
        return voices[file]

    # ------------------------------------------------------------ the checkpoint, without loading it

    @cached_property
    def _names(self) -> frozenset[str]:
        if self._pipeline is not None:
            return frozenset(self._pipeline.voices)
        from genmm.registry import find_model

        return frozenset(path.stem for path in (find_model(self.model).path / "voices").glob("*.json"))

    @cached_property
    def _model_fingerprint(self) -> str:
        if self._pipeline is not None:
            return self._pipeline.model["fingerprint"]
        from genmm.core.checkpoint import fingerprint
        from genmm.registry import find_model

        return fingerprint(find_model(self.model).path)
