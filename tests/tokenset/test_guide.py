"""What the guide shows runs as it stands, on the tiny model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

import genmm
from app.cli import build_parser

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "methods" / "tokenset.md"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found


def test_the_python_of_the_guide_runs(pipeline, monkeypatch):
    monkeypatch.setattr(genmm, "load", lambda name: pipeline)
    known: dict = {}
    for code in blocks("python"):
        exec(compile(code, "tokenset.md", "exec"), known)  # noqa: S102 - our own page, run on purpose
    assert known["changed"].settings["free"] == sorted(known["found"].codes[:4])
    assert len(known["way"].images) == 4
    assert known["counts"].sum(-1).tolist() == known["best"].sum(-1).tolist() == [50, 50, 50]
    assert int(known["best"].max()) <= 2
    assert known["counts"].dtype == torch.int64


@pytest.mark.parametrize("line", [line for text in blocks("sh") for line in text.splitlines() if line.strip()])
def test_the_commands_of_the_guide_are_understood(line):
    words = shlex.split(line)
    assert words[0] == "genmm"
    if words[1] == "fit":  # read by Lightning's own parser; its configurations have tests of their own
        assert (ROOT / words[words.index("--config") + 1]).is_file()
        return
    build_parser(words[1]).parse_args(words[1:])
