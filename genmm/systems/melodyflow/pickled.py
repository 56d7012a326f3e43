"""Reads tensors and plain containers out of a torch pickle without ever running what is in it.

Python's own unpickler calls whatever a file names. This one interprets the instructions itself: it builds dicts, lists,
tuples, numbers, texts and tensors, keeps configuration objects as inert records, and refuses every other name. Nothing
in the file is imported or called.

Source: the instruction set as documented by Python's `pickletools`; the zip layout of `torch.save` since torch 1.6.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genmm.core.errors import CheckpointError

LARGEST_PROGRAM = 64_000_000
"""Bytes of instructions that are read; those of a model of a billion parameters take well below one million."""
MOST_STEPS = 20_000_000
"""Instructions that are carried out."""
STORAGES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
PLAIN_CLASSES = {
    "dict": dict,
    "list": list,
    "set": set,
    "frozenset": frozenset,
    "tuple": tuple,
    "OrderedDict": dict,
    "defaultdict": dict,
}
INERT_NAMES = ("omegaconf.", "typing.", "builtins.int", "builtins.str", "builtins.float", "builtins.bool",
               "builtins.bytes", "builtins.object", "torch.device", "torch.Size", "pathlib.", "enum.")  # fmt: skip
"""Names that occur in saved configurations; what is made of them stays a record of its parts."""


@dataclass
class Record:
    """An object of a class that is known and not built: its name and the values that the file gives it."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Name:
    """A class or function that the file names; it is compared, never looked up."""

    full: str


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str
    count: int


_MARK = object()


def read_pickled(path: Path | str) -> Any:
    """The value stored in a file of `torch.save`: plain containers with tensors on the CPU.

    Raises: CheckpointError when the file is no such archive, is damaged, or names anything that is neither a tensor
    nor a plain container; the error says which name.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            program = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if program is None:
                raise CheckpointError(f"{path} holds no data.pkl; it is no file of torch.save")
            if archive.getinfo(program).file_size > LARGEST_PROGRAM:
                raise CheckpointError(f"{path}: data.pkl is larger than {LARGEST_PROGRAM} bytes, so it is not read")
            root = program.removesuffix("data.pkl")
            if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
                raise CheckpointError(f"{path} was written on a big-endian machine; save it again on another")
            return _Machine(path, lambda key: archive.read(f"{root}data/{key}")).run(archive.read(program))
    except (zipfile.BadZipFile, OSError, KeyError, EOFError) as error:
        raise CheckpointError(
            f"{path} is not a file of torch.save in its zip form ({error}); save it again with a torch since 1.6"
        ) from error


class _Machine:
    """The stack machine of the pickle format, with nothing behind it."""

    def __init__(self, path: Path, read: Callable[[str], bytes]) -> None:
        self.path, self.read = path, read
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.storages: dict[str, Tensor] = {}

    def run(self, program: bytes) -> Any:
        """Carry the instructions out; gives back what is left on the stack at STOP."""
        try:
            for step, (code, argument, _) in enumerate(pickletools.genops(program)):
                if step > MOST_STEPS:
                    raise self._fault("its data.pkl has too many instructions")
                if code.name == "STOP":
                    return self.stack.pop()
                self._step(code.name, argument)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise self._fault(f"its data.pkl is damaged ({type(error).__name__}: {error})") from error
        raise self._fault("its data.pkl does not end")

    def _fault(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is not usable: {text}")

    def _step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memory[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memory[len(self.memory)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memory[argument])
        elif name not in ("PROTO", "FRAME"):
            action = getattr(self, f"_do_{name.lower()}", None)
            if action is None:
                raise self._fault(f"it uses the instruction {name}, which tensors and plain containers do not need")
            action(argument)

    def _to_mark(self) -> list[Any]:
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            position -= 1
        items = self.stack[position + 1 :]
        del self.stack[position:]
        return items

    def _do_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _do_pop(self, _: Any) -> None:
        self.stack.pop()

    def _do_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._to_mark()))

    def _do_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def _do_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def _do_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def _do_list(self, _: Any) -> None:
        self.stack.append(list(self._to_mark()))

    def _do_dict(self, _: Any) -> None:
        flat = self._to_mark()
        self.stack.append(dict(zip(flat[::2], flat[1::2], strict=True)))

    def _do_frozenset(self, _: Any) -> None:
        self.stack.append(frozenset(self._to_mark()))

    def _do_append(self, _: Any) -> None:
        value = self.stack.pop()
        self._list().append(value)

    def _do_appends(self, _: Any) -> None:
        items = self._to_mark()
        self._list().extend(items)

    def _do_additems(self, _: Any) -> None:
        items = self._to_mark()
        self.stack[-1].update(items)

    def _do_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._table()[key] = value

    def _do_setitems(self, _: Any) -> None:
        flat = self._to_mark()
        self._table().update(zip(flat[::2], flat[1::2], strict=True))

    def _list(self) -> list[Any]:
        top = self.stack[-1]
        if not isinstance(top, list):
            raise self._fault("it adds entries to something that is no list")
        return top

    def _table(self) -> dict[Any, Any]:
        top = self.stack[-1]
        if isinstance(top, Record):
            return top.items
        if not isinstance(top, dict):
            raise self._fault("it sets entries of something that is no dict")
        return top

    # ------------------------------------------------------------ names and objects

    def _do_global(self, argument: str) -> None:
        self.stack.append(self._known(argument.replace(" ", ".")))

    def _do_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self._known(f"{module}.{name}"))

    def _known(self, full: str) -> _Name:
        module, _, name = full.rpartition(".")
        known = (
            (module in ("builtins", "collections", "__builtin__") and name in PLAIN_CLASSES)
            or (module in ("torch", "torch.storage") and name in STORAGES)
            or full in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
            or (full.startswith(INERT_NAMES) and full.count(".") < 8)
        )
        if not known:
            raise self._fault(
                f"it wants to use {full[:100]!r}, which is neither a tensor nor a plain container. Loading it as a "
                "pickle could run any code; nothing of it was run"
            )
        return _Name(full)

    def _do_reduce(self, _: Any) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        self.stack.append(self._made(called, arguments))

    def _do_newobj(self, _: Any) -> None:
        self._do_reduce(None)

    def _made(self, called: Any, arguments: Any) -> Any:
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise self._fault("it calls something that has no name")
        name = called.full.rpartition(".")[2]
        if called.full == "torch._utils._rebuild_tensor_v2":
            return self._tensor(*arguments[:4])
        if called.full == "torch._utils._rebuild_parameter":
            return arguments[0]
        if called.full.startswith(("builtins.", "collections.", "__builtin__.")) and name in PLAIN_CLASSES:
            return {} if name == "defaultdict" else PLAIN_CLASSES[name](*arguments[:1])
        return Record(called.full, arguments)

    def _do_build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = state
        elif not isinstance(self.stack[-1], dict):  # an ordered dict may carry attributes, which tell us nothing
            raise self._fault("it sets attributes of something that has none")

    def _do_binpersid(self, _: Any) -> None:
        described = self.stack.pop()
        kind = described[1].full.rpartition(".")[2]
        if described[0] != "storage" or kind not in STORAGES:
            raise self._fault(f"it refers to {described[0]!r} of kind {kind!r}")
        self.stack.append(_Storage(STORAGES[kind], str(described[2]), int(described[4])))

    def _tensor(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        """A tensor with memory of its own; places outside the storage are refused by torch."""
        if storage.key not in self.storages:
            data = bytearray(self.read(storage.key))
            if len(data) != storage.count * storage.dtype.itemsize:
                raise self._fault(f"storage {storage.key!r} has {len(data)} bytes instead of {storage.count} items")
            self.storages[storage.key] = (
                torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
            )
        flat = self.storages[storage.key]
        last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
        if min([offset, *size, *stride]) < 0 or (0 not in size and last >= len(flat)):
            raise self._fault(f"a tensor of shape {tuple(size)} lies outside its storage")
        return flat.as_strided(size, stride, offset).clone()


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set,
}  # fmt: skip
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING",
    "SHORT_BINSTRING", "STRING",
}  # fmt: skip


def plain_config(value: Any) -> Any:
    """A saved configuration as dicts, lists and values: a YAML text, plain containers, or OmegaConf's records.

    References like ${a.b} stay texts; see `resolved`. Raises: CheckpointError for a text that is no YAML.
    """
    if isinstance(value, Record):
        state = value.state if isinstance(value.state, dict) else {}
        if "_content" in state:
            return plain_config(state["_content"])
        return plain_config(state["_val"]) if "_val" in state else plain_config(list(value.arguments))
    if isinstance(value, dict):
        return {plain_config(key): plain_config(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_config(item) for item in value]
    return value


def config_tree(value: Any) -> dict[str, Any]:
    """The configuration under "xp.cfg" of an official file as nested dicts with references resolved.

    Raises: CheckpointError when it is neither YAML nor a saved OmegaConf object.
    """
    import yaml

    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise CheckpointError(f"the configuration in the checkpoint is no YAML: {error}") from error
    tree = plain_config(value)
    if not isinstance(tree, dict):
        raise CheckpointError(f"the configuration in the checkpoint is a {type(tree).__name__}, expected a mapping")
    return resolved(tree, tree)


def resolved(value: Any, root: dict[str, Any], depth: int = 0) -> Any:
    """The same with texts like ${a.b} replaced by what they name; unknown ones stay."""
    if isinstance(value, dict):
        return {key: resolved(item, root, depth) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item, root, depth) for item in value]
    if isinstance(value, str) and value.startswith("${") and value.endswith("}") and depth < 8:
        target: Any = root
        for part in value[2:-1].lstrip(".").split("."):
            target = target.get(part) if isinstance(target, dict) else None
        return value if target is None else resolved(target, root, depth + 1)
    return value
