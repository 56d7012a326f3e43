"""Parts of the Music tab that need no server: forms, files, the line under the text, the region, recipes."""

from __future__ import annotations

from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
from tiny_music import chirp

from app.web.music import MusicTab, _as_source
from app.web.music_view import entries, facts_html, fitting, recipe_values, summary, understood_html
from app.web.music_wave import HEIGHT, WIDTH, moved_region, region_picture, seconds_at
from app.web.music_work import (
    KINDS,
    Composed,
    MusicForm,
    check_form,
    descriptions,
    model_settings,
    music_events,
    parse_tempo,
    understood,
)
from app.web.pool import ModelPool
from genmm.core.errors import GenmmError
from genmm.core.events import CancelToken, Finished
from genmm.core.limits import Limits
from genmm.core.results import read_recipe
from genmm.media.audio import read_audio, write_audio
from genmm.media.recipes import find_recipe


@pytest.fixture(scope="module")
def pool(model_folder) -> ModelPool:
    return ModelPool(first=str(model_folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return str(write_audio(tmp_path_factory.mktemp("sound") / "in.wav", chirp(2.0).samples, 8000))


def run(form: MusicForm, pool: ModelPool, folder) -> Composed:
    check_form(form)
    events = list(music_events(form, pool, lambda: folder)(CancelToken()))
    assert isinstance(events[-1], Finished)
    return events[-1].result


def test_new_music_becomes_files_pictures_and_facts(pool, tmp_path):
    form = MusicForm(text="calm <b>piano</b>, 90 bpm", seconds=1.0, takes=2, seeds=(3,))
    made = run(form, pool, tmp_path)
    assert len(made.takes) == 2 and made.takes[0].seed == 3 and made.source is None
    for take in made.takes:
        assert read_audio(take.path).samples.shape == read_audio(take.flac).samples.shape == (2, 8000)
        assert take.picture.is_file() and take.picture_dark.is_file() and take.thumbnail.is_file()
    assert "<b>" not in facts_html(made, made.takes[0]) and "2 takes" in summary(made, 1.0)
    values = recipe_values(read_recipe(made.takes[1].recipe), pool, Limits())
    assert values[:2] == ["generate", "calm <b>piano</b>, 90 bpm"] and values[14] == str(made.takes[1].seed)
    assert len(values) == 16


def test_a_result_that_is_edited_brings_along_what_it_is(pool, tmp_path):
    made = run(MusicForm(text="calm piano, 90 bpm, A minor", seconds=1.0, seeds=(3,)), pool, tmp_path)
    kind, path, said = _as_source(made, 0)
    assert kind == "edit" and "calm piano melody" in said and "A minor" in said and "90 bpm" in said
    form = MusicForm(kind=kind, text="guitar", source=path, source_text=said, strength=0.5, seeds=(1,))
    edited = run(form, pool, tmp_path)
    named = run(replace(form, text="source"), pool, tmp_path)  # a description may be called like the kept recording
    assert named.source != named.takes[0].path and named.source.is_file() and named.takes[0].path.is_file()
    assert "kept from the source" in edited.takes[0].sentence
    assert recipe_values(read_recipe(edited.takes[0].recipe), pool, Limits())[7] == said


def test_lines_of_an_edit_are_results_of_their_own_and_of_other_work_one_text():
    assert descriptions("edit", " organ \n\nchoir, <b>\n") == ("organ", "choir, <b>")
    assert descriptions("edit", "") == ("",)
    assert descriptions("generate", "calm\npiano") == ("calm\npiano",)
    assert understood_html("a <b>", "c").count("<br>") == 1 and "<b>" not in understood_html("a <b>", "c")


def test_one_description_a_line_becomes_a_list_of_edits(pool, recording, tmp_path):
    form = MusicForm(kind="edit", text="organ", others=("choir, <b>",), source=recording, strength=0.5, seeds=(1,))
    made = run(form, pool, tmp_path)
    assert made.labels == ["1: organ", "2: choir, <b>"] and made.source is not None
    assert [take.path.name for take in made.takes] == ["edit_1_organ.wav", "edit_2_choir_b.wav"]
    assert [entry.title for entry in entries(made)] == ["organ", "choir, <b>"] and "2 edits" in summary(made, 1.0)
    assert "choir, &lt;b&gt;" in facts_html(made, made.takes[1])
    for take in made.takes:  # the file that is downloaded brings along what makes it alone
        values = recipe_values(find_recipe(take.flac, beside=False), pool, Limits())
        assert (values[0], values[1], values[13], values[14]) == ("edit", take.text, 1, "1")
    whole = recipe_values(dict(made.recipe), pool, Limits())
    assert descriptions("edit", whole[1]) == form.texts and whole[13:15] == [1, "1"]


@pytest.mark.parametrize("kind", ["edit", "inpaint", "extend"])
def test_recordings_are_worked_on_and_kept_for_comparing(pool, recording, tmp_path, kind):
    form = MusicForm(
        kind=kind, text="organ", source=recording, seconds=1.0, region=(0.5, 1.0), strength=0.5, seeds=(1,)
    )
    made = run(form, pool, tmp_path)
    assert read_audio(made.source).samples.shape == (2, 16000)
    assert made.takes[0].seconds == (3.0 if kind == "extend" else 2.0)


def test_the_line_under_the_text_says_what_is_understood():
    assert "calm piano melody" in understood("calm piano", None, "") and "A minor" in understood("", None, "A minor")
    assert "not understood: zither" in understood("zither", 100.0, "")
    with pytest.raises(GenmmError):
        understood("x", 999.0, "")


def test_a_tempo_is_typed_as_a_number_or_left_empty():
    assert [parse_tempo(text) for text in ("", None, " 96 ", "96.5 bpm", 120)] == [None, None, 96.0, 96.5, 120.0]
    with pytest.raises(GenmmError, match="beats a minute"):
        parse_tempo("fast")


@pytest.mark.parametrize(
    "bad",
    [{"kind": "sing"}, {"kind": "edit"}, {"kind": "edit", "source": "x", "text": "a", "others": ("b",), "takes": 2},
     {"kind": "edit", "source": "x", "text": "a", "others": ("b",) * 8}, {"others": ("b",), "kind": "loop"},
     {"kind": "edit", "source": "x", "text": "a", "others": ("b" * 5000,)},
     {"key": "piano"}, {"bpm": 5.0}, {"takes": 9}, {"seconds": 0.0}, {"steps": 5},
     {"strength": 2.0}, {"kind": "inpaint", "source": "x", "region": (1.0, 1.0)}, {"text": "x" * 5000}],
)  # fmt: skip
def test_mistakes_are_found_before_the_job_waits(bad):
    with pytest.raises(GenmmError):
        check_form(MusicForm(**bad))


def test_clicks_on_the_waveform_choose_a_region():
    assert seconds_at(0, 8.0) == 0.0 and seconds_at(WIDTH / 2, 8.0) == 4.0 and seconds_at(99_999, 8.0) == 8.0
    start = moved_region((3.2, 4.8), 2.0, True, 8.0)
    assert start == (2.0, 4.8)
    assert moved_region(start, 3.0, False, 8.0) == (2.0, 3.0) and moved_region(start, 1.0, False, 8.0) == (1.0, 2.0)
    begin, end = moved_region((1.0, 2.0), 6.0, True, 8.0)
    assert begin == 6.0 and end > begin
    picture = region_picture(chirp(2.0).samples, 2.0, (0.5, 1.0))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    plain = region_picture(chirp(2.0).samples, 2.0, None)
    columns = np.flatnonzero((picture != plain).any((0, 2)))
    assert columns.min() == WIDTH // 4 and columns.max() == WIDTH // 2 - 1


def test_what_is_shown_follows_the_kind_of_work():
    shown = {kind: [update["visible"] for update in fitting(kind)[:-1]] for kind in KINDS}
    assert shown["generate"] == [False, False, False, True, False] and shown["loop"] == [False] * 4 + [True]
    assert shown["inpaint"][:3] == [True, True, False] and shown["edit"][:3] == [True, False, True]
    labels = {kind: fitting(kind)[-1]["label"] for kind in KINDS}
    assert labels.pop("edit") == "Descriptions, one a line" and set(labels.values()) == {"Description"}


def test_every_control_is_explained(pool):
    from types import SimpleNamespace

    tab = MusicTab()
    with gr.Blocks():
        tab.server = SimpleNamespace(pool=pool, settings=SimpleNamespace(limits=Limits()))
        tab._draw_form()
    kinds = (gr.Slider, gr.Radio, gr.Textbox, gr.Number, gr.Dropdown)
    controls = [value for value in [*vars(tab).values(), *vars(tab.region).values()] if isinstance(value, kinds)]
    assert len(controls) > 12 and [control.label for control in controls if not control.info] == []
    assert tab.steps.value == model_settings(pool, None).steps
