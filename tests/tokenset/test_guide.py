"""What the guide shows runs as it stands, on the tiny model."""

from __future__ import annotations

from pathlib import Path

import torch
from code_blocks import run_python

import genmm

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "tokenset.md"


def test_the_python_of_the_guide_runs(pipeline, monkeypatch):
    monkeypatch.setattr(genmm, "load", lambda name: pipeline)
    known = run_python(GUIDE)
    assert known["changed"].settings["free"] == sorted(known["found"].codes[:4])
    assert len(known["way"].images) == 4
    assert known["counts"].sum(-1).tolist() == known["best"].sum(-1).tolist() == [50, 50, 50]
    assert int(known["best"].max()) <= 2
    assert known["counts"].dtype == torch.int64
