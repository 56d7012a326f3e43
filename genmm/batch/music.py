"""Music in batches: rows with a description become <id>.flac; rows with a source are edited, inpainted or extended.

A row may list several descriptions of edits; they share one inversion and become <id>_1_organ.flac and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genmm.batch.manifest import ManifestRow
from genmm.batch.task import BatchItem
from genmm.core.errors import Cancelled, GenmmError, UsageError
from genmm.core.events import CancelToken
from genmm.core.results import Result

if TYPE_CHECKING:
    from genmm.systems.melodyflow.pipeline import MelodyFlowPipeline

KINDS = ("generate", "edit", "inpaint", "extend", "loop")
NEEDS_SOURCE = ("edit", "inpaint", "extend")


def option(text: str, default: Any = None, **more: Any) -> Any:
    """A task field that is an option on the command line."""
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class MusicWork:
    """A checked row."""

    kind: str
    texts: tuple[str, ...]
    """One description; several for edits of one source."""
    source: Path | None
    arguments: Mapping[str, Any]
    """Arguments of the pipeline's function for this kind."""
    seconds: float
    """About how much music is made."""


@dataclass
class MusicTask:
    """Make every row's music into a sound file."""

    name: ClassVar[str] = "music"
    fields: ClassVar[Mapping[str, str]] = {
        "text": 'what the music is like (required; "" lets the model choose), at most 2000 characters; '
        "for edits also a list, one file for each",
        "kind": "generate, edit, inpaint, extend or loop; default: edit where there is a source, else generate",
        "seconds": "length of new music, or of what is added",
        "source": "the recording to work on, path from the manifest's folder",
        "strength": "of an edit, 0 to 1",
        "method": "inversion of an edit, regularised or plain; default: regularised",
        "source_text": "what the recording is; what the text leaves open stays so; default: as the recipe of the "
        "recording says",
        "spans": "regions to make anew, list of [start, end] in seconds",
        "bars": "length of a loop",
        "bpm": "tempo, goes before the text",
        "key": 'key such as "A minor", goes before the text',
        "negative_text": "what it should not be",
        "settings": 'object with further music settings, such as {"guidance": 2.0, "steps": 32}',
    }
    one_by_one: ClassVar[bool] = True
    examples: ClassVar[str] = """\
manifest:
  {"id": "intro", "text": "calm piano, 90 bpm", "seconds": 12}
  {"id": "intro-guitar", "text": "guitar", "source": "intro.flac", "strength": 0.85}
  {"id": "intro-as", "text": ["organ", "choir"], "source": "intro.flac"}

examples:
  genmm batch music --manifest in.jsonl --out music/
  genmm batch music --manifest in.jsonl --out music/ --format wav --seconds 30
"""

    model: str = option("model, see `genmm models`", "melodyflow", metavar="NAME|FOLDER")
    seconds: float = option("length of new music in seconds", 10.0, metavar="X")
    strength: float = option("strength of edits, 0 to 1", 0.9, metavar="X")
    guidance: float | None = option("how strongly the text is followed, 0 to 15. Default: the model's", metavar="X")
    steps: int | None = option("steps of the solver, of edits too. Default: the model's", metavar="N")
    format: str = option("format of the sound files", "flac", choices=("flac", "wav", "mp3", "ogg"))
    device: str = option("auto, cpu, cuda, cuda:N or mps", "auto", metavar="NAME")
    dtype: str = option("auto, float32 or bfloat16", "auto", metavar="NAME")
    packing: str = option("int8 is faster on a CPU and a little less exact", "live", choices=("live", "int8"))
    allow_files: bool = True
    """Whether rows may name recordings on this machine; off where strangers bring the manifest."""

    _pipeline = None  # not a field: it does not travel to other processes

    @property
    def suffix(self) -> str:
        """Suffix of the sound files."""
        return f".{self.format}"

    def use(self, pipeline: MelodyFlowPipeline) -> MusicTask:
        """Work with a pipeline that is loaded already; gives back the task."""
        self._pipeline = pipeline
        return self

    def validate(self, row: ManifestRow) -> MusicWork:
        """Check a row. Raises: UsageError, LimitError."""
        from genmm.systems.melodyflow.request import MusicSettings, check_seconds, check_strength, clean_description

        given = {name: value for name, value in row.fields.items() if value is not None}
        if "text" not in given:
            raise UsageError('has no "text"; describe the music, or write "" to let the model choose')
        source = self._source(given, row.folder)
        kind = given.get("kind", "edit" if source else "generate")
        if kind not in KINDS:
            raise UsageError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        if (kind in NEEDS_SOURCE) != (source is not None):
            raise UsageError(f"{kind} {'needs' if source is None else 'takes no'} source")
        texts = self._texts(given["text"], kind)
        settings = {**self._own_settings(kind), **self._object(given.get("settings", {}))}
        MusicSettings().changed(settings)
        arguments: dict[str, Any] = {name: given[name] for name in ("bpm", "key", "negative_text") if name in given}
        arguments["settings"] = settings
        seconds = check_seconds("seconds", given.get("seconds", self.seconds if kind == "generate" else 5.0))
        if kind == "generate":
            arguments["duration_s"] = seconds
        elif kind == "edit":
            arguments["strength"] = check_strength(given.get("strength", self.strength))
            arguments["method"] = given.get("method", "regularised")
            if arguments["method"] not in ("regularised", "plain"):
                raise UsageError(f"method must be regularised or plain, got {arguments['method']!r}")
        elif kind == "inpaint":
            arguments["spans"] = given.get("spans", [])
        elif kind == "extend":
            arguments["extra_s"] = seconds
        else:
            arguments["bars"] = given.get("bars", 4)
        if "source_text" in given:
            arguments["source_text"] = clean_description(given["source_text"])
        return MusicWork(kind, texts, source, arguments, seconds * len(texts))

    def cost(self, request: MusicWork) -> float:
        """Seconds of new music; time grows with them."""
        return request.seconds

    def sources(self, request: MusicWork) -> tuple[Path, ...]:
        """The recording to work on, where there is one."""
        return () if request.source is None else (request.source,)

    def stems(self, name: str, request: MusicWork) -> tuple[str, ...]:
        """File names of an item without suffix: its id, or for several descriptions one name each."""
        from genmm.systems.melodyflow.result import edit_stems

        return edit_stems(name, request.texts) if len(request.texts) > 1 else (name,)

    def fingerprint(self) -> dict[str, Any]:
        """Model, settings and format; not the device."""
        return {
            "model": self._model_fingerprint,
            "settings": {"seconds": self.seconds, "strength": self.strength, **self._own_settings()},
            "format": self.format,
            "dtype": self.dtype,
            **({} if self.packing == "live" else {"packing": self.packing}),
        }

    def setup(self) -> None:
        """Load the model unless `use` brought it. Raises: GenmmError when it cannot be loaded."""
        if self._pipeline is None:
            import genmm

            self._pipeline = genmm.load(self.model, device=self.device, dtype=self.dtype, packing=self.packing)
        if self._pipeline.system != "melodyflow":
            raise UsageError(f"model {self.model} is of the system {self._pipeline.system}, which makes no music")

    def run(self, items: Sequence[BatchItem], cancel: CancelToken) -> list[Result | Exception]:
        """Make the items one after the other, since they differ in length and kind; errors stand in for failed ones."""
        outcomes: list[Result | Exception] = []
        for item in items:
            try:
                outcomes.append(self._made(item, cancel))
            except Cancelled:
                raise
            except GenmmError as error:
                outcomes.append(error)
        return outcomes

    def facts(self, result: Any) -> dict[str, Any]:
        """Length, what was understood, and what was unusual."""
        facts: dict[str, Any] = {"seconds": round(result.seconds[0], 3), "understood": result.understood[0]}
        if result.is_many_edits:
            facts |= {"texts": list(result.texts), "understood": list(result.understood)}
        return {**facts, "notes": list(result.notes)} if result.notes else facts

    def __getstate__(self) -> dict[str, Any]:
        """The options alone."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    # ------------------------------------------------------------ rows

    def _made(self, item: BatchItem, cancel: CancelToken) -> Result:
        work: MusicWork = item.request
        arguments = {**work.arguments, "seed": item.seed, "cancel": cancel}
        if work.kind == "generate":
            return self._pipeline.generate(work.texts[0], **arguments)
        if work.kind == "loop":
            return self._pipeline.loop(work.texts[0], **arguments)
        from genmm.media.audio import read_audio
        from genmm.systems.melodyflow.captions import caption_of

        source = read_audio(work.source)
        arguments.setdefault("source_text", caption_of(work.source))
        if work.kind == "edit":
            return self._pipeline.edit(source, work.texts, **arguments)
        if work.kind == "inpaint":
            return self._pipeline.inpaint(source, text=work.texts[0], **arguments)
        return self._pipeline.continue_(source, text=work.texts[0], **arguments)

    @staticmethod
    def _texts(value: Any, kind: str) -> tuple[str, ...]:
        """The descriptions of a row. Raises: UsageError, LimitError."""
        from genmm.systems.melodyflow.request import check_texts, clean_description

        if not isinstance(value, list):
            return (clean_description(value),)
        if kind != "edit":
            raise UsageError(f"text of {kind} is one description; a list of several is for edits")
        if not value:
            raise UsageError('text is an empty list; give one description or more, or ""')
        check_texts(kind, value, 1)
        return tuple(clean_description(text) for text in value)

    def _source(self, given: Mapping[str, Any], folder: Path) -> Path | None:
        name = given.get("source")
        if name is None:
            return None
        if not self.allow_files:
            raise UsageError("names a source file, which is not allowed here")
        if not isinstance(name, str) or not name or "\0" in name:
            raise UsageError(f"source must be the path of a recording, got {name!r}")
        path = folder / Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"there is no recording {name[:200]!r} in {folder}")
        return path.resolve()

    @staticmethod
    def _object(value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise UsageError(f"settings must be an object, got {value!r}")
        return value

    def _own_settings(self, kind: str = "") -> dict[str, Any]:
        """Those of the options; an edit walks there and back, and its steps are a setting of their own."""
        own = {"guidance": self.guidance, "edit_steps" if kind == "edit" else "steps": self.steps}
        return {name: value for name, value in own.items() if value is not None}

    @cached_property
    def _model_fingerprint(self) -> str:
        if self._pipeline is not None:
            return self._pipeline.model["fingerprint"]
        from genmm.core.checkpoint import fingerprint
        from genmm.registry import find_model

        return fingerprint(find_model(self.model).path)
