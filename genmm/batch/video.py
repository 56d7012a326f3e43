"""Videos in batches: rows with a video become <id>.safetensors, each with its own budget where it says so."""

from __future__ import annotations

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
from genmm.systems.vqtoken.methods import METHODS

if TYPE_CHECKING:
    from genmm.systems.vqtoken.pipeline import VqTokenPipeline
    from genmm.systems.vqtoken.reducer import Budget


def option(text: str, default: Any = None, **more: Any) -> Any:
    """A task field that is an option on the command line."""
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class VideoJob:
    """A checked row."""

    path: Path
    tokens: Budget
    start_s: float
    end_s: float | None


@dataclass
class VideoTask:
    """Tokenize every row's video."""

    name: ClassVar[str] = "video"
    fields: ClassVar[Mapping[str, str]] = {
        "video": "video file (required), path from the manifest's folder",
        "tokens": "tokens of this video, 1 to 1024, or adaptive",
        "start_s": "from this second on",
        "end_s": "up to this second",
    }
    one_by_one: ClassVar[bool] = True
    examples: ClassVar[str] = """\
manifest:
  {"id": "intro", "video": "films/intro.mp4"}
  {"id": "trailer", "video": "films/trailer.mp4", "tokens": "adaptive", "end_s": 30}

examples:
  genmm batch video --manifest in.jsonl --out tokens/
  genmm batch video --manifest in.jsonl --out tokens/ --tokens 12 --format gmvq
  genmm batch video --manifest in.jsonl --out tokens/ --shard 2/4      on the second of four machines
"""

    model: str = option("model, see `genmm models`", "vqtoken", metavar="NAME|FOLDER")
    tokens: str = option("tokens of a video, 1 to 1024, adaptive, explained, knee or silhouette", "32", metavar="N")
    method: str = option("reducer", "vqtoken", choices=METHODS)
    fps: float | None = option("frames a second that are looked at. Default: the model's", metavar="X")
    format: str = option("format of the files", "safetensors", choices=("safetensors", "gmvq"))
    device: str = option("auto, cpu, cuda, cuda:N or mps", "auto", metavar="NAME")
    dtype: str = option("auto, float32, bfloat16 or float16", "auto", metavar="NAME")
    allow_files: bool = True
    """Whether rows may name files on this machine; off where strangers bring the manifest."""

    _pipeline = None  # not a field: it does not travel to other processes

    @property
    def suffix(self) -> str:
        """Suffix of the files."""
        return f".{self.format}"

    def use(self, pipeline: VqTokenPipeline) -> VideoTask:
        """Work with a pipeline that is loaded already; gives back the task."""
        self._pipeline = pipeline
        return self

    def validate(self, row: ManifestRow) -> VideoJob:
        """Check a row. Raises: UsageError."""
        given = {name: value for name, value in row.fields.items() if value is not None}
        name = given.get("video")
        if name is None:
            raise UsageError('has no "video"; write the path of a video file')
        if not isinstance(name, str) or not name or "\0" in name:
            raise UsageError(f'the field "video" must be the path of a video file, got {str(name)[:40]!r}')
        if not self.allow_files:
            raise UsageError("names a file, which is not allowed here")
        path = (row.folder / Path(name).expanduser()).resolve()
        if path.is_dir():
            raise UsageError(f"{name!r} in {row.folder} is a folder; write the path of one video file")
        if not path.is_file():
            raise UsageError(f"there is no file {name!r} in {row.folder}")
        from genmm.media.frame_times import MAX_FPS
        from genmm.systems.vqtoken.pipeline import budget_of, check_times
        from genmm.systems.vqtoken.reducer import check_budget

        budget = budget_of(given.get("tokens", self.tokens))
        check_budget(self.method, budget)
        start_s, end_s = given.get("start_s", 0.0), given.get("end_s")
        check_times({"fps": self.fps, "start_s": start_s, "end_s": end_s})
        if self.fps is not None and not 0 < self.fps <= MAX_FPS:
            raise UsageError(f"fps must be above 0 and at most {MAX_FPS:g}, got {self.fps:g}")
        if start_s < 0 or (end_s is not None and end_s <= start_s):
            until = "the end" if end_s is None else f"{end_s:g}"
            raise UsageError(f"start_s must be at least 0 and end_s behind it, got {start_s:g} and {until}")
        return VideoJob(path, budget, float(start_s), None if end_s is None else float(end_s))

    def cost(self, request: VideoJob) -> float:
        """Bytes of the file: time grows with them."""
        return float(request.path.stat().st_size)

    def sources(self, request: VideoJob) -> tuple[Path, ...]:
        """The video."""
        return (request.path,)

    def fingerprint(self) -> dict[str, Any]:
        """Model, reducer, budget, rate and format; not the device."""
        return {
            "model": self._model_fingerprint,
            "tokens": self.tokens,
            "method": self.method,
            "fps": self.fps,
            "format": self.format,
            "dtype": self.dtype,
        }

    def setup(self) -> None:
        """Load the model unless `use` brought it. Raises: GenmmError when it cannot be loaded."""
        if self._pipeline is None:
            import genmm

            self._pipeline = genmm.load(self.model, device=self.device, dtype=self.dtype)
        if self._pipeline.system != "vqtoken":
            raise UsageError(f"model {self.model} is of the system {self._pipeline.system}, which reads no videos")

    def run(self, items: Sequence[BatchItem], cancel: CancelToken) -> list[Result | Exception]:
        """Tokenize the items one after another; a GenmmError stands in for a video that cannot be read."""
        return [self._one(item, cancel) for item in items]

    def _one(self, item: BatchItem, cancel: CancelToken) -> Result | Exception:
        from genmm.core.errors import Cancelled

        job: VideoJob = item.request
        span = {"start_s": job.start_s, "end_s": job.end_s}
        try:
            return self._pipeline.tokenize(
                job.path, tokens=job.tokens, method=self.method, fps=self.fps, seed=item.seed, cancel=cancel, **span
            )
        except Cancelled:
            raise
        except GenmmError as error:
            return error

    def facts(self, result: Any) -> dict[str, Any]:
        """Tokens, share, loss and bits."""
        facts = result.facts()
        return {**facts, "notes": list(result.notes)} if result.notes else facts

    def __getstate__(self) -> dict[str, Any]:
        """The options alone."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @cached_property
    def _model_fingerprint(self) -> str:
        if self._pipeline is not None:
            return self._pipeline.model["fingerprint"]
        from genmm.core.checkpoint import fingerprint
        from genmm.registry import find_model

        return fingerprint(find_model(self.model).path)
