"""What the guide shows runs as it stands, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from code_blocks import code_blocks, run_python

import genmm
from genmm.nn.packed import PACKINGS
from genmm.systems.sled.request import SpeechSettings

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "sled.md"


def test_the_python_of_the_guide_runs(make_pipeline, tmp_path, monkeypatch):
    defaults = SpeechSettings(min_s=1.5, max_s=2.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(genmm, "load", lambda name: make_pipeline(sizes={"voice_channels": 12}, defaults=defaults))
    known = run_python(GUIDE)
    assert len(list(tmp_path.glob("out_*.wav"))) == 2
    assert sum(len(np.ravel(piece)) for piece in known["pieces"]) > 0
    assert len(known["results"]) == 3


def test_the_guide_names_every_packing_and_real_settings():
    text = GUIDE.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in PACKINGS)
    for name in ("guidance", "temperature", "draws", "draw_merge", "stop_threshold", "retries", "cloning"):
        assert f"`{name}`" in text and hasattr(SpeechSettings(), name)


def test_the_configurations_of_the_guide_exist():
    named = [word for block in code_blocks(GUIDE, "sh") for word in block.split() if word.startswith("configs/")]
    assert len(named) == 4
    assert all((GUIDE.parents[2] / name).is_file() for name in named)
