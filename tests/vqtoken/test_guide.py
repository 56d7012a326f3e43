"""What the guide shows runs as it stands, on the tiny model."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

import genmm
from app.cli import build_parser

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "methods" / "vqtoken.md"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found


def test_the_python_of_the_guide_runs(pipeline, clip, tmp_path, monkeypatch):
    shutil.copy(clip, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(genmm, "load", lambda name: pipeline)
    known: dict = {}
    for code in blocks("python"):
        exec(compile(code, "vqtoken.md", "exec"), known)  # noqa: S102 - our own page, run on purpose
    assert known["reduced"].codebook.shape[1] == 12
    assert known["features"].shape[1:4] == known["reduced"].index_map.shape[1:]
    assert type(known["reduced"]).from_bytes(known["packed"]).index_map.equal(known["reduced"].index_map)
    assert Path(known["hits"][0].video).name == "clip.mp4"


@pytest.mark.parametrize("line", [line for text in blocks("sh") for line in text.splitlines() if line.strip()])
def test_the_commands_of_the_guide_are_understood(line):
    words = shlex.split(line)
    assert words[0] == "genmm"
    if words[1] == "fit":  # read by Lightning's own parser; its configurations have tests of their own
        assert (ROOT / words[words.index("--config") + 1]).is_file()
        return
    build_parser(words[1]).parse_args(words[1:])
