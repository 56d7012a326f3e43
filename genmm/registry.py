"""Find checkpoints by name or folder and turn them into pipelines, which are imported when they are needed."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from genmm.core.errors import CheckpointError, GenmmError, UsageError
from genmm.core.paths import embedded_home, extra_model_folders, models_home
from genmm.core.suggest import did_you_mean

if TYPE_CHECKING:
    import torch

    from genmm.core.events import Event
    from genmm.nn.packed import PackingChoice

__all__ = ["SYSTEMS", "ModelInfo", "Pipeline", "check_model_name", "find_model", "load", "models"]

log = logging.getLogger(__name__)

SYSTEMS: dict[str, str] = {
    "sled": "genmm.systems.sled.pipeline:SledPipeline",
    "rasl": "genmm.systems.rasl.pipeline:RaslPipeline",
    "vqtoken": "genmm.systems.vqtoken.pipeline:VqTokenPipeline",
    "tokenset": "genmm.systems.tokenset.pipeline:TokenSetPipeline",
    "melodyflow": "genmm.systems.melodyflow.pipeline:MelodyFlowPipeline",
}
"""Pipeline class per system name, as "module:class"."""
PACKED = ("sled", "melodyflow")
"""Systems whose weights can be packed."""

Source = Literal["embedded", "pulled", "folder"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Pipeline(Protocol):
    """What every system's pipeline offers. What it makes, and from what, is the system's own business: a method that
    gives back a result (`generate`, `tokenize`, `detect` ...) and `events`, the same as a generator of events."""

    system: str
    """Its key in SYSTEMS."""
    name: str
    """Name of the model, as --model takes it."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def model(self) -> dict[str, str]:
        """What a recipe says about it: name, system, fingerprint of the checkpoint."""

    @property
    def info(self) -> dict[str, Any]:
        """The same with sizes and origin, JSON-able."""

    @classmethod
    def from_folder(cls, folder: Path, *, device: torch.device, dtype: torch.dtype) -> Pipeline:
        """Load a checkpoint folder. Raises: CheckpointError or ConfigError when something in it does not fit."""

    def to(self, device: Any = None, dtype: Any = None) -> Pipeline:
        """Move to a device and number format in place; None keeps what there is."""

    def save(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
        """Write a checkpoint folder that `load` reads; gives back the folder."""

    def events(self, *arguments: Any, **options: Any) -> Iterator[Event]:
        """The work as a generator of events; the last one is Finished, and closing it early stops the work."""


@dataclass(frozen=True)
class ModelInfo:
    """One checkpoint that can be loaded, described without loading it."""

    name: str
    """What `load` and --model take."""
    system: str
    """The system it belongs to ("sled"), or "" when its config cannot be read."""
    source: Source
    """Where it comes from: in the package, pulled, or a folder of the user's."""
    path: Path
    """Its folder."""
    size_bytes: int
    """All its files together."""
    licence: str = ""
    """Short name of the licence of the weights."""
    description: str = ""
    """One sentence."""
    parameters: int = 0
    """Numbers in model.safetensors and in those of inner checkpoints."""
    problem: str = ""
    """Why it cannot be loaded; "" when nothing speaks against it."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What it knows by name: its voices, labels, words of descriptions, or answers."""

    def memory_bytes(self, item_bytes: int = 4) -> int:
        """Least memory that it needs when each parameter takes `item_bytes`: the weights and a fifth for the work."""
        return int(1.2 * self.parameters * item_bytes)


def load(
    name: str | os.PathLike[str] = "sled",
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    packing: PackingChoice = "auto",
) -> Any:
    """Load a model by its name (see `models`) or from a checkpoint folder; gives back its system's pipeline.

    A name goes before a folder of the same name; write ./name for the folder. `packing` is how speech and music models
    read their weights on a CPU (see `genmm.nn.packed`), by default as the pipeline chooses.
    Raises: UsageError for an unknown name, device, dtype or a packing that the model does not have; CheckpointError for
    a folder that cannot be used.
    """
    info = find_model(name)
    if info.problem:
        raise CheckpointError(f"model {info.name} cannot be loaded: {info.problem}")
    from genmm.core.devices import choose_device, choose_dtype

    place = choose_device(device)
    if packing not in ("auto", "live") and info.system not in PACKED:
        raise UsageError(f"packing is for speech and music models, and {info.name} is of the system {info.system}")
    pipeline = _pipeline_class(info).from_folder(info.path, device=place, dtype=choose_dtype(dtype, place))
    if packing != "auto" and info.system in PACKED:
        pipeline.to(packing=packing)
    return pipeline


def models() -> list[ModelInfo]:
    """All models that can be named: embedded, pulled, then those in the folders of $GENMM_MODELS; no name twice."""
    found: dict[str, ModelInfo] = {}
    for source, path in _candidates():
        if path.name in found:
            log.warning("%s is hidden by the %s model of the same name", path, found[path.name].source)
        else:
            found[path.name] = _describe(path.name, path, source)
    return list(found.values())


def find_model(name: str | os.PathLike[str]) -> ModelInfo:
    """Describe one model, given by name or by folder. Raises: UsageError that lists what there is."""
    text = os.fspath(name)
    if isinstance(name, str) and _NAME.fullmatch(text):
        for source, path in _candidates():
            if path.name == text:
                return _describe(text, path, source)
    folder = Path(text).expanduser()
    if text and os.path.isdir(folder):  # unlike Path.is_dir, False for names that no system takes
        return _describe(folder.resolve().name, folder, "folder")
    known = list(dict.fromkeys(path.name for _, path in _candidates()))
    raise UsageError(
        f"there is no model or checkpoint folder {text[:200]!r}; models here: {', '.join(known) or 'none'}"
        f"{did_you_mean(text, known) or '.'} `genmm models` describes them, {_ways_to_more(text)}"
    )


def _ways_to_more(name: str) -> str:
    """How a missing model can be had; a system may have none of its own here."""
    trains = f", `genmm fit --config configs/{name}/demo.yaml` trains one for --model FOLDER"
    return f"`genmm pull` fetches more{trains if name in SYSTEMS else ''}"


def check_model_name(name: str) -> str:
    """Give back a name that a new model may have. Raises: UsageError for paths and odd characters."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"a model name has 1 to 64 letters, digits, '.', '_' or '-', got {name[:100]!r}")
    return name


def _candidates() -> Iterator[tuple[Source, Path]]:
    for source, home in (("embedded", embedded_home()), ("pulled", models_home())):
        yield from ((source, path) for path in _checkpoint_folders(home))
    for folder in extra_model_folders():
        if (folder / "config.json").is_file():
            yield "folder", folder.resolve()
        else:
            yield from (("folder", path) for path in _checkpoint_folders(folder))


def _checkpoint_folders(home: Path) -> list[Path]:
    try:
        return sorted(path for path in home.iterdir() if _NAME.fullmatch(path.name) and (path / "config.json").exists())
    except OSError:
        return []


def _describe(name: str, path: Path, source: Source) -> ModelInfo:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    try:
        config = _config(path)
        inner = sorted(part.parent for part in path.glob("*/model.safetensors"))
        parameters = sum(_parameters(part) for part in [path, *inner])
    except GenmmError as error:
        return ModelInfo(name, "", source, path, size, problem=str(error))
    system = config["system"]
    problem = "" if system in SYSTEMS else f"its system {system!r} is unknown; this genmm has {', '.join(SYSTEMS)}"
    card = _card(path)
    licence = str(config.get("licence") or card.get("license", ""))
    description = str(
        config.get("description") or card.get("description") or card.get("title", "").removeprefix(f"{name}: ")
    )
    choices = _choices(path, config)
    return ModelInfo(name, system, source, path, size, licence, description, parameters, problem, choices)


def _choices(path: Path, config: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """What the folder of a checkpoint says about the names that it knows."""

    def section(within: Mapping[str, Any], name: str) -> dict[str, Any]:
        value = within.get(name)
        return value if isinstance(value, dict) else {}

    network, text = section(config, "network"), section(config, "text")
    found: dict[str, Any] = {"voice": sorted(voice.stem for voice in (path / "voices").glob("*.json"))}
    found |= section(network, "labels")
    found["answer"] = section(network, "answerer").get("answers")
    if text.get("kind") == "captions":
        from genmm.systems.melodyflow.captions import VALUES

        found |= VALUES
    return {
        name: tuple(map(str, values)) for name, values in found.items() if values and isinstance(values, list | tuple)
    }


def _config(path: Path) -> dict[str, Any]:
    from genmm.core.checkpoint import read_config

    return read_config(path)


def _parameters(folder: Path) -> int:
    from genmm.core.checkpoint import WEIGHTS_NAME, checkpoint_file
    from genmm.core.weights import read_header

    return read_header(checkpoint_file(folder, WEIGHTS_NAME)).parameters


def _card(path: Path) -> dict[str, str]:
    """The plain "key: value" lines between the --- marks at the top of README.md; "title" is the first heading."""
    try:
        with (path / "README.md").open(encoding="utf-8", errors="replace") as stream:
            lines = stream.read(10_000).splitlines()
    except OSError:
        return {}
    if not lines or lines[0].strip() != "---":
        return {}
    pairs: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        if line.strip() == "---":
            heading = next((text[2:].strip() for text in lines[number:] if text.startswith("# ")), "")
            return {"title": heading, **pairs}
        key, colon, value = line.partition(":")
        if colon and not line.startswith((" ", "-", "#")):
            pairs[key.strip()] = value.strip().strip("\"'")
    return {}


def _pipeline_class(info: ModelInfo) -> Any:
    module, _, name = SYSTEMS[info.system].partition(":")
    return getattr(import_module(module), name)
