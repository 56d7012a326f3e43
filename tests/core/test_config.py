"""Stored configurations: every value is checked against the type of its field, whatever stands in the file."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

import genmm
from genmm.core.config import read_fields
from genmm.core.errors import ConfigError, GenmmError

EMBEDDED = Path(genmm.__file__).parent / "checkpoints"


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 3


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: float = 0.5
    on: bool = True
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()
    pair: tuple[int, int] = (1, 2)
    most: int | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inner: Inner = Inner()
    last: Inner | None = None


def test_plain_values_become_what_the_fields_hold():
    values = {"name": "x", "rate": 2, "sizes": [1, 2], "pair": [3, 4], "labels": {"a": ["b"]}, "last": {"size": 5}}
    assert read_fields(Outer, json.loads(json.dumps(values)), "part") == Outer(
        name="x", rate=2, sizes=(1, 2), pair=(3, 4), labels={"a": ("b",)}, last=Inner(size=5)
    )
    assert read_fields(Outer, {"name": "x", "other": 1}, "part", strict=False) == Outer(name="x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate": "2"}, "part.rate must be a finite number, got '2'"),
        ({"rate": float("nan")}, "finite"),
        ({"rate": True}, "finite"),
        ({"on": 1}, "part.on must be true or false"),
        ({"name": None}, "part.name must be a text"),
        ({"kind": "c"}, "part.kind must be one of a, b, got 'c'"),
        ({"sizes": 3}, "part.sizes must be a list, got 3"),
        ({"sizes": [1, 2.5]}, r"part.sizes\[1\] must be a whole number"),
        ({"pair": [1]}, "part.pair must be a list of 2"),
        ({"most": False}, "part.most must be a whole number"),
        ({"labels": [1]}, "part.labels must be named fields"),
        ({"labels": {"a": "bc"}}, "part.labels.a must be a list"),
        ({"inner": 5}, "part.inner must hold named fields, got 5"),
        ({"inner": {"size": "x"}}, "part.inner.size must be a whole number"),
        ({"extra": 1}, "part has unknown fields: extra; known: inner"),
        ("text", "part must hold named fields"),
        ({}, "part lacks: name"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(change, said):
    values = change if isinstance(change, str) or not change else {"name": "x", **change}
    with pytest.raises(ConfigError, match=said):
        read_fields(Outer, values, "part")


def places(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if path:
        yield path
    for name, inner in values.items() if isinstance(values, dict) else ():
        yield from places(inner, (*path, name))


@pytest.mark.parametrize("name", ["sled", "melodyflow", "tokenset", "vqtoken", "rasl"])
def test_no_value_of_a_config_file_ends_in_anything_but_a_message(tmp_path, name):
    """The sections that are read by field; some other value in each place of the file."""
    folder = tmp_path / name
    shutil.copytree(EMBEDDED / name, folder)
    others = ["x", None, -1, 2.5, [], {}, float("nan")]
    for path in folder.rglob("config.json"):
        good = json.loads(path.read_text())
        read = {part: good[part] for part in ("network", "codec", "tokenizer", "text") if part in good}
        for number, place in enumerate(places(read)):
            path.write_text(json.dumps(_changed(good, place, others[number % len(others)])))
            _load(folder)
        for part in read:
            path.write_text(json.dumps({name: value for name, value in good.items() if name != part}))
            _load(folder)
        path.write_text(json.dumps(good))


def _changed(values: Any, place: tuple[str, ...], wrong: Any) -> Any:
    if not place:
        return wrong
    return {**values, place[0]: _changed(values[place[0]], place[1:], wrong)}


def _load(folder: Path) -> None:
    with contextlib.suppress(GenmmError):  # said in words; any other exception ends the test
        genmm.load(str(folder), device="cpu", dtype="float32")
