"""`genmm highlight` as people type it: files that can be read back, recipes, mistakes; and `genmm batch highlight`."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from app.cli import main
from genmm.media.video import probe
from genmm.systems.rasl.result import read_highlights


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Twelve seconds: something moves and sounds from 5 to 8 s."""
    from datamodules.rendered_video import Mover, Scene, Sound, render_scene
    from genmm.media.video_write import write_video

    scene = Scene(
        seconds=12.0,
        movers=(Mover(shape="star", colour="red", start_s=5.0, end_s=8.0, size=0.5, motion="right", speed=0.2),),
        sounds=(Sound(kind="clap", start_s=5.0, end_s=8.0), Sound(kind="hum", level=0.02)),
    )
    frames, samples, _ = render_scene(scene, fps=5, side=(48, 64))
    path = tmp_path_factory.mktemp("video") / "game.mp4"
    return write_video(path, frames, 5.0, audio=(samples, 16_000), preset="ultrafast")


def test_everything_is_written_and_reads_back(video, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = f"highlight {video} -o reel.mp4 --seconds 4 --json h.json --edl h.edl --csv h.csv --chapters c.vtt"
    line += " --sheet s.png --thumbnails t --scorer heuristic --set pad_s=0"
    assert main(line.split()) == 0
    said = capsys.readouterr().out
    assert "game.mp4" in said and "score over time" in said
    document = read_highlights("h.json")
    kept = sum(part["end_s"] - part["start_s"] for part in document["segments"])
    assert 0 < kept <= 4.0 + 1e-6
    best = max(document["segments"], key=lambda part: part["score"])
    assert best["start_s"] < 8.0 and best["end_s"] > 5.0
    assert probe("reel.mp4").duration_s == pytest.approx(kept, abs=0.3)
    assert {"h.edl", "h.csv", "c.vtt", "s.png"} <= {p.name for p in tmp_path.iterdir()}
    assert len(list((tmp_path / "t").iterdir())) == len(document["segments"])


def test_a_short_video_is_kept_whole_and_says_so(video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(f"highlight {video} --scorer heuristic --json h.json".split()) == 0
    said = capsys.readouterr().out
    assert "1 segment, 12.0 s kept" in said
    assert "shorter than the 30 s to keep" in said


def test_documents_are_there_though_a_reel_cannot_be_cut(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with wave.open("talk.wav", "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes((8000 * np.sin(np.arange(6 * 16_000) ** 1.5 / 3e3)).astype("<i2").tobytes())
    assert main("highlight talk.wav -o reel.mp4 --seconds 2 --json h.json --edl h.edl --scorer heuristic".split()) == 2
    assert "a reel needs pictures" in capsys.readouterr().err
    assert read_highlights("h.json")["segments"] and Path("h.edl").is_file()
    assert not Path("reel.mp4").exists()


def test_an_edited_document_decides_the_reel(video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(f"highlight {video} --json h.json --count 1 --scorer heuristic".split()) == 0
    document = json.loads(Path("h.json").read_text())
    document["segments"] = [{"start_s": 1.0, "end_s": 2.5}]
    Path("h.json").write_text(json.dumps(document))
    assert main(f"highlight {video} --recipe h.json --json again.json --scorer heuristic".split()) == 0
    assert [(p["start_s"], p["end_s"]) for p in read_highlights("again.json")["segments"]] == [(1.0, 2.5)]
    capsys.readouterr()


@pytest.mark.parametrize("copied", ["", "--copy"])
def test_a_reel_is_a_recipe_and_its_segments_keep_their_scores(video, tmp_path, monkeypatch, capsys, copied):
    monkeypatch.chdir(tmp_path)
    assert main(f"highlight {video} -o reel.mp4 --json h.json --seconds 3 --scorer heuristic {copied}".split()) == 0
    Path("h.json").rename("first.json")  # nothing lies beside the reel
    assert main(f"highlight {video} --recipe reel.mp4 --json again.json".split()) == 0
    first, again = (read_highlights(name) for name in ("first.json", "again.json"))
    assert first["segments"] == again["segments"] and first["settings"] == again["settings"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("highlight", "which video"),
        ("highlight none.mp4 --scorer heuristic", "cannot be opened"),
        ("highlight {video} -o reel.avi", "change the suffix"),
        ("highlight {video} --chapters c.xml", "chapters"),
        ("highlight {video} --set nonsense", "NAME=VALUE"),
        ("highlight {video} --set speed=3", "unknown setting"),
        ("highlight {video} --seconds 0", "seconds must be"),
        ("highlight {video} --model sled", "sled"),
        ("highlight {video} --save x", "--adapt"),
        ("highlight --adapt nowhere --scorer heuristic", "nowhere"),
    ],
)
def test_mistakes_end_with_one_message(video, line, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(line.format(video=video).split()) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_a_batch_of_videos(video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": "a", "video": str(video), "seconds": 3}, {"id": "b", "video": str(video), "share": 0.2}]
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    rows.append({"id": "c", "video": "bad.mp4"})
    Path("in.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert main("batch highlight --manifest in.jsonl --out out --model heuristic".split()) == 3
    results = [json.loads(text) for text in Path("out/results.jsonl").read_text().splitlines()]
    assert {r["id"]: r["status"] for r in results} == {"a": "done", "b": "done", "c": "failed"}
    files = {path.stem: read_highlights(path) for path in Path("out").rglob("[ab].json")}
    assert set(files) == {"a", "b"}
    assert files["a"]["settings"]["seconds"] == 3
    assert files["b"]["settings"]["share"] == 0.2
    capsys.readouterr()
