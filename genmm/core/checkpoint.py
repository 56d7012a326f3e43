"""Checkpoint folders: config.json + model.safetensors, written whole, checked before they are believed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from genmm.core.errors import CheckpointError, DataError, UsageError
from genmm.core.files import atomic_path, parse_json
from genmm.core.results import plain
from genmm.core.weights import WeightLimits, read_header, read_tensors

__all__ = [
    "CONFIG_NAME",
    "FORMAT_VERSION",
    "WEIGHTS_NAME",
    "UnsetWeights",
    "checkpoint_file",
    "fingerprint",
    "load_into",
    "load_tensors",
    "read_config",
    "save_checkpoint",
]

FORMAT_VERSION = 1
"""Version of the folder layout; raised when an older genmm could not read a newer folder."""
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CONFIG_BYTES = 1_000_000
"""Largest config.json that is read, in bytes."""

_SYSTEM = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_DIGEST = "weights_digest"
_SHOWN = 5


def save_checkpoint(
    folder: str | os.PathLike[str],
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    extra_files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a checkpoint folder; other files already in the folder stay.

    config needs "system"; "format_version" and a digest of the weights are added. Floating-point tensors are stored as
    `dtype` when it is given. `extra_files` maps relative names ("vocab.json", "voices/anna.json") to contents.
    Everything is written beside its place first and moved there at the end: extra files, weights, config.json. A crash
    leaves the old config and weights, or a folder that `load_tensors` refuses; never weights with another's config.
    Raises: UsageError for a bad config or name, CheckpointError for weights that are not finite, OSError from the disk.
    """
    folder = Path(folder)
    stored = {name: _storable(name, tensor, dtype) for name, tensor in tensors.items()}
    digest = _tensor_digest(stored)
    text = _config_text(config, digest)
    extra = dict(extra_files or {})
    for name in extra:
        _check_extra_name(name)
    with ExitStack() as stack:  # leaves in reverse order: config.json must be entered first to be moved last
        config_path = stack.enter_context(atomic_path(folder / CONFIG_NAME))
        weights_path = stack.enter_context(atomic_path(folder / WEIGHTS_NAME))
        extra_paths = {name: stack.enter_context(atomic_path(folder / name)) for name in extra}
        for name, path in extra_paths.items():
            path.write_bytes(extra[name])
        _write_weights(weights_path, stored, digest)
        config_path.write_text(text, encoding="utf-8")
    return folder


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read config.json of a checkpoint folder and check its version and system.

    Raises: CheckpointError when there is none, when it is too large, not JSON, or of a newer or foreign kind.
    """
    folder = Path(folder)
    path = checkpoint_file(folder, CONFIG_NAME)
    with path.open("rb") as stream:
        data = stream.read(CONFIG_BYTES + 1)
    if len(data) > CONFIG_BYTES:
        raise CheckpointError(f"{path} is larger than {CONFIG_BYTES} bytes; that is no genmm checkpoint")
    try:
        config = parse_json(data, source=str(path))
    except DataError as error:
        raise CheckpointError(str(error)) from error
    _check_config(path, config)
    return config


def load_tensors(
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = torch.float32,
    limits: WeightLimits | None = None,
) -> dict[str, Tensor]:
    """Read model.safetensors of a checkpoint folder onto the CPU after checking its header.

    Floating-point tensors come as `dtype`, None keeps what is stored.
    Raises: CheckpointError when the file is missing, damaged, past a limit, holds NaN, or is of another save than
    config.json.
    """
    path = checkpoint_file(folder, WEIGHTS_NAME)
    written_for = read_header(path, limits).metadata.get(_DIGEST)
    expected = read_config(folder).get(_DIGEST)
    if written_for and expected and written_for != expected:
        raise CheckpointError(
            f"{path} and {CONFIG_NAME} are from two different saves; a save was interrupted. Save or download it again"
        )
    return read_tensors(path, dtype=dtype, limits=limits)


class UnsetWeights(TorchFunctionMode):
    """Within the block modules are built with memory as it is found, for weights that are read into them next.

    Leaves out the random start of torch.nn.init, so it is fast and the global random state stays as it is. Building on
    the meta device does the same, but imports torch's compiler: 2.1 s of processor time for the embedded speech
    network, where this takes 0.03 s. Buffers that a module computes are right.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def load_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module; every name and shape must agree. The module keeps its dtype and device.

    Raises: CheckpointError that lists missing, unexpected and differently shaped entries, grouped by their prefix.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    reshaped = [
        f"{name} (here {tuple(own[name].shape)}, in the file {tuple(tensors[name].shape)})"
        for name in own
        if name in tensors and own[name].shape != tensors[name].shape
    ]
    groups = [("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped)]
    parts = [f"{len(names)} {what}: {_grouped(names)}" for what, names in groups if names]
    if parts:
        raise CheckpointError(
            f"the weights do not fit {type(module).__name__}: {'; '.join(parts)}. "
            "Check that config and weights belong together"
        )
    module.load_state_dict(dict(tensors), strict=True)


def fingerprint(folder: str | os.PathLike[str]) -> str:
    """Sixteen hex digits that change when anything changes that the folder's results depend on.

    Covers the .json, .txt and .safetensors files of the folder and of subfolders that are checkpoints themselves (such
    as a codec); not voices, cards or licences.
    """
    total = hashlib.sha256()
    for name, path in _fingerprinted(Path(folder)):
        state = path.stat()
        total.update(f"{name}\0{_file_digest(str(path), state.st_size, state.st_mtime_ns)}\0".encode())
    return total.hexdigest()[:16]


def checkpoint_file(folder: str | os.PathLike[str], name: str) -> Path:
    """The path of a file of a checkpoint folder, after checking that it is a file and really lies in the folder.

    Raises: CheckpointError when it is missing, or is (or lies behind) a link that leads out of the folder.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):  # unlike Path.is_dir, False for names that no system takes
        raise CheckpointError(f"there is no checkpoint folder {folder}")
    path = folder / name
    try:
        root, real = folder.resolve(strict=True), path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(_missing_text(folder, name)) from error
    if not real.is_relative_to(root):
        raise CheckpointError(f"{path} is a link that leads out of its folder; copy the file into the folder")
    if not real.is_file():
        raise CheckpointError(f"{path} is not a file")
    return path


def _missing_text(folder: Path, name: str) -> str:
    foreign = [other for other in ("pytorch_model.bin", "model.ckpt", "last.ckpt") if (folder / other).exists()]
    if foreign:
        return f"{folder} has no {name}, but {foreign[0]}, which genmm does not load; see `genmm convert --help`"
    return f"{folder} is no complete checkpoint: {name} is missing (a checkpoint has {CONFIG_NAME} and {WEIGHTS_NAME})"


def _check_config(path: Path, config: Any) -> None:
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold an object, it holds a {type(config).__name__}")
    version, system = config.get("format_version"), config.get("system")
    if version is None and ("architectures" in config or "model_type" in config):
        raise CheckpointError(
            f"{path.parent} is a checkpoint of another library; turn it into ours with `genmm convert` (see its --help)"
        )
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{path} has no valid format_version, got {version!r}; genmm writes {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version}, this genmm reads up to {FORMAT_VERSION}; install a newer genmm"
        )
    if not isinstance(system, str) or not _SYSTEM.fullmatch(system):
        raise CheckpointError(f"{path} names no valid system, got {str(system)[:60]!r}")


def _config_text(config: Mapping[str, Any], digest: str) -> str:
    if not isinstance(config.get("system"), str) or not _SYSTEM.fullmatch(config["system"]):
        raise UsageError(f'a checkpoint config needs "system", a short lower-case name; got {config.get("system")!r}')
    entries = {"format_version": FORMAT_VERSION, **plain(config), _DIGEST: digest}
    if entries["format_version"] != FORMAT_VERSION:
        raise UsageError(f"this genmm writes format {FORMAT_VERSION}, got {entries['format_version']!r}")
    text = json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if len(text.encode()) > CONFIG_BYTES:
        raise UsageError(f"the config is larger than {CONFIG_BYTES} bytes; put large data into tensors or extra files")
    return text


def _check_extra_name(name: str) -> None:
    parts = Path(name).parts
    if Path(name).is_absolute() or ".." in parts or not parts or name in (CONFIG_NAME, WEIGHTS_NAME):
        raise UsageError(f"an extra file needs a relative name inside the folder, got {name!r}")


def _storable(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().to("cpu")
    if tensor.is_floating_point():
        tensor = tensor.to(dtype) if dtype is not None else tensor
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"tensor {name!r} holds NaN or infinity as {tensor.dtype}, so nothing was saved")
    return tensor.clone(memory_format=torch.contiguous_format)  # tied weights are stored twice, not refused


def _write_weights(path: Path, tensors: dict[str, Tensor], digest: str) -> None:
    try:
        save_file(tensors, path, metadata={_DIGEST: digest})  # one entry: several come in random order
    except SafetensorError as error:
        raise OSError(f"the weights could not be written to {path.parent}: {error}") from error


def _tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]


def _grouped(names: list[str]) -> str:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[name.split(".")[0]].append(name)
    parts = []
    for prefix, members in groups.items():
        rest = f" and {len(members) - _SHOWN} more in {prefix}" if len(members) > _SHOWN else ""
        parts.append(", ".join(members[:_SHOWN]) + rest)
    rest = f", and {len(parts) - 2 * _SHOWN} more groups" if len(parts) > 2 * _SHOWN else ""
    return ", ".join(parts[: 2 * _SHOWN]) + rest


def _fingerprinted(folder: Path) -> Iterator[tuple[str, Path]]:
    checkpoint_file(folder, CONFIG_NAME)
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and (path / CONFIG_NAME).is_file())
    for part in [folder, *inner]:
        for path in sorted(part.iterdir()):
            if path.suffix in (".json", ".txt", ".safetensors") and path.is_file() and not path.name.startswith("."):
                yield path.relative_to(folder).as_posix(), path


@functools.lru_cache(maxsize=256)
def _file_digest(path: str, size: int, mtime_ns: int) -> str:
    del size, mtime_ns  # part of the cache key: a changed file is read again
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
