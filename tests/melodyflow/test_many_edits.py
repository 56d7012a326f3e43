"""Edits of one recording towards several descriptions: one inversion, a file and a recipe for each."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_music import chirp

from app.cli import main
from genmm.core.errors import LimitError, UsageError
from genmm.core.results import read_recipe
from genmm.media.audio import read_audio
from genmm.media.recipes import find_recipe
from genmm.systems.melodyflow.result import edit_stems

TEXTS = ["organ", "dark choir", ""]
CLOSE = 2e-3
"""Most that samples of the same edit may differ: rows of a batch are added up in another order, and files round."""


@pytest.fixture
def rows_seen(pipeline):
    """Rows of every call of the network, counted at the network itself."""
    seen: list[int] = []
    hook = pipeline.network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    yield seen
    hook.remove()


def run(*line: str) -> int:
    return main([*line, "--model", "./tiny", "--device", "cpu", "--dtype", "float32"])


def close(first, second) -> bool:
    first, second = read_audio(first).samples, read_audio(second).samples
    return first.shape == second.shape and float(np.abs(first - second).max()) < CLOSE


@pytest.mark.parametrize("method", ["regularised", "plain"])
def test_the_inversion_is_made_once_whatever_the_number_of_descriptions(pipeline, rows_seen, method):
    def calls(texts):
        rows_seen.clear()
        result = pipeline.edit(chirp(), texts, strength=0.8, method=method, seed=1, settings={"guidance": 0.0})
        assert result.network_calls == len(rows_seen)
        return list(rows_seen)

    one, three = calls(TEXTS[:1]), calls(TEXTS)
    back = 3  # steps of the way back, all descriptions in one call
    assert len(three) == len(one) and three[:-back] == one[:-back]
    assert one[-back:] == [1] * back and three[-back:] == [3] * back


def test_the_recipe_of_an_edit_from_an_inversion_says_how_that_was_made(pipeline):
    inversion = pipeline.invert(
        chirp(), strength=0.6, method="plain", source_text="calm piano, 90 bpm", seed=4, settings={"edit_steps": 5}
    )
    made = pipeline.edit(inversion, ["organ", "choir"]).only(1)
    said = {name: made.settings[name] for name in ("strength", "method", "source_text")}
    steps = {"edit_steps": made.settings["edit_steps"]}
    again = pipeline.edit(chirp(), made.settings["texts"], **said, seed=made.seeds[0], settings=steps)
    assert again.network_calls == 5 + 5
    assert np.abs(again.samples[0] - made.samples[0]).max() < 1e-4 and again.captions == made.captions


def test_too_many_descriptions_and_those_of_other_work_are_refused(pipeline):
    with pytest.raises(LimitError, match="at most 8 descriptions, got 9"):
        pipeline.edit(chirp(), ["organ"] * 9)
    with pytest.raises(UsageError, match="not both; got 2 and 3"):
        pipeline.edit(chirp(), ["organ", "choir"], takes=3)
    for work in (lambda two: pipeline.inpaint(chirp(), [(0.5, 1.0)], two), lambda two: pipeline.loop(two, bpm=100.0)):
        with pytest.raises(UsageError, match="only an edit takes several"):
            work(["organ", "choir"])
    with pytest.raises(UsageError, match="made with edit_steps=3"):
        pipeline.edit(pipeline.invert(chirp(), method="plain"), "organ", settings={"edit_steps": 4})


def test_files_are_named_after_their_descriptions_and_never_alike():
    names = edit_stems("two", ["a/b: Ça va?", "", "オルガン", "organ", "organ", "x" * 500])
    assert names[:2] == ("two_1_a_b_Ca_va", "two_2_free") and names[3:5] == ("two_4_organ", "two_5_organ")
    assert len({*names}) == 6 and max(map(len, names)) <= 48


def test_the_command_writes_a_file_for_each_and_recipes_that_make_each_alone(here, capsys):
    line = ["edit", "in.flac", TEXTS[0], "--strength", "0.6", "--seed", "7", "--source-text", "calm piano, 90 bpm"]
    assert run(*line, "--then", TEXTS[1], "--then", TEXTS[2], "-o", "new.flac") == 0
    said = capsys.readouterr()
    names = ["new_1_organ", "new_2_dark_choir", "new_3_free"]
    assert said.out.split() == [f"{name}.flac" for name in names]
    assert "edit 2 (dark choir): understood: " in said.err
    for name, text in zip(names, TEXTS, strict=True):
        recipe = read_recipe(here / f"{name}.json")
        assert recipe["settings"]["texts"] == [text] and recipe["seeds"] == [7]
        assert {**find_recipe(here / f"{name}.flac", beside=False), "file": f"{name}.flac"} == recipe
        assert run("edit", "in.flac", "--recipe", f"{name}.json", "-o", "again.flac") == 0
        assert close(here / "again.flac", here / f"{name}.flac")
    assert not close(here / f"{names[0]}.flac", here / f"{names[1]}.flac")


def test_a_recipe_that_left_the_recording_undescribed_leaves_it_so(here):
    """A recording of ours says what it is by the recipe beside it; an edit that was made without that stays so."""
    assert run("compose", "calm piano, 90 bpm", "--seconds", "1", "--seed", "1", "-o", "tune.flac") == 0
    assert run("edit", "tune.flac", "organ", "--source-text", "", "--seed", "1", "-o", "first.flac") == 0
    assert run("edit", "tune.flac", "--recipe", "first.json", "-o", "again.flac") == 0
    assert read_recipe(here / "again.json")["settings"]["source_text"] == ""
    assert close(here / "again.flac", here / "first.flac")
    assert run("edit", "tune.flac", "organ", "--seed", "1", "-o", "told.flac") == 0
    assert "90 bpm" in read_recipe(here / "told.json")["settings"]["source_text"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--takes", "2"], "not both; got 2 and 2"),
        (["--region", "0.5:1"], "--region"),
        ([word for n in range(8) for word in ("--then", f"organ {n}")], "at most 8 descriptions, got 10"),
    ],
)
def test_the_command_refuses_before_it_loads_a_model(here, capsys, more, message):
    assert main(["edit", "in.flac", "organ", "--then", "choir", *more, "--model", "./none"]) == 2
    assert message in capsys.readouterr().err


def test_a_row_of_a_batch_lists_descriptions_and_becomes_a_file_for_each(here, capsys):
    rows = [
        {"id": "as", "text": ["organ", "dark choir"], "source": "in.flac", "strength": 0.5, "seed": 3},
        {"id": "one", "text": ["organ"], "source": "in.flac", "strength": 0.5, "seed": 3},
    ]
    (here / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("batch", "music", "--manifest", "in.jsonl", "--out", "made") == 0
    assert "2 of 2 done" in capsys.readouterr().out
    records = [json.loads(line) for line in (here / "made" / "results.jsonl").read_text().splitlines()]
    files = {record["id"]: record["files"] for record in records}
    assert files["as"] == ["as_1_organ.flac", "as_2_dark_choir.flac", "as_1_organ.json", "as_2_dark_choir.json"]
    assert files["one"] == ["one.flac", "one.json"]
    facts = next(record["facts"] for record in records if record["id"] == "as")
    assert facts["texts"] == ["organ", "dark choir"] and len(facts["understood"]) == 2
    assert close(here / "made" / "as_1_organ.flac", here / "made" / "one.flac")
    assert run("edit", "in.flac", "--recipe", "made/as_2_dark_choir.json", "-o", "again.flac") == 0
    assert close(here / "again.flac", here / "made" / "as_2_dark_choir.flac")
    (here / "made" / "as_2_dark_choir.flac").unlink()
    assert run("batch", "music", "--manifest", "in.jsonl", "--out", "made") == 0
    assert (here / "made" / "as_2_dark_choir.flac").is_file()


def test_a_batch_knows_a_recording_of_ours_as_the_edit_command_does(here, capsys):
    assert run("compose", "calm piano, 90 bpm", "--seconds", "1", "--seed", "1", "-o", "tune.flac") == 0
    row = {"text": "organ", "source": "tune.flac", "seed": 3}
    rows = [{"id": "told", **row}, {"id": "open", **row, "source_text": ""}]
    (here / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("batch", "music", "--manifest", "in.jsonl", "--out", "made", "--steps", "4") == 0
    assert run("edit", "tune.flac", "organ", "--seed", "3", "--steps", "4", "-o", "alone.flac") == 0
    told, alone = (read_recipe(here / name)["settings"] for name in ("made/told.json", "alone.json"))
    assert told == alone and "90 bpm" in told["source_text"] and told["edit_steps"] == 4
    assert close(here / "made" / "told.flac", here / "alone.flac")
    assert read_recipe(here / "made" / "open.json")["settings"]["source_text"] == ""


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": ["organ", "choir"]}], "a list of several is for edits"),
        ([{"text": [], "source": "in.flac"}], "empty list"),
        ([{"text": ["organ", 7], "source": "in.flac"}], "must be a string"),
        ([{"text": ["organ"] * 9, "source": "in.flac"}], "at most 8"),
        ([{"text": ["x", "y"], "source": "in.flac"}, {"id": "One_1_X", "text": "z"}], "would both write 'One_1_X'"),
    ],
)
def test_bad_lists_are_named_before_any_work(here, capsys, rows, message):
    (here / "in.jsonl").write_text("".join(json.dumps({"id": "one", **row}) + "\n" for row in rows))
    assert run("batch", "music", "--manifest", "in.jsonl", "--out", "made") == 2
    said = capsys.readouterr().err
    assert f"line {len(rows)}" in said and message in said
