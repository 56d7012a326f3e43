"""Outputs that cannot be written are refused before any work, by every command that writes one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.cli import main


@pytest.mark.parametrize(
    "line",
    [
        ["draw", "apple", "-o", "{file}/p.png"],
        ["tokenize", "{film}", "-o", "{file}/t.gmvq"],
        ["tokenize", "{film}", "-o", "t.gmvq", "--overlay", "{file}/map.mp4"],
        ["tokenize-image", "{film}", "-o", "{file}/lines.jsonl"],
        ["tokenize-image", "{film}", "--map", "{file}/map.png"],
        ["highlight", "{film}", "-o", "{file}/reel.mp4"],
        ["highlight", "{film}", "--thumbnails", "{file}"],
    ],
    ids=lambda line: " ".join(word for word in line if "{film}" not in word).replace("{file}/", ""),
)
def test_a_target_below_a_file_is_refused_at_once(line, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("genmm.load", lambda *a, **k: pytest.fail("a model was loaded"))
    Path("notes.txt").write_text("not a folder")
    Path("film.mp4").write_bytes(b"never read")
    assert main([word.format(file="notes.txt", film="film.mp4") for word in line]) == 2
    assert "notes.txt is a file, not a folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "notes.txt"]


@pytest.mark.parametrize(
    "line",
    [
        ["speak", "one", "--voice", "{a}.wav", "-o", "{a}.wav"],
        ["edit", "{a}.wav", "organ", "-o", "{a}.wav"],
        ["edit", "{a}_2.wav", "organ", "--takes", "2", "-o", "{a}.wav"],
        ["edit", "{a}_1_organ.wav", "organ", "--then", "choir", "-o", "{a}.wav"],
        ["extend", "{a}.wav", "piano", "-o", "./{a}.wav"],
        ["draw", "heart", "--edit", "{a}.png", "-o", "{a}.png"],
        ["draw", "--edit", "b.png", "--towards", "{a}_1.png", "-n", "3", "-o", "{a}.png"],
        ["tokenize-image", "b.png", "{a}.png", "--map", "{a}.png"],
        ["tokenize-image", "{a}.png", "-o", "{a}.png"],
        ["tokenize", "{a}.mp4", "--overlay", "{a}.mp4"],
        ["highlight", "{a}.mp4", "-o", "{a}.mp4"],
    ],
    ids=" ".join,
)
def test_no_command_writes_over_what_it_reads(line, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("genmm.load", lambda *a, **k: pytest.fail("a model was loaded"))
    names = [f"{stem}{suffix}" for stem in ("a", "a_1", "a_2", "a_1_organ", "b") for suffix in (".wav", ".png", ".mp4")]
    for name in names:
        Path(name).write_text(name)
    assert main([word.format(a="a") for word in line]) == 2
    assert "would take the place of" in capsys.readouterr().err
    assert all(Path(name).read_text() == name for name in names)
    assert len(list(tmp_path.iterdir())) == len(names)


@pytest.mark.parametrize(
    "line",
    [
        ["tokenize-image", "film.png", "--map", "m.png", "--reconstruct", "m.png"],
        ["highlight", "film.mp4", "-o", "a.mp4", "--json", "x.csv", "--csv", "x.csv"],
    ],
    ids=" ".join,
)
def test_two_results_of_one_name_are_refused(line, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("genmm.load", lambda *a, **k: pytest.fail("a model was loaded"))
    for name in ("film.mp4", "film.png"):
        Path(name).write_bytes(b"never read")
    assert main(line) == 2
    assert "named twice" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["loop", ["loop"], None])
def test_a_recipe_for_other_music_is_named_in_words(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = {"genmm": "1", "task": "music", "model": {}, "settings": {"kind": kind}, "seeds": [1]}
    Path("r.json").write_text(json.dumps(recipe))
    assert main(["compose", "piano", "--recipe", "r.json"]) == 2
    said = capsys.readouterr().err
    assert "not for new music" in said and ("a recipe for a loop" in said) == (kind == "loop")
