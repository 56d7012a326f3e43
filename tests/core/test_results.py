import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import genmm
from genmm.core.errors import DataError, UsageError
from genmm.core.files import atomic_path
from genmm.core.results import Result, plain, read_recipe, recipe_path


@dataclass(frozen=True, kw_only=True, eq=False)
class NoteResult(Result):
    task = "note"
    text: str

    def save(self, path):
        with atomic_path(path) as temporary:
            temporary.write_text(self.text)
        return Path(path), self.save_recipe(path)


def a_result(**more):
    model = {"name": "tiny", "system": "sled", "fingerprint": "ab12"}
    return NoteResult(settings={"guidance": 2.0, "voice": None}, seeds=(7, 2**62), model=model, text="la", **more)


def test_a_recipe_survives_the_file(tmp_path):
    result = a_result(timings={"total_s": 0.5}, notes=("cut",))
    media, recipe = result.save(tmp_path / "one.txt")
    assert recipe == tmp_path / "one.json"
    expected = {
        "genmm": genmm.__version__,
        "task": "note",
        "model": {"name": "tiny", "system": "sled", "fingerprint": "ab12"},
        "settings": {"guidance": 2.0, "voice": None},
        "seeds": [7, 2**62],
        "timings": {"total_s": 0.5},
        "notes": ["cut"],
        "file": "one.txt",
    }
    assert read_recipe(recipe) == read_recipe(media) == expected


def test_a_recipe_takes_nobodys_place(tmp_path):
    (tmp_path / "data.json").write_text('{"mine": 1}')
    media, recipe = a_result().save(tmp_path / "data.txt")
    assert recipe == tmp_path / "data.txt.json" and (tmp_path / "data.json").read_text() == '{"mine": 1}'
    assert read_recipe(media)["file"] == "data.txt"

    first, one = a_result(notes=("first",)).save(tmp_path / "clip.txt")
    second, two = a_result(notes=("second",)).save(tmp_path / "clip.md")
    assert (one.name, two.name) == ("clip.json", "clip.md.json")
    assert read_recipe(first)["notes"] == ["first"] and read_recipe(second)["notes"] == ["second"]
    assert a_result(notes=("again",)).save(first)[1] == one and read_recipe(first)["notes"] == ["again"]
    second.unlink()
    two.unlink()
    first.unlink()  # its recipe is nobody's now
    assert a_result().save(second)[1] == one


def test_a_missing_recipe_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"no recipe at .*one\.json"):
        read_recipe(tmp_path / "one.wav")


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "{}",
        "not json",
        '{"genmm": "1", "task": "x", "model": {}, "settings": {}, "seeds": [1.5]}',
        "\xff" * 3,
        "[" * 99_999,
    ],
)
def test_other_json_is_no_recipe(tmp_path, text):
    (tmp_path / "one.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError):
        read_recipe(tmp_path / "one.json")


def test_a_huge_recipe_is_refused(tmp_path):
    (tmp_path / "one.json").write_text('"' + "x" * 6_000_000 + '"')
    with pytest.raises(DataError, match="larger than"):
        read_recipe(tmp_path / "one.json")


def test_recipe_of_a_recipe_is_refused():
    with pytest.raises(UsageError, match="media suffix"):
        recipe_path("a.json")


def test_plain_turns_settings_into_json():
    @dataclass
    class Inner:
        path: Path

    value = {"a": np.float32(0.5), "b": torch.tensor(3), "c": (1, Inner(Path("x"))), 4: {"z", "y"}, "d": np.bool_(True)}
    assert plain(value) == {"a": 0.5, "b": 3, "c": [1, {"path": "x"}], "4": ["y", "z"], "d": True}
    json.dumps(plain(value))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), torch.zeros(2), object(), b"x"])
def test_plain_refuses_what_json_cannot_hold(value):
    with pytest.raises(UsageError, match="a recipe cannot hold"):
        plain({"setting": value})


def test_the_base_says_that_it_holds_no_media(tmp_path):
    bare = Result(settings={}, seeds=(), model={})
    with pytest.raises(NotImplementedError, match="holds no media"):
        bare.save(tmp_path / "x.wav")
