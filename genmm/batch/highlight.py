"""Highlights in batches: rows with a video become <id>.json or <id>.mp4, each with its own budget where it says so."""

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
from genmm.core.results import Result

if TYPE_CHECKING:
    from genmm.systems.rasl.pipeline import RaslPipeline

AMOUNTS = ("seconds", "share", "count")


def option(text: str, default: Any = None, **more: Any) -> Any:
    """A task field that is an option on the command line."""
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class HighlightJob:
    """A checked row."""

    video: Path
    settings: Mapping[str, Any]
    """Settings that differ from the model's defaults."""


@dataclass
class HighlightTask:
    """Find the highlights of every row's video."""

    name: ClassVar[str] = "highlight"
    fields: ClassVar[Mapping[str, str]] = {
        "video": "video or sound file (required), a path from the manifest's folder",
        "seconds": "length of all segments together",
        "share": "the same as a share of the video",
        "count": "number of segments",
        "modality": "auto, av, v or a",
        "settings": 'object with further settings, such as {"min_segment_s": 3, "scorer": "heuristic"}',
    }
    one_by_one: ClassVar[bool] = True
    presets: ClassVar[tuple[str, ...]] = ("heuristic",)
    """What may stand for a model's name and is none."""
    examples: ClassVar[str] = """\
manifest:
  {"id": "match-1", "video": "match1.mp4", "seconds": 60}
  {"id": "walk", "video": "walk.mkv", "share": 0.1, "modality": "v"}

examples:
  genmm batch highlight --manifest in.jsonl --out found/                  one JSON file for each video
  genmm batch highlight --manifest in.jsonl --out reels/ --format mp4     reels, with the JSON beside them
"""

    model: str = option('model, see `genmm models`; "heuristic" needs none', "rasl", metavar="NAME|FOLDER")
    seconds: float | None = option("length of all segments together, where a row says nothing", metavar="X")
    share: float | None = option("the same as a share of the video", metavar="X")
    count: int | None = option("number of segments", metavar="N")
    modality: str | None = option("auto, av, v or a", choices=("auto", "av", "v", "a"))
    format: str = option("json: scores and segments; mp4: the reel, with the JSON beside it", "json",
                         choices=("json", "mp4"))  # fmt: skip
    device: str = option("auto, cpu, cuda, cuda:N or mps", "auto", metavar="NAME")
    allow_files: bool = True
    """Whether rows may name files on this machine; off where strangers bring the manifest."""

    _pipeline = None  # not a field: it does not travel to other processes

    @property
    def suffix(self) -> str:
        """Suffix of the files."""
        return f".{self.format}"

    def use(self, pipeline: RaslPipeline) -> HighlightTask:
        """Work with a pipeline that is loaded already; gives back the task."""
        self._pipeline = pipeline
        return self

    def validate(self, row: ManifestRow) -> HighlightJob:
        """Check a row. Raises: UsageError."""
        given = {name: value for name, value in row.fields.items() if value is not None}
        video = given.get("video")
        if not isinstance(video, str) or not video:
            raise UsageError('has no "video"; name the file')
        if not self.allow_files:
            raise UsageError("names a file, which is not allowed here")
        path = (row.folder / Path(video).expanduser()) if "\0" not in video else Path()
        if not path.is_file():
            raise UsageError(f"there is no file {video[:200]!r} in {row.folder}")
        more = given.get("settings", {})
        if not isinstance(more, Mapping):
            raise UsageError(f"settings must be an object, got {more!r}")
        settings = dict(self._own_settings)
        own = {name: given[name] for name in (*AMOUNTS, "modality") if name in given}
        if any(name in own or name in more for name in AMOUNTS):
            settings = {name: value for name, value in settings.items() if name not in AMOUNTS}
        settings |= {**more, **own}
        self._check(settings)
        return HighlightJob(path.resolve(), settings)

    def cost(self, request: HighlightJob) -> float:
        """Size of the file: time grows with it."""
        return float(request.video.stat().st_size)

    def sources(self, request: HighlightJob) -> tuple[Path, ...]:
        """The video."""
        return (request.video,)

    def fingerprint(self) -> dict[str, Any]:
        """Model, settings and format; not the device."""
        return {"model": self._model_fingerprint, "settings": self._own_settings, "format": self.format}

    def setup(self) -> None:
        """Load the model unless `use` brought it. Raises: GenmmError when it cannot be loaded."""
        if self._pipeline is None:
            self._pipeline = self._load()
        if self._pipeline.system != "rasl":
            raise UsageError(f"model {self.model} is of the system {self._pipeline.system}, which finds no highlights")

    def run(self, items: Sequence[BatchItem], cancel: CancelToken) -> list[Result | Exception]:
        """One video after the other: each is read as a stream, so there is nothing to gain from reading several."""
        outcomes: list[Result | Exception] = []
        for item in items:
            job: HighlightJob = item.request
            try:
                outcomes.append(self._pipeline.highlights(job.video, settings=job.settings, cancel=cancel))
            except GenmmError as error:
                if error.exit_code == 130:
                    raise
                outcomes.append(error)
        return outcomes

    def facts(self, result: Any) -> dict[str, Any]:
        """Length, segments and what was odd."""
        facts: dict[str, Any] = {
            "duration_s": round(result.duration_s, 3),
            "kept_s": round(result.seconds, 3),
            "segments": [[round(s.start_s, 3), round(s.end_s, 3), round(s.score, 4)] for s in result.segments],
        }
        return {**facts, "notes": list(result.notes)} if result.notes else facts

    def __getstate__(self) -> dict[str, Any]:
        """The options alone."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def _load(self) -> RaslPipeline:
        from genmm.systems.rasl.pipeline import RaslPipeline

        if self.model == "heuristic":
            return RaslPipeline.heuristic()
        import genmm

        return genmm.load(self.model, device=self.device)

    def _check(self, settings: Mapping[str, Any]) -> None:
        from genmm.systems.rasl.request import HighlightSettings

        HighlightSettings().changed(settings)

    @property
    def _own_settings(self) -> dict[str, Any]:
        names = (*AMOUNTS, "modality")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @cached_property
    def _model_fingerprint(self) -> str:
        if self._pipeline is not None:
            return self._pipeline.model["fingerprint"]
        if self.model == "heuristic":
            return hashlib.sha256(b"heuristic-1").hexdigest()[:16]
        from genmm.core.checkpoint import fingerprint
        from genmm.registry import find_model

        return fingerprint(find_model(self.model).path)
