"""What the guide shows runs as it stands, on the tiny model."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from code_blocks import run_python

import genmm
from app.cli import build_parser
from app.commands.pull import TRY
from genmm.hub.recipes import RECIPES

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "melodyflow.md"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_python_of_the_guide_runs(pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(genmm, "load", lambda name: pipeline)
    known = run_python(GUIDE)
    assert len(known["both"].samples) == 2 and known["ring"].seconds[0] == pytest.approx(4.0, abs=0.1)
    assert known["longer"].seconds[0] == pytest.approx(6.0) and known["long"].shape == (1, 8, 500)


def test_every_model_that_can_be_pulled_has_a_first_command_of_its_own():
    for recipe in RECIPES:
        words = shlex.split(TRY[recipe.system])
        build_parser(words[0]).parse_args([*words, "--model", recipe.model])
