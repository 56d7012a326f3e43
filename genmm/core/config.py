"""Stored configurations back into their dataclasses, every value checked against the type of its field."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from genmm.core.errors import ConfigError

__all__ = ["read_fields"]

Kind = TypeVar("Kind")

_SHOWN = 60


def read_fields(kind: type[Kind], values: Any, where: str, *, strict: bool = True) -> Kind:
    """Build a dataclass from plain values as JSON has them; `where` names their place in messages.

    A whole number does for a float, a list for a tuple, a mapping for a dataclass in a field. Numbers must be finite.
    Args: `strict=False` skips fields that the dataclass does not have, for files of others.
    Raises: ConfigError for a field that is unknown (strict), missing or of another type; what `kind` itself raises.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must hold named fields, got {_shown(values)}")
    hints = _hints(kind)
    unknown = [str(name)[:_SHOWN] for name in values if name not in hints]
    if unknown and strict:
        raise ConfigError(f"{where} has unknown fields: {', '.join(unknown)}; known: {', '.join(sorted(hints))}")
    needed = {
        entry.name
        for entry in dataclasses.fields(kind)  # type: ignore[arg-type]
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed - set(values))
    if missing:
        raise ConfigError(f"{where} lacks: {', '.join(missing)}")
    return kind(**{name: _read(hints[name], x, f"{where}.{name}") for name, x in values.items() if name in hints})


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(kind)}


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, Union):
        if value is None and types.NoneType in args:
            return None
        (only,) = (arg for arg in args if arg is not types.NoneType)
        return _read(only, value, where)
    if dataclasses.is_dataclass(hint):
        return read_fields(hint, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        fits, wanted = isinstance(value, str) and value in args, "one of " + ", ".join(map(str, args))
    elif origin is tuple:
        size = None if args[-1] is Ellipsis else len(args)
        if isinstance(value, list | tuple) and size in (None, len(value)):
            return tuple(_read(args[0], item, f"{where}[{number}]") for number, item in enumerate(value))
        fits, wanted = False, "a list" if size is None else f"a list of {size}"
    elif origin is not None:  # a mapping
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            return {name: _read(args[1], item, f"{where}.{name}") for name, item in value.items()}
        fits, wanted = False, "named fields"
    else:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = is_number and math.isfinite(value) if hint is float else type(value) is hint
        wanted = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}[hint]
    if not fits:
        raise ConfigError(f"{where} must be {wanted}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
