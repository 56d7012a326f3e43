"""Shared controls: seeds, progress, recipes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from app.web.controls import note_html, parse_seeds, progress_html, recipe_of_upload
from app.web.speech_run import View
from genmm.core.errors import DataError, GenmmError, UsageError
from genmm.core.events import Progress
from genmm.media.audio import write_audio

RECIPE = {"genmm": "0.1.0", "task": "speech", "model": {"name": "sled"}, "settings": {"text": "hi"}, "seeds": [1]}


@pytest.mark.parametrize(
    ("text", "takes", "seeds"),
    [("", 2, ()), (None, 1, ()), (" 7 ", 1, (7,)), ("7", 3, (7,)), ("1, 2,3", 3, (1, 2, 3)), ("0", 1, (0,))],
)
def test_seeds_are_read(text, takes, seeds):
    assert parse_seeds(text, takes) == seeds


@pytest.mark.parametrize("text", ["a", "-1", "1.5", "1,", "9223372036854775808", "1,2", "٣", "1" * 50])
def test_bad_seeds_are_refused(text):
    with pytest.raises(UsageError, match="seed"):
        parse_seeds(text, 3)


def test_progress_text_is_escaped():
    shown = progress_html(Progress(1, 4, "frames", "<script>"))
    assert "<script>" not in shown
    assert "25 %" in shown
    assert "width:25%" in shown
    assert "gm-bar-open" in progress_html(Progress(1))
    assert "<b>" not in note_html("<b>")


def test_progress_says_how_much_is_left():
    assert "50 %, about 12 s left" in progress_html(Progress(1, 2, "frames", "Speaking"), 12.4)
    assert "left" not in progress_html(Progress(1, 2, "frames", "Speaking"), 0.4)
    assert "left" not in progress_html(Progress(1, 2, "frames", "Speaking"))


def test_the_time_left_follows_from_the_speed_so_far():
    view = View(tab=None)
    assert view._left_s(Progress(0, 100), 10.0) is None
    assert view._left_s(Progress(10, 100), 11.0) is None  # the first count only starts the clock
    assert view._left_s(Progress(20, 100), 13.0) == pytest.approx(2.0 / 10 * 80)
    assert view._left_s(Progress(30), 14.0) is None


def test_a_recipe_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(RECIPE))
    assert recipe_of_upload(str(path), "speech")["seeds"] == [1]


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"task": "speech"}', json.dumps({**RECIPE, "task": "music"}), "\0\1\2"]
)
def test_other_files_are_refused_as_recipes(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError):
        recipe_of_upload(str(path), "speech")


def test_a_result_brings_its_own_recipe_and_no_file_beside_it_is_looked_at(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(RECIPE))
    silence = np.zeros(1600, np.float32)
    write_audio(tmp_path / "a.wav", silence, 16_000)
    with pytest.raises(DataError, match="holds no recipe"):
        recipe_of_upload(str(tmp_path / "a.wav"), "speech")
    write_audio(tmp_path / "b.wav", silence, 16_000, tags={"recipe": RECIPE})
    assert recipe_of_upload(str(tmp_path / "b.wav"), "speech") == RECIPE
    with pytest.raises(DataError, match="this tab makes 'music'"):
        recipe_of_upload(str(tmp_path / "b.wav"), "music")


def test_what_is_no_result_is_refused_as_recipe(tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    write_audio(tmp_path / "odd.wav", np.zeros(1600, np.float32), 16_000, tags={"recipe": {"task": 1}})
    for path in (None, str(tmp_path / "missing.wav"), str(tmp_path / "text.wav"), str(tmp_path / "odd.wav")):
        with pytest.raises(GenmmError):
            recipe_of_upload(path, "speech")
