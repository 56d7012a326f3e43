"""The embedded model: it is there, small, described, and finds events in scenes of families it was not trained on."""

from __future__ import annotations

import re

import numpy as np
import pytest

import genmm
from datamodules.highlight_tables import describe_scene
from datamodules.rendered_video_events import TEST_FAMILIES, event_scene
from genmm.core.paths import embedded_home
from genmm.metrics.highlight import average_precision
from genmm.registry import find_model


@pytest.fixture(scope="module")
def model():
    if not (embedded_home() / "rasl" / "config.json").is_file():
        pytest.skip("needs the embedded highlight model in genmm/checkpoints/rasl")
    return genmm.load("rasl", device="cpu")


def test_it_is_small_and_described(model):
    info = find_model("rasl")
    assert (info.source, info.problem, info.licence) == ("embedded", "", "Apache-2.0")
    assert info.size_bytes < 2_000_000
    assert info.description
    card = (info.path / "README.md").read_text(encoding="utf-8")
    assert "documented reconstruction" in card
    assert "TVSum" in card
    assert not re.search("@[A-Z]+@", card)  # nothing was left to fill in


def test_it_finds_events_that_look_and_sound_new(model):
    """A cheap check of the card's figures: well above chance with both streams, and with pictures alone."""
    found = {"av": [], "v": []}
    for seed, family in enumerate(TEST_FAMILIES):
        scene = event_scene(900 + seed, family, seconds=40)
        table = describe_scene(scene)
        edges = 2.0 * np.arange(20)
        labels = np.array([any(s < e + 1.5 and t > e + 0.5 for s, t in scene.highlights) for e in edges])
        for modality, values in found.items():
            result = model.score(table, {"modality": modality, "scorer": "model"})
            values.append(average_precision(result.raw[modality][:20], labels))
    assert np.mean(found["av"]) > 0.7
    assert np.mean(found["v"]) > 0.5
