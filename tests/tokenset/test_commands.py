"""`genmm draw`, `genmm tokenize-image`, the batch task image: from the command line to files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from app.cli import main
from genmm.batch.image import ImageTask
from genmm.batch.manifest import ManifestRow
from genmm.batch.task import BatchItem, BatchTask
from genmm.core.errors import UsageError
from genmm.core.events import CancelToken
from genmm.core.results import read_recipe


@pytest.fixture
def picture_file(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def draw(*arguments, model):
    return main(["draw", *map(str, arguments), "--model", str(model), "--device", "cpu"])


def test_draw_writes_pictures_and_recipes_make_them_again(model_folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert draw("red heart", "-n", 2, "--label", "style=noto", "--seed", 5, "-o", f"{out}/", model=model_folder) == 0
    printed = capsys.readouterr().out.split()
    assert printed == [str(out / "picture_1.png"), str(out / "picture_2.png")]
    recipe = read_recipe(out / "picture_2.png")
    assert recipe["settings"]["labels"] == {"style": "noto"}
    again = tmp_path / "again.png"
    assert draw("--recipe", out / "picture_2.json", "-o", again, model=model_folder) == 0
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(out / "picture_2.png")))


def test_draw_edits(model_folder, picture_file, tmp_path):
    edited = tmp_path / "edited.png"
    given = ("heart", "--edit", picture_file, "--region", "0,0,16,8", "--seed", 1, "-o", edited)
    assert draw(*given, model=model_folder) == 0
    recipe = read_recipe(edited)
    assert recipe["settings"]["operation"] == "edit"
    kept = [code for code in recipe["settings"]["source"] if code not in recipe["settings"]["free"]]
    assert all(recipe["tokens"][0].count(code) == kept.count(code) for code in kept)
    again = tmp_path / "again.png"
    assert draw("--recipe", edited, "-o", again, model=model_folder) == 0
    assert read_recipe(again)["tokens"] == recipe["tokens"]
    way = tmp_path / "way.png"
    assert draw("--edit", picture_file, "--towards", edited, "-n", 3, "-o", way, model=model_folder) == 0
    assert len(list(tmp_path.glob("way_*.png"))) == 3
    assert draw("--recipe", tmp_path / "way_2.json", "-o", again, model=model_folder) == 0
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(tmp_path / "way_2.png")))


def test_recipes_that_were_changed_by_hand_are_explained(model_folder, tmp_path, capsys):
    assert draw("heart", "--seed", 1, "-o", tmp_path / "one.png", model=model_folder) == 0
    recipe = json.loads((tmp_path / "one.json").read_text())
    for changes, tokens, message in (
        ({"labels": ["x"]}, [[1]], "'labels'"), ({"operation": "edit"}, [[1]], "'source'"),
        ({"operation": "swap"}, [[99]], "from 0 to 31"), ({"operation": "swap"}, [], "no tokens"),
        ({"steps": "many"}, [[1]], "steps"),
    ):  # fmt: skip
        bad = {**recipe, "settings": {**recipe["settings"], **changes}, "tokens": tokens}
        (tmp_path / "bad.json").write_text(json.dumps(bad))
        assert draw("--recipe", tmp_path / "bad.json", "-o", tmp_path / "no.png", model=model_folder) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()


def test_draw_swaps_denoises_and_keeps_bounds(model_folder, picture_file, tmp_path):
    other = tmp_path / "other.png"
    Image.fromarray(255 - np.asarray(Image.open(picture_file))).save(other)
    swapped = tmp_path / "swapped.png"
    given = ("--edit", picture_file, "--swap", other, "--region", "0,0,8,16", "-o", swapped)
    assert draw(*given, model=model_folder) == 0
    recipes = [read_recipe(tmp_path / f"swapped_{number}.png") for number in (1, 2)]
    settings = recipes[0]["settings"]
    assert sorted(recipes[0]["tokens"][0] + recipes[1]["tokens"][0]) == sorted(settings["source"] + settings["target"])
    clean = tmp_path / "clean.png"
    assert draw("--edit", picture_file, "--denoise", 2, "-o", clean, model=model_folder) == 0
    assert read_recipe(clean)["settings"]["rounds"] == 2
    bounded = tmp_path / "bounded.png"
    given = ("--edit", picture_file, "--at-least", "31=3", "--at-most", "31=3", "--seed", 2, "-o", bounded)
    assert draw(*given, model=model_folder) == 0
    assert read_recipe(bounded)["tokens"][0].count(31) == 3
    again = tmp_path / "again.png"
    assert draw("--recipe", bounded, "-o", again, model=model_folder) == 0
    assert read_recipe(again)["tokens"] == read_recipe(bounded)["tokens"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((" ",), "empty"),
        (("heart", "--label", "style=oil"), "no style"),
        (("heart", "--label", "noto"), "NAME=VALUE"),
        (("heart", "-o", "x.gif"), ".png"),
        (("heart", "--strength", "0.5"), "--edit"),
        (("heart", "--set", "steps=many"), "steps"),
        (("heart", "-n", "100"), "64"),
        (("heart", "-n", "0"), "from 1 to 64"),
        (("--edit", "missing.png"), "missing.png"),
        (("--denoise", "2"), "--edit"),
        (("--edit", "x.png", "--swap", "y.png"), "--region"),
        (("--edit", "x.png", "--swap", "y.png", "--denoise", "1"), "one of"),
        (("heart", "--edit", "x.png", "--denoise", "1"), "nothing new"),
    ],
)
def test_draw_explains_mistakes(model_folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert draw(*arguments, model=model_folder) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))


def test_tokenize_image_and_back(model_folder, picture_file, tmp_path, capsys):
    given = ["--model", str(model_folder), "--device", "cpu"]
    lines, heat, back = tmp_path / "sets.jsonl", tmp_path / "map.png", tmp_path / "back.png"
    more = ["-o", str(lines), "--map", str(heat), "--reconstruct", str(back)]
    assert main(["tokenize-image", str(picture_file), *more, *given]) == 0
    row = json.loads(lines.read_text())
    assert len(row["tokens"]) == 8 == sum(row["counts"].values())
    assert {entry["code"] for entry in row["map"]} == set(row["tokens"])
    assert Image.open(heat).size == (64, 64)
    assert main(["tokenize-image", "--decode", str(lines), "-o", str(tmp_path / "made"), *given]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "made" / "00001.png")), np.asarray(Image.open(back)))
    capsys.readouterr()
    assert main(["tokenize-image", str(picture_file), "--tokens", "99", *given]) == 2
    assert "1 to 16 tokens, got 99" in capsys.readouterr().err
    lines.write_text(json.dumps({"counts": row["counts"]}) + "\n")
    assert main(["tokenize-image", "--decode", str(lines), "-o", str(tmp_path / "counted"), *given]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "counted" / "00001.png")), np.asarray(Image.open(back)))
    for text, message in (
        (b'{"tokens": "x"}', "line 1: there is no list"), (b'\n{"tokens": [99]}', "line 2: every token"),
        (b'{"counts": {"1": 40}}', "this one has 40"), (b'{"counts": {"1": -2}}', "line 1"), (b"", "no lines"),
        (b'{"tokens": [1], "counts": {"1": 2}}', "contradict"), (b"\xff\xfe", "no text"), (b"{", "line 1 is not JSON"),
        (b'{"counts": {"one": 2}}', "whole numbers by code"),
    ):  # fmt: skip
        lines.write_bytes(text)
        assert main(["tokenize-image", "--decode", str(lines), "-o", str(tmp_path / "n"), *given]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "n").exists()
    assert main(["tokenize-image", *given]) == 2


def test_batches_of_pictures(model_folder, tmp_path, capsys):
    rows = [
        {"id": "a", "text": "red heart", "seed": 3}, {"id": "b", "labels": {"style": "noto"}, "steps": 3},
        {"id": "c", "text": "flag, twemoji style", "settings": {"engine": "repair"}},
    ]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--manifest", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out"), "--model", str(model_folder)]
    assert main(["batch", "image", *given, "--device", "cpu"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["a.png", "b.png", "c.png"]
    single = tmp_path / "single.png"
    assert draw("red heart", "--seed", 3, "-o", single, model=model_folder) == 0
    made = next((tmp_path / "out").rglob("a.png"))
    assert np.array_equal(np.asarray(Image.open(made)), np.asarray(Image.open(single)))


def test_rows_are_checked_without_the_model(model_folder, tmp_path):
    task = ImageTask(model=str(model_folder), device="cpu")
    assert isinstance(task, BatchTask)
    for fields, message in (
        ({"text": " "}, "empty"), ({"text": 4}, "string"), ({"labels": []}, "object"),
        ({"labels": {"style": "oil"}}, "no style"), ({"steps": 0}, "steps"), ({"settings": {"x": 1}}, "unknown"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            task.validate(ManifestRow(id="a", line=1, fields=fields, folder=tmp_path))
    assert task._pipeline is None


def test_a_batch_item_depends_on_its_seed_alone(pipeline, tmp_path):
    task = ImageTask(model="tiny").use(pipeline)
    rows = [ManifestRow(id=name, line=1, fields={"text": name}, folder=tmp_path) for name in ("flag", "heart")]
    items = [BatchItem(row.id, task.validate(row), seed) for seed, row in enumerate(rows)]
    together, alone = task.run(items, CancelToken()), task.run(items[1:], CancelToken())
    assert together[1].sets == alone[0].sets
    assert task.facts(together[1])["tokens"] == list(alone[0].sets[0])
