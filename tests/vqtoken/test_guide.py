"""What the guide shows runs as it stands, on the tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from code_blocks import run_python

import genmm
from benchmarks.video_answers import AnswerReport

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "vqtoken.md"


def test_the_tables_of_answers_are_those_of_the_stored_measurement():
    folder = GUIDE.parents[1] / "benchmarks"
    stored = json.loads((folder / "video-answers.json").read_text())
    shown = GUIDE.read_text().split("<!-- answers: begin -->")[1].split("<!-- answers: end -->")[0]
    for name, head in (("coarse", "12 tokens (0.69 %"), ("fine", "12 tokens (0.17 %")):
        own = AnswerReport(stored[name]["settings"], stored[name]["cells"])
        assert own.summary() == stored[name]["summary"]
        rows = [line for line in own.to_markdown().splitlines() if line.startswith("| ")]
        assert head in shown and len(rows) > 4
        for text in (shown, (folder / "video-answers.md").read_text()):
            assert [row for row in rows if row not in text] == []


def test_the_python_of_the_guide_runs(pipeline, clip, tmp_path, monkeypatch):
    shutil.copy(clip, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(genmm, "load", lambda name: pipeline)
    known = run_python(GUIDE)
    assert known["reduced"].codebook.shape[1] == 12
    assert known["features"].shape[1:4] == known["reduced"].index_map.shape[1:]
    assert type(known["reduced"]).from_bytes(known["packed"]).index_map.equal(known["reduced"].index_map)
    assert Path(known["hits"][0].video).name == "clip.mp4"
