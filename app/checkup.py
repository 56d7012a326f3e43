"""The findings behind `genmm doctor` and the Status tab: installation, machine, models, data, extras."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Literal

import genmm
from genmm.core.paths import data_home, genmm_home
from genmm.core.wording import counted

State = Literal["ok", "optional", "missing"]
LEAST_FREE_BYTES = 2_000_000_000
"""Free disk below which pulling models or long batches will fail soon."""
EXTRAS = {
    "official": ("text encoders of published checkpoints (SLED has none)", "transformers"),
    "ray": ("batches on a Ray cluster", "ray"),
    "test": ("the test suite", "pytest"),
}
"""Extra -> what it is for, and the module that shows whether it is there."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    group: str
    """Heading: program, machine, media, models, data, extras."""
    name: str
    """What was looked at."""
    state: State
    """ok; optional: absent, and only some things need it; missing: absent or broken, and needed."""
    detail: str
    """Version, size, place, or what is wrong."""
    remedy: str = ""
    """What to do about it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything; a look that fails is itself a finding, never an exception."""
    looks = (_program, _packages, _machine, _media, _models, _data, _extras)
    return [finding for look in looks for finding in _guarded(look)]


def _guarded(look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except Exception as error:  # a report on a broken installation must reach its end
        name = look.__name__.strip("_")
        yield Finding(name, name, "missing", f"cannot be examined: {type(error).__name__}: {error}")


def _program() -> Iterator[Finding]:
    yield Finding("program", "genmm", "ok", f"{genmm.__version__} in {genmm.__path__[0]}")
    fine = sys.version_info >= (3, 11)
    remedy = "" if fine else "install Python 3.11 or newer and make a new environment"
    yield Finding("program", "python", "ok" if fine else "missing", platform.python_version(), remedy)


def _packages() -> Iterator[Finding]:
    """Every dependency that the package declares, against what is installed."""
    from packaging.requirements import Requirement

    for line in metadata.requires("genmm") or ():
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = _version(wanted.name)
        fine = version is not None and wanted.specifier.contains(version, prereleases=True)
        detail = version or "not installed"
        if not fine and version:
            detail += f", needs {wanted.specifier}"
        remedy = "" if fine else f"pip install '{wanted.name}{wanted.specifier}', or run `make install` again"
        yield Finding("program", wanted.name, "ok" if fine else "missing", detail, remedy)


def _machine() -> Iterator[Finding]:
    from genmm.core.devices import choose_device, choose_dtype, describe_machine, memory_bytes

    machine, device = describe_machine(), choose_device("auto")
    yield Finding("machine", "system", "ok", f"{machine['platform']}, {machine['cpu']}, {machine['cpu_cores']} cores")
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    detail = f"{device} in {dtype}, {_size(memory_bytes(device))} of memory"
    remedy = "" if device.type != "cpu" else "the embedded models are made for this; a CUDA device speeds large ones up"
    if machine["cuda"] and not machine["gpus"] and shutil.which("nvidia-smi"):
        remedy = "there is an NVIDIA driver but torch sees no device: compare `nvidia-smi` with torch's CUDA version"
    yield Finding("machine", "device", "ok", detail, remedy)
    for number, gpu in enumerate(machine["gpus"]):
        yield Finding("machine", f"cuda:{number}", "ok", f"{gpu['name']}, {_size(gpu['memory_bytes'])}")
    home = genmm_home()
    existing = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    state: State = "ok" if free >= LEAST_FREE_BYTES else "optional"
    remedy = "" if state == "ok" else "free some space, or set GENMM_HOME to a folder on a larger disk"
    yield Finding("machine", "free disk", state, f"{_size(free)} at {home}", remedy)
    locks = importlib.util.find_spec("fcntl") is not None
    remedy = "" if locks else "use Linux, macOS or WSL for `genmm batch`"
    yield Finding("machine", "file locks", "ok" if locks else "optional", "yes" if locks else "no", remedy)


def _media() -> Iterator[Finding]:
    import av
    import soundfile

    codec = ".".join(map(str, av.library_versions.get("libavcodec", ())))
    yield Finding("media", "PyAV", "ok", f"{av.__version__}, libavcodec {codec}")
    yield Finding("media", "libsndfile", "ok", soundfile.__libsndfile_version__)


def _models() -> Iterator[Finding]:
    from genmm.registry import models

    found = models()
    for model in found:
        parts = [model.source, _size(model.size_bytes), model.licence or "no licence stated"]
        state: State = "missing" if model.problem and model.source == "embedded" else "ok"
        state = "optional" if model.problem and state == "ok" else state
        yield Finding("models", model.name, state, model.problem or ", ".join(parts))
    if not any(model.source == "embedded" and model.system == "sled" for model in found):
        remedy = "get the whole source tree or wheel, or use --model FOLDER with a checkpoint of your own"
        yield Finding("models", "sled", "missing", "the embedded speech checkpoint is not in this installation", remedy)
    if not any(model.source == "pulled" for model in found):
        remedy = "`genmm pull sled` fetches the authors' model and shows its licence first"
        yield Finding("models", "official models", "optional", "none pulled", remedy)


def _data() -> Iterator[Finding]:
    home = data_home()
    if home.is_dir():
        sets = sorted(path.name for path in home.iterdir() if path.is_dir())
        yield Finding("data", "training data", "ok", f"{counted(len(sets), 'set')} in {home}: {', '.join(sets[:12])}")
    else:
        remedy = "only training needs it: put the data sets there, or set GENMM_DATA to their folder"
        yield Finding("data", "training data", "optional", f"nothing at {home}", remedy)


def _extras() -> Iterator[Finding]:
    for extra, (purpose, module) in EXTRAS.items():
        version = _version(module)
        remedy = "" if version else f"pip install 'genmm[{extra}]'"
        detail = f"{module} {version}" if version else f"{module} is not installed; for {purpose}"
        yield Finding("extras", extra, "ok" if version else "optional", detail, remedy)
    speaker = shutil.which("espeak-ng")
    remedy = "" if speaker else "install the system package espeak-ng; only training the demo voice uses it"
    yield Finding("extras", "espeak-ng", "ok" if speaker else "optional", speaker or "not found", remedy)


def _version(name: str) -> str | None:
    try:
        return metadata.version(re.sub(r"\[.*", "", name))
    except metadata.PackageNotFoundError:
        return None


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB" if count < 1000 else f"{count / 1000:.1f} TB"
