"""Pictures in batches: rows with words or labels become <id>.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from genmm.batch.manifest import ManifestRow
from genmm.batch.task import BatchItem
from genmm.core.errors import UsageError
from genmm.core.events import CancelToken
from genmm.core.results import Result

if TYPE_CHECKING:
    from genmm.systems.tokenset.pipeline import TokenSetPipeline
    from genmm.systems.tokenset.request import PictureSettings


def option(text: str, default: Any = None, **more: Any) -> Any:
    """A task field that is an option on the command line."""
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class ImageJob:
    """A checked row."""

    text: str | None
    labels: Mapping[str, str]
    settings: Mapping[str, Any]
    """Picture settings that differ from the model's defaults."""


@dataclass
class ImageTask:
    """Draw every row's picture."""

    name: ClassVar[str] = "image"
    fields: ClassVar[Mapping[str, str]] = {
        "text": "what to draw, at most 2000 characters; left out: anything",
        "labels": 'object with labels of the model, such as {"style": "noto"} or {"class": "207"}',
        "guidance": "how strongly text and labels are followed; a number or a schedule such as 4_50_55",
        "temperature": "variety, 0 to 10",
        "steps": "sampling steps, 1 to 1000",
        "settings": 'object with further picture settings, such as {"engine": "repair", "top_p": 0.9}',
    }
    examples: ClassVar[str] = """\
manifest:
  {"id": "heart", "text": "red heart"}
  {"id": "heart-2", "text": "red heart", "labels": {"style": "twemoji"}, "seed": 7}

examples:
  genmm batch image --manifest in.jsonl --out pictures/
  genmm batch image --manifest in.jsonl --out pictures/ --batch-size 64 --steps 50 --format webp
  genmm batch image --manifest in.jsonl --out pictures/ --shard 2/4      on the second of four machines
"""

    model: str = option("model, see `genmm models`", "tokenset", metavar="NAME|FOLDER")
    guidance: str | None = option("how strongly text and labels are followed. Default: the model's", metavar="X")
    temperature: float | None = option("variety, 0 to 10. Default: the model's", metavar="X")
    steps: int | None = option("sampling steps, 1 to 1000. Default: the model's", metavar="N")
    format: str = option("format of the pictures", "png", choices=("png", "jpg", "webp"))
    device: str = option("auto, cpu, cuda, cuda:N or mps", "auto", metavar="NAME")
    dtype: str = option("auto, float32, bfloat16 or float16", "auto", metavar="NAME")

    _pipeline = None  # not a field: it does not travel to other processes

    @property
    def suffix(self) -> str:
        """Suffix of the pictures."""
        return f".{self.format}"

    def use(self, pipeline: TokenSetPipeline) -> ImageTask:
        """Work with a pipeline that is loaded already; gives back the task."""
        self._pipeline = pipeline
        return self

    def validate(self, row: ManifestRow) -> ImageJob:
        """Check a row. Raises: UsageError, LimitError."""
        from genmm.systems.tokenset.request import read_wish

        given = {name: value for name, value in row.fields.items() if value is not None}
        text, labels = given.get("text"), given.get("labels", {})
        if text is not None and not isinstance(text, str):
            raise UsageError(f"text must be a string, got {text!r}")
        if not isinstance(labels, Mapping):
            raise UsageError(f"labels must be an object, got {labels!r}")
        known, defaults, reads_text = self._facts
        labels = {str(name): str(value) for name, value in labels.items()}
        read_wish(text, labels, known, reads_text=reads_text)
        settings = self._settings(given)
        try:
            defaults.changed(settings)
        except TypeError as error:
            raise UsageError(f"a setting has the wrong type: {error}") from error
        return ImageJob(text, labels, settings)

    def cost(self, request: ImageJob) -> float:
        """Steps: time grows with them."""
        return float(request.settings.get("steps", self._facts[1].steps))

    def fingerprint(self) -> dict[str, Any]:
        """Model, settings and format; not the device."""
        return {
            "model": self._model_fingerprint,
            "settings": self._own_settings,
            "format": self.format,
            "dtype": self.dtype,
        }

    def setup(self) -> None:
        """Load the model unless `use` brought it. Raises: GenmmError when it cannot be loaded."""
        if self._pipeline is None:
            import genmm

            self._pipeline = genmm.load(self.model, device=self.device, dtype=self.dtype)
        if self._pipeline.system != "tokenset":
            raise UsageError(f"model {self.model} is of the system {self._pipeline.system}, which does not draw")

    def run(self, items: Sequence[BatchItem], cancel: CancelToken) -> list[Result | Exception]:
        """Draw the items together; a GenmmError stands in for an item that cannot be drawn."""
        from genmm.systems.tokenset.request import PictureRequest

        jobs: list[ImageJob] = [item.request for item in items]
        requests = [
            PictureRequest(text=job.text, labels=job.labels, seed=item.seed, settings=job.settings)
            for job, item in zip(jobs, items, strict=True)
        ]
        return self._pipeline.generate_batch(requests, batch_size=max(1, len(requests)), errors="return", cancel=cancel)

    def facts(self, result: Any) -> dict[str, Any]:
        """The tokens of the picture and what was read from the row."""
        facts = {"tokens": list(result.sets[0]), "read_as": dict(result.settings["read_as"])}
        return {**facts, "notes": list(result.notes)} if result.notes else facts

    def __getstate__(self) -> dict[str, Any]:
        """The options alone."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    # ------------------------------------------------------------ settings, and the checkpoint without loading it

    def _settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        more = given.get("settings", {})
        if not isinstance(more, Mapping):
            raise UsageError(f"settings must be an object, got {more!r}")
        own = {name: given[name] for name in ("guidance", "temperature", "steps") if name in given}
        return {**self._own_settings, **more, **own}

    @property
    def _own_settings(self) -> dict[str, Any]:
        own = {"guidance": self.guidance, "temperature": self.temperature, "steps": self.steps}
        return {name: value for name, value in own.items() if value is not None}

    @cached_property
    def _facts(self) -> tuple[Mapping[str, Sequence[str]], PictureSettings, bool]:
        """Labels, default settings, and whether texts are read."""
        from genmm.systems.tokenset.request import PictureSettings

        if self._pipeline is not None:
            return self._pipeline.labels, self._pipeline.defaults, self._pipeline.reads_text
        from genmm.core.checkpoint import read_config
        from genmm.registry import find_model

        info = find_model(self.model)
        if info.problem or info.system != "tokenset":
            raise UsageError(f"model {self.model} does not draw: {info.problem or f'it is of {info.system}'}")
        config = read_config(info.path)
        network = config.get("network")
        if not isinstance(network, dict):
            raise UsageError(f"model {self.model} is a tokenizer alone, which does not draw")
        defaults = PictureSettings.from_dict(config.get("defaults", {}))
        return network.get("labels", {}), defaults, bool(network.get("text_rows", 0))

    @cached_property
    def _model_fingerprint(self) -> str:
        if self._pipeline is not None:
            return self._pipeline.model["fingerprint"]
        from genmm.core.checkpoint import fingerprint
        from genmm.registry import find_model

        return fingerprint(find_model(self.model).path)
