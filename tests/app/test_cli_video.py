"""`genmm tokenize`, `genmm index`, `genmm ask` and `genmm batch video` as a person types them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from app import progress
from app.cli import main
from datamodules.rendered_video import Background, Mover, Scene, Shot, render_scene
from datamodules.video_qa import ANSWERS, WORDS
from genmm.media.video import write_video
from genmm.nn.vit import VisionConfig
from genmm.systems.vqtoken.config import AnswererConfig, BlockConfig, FrameConfig, VqTokenConfig
from genmm.systems.vqtoken.pipeline import VqTokenPipeline
from genmm.systems.vqtoken.reduced import ReducedVideo


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    torch.manual_seed(0)
    config = VqTokenConfig(
        vision=VisionConfig(width=16, depth=1, heads=2, inner=24, stem=(6, 8)),
        frames=FrameConfig(fps=4.0, side=48, most_frames=16),
        block=BlockConfig(heads=2, bins=4, grid=3),
        answerer=AnswererConfig(width=16, heads=2, latents=2, layers=1, tokens=4, words=WORDS, answers=ANSWERS),
    )
    return str(VqTokenPipeline.fresh(config).save(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("films")
    paths = []
    for colour, ground in (("red", "grey"), ("yellow", "blue")):
        mover = Mover(shape="circle", colour=colour, place=(0.3, 0.5), size=0.5, motion="right", speed=0.2)
        scene = Scene(seconds=1.0, shots=(Shot(background=Background(colour=ground)),), movers=(mover,))
        paths.append(folder / f"{colour}.mp4")
        write_video(paths[-1], render_scene(scene, fps=8, side=64)[0], 8, preset="ultrafast")
    return paths


def options(model: str) -> list[str]:
    return ["--model", model, "--device", "cpu", "--dtype", "float32"]


def test_tokenize_writes_tokens_recipe_and_overlay(model, films, tmp_path, capsys):
    out, overlay = tmp_path / "out.safetensors", tmp_path / "map.mp4"
    given = ["tokenize", str(films[0]), "--tokens", "5", "-o", str(out), "--overlay", str(overlay)]
    assert main([*given, *options(model)]) == 0
    said = capsys.readouterr().out
    assert "5 tokens of" in said and all(path.is_file() for path in (out, overlay, out.with_suffix(".json")))
    assert main(["tokenize", str(films[0]), "--tokens", "adaptive", "-o", str(tmp_path / "a.gmvq"), "--json",
                 *options(model)]) == 0  # fmt: skip
    facts = json.loads(capsys.readouterr().out)
    assert facts["tokens"] == int(ReducedVideo.from_bytes((tmp_path / "a.gmvq").read_bytes()).mask.sum())


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--tokens", "0"], "at least 1 token"),
        (["--tokens", "many"], "1 to 1024, adaptive"),
        (["--tokens", "²"], "1 to 1024, adaptive"),
        (["--tokens", "9" * 5000], "1 to 1024, adaptive"),
        (["--fps", "0"], "fps must be above 0"),
        (["--fps", "1e9"], "fps must be at most 240 and not below 0, got 1000000000.0"),
        (["--fps", "nan"], "fps must be a finite number, got 'nan'"),
        (["--end", "1e9"], "end_s must be at most 1,000,000"),
        (["-o", "out.txt"], "change the suffix"),
        (["--overlay", "map.gif"], "an overlay is a video"),
        (["--start", "9"], "no picture from 9 s to its end; it is 1.0 s long"),
        (["--start", "1", "--end", "0.5"], "got 1 s to 0.5 s"),
    ],
)
def test_tokenize_says_what_is_wrong(model, films, tmp_path, capsys, monkeypatch, more, text):
    monkeypatch.chdir(tmp_path)
    assert main(["tokenize", str(films[0]), *more, *options(model)]) == 2
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_makes_the_same_tokens_again_and_options_go_before_it(model, films, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film = str(films[0])
    more = ["--tokens", "knee", "--method", "k_center", "--fps", "5", "--end", "0.8", "--seed", "3"]
    assert main(["tokenize", film, *more, "-o", "first.gmvq", *options(model)]) == 0
    assert main(["tokenize", film, "--recipe", "first.gmvq", "-o", "again.gmvq", *options(model)]) == 0
    assert Path("first.gmvq").read_bytes() == Path("again.gmvq").read_bytes()
    first, again = (json.loads(Path(name).read_text()) for name in ("first.json", "again.json"))
    assert first["settings"] == again["settings"] and first["settings"]["tokens"] == "knee" and again["seeds"] == [3]
    short = ["--tokens", "3", "--end", "0.5", "-o", "other.gmvq"]
    assert main(["tokenize", film, "--recipe", "first.json", *short, *options(model)]) == 0
    other = json.loads(Path("other.json").read_text())["settings"]
    assert (other["tokens"], other["end_s"], other["fps"], other["method"]) == (3, 0.5, 5.0, "k_center")
    capsys.readouterr()
    first["task"] = "music"
    Path("music.json").write_text(json.dumps(first))
    assert main(["tokenize", film, "--recipe", "music.json", *options(model)]) == 2
    assert "is a recipe for music" in capsys.readouterr().err


def test_rules_are_budgets_by_name(model, films, tmp_path, capsys):
    counts = {}
    for rule in ("adaptive", "silhouette", "explained", "knee"):
        given = ["tokenize", str(films[0]), "--tokens", rule, "-o", str(tmp_path / f"{rule}.gmvq"), "--json"]
        assert main([*given, *options(model)]) == 0
        counts[rule] = json.loads(capsys.readouterr().out)["tokens"]
    assert counts["adaptive"] == counts["explained"] and all(4 <= count <= 64 for count in counts.values())


def test_a_packed_code_is_asked_like_its_video(model, films, tmp_path, capsys):
    code = tmp_path / "film.gmvq"
    assert main(["tokenize", str(films[0]), "--tokens", "4", "-o", str(code), *options(model)]) == 0
    capsys.readouterr()
    answers = []
    for source in (films[0], code):
        assert main(["ask", str(source), "how many squares are there", "--json", *options(model)]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0]["answer"] == answers[1]["answer"] and answers[0]["cells"] == answers[1]["cells"]
    assert answers[0]["probability"] == pytest.approx(answers[1]["probability"], abs=5e-3)  # codes are float16
    assert main(["ask", str(code), "how many squares are there", "--tokens", "8", *options(model)]) == 2
    assert "has its tokens already" in capsys.readouterr().err
    code.write_bytes(code.read_bytes()[:-3])
    assert main(["ask", str(code), "how many squares are there", *options(model)]) == 2
    assert "cut off or damaged" in capsys.readouterr().err


def test_an_index_from_empty_to_search(model, films, tmp_path, capsys):
    index = ["--index", str(tmp_path / "index")]
    assert main(["index", "search", str(films[0]), *index, *options(model)]) == 2
    assert "no index" in capsys.readouterr().err
    add = ["index", "add", *map(str, films), *index, "--moment", "0.5", *options(model)]
    assert main(add) == 0 and capsys.readouterr().out.count("added") == 2
    assert main(add) == 0 and capsys.readouterr().out.count("unchanged") == 2
    assert main(["index", "search", str(films[1]), *index, "--top", "1", "--json", *options(model)]) == 0
    hit = json.loads(capsys.readouterr().out)
    assert Path(hit["video"]) == films[1].resolve() and hit["end_s"] > hit["start_s"]
    (tmp_path / "text.png").write_text("hello")
    assert main(["index", "search", str(tmp_path / "text.png"), *index, *options(model)]) == 2
    assert "cannot be read as a picture" in capsys.readouterr().err
    assert main(["index", "list", *index]) == 0 and "2 videos, 4 moments" in capsys.readouterr().out
    assert main(["index", "remove", str(films[0]), "none.mp4", *index]) == 2
    assert "not in the index: none.mp4" in capsys.readouterr().err
    assert main(["index", "list", "--json", *index]) == 0
    assert json.loads(capsys.readouterr().out)["videos"] == 2  # nothing was removed
    assert main(["index", "remove", str(films[0]), *index]) == 0
    assert f"removed {films[0]}" in capsys.readouterr().out
    assert main(["index", "list", "--json", *index]) == 0
    assert json.loads(capsys.readouterr().out)["videos"] == 1


def test_a_video_that_has_changed_is_updated(model, films, tmp_path, capsys):
    film = tmp_path / "film.mp4"
    given = ["index", "add", str(film), "--index", str(tmp_path / "index"), *options(model)]
    for source, said in ((films[0], "added"), (films[0], "unchanged"), (films[1], "updated")):
        if said != "unchanged":
            film.write_bytes(source.read_bytes())
        assert main(given) == 0 and capsys.readouterr().out.startswith(f"{said} {film}\n")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["search", "QUERY", "--index", ""], "--index is ''; name a folder"),
        (["add", "QUERY", "--index", " "], "--index is ' '; name a folder"),
        (["search", "QUERY", "--index", "i", "--top", "0"], "--top must be at least 1, got 0"),
        (["search", "QUERY", "--index", "i", "--per-video", "-2"], "--per-video must be at least 1, got -2"),
    ],
)
def test_what_an_index_cannot_do_is_said_before_a_model_is_loaded(films, tmp_path, capsys, monkeypatch, more, text):
    monkeypatch.chdir(tmp_path)
    more = [str(films[0]) if word == "QUERY" else word for word in more]
    assert main(["index", *more, "--model", "no-such-model"]) == 2
    assert text in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_words_are_counted_for_language_models_only(model, films, capsys):
    asked = ["ask", str(films[0]), "how many squares are there", "--max-words"]
    for number in ("0", "-5", "1000000000"):
        assert main([*asked, number, "--model", "no-such-model"]) == 2
        assert f"--max-words is 1 to 2048, got {number}" in capsys.readouterr().err
    assert main([*asked, "9", *options(model)]) == 2
    assert "--max-words is for language models" in capsys.readouterr().err


def test_a_language_model_reads_with_progress_before_its_words(films, capsys, monkeypatch):
    from app.commands import ask

    class Writer:
        def watch(self, video, *, tokens, block, on_event, on_notes):
            on_notes(("the video is incomplete",))
            return video, tokens, block

        def answer_stream(self, video, question, *, max_new_tokens):
            yield from (f"{video[1]} tokens, ", f"{max_new_tokens} words")

    monkeypatch.setattr(ask, "load_video_model", lambda args: Writer())
    assert main(["ask", str(films[0]), "what is this", "--tokens", "5"]) == 0
    said = capsys.readouterr()
    assert said.out == "5 tokens, 128 words\n" and "genmm: the video is incomplete" in said.err


@pytest.mark.parametrize("command", [["ask"], ["index", "add"]])
def test_the_help_names_every_rule_of_tokens(command, capsys):
    assert main([*command, "--help"]) == 0
    assert "adaptive, explained, knee or silhouette" in " ".join(capsys.readouterr().out.split())


def test_a_broken_video_is_left_out_and_counted(model, films, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    given = ["index", "add", str(broken), str(films[0]), "--index", str(tmp_path / "index"), *options(model)]
    assert main(given) == 3
    said = capsys.readouterr()
    assert "broken.mp4 was left out" in said.err and "added" in said.out
    given[2:4] = [str(tmp_path), str(tmp_path / "none.mp4"), str(films[1])]
    assert main(given) == 3
    said = capsys.readouterr()
    assert "is a folder; name the videos in it" in said.err and "none.mp4 was left out: it is not there" in said.err
    assert said.out.count("added") == 1


def cut_off(folder: Path) -> Path:
    """The first two thirds of the bytes of a video of 6 s."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 64, 3), dtype=np.uint8)
    film = write_video(folder / "whole.mp4", list(noise), 8, preset="ultrafast")
    part = folder / "part.mp4"
    part.write_bytes(film.read_bytes()[: film.stat().st_size * 2 // 3])
    return part


def test_an_incomplete_video_is_said_by_ask_and_search(model, films, tmp_path, capsys, monkeypatch):
    part, index = cut_off(tmp_path), ["--index", str(tmp_path / "index")]
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "ProgressDisplay", partial(progress.ProgressDisplay, bar_after_s=-1.0))
    assert main(["index", "add", str(films[0]), *index, *options(model)]) == 0
    capsys.readouterr()
    for given in (["ask", str(part), "how many squares are there"], ["index", "search", str(part), *index]):
        assert main([*given, *options(model)]) == 0
        said = capsys.readouterr()
        assert "incomplete" in said.err and "reading the" in said.err and "s of video" in said.err
        assert "incomplete" not in said.out and "reading" not in said.out


def test_an_incomplete_video_and_one_that_is_gone_are_said(model, films, tmp_path, capsys):
    part = cut_off(tmp_path)
    index = ["--index", str(tmp_path / "index")]
    assert main(["index", "add", str(part), str(films[0]), *index, *options(model)]) == 0
    said = capsys.readouterr().out
    assert f"note: {part}: " in said and "incomplete" in said and f"note: {films[0]}" not in said
    part.unlink()
    assert main(["index", "list", *index]) == 0
    assert [line.endswith("(the file is gone)") for line in capsys.readouterr().out.splitlines()[:2]] == [True, False]
    assert main(["index", "search", str(films[0]), *index, *options(model)]) == 0
    assert f"{part}  (the file is gone)" in capsys.readouterr().out


def test_what_cannot_be_asked_says_what_can(model, films, tmp_path, capsys):
    tokens = tmp_path / "red.safetensors"
    assert main(["tokenize", str(films[0]), "-o", str(tokens), *options(model)]) == 0
    assert main(["ask", str(tokens), "how many squares are there", *options(model)]) == 2
    assert "genmm tokenize VIDEO -o red.gmvq" in capsys.readouterr().err
    (tmp_path / "other.gmvq").write_bytes(b"something else")
    assert main(["ask", str(tmp_path / "other.gmvq"), "how many squares are there", *options(model)]) == 2
    assert "other.gmvq: these bytes are no code" in capsys.readouterr().err


def test_one_of_a_thing_is_no_plural(model, films, tmp_path, capsys):
    given = ["tokenize", str(films[0]), "--tokens", "1", "--end", "0.1", "-o", str(tmp_path / "one.gmvq")]
    assert main([*given, *options(model)]) == 0
    said = capsys.readouterr().out
    assert "1 token of" in said and "1 frame over" in said and "e+" not in said


def test_ask_answers_and_names_unknown_words(model, films, capsys):
    assert main(["ask", str(films[0]), "Which way does the red circle move?", "--json", *options(model)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["answer"] in ANSWERS and told["tokens"] == 4
    assert main(["ask", str(films[0]), "why so serious", *options(model)]) == 2
    assert "serious, so, why" in capsys.readouterr().err


def test_a_batch_of_videos(model, films, tmp_path, capsys):
    rows = [{"id": "a", "video": str(films[0]), "tokens": 3}, {"id": "b", "video": str(films[1]), "end_s": 0.5},
            {"id": "c", "video": str(tmp_path / "broken.mp4")}]  # fmt: skip
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    manifest = tmp_path / "in.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["batch", "video", "--manifest", str(manifest), "--out", str(tmp_path / "out"), "--tokens", "6"]
    assert main([*given, *options(model)]) == 3
    stored = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    done = {row["id"]: row for row in stored}
    assert done["c"].get("error") and {p.stem for p in (tmp_path / "out").rglob("*.safetensors")} == {"a", "b"}
    facts = {name: row.get("facts", row) for name, row in done.items()}
    assert facts["a"]["tokens"] == 3 and facts["b"]["tokens"] == 6 and np.isclose(facts["b"]["seconds"], 0.5)


def test_rows_of_a_batch_are_checked_before_the_model_is_loaded(tmp_path, films):
    from genmm.batch.manifest import read_manifest
    from genmm.batch.video import VideoTask
    from genmm.core.errors import UsageError

    manifest = tmp_path / "in.jsonl"
    bad = [{"video": "nowhere.mp4"}, {"tokens": 3}, {"video": str(films[0]), "tokens": 0},
           {"video": str(films[0]), "start_s": 3, "end_s": 1}, {"video": str(films[0]), "start_s": -1}]  # fmt: skip
    manifest.write_text("".join(json.dumps({"id": str(n), **row}) + "\n" for n, row in enumerate(bad)))
    task = VideoTask()
    rows = list(read_manifest(manifest, fields=[*task.fields, "seed"]))
    for row in rows:
        with pytest.raises(UsageError):
            task.validate(row)
    fine = replace(rows[0], fields={"video": str(films[0]), "tokens": {"least": 2, "most": 5}})
    assert task.validate(fine).tokens.most == 5
    for broken in (VideoTask(fps=0.0), VideoTask(fps=float("nan")), VideoTask(method="pool")):
        with pytest.raises(UsageError, match=r"fps|fixed number"):
            broken.validate(fine)
    for times, text in (({"end_s": 1e999}, "a finite number"), ({"start_s": 10**400}, "at most 1,000,000")):
        with pytest.raises(UsageError, match=text):
            task.validate(replace(fine, fields={**fine.fields, **times}))
    with pytest.raises(UsageError, match="not allowed"):
        VideoTask(allow_files=False).validate(rows[2])
