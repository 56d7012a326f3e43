"""What the guide shows runs as it stands, on the tiny model."""

from __future__ import annotations

import shutil
from pathlib import Path

from code_blocks import run_python

import genmm

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "vqtoken.md"


def test_the_python_of_the_guide_runs(pipeline, clip, tmp_path, monkeypatch):
    shutil.copy(clip, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(genmm, "load", lambda name: pipeline)
    known = run_python(GUIDE)
    assert known["reduced"].codebook.shape[1] == 12
    assert known["features"].shape[1:4] == known["reduced"].index_map.shape[1:]
    assert type(known["reduced"]).from_bytes(known["packed"]).index_map.equal(known["reduced"].index_map)
    assert Path(known["hits"][0].video).name == "clip.mp4"
