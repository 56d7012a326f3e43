"""Files that torch.save wrote, read as data: nothing in them is ever called.

The published TokenSet weights are pickles. A pickle is a small program, and torch.load runs it. Here the same bytes are
taken apart by the disassembler of the standard library and only interpreted as far as dictionaries, lists, numbers,
texts and the description of tensors go. Every other class or function that a file names becomes an inert mark, so a
hostile file can do nothing but be refused.
"""

from __future__ import annotations

import math
import os
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genmm.core.errors import CheckpointError

__all__ = ["Inert", "StoredTensor", "read_archive"]

PROGRAM_BYTES = 64_000_000
"""Largest data.pkl that is looked at."""
ENTRIES = 100_000
"""Most files in an archive."""
STORAGES = {
    "torch FloatStorage": torch.float32, "torch HalfStorage": torch.float16, "torch BFloat16Storage": torch.bfloat16,
    "torch DoubleStorage": torch.float64, "torch LongStorage": torch.int64, "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16, "torch ByteStorage": torch.uint8, "torch CharStorage": torch.int8,
    "torch BoolStorage": torch.bool,
}  # fmt: skip
REBUILD = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
DICTIONARIES = ("collections OrderedDict", "argparse Namespace")
"""Classes that are read as plain dictionaries."""


@dataclass(frozen=True)
class Inert:
    """Something that the file names and we do not make."""

    name: str
    """Module and name, or what it was called with."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in the archive."""

    path: Path
    """The archive."""
    entry: str
    """Its file inside."""
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    """First element in the file."""

    def load(self) -> Tensor:
        """Read it. Raises: CheckpointError when the file inside is missing or too short."""
        with zipfile.ZipFile(self.path) as archive:
            try:
                data = archive.read(self.entry)
            except (KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
                raise CheckpointError(f"{self.path} is damaged: {self.entry} cannot be read ({error})") from error
        if len(data) % self.dtype.itemsize:
            raise CheckpointError(f"{self.path} is damaged: {self.entry} has {len(data)} bytes")
        flat = torch.frombuffer(bytearray(data), dtype=self.dtype) if data else torch.empty(0, dtype=self.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        if math.prod(self.shape) and not (0 <= self.offset <= last < len(flat) and min((0, *self.stride)) >= 0):
            raise CheckpointError(f"{self.path} is damaged: a tensor reaches outside {self.entry}")
        return flat.as_strided(self.shape, self.stride, self.offset).clone()


@dataclass
class _Machine:
    """The state of the little interpreter."""

    path: Path
    root: str
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        """Take everything above the last mark off the stack."""
        start = self.marks.pop()
        items, self.stack[start:] = self.stack[start:], []
        return items


def read_archive(path: str | os.PathLike[str]) -> Any:
    """The object that torch.save stored, with `StoredTensor` for tensors and `Inert` for what we do not make.

    Raises: CheckpointError when it is no such archive, damaged, or too large.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry.filename for entry in archive.infolist()[: ENTRIES + 1]]
            programs = [name for name in names if name.endswith("data.pkl") and name.count("/") == 1]
            if len(names) > ENTRIES or len(programs) != 1:
                raise CheckpointError(f"{path} is not a file of torch.save: it has {len(programs)} data.pkl inside")
            if archive.getinfo(programs[0]).file_size > PROGRAM_BYTES:
                raise CheckpointError(f"{path} is not usable: its data.pkl is larger than {PROGRAM_BYTES} bytes")
            program = archive.read(programs[0])
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} cannot be read as a file of torch.save ({error}); files of torch before 1.6 are not supported"
        ) from error
    machine = _Machine(path, programs[0].rpartition("/")[0])
    try:
        for operation, argument in _operations(program):
            if operation == "STOP":
                return machine.stack.pop()
            _step(machine, operation, argument)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: its data.pkl makes no sense ({error})") from error
    raise CheckpointError(f"{path} is damaged: its data.pkl does not end")


def _operations(program: bytes) -> Iterator[tuple[str, Any]]:
    for operation, argument, _ in pickletools.genops(program):
        yield operation.name, argument


def _step(machine: _Machine, operation: str, argument: Any) -> None:
    """One instruction; those that make plain values come first."""
    stack = machine.stack
    if operation in ("PROTO", "FRAME"):
        return
    if operation in _LITERALS:
        stack.append(_LITERALS[operation]())
    elif operation in _VALUES:
        stack.append(argument)
    elif operation == "MARK":
        machine.marks.append(len(stack))
    elif operation in ("POP", "POP_MARK"):
        machine.since_mark() if operation == "POP_MARK" else stack.pop()
    elif operation in ("BINPUT", "LONG_BINPUT", "PUT"):
        machine.memo[int(argument)] = stack[-1]
    elif operation == "MEMOIZE":
        machine.memo[len(machine.memo)] = stack[-1]
    elif operation in ("BINGET", "LONG_BINGET", "GET"):
        stack.append(machine.memo[int(argument)])
    elif operation in _COLLECTING:
        _COLLECTING[operation](machine)
    elif operation in ("GLOBAL", "STACK_GLOBAL"):
        stack.append(Inert(argument if operation == "GLOBAL" else " ".join(_pop(stack, 2))))
    elif operation == "BINPERSID":
        stack.append(_storage(machine, stack.pop()))
    elif operation in ("REDUCE", "NEWOBJ"):
        what, arguments = _pop(stack, 2)
        stack.append(_called(what, arguments))
    elif operation == "BUILD":
        state = stack.pop()
        if isinstance(stack[-1], dict) and isinstance(state, Mapping):
            stack[-1].update(state)
    else:
        raise CheckpointError(f"{machine.path} holds the pickle instruction {operation}, which is not read")


def _pop(stack: list[Any], count: int) -> list[Any]:
    items, stack[-count:] = stack[-count:], []
    return items


def _tuple_of(count: int) -> Any:
    def collect(machine: _Machine) -> None:
        machine.stack.append(tuple(_pop(machine.stack, count)))

    return collect


def _tuple(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.stack.append(tuple(items))


def _append(machine: _Machine) -> None:
    item = machine.stack.pop()
    machine.stack[-1].append(item)


def _appends(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.stack[-1].extend(items)


def _set_item(machine: _Machine) -> None:
    key, value = _pop(machine.stack, 2)
    machine.stack[-1][_key(key)] = value


def _set_items(machine: _Machine) -> None:
    items = machine.since_mark()
    for key, value in zip(items[::2], items[1::2], strict=True):
        machine.stack[-1][_key(key)] = value


def _key(key: Any) -> Any:
    return key if isinstance(key, str | int | float | bool | bytes | None | Inert) else repr(key)


_LITERALS = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict, "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple, "EMPTY_SET": set,
}  # fmt: skip
_VALUES = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING",
    "SHORT_BINSTRING", "STRING",
}  # fmt: skip
_COLLECTING = {
    "TUPLE": _tuple, "TUPLE1": _tuple_of(1), "TUPLE2": _tuple_of(2), "TUPLE3": _tuple_of(3), "APPEND": _append,
    "APPENDS": _appends, "SETITEM": _set_item, "SETITEMS": _set_items,
}  # fmt: skip


@dataclass(frozen=True)
class _Storage:
    entry: str
    dtype: torch.dtype


def _storage(machine: _Machine, description: Any) -> Any:
    """What ("storage", class, key, place, numbers) stands for."""
    if not isinstance(description, tuple) or len(description) != 5 or description[0] != "storage":
        return Inert("an unknown reference")
    kind, key = description[1], str(description[2])
    if not isinstance(kind, Inert) or kind.name not in STORAGES or not key.isalnum():
        raise CheckpointError(f"{machine.path} holds a tensor of the unknown kind {kind}")
    return _Storage(f"{machine.root}/data/{key}", STORAGES[kind.name])


def _called(what: Any, arguments: Any) -> Any:
    """A call in the file: tensors and dictionaries are made, everything else stays a mark."""
    if isinstance(what, Inert) and what.name in DICTIONARIES:
        return {}
    if isinstance(what, Inert) and what.name == "torch._utils _rebuild_parameter":
        return arguments[0]
    if isinstance(what, Inert) and what.name in REBUILD and isinstance(arguments[0], _Storage):
        storage, offset, shape, stride = arguments[:4]
        return _Unplaced(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))
    return Inert(what.name if isinstance(what, Inert) else "a call")


@dataclass(frozen=True)
class _Unplaced:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def at(self, path: Path) -> StoredTensor:
        return StoredTensor(path, self.storage.entry, self.storage.dtype, self.shape, self.stride, self.offset)


def stored_tensors(value: Any, path: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """The tensors of a state dictionary that `read_archive` gave, by their names; other entries are left out."""
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path} holds no dictionary of tensors where one was expected")
    return {str(name): one.at(Path(path)) for name, one in value.items() if isinstance(one, _Unplaced)}
