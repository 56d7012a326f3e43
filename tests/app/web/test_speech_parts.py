"""Parts of the Speech tab that need no server: forms, recipes, pictures, models."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app.web.pool import ModelPool
from app.web.speech import _played_to_its_end
from app.web.speech_recipe import OWN, recipe_values
from app.web.speech_view import stop_text
from app.web.speech_work import (
    FILE_FORMATS,
    SpeechForm,
    check_form,
    further_settings,
    model_settings,
    speak_events,
    voice_names,
)
from app.web.status_view import count_text, models_html, more_html, size_text
from app.web.thumbnail import SIZE, bar_levels, draw_sound_bars
from genmm.core.errors import GenmmError, UsageError
from genmm.core.events import CancelToken
from genmm.core.limits import Limits
from genmm.core.results import read_recipe
from genmm.hub.recipes import RECIPES
from genmm.media.audio import read_audio
from genmm.media.recipes import find_recipe
from genmm.systems.sled.request import SpeechSettings


@pytest.fixture
def pool(model_folder) -> ModelPool:
    return ModelPool(first=str(model_folder), device="cpu")


def recipe(**settings) -> dict:
    return {
        "genmm": "0.1.0",
        "task": "speech",
        "model": {"name": "tiny"},
        "settings": {"text": "hi", **settings},
        "seeds": [5, 6],
    }


def test_a_good_form_passes():
    check_form(SpeechForm(text="hi", takes=3, seeds=(1, 2, 3), guidance=1.0, temperature=0.0, more={"pause_s": 1.0}))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"text": ""}, "empty"),
        ({"file_format": "exe"}, "wav, flac, mp3, ogg"),
        ({"takes": 0}, "takes"),
        ({"takes": 5}, "takes"),
        ({"takes": 3, "seeds": (1, 2)}, "2 seeds"),
        ({"guidance": -1.0}, "guidance"),
        ({"temperature": float("nan")}, "temperature"),
        ({"more": {"nonsense": 1}}, "nonsense"),
        ({"more": {"draws": 0}}, "draws"),
        ({"transcript": "x" * 3000}, "2000"),
    ],
)
def test_a_bad_form_is_refused(wrong, said):
    with pytest.raises(GenmmError, match=said):
        check_form(SpeechForm(**{"text": "hi", **wrong}))


def test_a_model_is_described_without_loading_it(pool):
    assert pool.default("sled") == "tiny"
    assert voice_names(pool, None) == ["ben", "anna"]
    assert model_settings(pool, "tiny").voice == "ben"
    assert pool.loaded() == []
    with pytest.raises(UsageError, match="tiny"):
        pool.info("../tiny", "sled")


def test_models_are_loaded_once_and_dropped_when_there_are_too_many(model_folder, tmp_path, monkeypatch):
    import shutil

    for name in ("one", "two"):
        shutil.copytree(model_folder, tmp_path / name)
    monkeypatch.setenv("GENMM_MODELS", str(tmp_path))
    pool = ModelPool(device="cpu", capacity=1)
    first = pool.get("one", "sled")
    assert pool.get("one", "sled") is first
    assert pool.get("two", "sled") is not first
    assert [model.name for model in pool.loaded()] == ["two"]
    assert pool.unload() == 1
    assert pool.loaded() == []


def test_a_recipe_fills_the_form(pool):
    text, model, voice, guidance, temperature, takes, seeds, more, *_ = recipe_values(
        recipe(voice="anna", guidance=3.0, temperature=9.0, stop_threshold=0.9), pool, Limits()
    )
    assert (text, model["value"], voice["value"], guidance) == ("hi", "tiny", "anna", 3.0)
    assert temperature == 1.5  # as far as the slider goes
    assert (takes, seeds) == (2, "5, 6")
    assert more == {"stop_threshold": 0.9}


def test_a_recipe_of_another_machine_keeps_what_is_not_here(pool):
    foreign = recipe(voice="recording", guidance="x")
    foreign["model"]["name"] = "elsewhere"
    _, model, voice, guidance, *_ = recipe_values(foreign, pool, Limits())
    assert model == gr.skip()
    assert "value" not in voice
    assert (OWN, "Own recording") in [(value, label) for label, value in voice["choices"]]
    assert guidance == gr.skip()


@pytest.mark.parametrize("bad", [{"text": 5}, {"draws": 0}, {"stop_threshold": "high"}])
def test_a_recipe_with_impossible_settings_is_refused(pool, bad):
    with pytest.raises((UsageError, TypeError)):
        recipe_values(recipe(**bad), pool, Limits())


@pytest.mark.parametrize("file_format", FILE_FORMATS)
def test_sound_comes_in_the_file_format_asked_for_with_its_recipe_inside(pool, tmp_path, file_format):
    form = SpeechForm(text="one", file_format=file_format, seeds=(3,), more={"max_s": 1.0})
    *_, end = speak_events(form, pool, lambda: tmp_path, pictures=False)(CancelToken())
    (take,) = end.result.takes
    assert take.path.suffix == f".{file_format}"
    assert read_audio(take.path).seconds == pytest.approx(take.seconds, abs=0.1)
    assert {**find_recipe(take.path, beside=False), "file": take.path.name} == read_recipe(take.path)
    assert read_recipe(take.path)["seeds"] == [3]


def test_only_settings_that_differ_are_carried_along():
    start = SpeechSettings(pause_s=0.5)
    same = {"pause_s": 0.5, "draws": 1, "guidance": 4.0, "text": "x", "precision": "float32 live"}
    assert further_settings(same, start) == {}
    assert further_settings({**same, "draws": 3}, start) == {"draws": 3}


def test_the_thumbnail_shows_where_the_sound_is(tmp_path):
    sound = np.concatenate([np.zeros(8000), 0.5 * np.ones(8000)]).astype(np.float32)
    levels = bar_levels(sound, 10)
    assert levels[:5].max() == 0.0
    assert levels[5:].min() == pytest.approx(1.0)
    assert bar_levels(np.zeros(100, np.float32), 10).max() == 0.0
    picture = Image.open(draw_sound_bars(tmp_path / "a.png", sound))
    assert (picture.size, picture.mode) == (SIZE, "RGBA")
    solid = np.asarray(picture)[..., 3] > 128
    assert solid[:, SIZE[0] // 2 :].sum() > 5 * solid[:, : SIZE[0] // 2].sum()


def test_numbers_and_reasons_are_words():
    assert [size_text(n) for n in (5, 1500, 12_345_678, 3.2e9, 25.3e11)] == [
        "5 B",
        "1.5 kB",
        "12.3 MB",
        "3.2 GB",
        "2530 GB",
    ]
    assert [count_text(n) for n in (975, 3.9e6, 2.03e8, 1.2e9)] == ["0.975 k", "3.9 M", "203 M", "1.2 B"]
    assert stop_text("stop") == "ended by itself"
    assert stop_text("new_reason") == "new reason"


def test_names_of_models_are_escaped():
    model = dict.fromkeys(("name", "system", "source", "licence"), "<b>x</b>")
    entry = {**model, "parameters": 1, "size_bytes": 1, "memory_bytes": 2000, "problem": False}
    facts = {"models": [entry], "loaded": [], "device_memory_bytes": 1000}
    assert "<b>" not in models_html(facts)
    assert "too large for this device" in models_html(facts)
    assert "too large" not in models_html({**facts, "device_memory_bytes": 0})


def test_every_model_that_can_be_had_is_named_with_its_command():
    shown = more_html()
    for recipe in RECIPES:
        assert recipe.model in shown
        assert f"genmm pull {recipe.system}{f' --{recipe.variant}' if recipe.variant else ''}<" in shown


def test_the_live_player_goes_only_when_the_result_is_there():
    assert "visible" not in _played_to_its_end(None)
    assert _played_to_its_end(SimpleNamespace())["visible"] is False
