"""The highlight measurement runs on tiny sizes and its parts count what they say."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from benchmarks import highlight_ablations
from benchmarks.highlight import decoded_seconds, measure, reading_section
from benchmarks.highlight_ablations import WHOLE
from benchmarks.highlight_memory import looped
from benchmarks.highlight_study import condition, interval, signed_interval
from datamodules.highlight_tables import rendered_tables
from genmm.media.video_write import write_video


def test_the_reading_section_has_ours_beside_decoding(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(20)]
    path = write_video(tmp_path / "v.mp4", frames, 5.0, preset="ultrafast")
    assert decoded_seconds(path) == pytest.approx(3.8, abs=0.05)
    section = reading_section("heuristic", path, runs=1, quick=True)
    whole = section.rows[-1]
    assert whole.peer_name == "decoding alone"
    assert whole.goal == pytest.approx(2 / 3)
    assert 0 < whole.ratio < 1.2  # nobody is faster than decoding alone


@pytest.mark.slow
def test_everything_runs_quickly_on_tiny_sizes():
    args = argparse.Namespace(model="heuristic", video=None, only=("reading", "memory", "training"), runs=1, quick=True)
    report = measure(args)
    assert [section.title for section in report.sections] == [
        "Reading and scoring",
        "Peak memory over the length",
        "Training on cached features",
    ]
    assert "x real time" in report.to_markdown()


def test_a_looped_video_keeps_its_packets_and_its_clock(tmp_path):
    from genmm.media.video import probe

    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (32, 48, 3), np.uint8) for _ in range(20)]
    sound = (0.1 * rng.standard_normal(32_000)).astype(np.float32)
    piece = write_video(tmp_path / "v.mp4", frames, 10.0, audio=(sound, 16_000), preset="ultrafast")
    long = looped(tmp_path / "long.mp4", piece, 7.0)
    assert probe(long).duration_s == pytest.approx(7.0, abs=0.2)
    assert decoded_seconds(long) == pytest.approx(6.9, abs=0.2)
    assert long.stat().st_size < 4.5 * piece.stat().st_size


def test_ablations_go_on_where_they_were(tmp_path, monkeypatch):
    line = {"rows": [WHOLE, "gate", "random start, not trained"], "seeds": 1, "train": 2, "test": 2, "steps": 2}
    args = argparse.Namespace(**line, cache=tmp_path, quick=False)
    first = highlight_ablations.measure(args)
    assert set(first.rows()) == set(args.rows)
    assert "difference" in first.rows()["gate"]["v"] and "difference" not in first.rows()[WHOLE]["v"]
    assert first.cells["gate/0"]["v"] != first.cells[f"{WHOLE}/0"]["v"]
    monkeypatch.setattr(highlight_ablations, "train_row", None)  # nothing is trained a second time
    again = highlight_ablations.measure(args)
    assert again.cells == first.cells
    assert "| gate | 1 |" in again.to_markdown()


def test_conditions_change_what_they_say(tmp_path):
    videos = rendered_tables(tmp_path, 2, families=("E",), seed=5, seconds=24)
    assert videos[0].table.steps == 24
    again = rendered_tables(tmp_path, 2, families=("E",), seed=5, seconds=24)
    np.testing.assert_array_equal(videos[1].table.visual, again[1].table.visual)
    table, modality = condition(videos[0], "muted halfway", videos[1])
    assert modality == "av"
    assert table.audio_valid.sum() == table.steps // 2
    wrong, _ = condition(videos[0], "wrong sound", videos[1])
    count = min(wrong.steps, videos[1].table.steps)
    np.testing.assert_array_equal(wrong.audio[:count], videos[1].table.audio[:count])
    assert condition(videos[0], "v", videos[1])[0].audio is None
    assert videos[0].clip_labels().any() and not videos[0].clip_labels().all()


def test_intervals_hold_their_mean():
    values = np.array([0.2, 0.4, 0.9, float("nan")])
    found = interval(values)
    assert found["value"] == pytest.approx(0.5)
    assert found["low"] < 0.5 < found["high"]
    assert signed_interval(np.array([-0.1, 0.1, 0.0]))["value"] == pytest.approx(0.0)
