"""Reading safetensors files that come from anywhere: the header is checked before anything is allocated."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genmm.core.errors import CheckpointError, DataError
from genmm.core.files import parse_json

__all__ = ["TensorHeader", "WeightLimits", "read_header", "read_tensors"]

_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WeightLimits:
    """Bounds on one weight file."""

    header_bytes: int = 10_000_000
    """Size of the JSON header in bytes."""
    entries: int = 20_000
    """Number of tensors."""
    file_bytes: int = 64 * 2**30
    """Size of the file in bytes."""
    rank: int = 8
    """Dimensions of one tensor."""


@dataclass(frozen=True)
class TensorHeader:
    """What the header of a weight file promises; nothing of the tensors has been read."""

    shapes: Mapping[str, tuple[int, ...]]
    """Shape per tensor name."""
    dtypes: Mapping[str, str]
    """Stored format per tensor name, in safetensors' words ("F16")."""
    metadata: Mapping[str, str]
    """The free text entries of the file."""

    @property
    def parameters(self) -> int:
        """Numbers in all tensors together."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def read_header(path: str | os.PathLike[str], limits: WeightLimits | None = None) -> TensorHeader:
    """Read and check the header of a safetensors file.

    Raises: CheckpointError when the file is missing, no safetensors file (a renamed pickle, for instance), cut short,
    past a limit, or when a tensor lies outside the file or over another one.
    """
    path, limits = Path(path), limits or WeightLimits()
    try:
        with path.open("rb") as stream:
            file_bytes = os.fstat(stream.fileno()).st_size
            header_bytes = _header_bytes(path, stream.read(8), file_bytes, limits)
            text = stream.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        table = parse_json(text, source=f"the header of {path}")
    except DataError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    return _checked_table(path, table, file_bytes - 8 - header_bytes, limits)


def read_tensors(
    path: str | os.PathLike[str], *, dtype: torch.dtype | None = None, limits: WeightLimits | None = None
) -> dict[str, Tensor]:
    """Read all tensors of a checked safetensors file onto the CPU.

    Floating-point tensors are turned into `dtype` (None keeps the stored format); whole numbers stay as they are.
    Raises: CheckpointError as `read_header` does, and when a tensor holds NaN or infinity, also after the conversion.
    """
    read_header(path, limits)
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(os.fspath(path), framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                tensors[name] = _converted(path, name, file.get_tensor(name), dtype)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return tensors


def _header_bytes(path: Path, start: bytes, file_bytes: int, limits: WeightLimits) -> int:
    if file_bytes > limits.file_bytes:
        raise CheckpointError(f"{path} has {file_bytes} bytes, the limit for a weight file is {limits.file_bytes}")
    if len(start) < 8:
        raise CheckpointError(f"{path} is not a safetensors file: it has only {file_bytes} bytes")
    (size,) = struct.unpack("<Q", start)
    if size > limits.header_bytes:
        if start.startswith((b"PK\x03\x04", b"\x80")):
            raise CheckpointError(f"{path} is a pickle, which can run code when loaded; genmm reads safetensors only")
        raise CheckpointError(
            f"{path} is not usable: its header claims {size} bytes, the limit is {limits.header_bytes}"
        )
    if size + 8 > file_bytes:
        raise CheckpointError(f"{path} is cut short: the header needs {size + 8} bytes, the file has {file_bytes}")
    return size


def _checked_table(path: Path, table: Any, data_bytes: int, limits: WeightLimits) -> TensorHeader:
    if not isinstance(table, dict):
        raise CheckpointError(f"{path} is not a safetensors file: its header is not an object")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path} has a damaged header: the metadata are not texts")
    if len(table) > limits.entries:
        raise CheckpointError(f"{path} lists {len(table)} tensors, the limit is {limits.entries}")
    spans = sorted(_checked_entry(path, name, entry, limits) for name, entry in table.items())
    end = 0
    for begin, stop, name in spans:
        if begin != end:
            raise CheckpointError(f"{path} has a damaged header: tensor {name[:100]!r} leaves a gap or an overlap")
        end = stop
    if end != data_bytes:
        state = "cut short" if end > data_bytes else "longer than its header says"
        raise CheckpointError(f"{path} is {state}: the tensors need {end} bytes, the file holds {data_bytes}")
    shapes = {name: tuple(entry["shape"]) for name, entry in table.items()}
    return TensorHeader(shapes, {name: entry["dtype"] for name, entry in table.items()}, metadata)


def _checked_entry(path: Path, name: str, entry: Any, limits: WeightLimits) -> tuple[int, int, str]:
    fault = CheckpointError(f"{path} has a damaged header: the entry of tensor {name[:100]!r} makes no sense")
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise fault
    shape, span = entry.get("shape"), entry.get("data_offsets")
    if not _are_counts(shape) or len(shape) > limits.rank or not _are_counts(span) or len(span) != 2:
        raise fault
    if entry["dtype"] not in _ITEM_BYTES:
        raise CheckpointError(f"{path}: tensor {name[:100]!r} has the unknown format {entry['dtype'][:20]!r}")
    if math.prod(shape) * _ITEM_BYTES[entry["dtype"]] != span[1] - span[0] or max([0, *shape]) > limits.file_bytes:
        raise fault
    return span[0], span[1], name


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _converted(path: str | os.PathLike[str], name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    if dtype is not None:
        tensor = tensor.to(dtype)
    checkable = tensor.float() if tensor.element_size() == 1 else tensor  # torch has no isfinite for 8-bit floats
    if not bool(torch.isfinite(checkable).all()):
        raise CheckpointError(f"{path}: tensor {name!r} holds NaN or infinity as {tensor.dtype}; the file is damaged")
    return tensor
