"""Fitting to a folder of videos: it goes on after an interruption, writes a model, and judges itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import genmm
from genmm.core.errors import Cancelled, DataError, UsageError
from genmm.core.events import CancelToken, Finished, Progress, drain
from genmm.systems.rasl.adapting import adapt_events
from genmm.systems.rasl.feature_table import save_table
from genmm.systems.rasl.footage import content_hash
from genmm.systems.rasl.pipeline import RaslPipeline


@pytest.fixture
def footage(tmp_path, make_table):
    """Files that only look like videos, with their features in the cache."""
    folder, cache = tmp_path / "footage", tmp_path / "cache"
    folder.mkdir()
    for number in range(4):
        path = folder / f"clip{number}.mp4"
        path.write_bytes(bytes([number]) * 100)
        save_table(cache / f"handcrafted-1-{content_hash(path)}.safetensors", make_table(40, seed=number))
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder, cache


def test_a_fit_writes_a_model_and_says_whether_it_helped(pipeline, footage, tmp_path):
    folder, cache = footage
    out = tmp_path / "model"
    events = list(adapt_events(pipeline, folder, out, cache=cache, steps=4))
    assert any(isinstance(e, Progress) and e.unit == "steps" for e in events)
    report = events[-1].result
    assert isinstance(events[-1], Finished)
    assert (report.videos, report.held_out, report.steps) == (4, 4, 4)
    assert report.left_out[0].startswith("broken.mp4")
    assert np.isfinite([report.objective_before, report.objective_after, report.agreement]).all()
    assert report.helped == ("it helped" in report.verdict)
    assert json.loads((out / "adapt.json").read_text())["helped"] == report.helped
    loaded = genmm.load(out, device="cpu")
    assert loaded.info["origin"].startswith("fitted to 4 videos")
    assert loaded.scorer == "model"
    assert not (out / "adapt.safetensors").exists()
    with pytest.raises(UsageError, match="already"):
        drain(adapt_events(pipeline, folder, out, cache=cache, steps=4))


def test_an_interrupted_fit_ends_like_one_that_was_not(pipeline, footage, tmp_path, monkeypatch):
    monkeypatch.setattr("genmm.systems.rasl.adapting.SAVE_EVERY", 2)
    folder, cache = footage
    drain(adapt_events(pipeline, folder, tmp_path / "straight", cache=cache, steps=4))
    token = CancelToken()

    def stop(event) -> None:
        if isinstance(event, Progress) and event.unit == "steps" and event.done == 3:
            token.cancel()

    with pytest.raises(Cancelled):
        drain(adapt_events(pipeline, folder, tmp_path / "broken", cache=cache, steps=4, cancel=token), stop)
    assert (tmp_path / "broken" / "adapt.safetensors").is_file()
    drain(adapt_events(pipeline, folder, tmp_path / "broken", cache=cache, steps=4))
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "broken"))
    assert first == second


def test_too_little_footage_is_refused(pipeline, footage, tmp_path):
    folder, cache = footage
    for number in range(1, 4):
        (folder / f"clip{number}.mp4").unlink()
    with pytest.raises(DataError, match="at least 60 s"):
        drain(adapt_events(pipeline, folder, tmp_path / "m", cache=cache))
    with pytest.raises(UsageError, match="heuristic"):
        drain(adapt_events(RaslPipeline.heuristic(), folder, tmp_path / "m", cache=cache))
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="not a folder"):
        drain(adapt_events(pipeline, folder, tmp_path / "m", cache=cache))
