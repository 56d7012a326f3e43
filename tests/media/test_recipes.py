"""Where recipes are looked for: the .json itself, the one beside a file, the tags inside it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from genmm.core.errors import DataError
from genmm.media.audio import write_audio
from genmm.media.recipes import find_recipe

RECIPE = {"genmm": "1", "task": "speech", "model": {}, "settings": {"voice": "a"}, "seeds": [1]}


@pytest.fixture
def sound(tmp_path):
    """A sound that holds a recipe."""
    return write_audio(tmp_path / "a.wav", np.zeros((1, 800), np.float32), 16000, tags={"recipe": RECIPE})


def beside(sound, value) -> None:
    sound.with_suffix(".json").write_text(value if isinstance(value, str) else json.dumps(value))


def test_the_json_beside_a_file_goes_before_its_tags(sound):
    assert find_recipe(sound) == RECIPE
    changed = {**RECIPE, "settings": {"voice": "b"}}
    beside(sound, changed)
    assert find_recipe(sound) == find_recipe(sound.with_suffix(".json")) == changed
    assert find_recipe(sound, beside=False) == RECIPE


@pytest.mark.parametrize("other", [{**RECIPE, "task": "music"}, {"name": "of another program"}, "not json"])
def test_a_json_that_is_not_of_this_result_does_not_hide_its_recipe(sound, other):
    beside(sound, other)
    assert find_recipe(sound) == RECIPE


def test_without_any_recipe_it_is_said_what_is_wrong(tmp_path):
    plain = write_audio(tmp_path / "b.wav", np.zeros((1, 800), np.float32), 16000)
    with pytest.raises(DataError, match="holds no recipe"):
        find_recipe(plain)
    beside(plain, {"name": "of another program"})
    with pytest.raises(DataError, match="is not a recipe"):
        find_recipe(plain)
    with pytest.raises(DataError, match="there is no file"):
        find_recipe(tmp_path / "c.wav")
    long = {**RECIPE, "notes": ["x" * 2000]}
    beside(plain, long)
    assert find_recipe(plain) == long
    with pytest.raises(DataError, match="1000|large|limit"):
        find_recipe(plain, max_bytes=1000)
