"""The embedded video model: small, whole, and it does what its card says."""

from __future__ import annotations

import pytest

import genmm
from datamodules.video_qa import render_clip
from genmm.core.paths import embedded_home
from genmm.media.video import write_video
from genmm.registry import find_model

FOLDER = embedded_home() / "vqtoken"


@pytest.fixture(scope="module")
def embedded():
    return genmm.load("vqtoken", device="cpu", dtype="float32")


def test_it_is_small_and_described():
    info = find_model("vqtoken")
    assert info.system == "vqtoken" and not info.problem and info.size_bytes < 12 * 2**20
    assert info.licence == "CC-BY-4.0" and info.description
    card = (FOLDER / "README.md").read_text()
    assert "## Training" in card and "## Measured" in card and "## Limits" in card


def test_a_clip_becomes_tokens_that_follow_its_things(embedded, tmp_path):
    frames, questions = render_clip(5)
    path = tmp_path / "clip.mp4"
    write_video(path, frames, 3, preset="ultrafast")
    made = embedded.tokenize(path, tokens=12)
    assert made.tokens == 12 and made.tokens / made.cells <= 0.01
    assert 0 <= made.lost < 1
    answers = embedded.answers(made, [question.text for question in questions])
    assert all(answer.text in embedded.answerer.config.answers for answer in answers)
