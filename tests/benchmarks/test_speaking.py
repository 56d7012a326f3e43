from __future__ import annotations

import pytest

import benchmarks.speaking as speaking
from benchmarks.speaking import batch_section, memory_section, speak_long, streaming_section
from genmm.systems.sled.pipeline import SledPipeline


@pytest.fixture(scope="module")
def pipeline(tiny_sled) -> SledPipeline:
    return SledPipeline.from_folder(tiny_sled, device="cpu")


def test_live_speech_has_first_sound_speed_and_gaps(pipeline):
    rows = {row.item: row for row in streaming_section(pipeline, runs=1).rows}
    first, speed = rows["first sound after"], rows["speed of live speech"]
    assert first.ours.runs == speed.ours.runs == len(speaking.TEXTS)
    assert (first.better, first.bound, speed.better, speed.bound) == ("lower", 0.2, "higher", 6.0)
    assert first.ours.low > 0 and speed.ours.low > 0


def test_a_batch_is_compared_with_as_many_single_runs(pipeline):
    (row,) = batch_section(pipeline, runs=1, batch=3).rows
    assert row.item == "batch of 3" and row.peer_name == "3 single runs"
    assert row.ours.median > 0 and row.peer.median > 0 and row.ratio > 0


def test_memory_rows_come_from_the_probes(monkeypatch):
    probes = {2: {"audio_s": 10.0, "peak_bytes": 500 * 2**20}, 8: {"audio_s": 40.0, "peak_bytes": 503 * 2**20}}
    monkeypatch.setattr(speaking, "probe_memory", lambda model, device, count: probes[count])
    rows = memory_section("sled", "cpu", lengths=(2, 8)).rows
    assert [row.ours for row in rows[:2]] == [500.0, 503.0]
    assert rows[2].ours == pytest.approx(3 * 1024 / 30) and rows[2].is_met


def test_a_long_text_is_spoken_to_its_end(tiny_sled):
    short, long = speak_long(str(tiny_sled), "cpu", 1), speak_long(str(tiny_sled), "cpu", 8)
    assert long["audio_s"] > short["audio_s"] > 0
    assert long["peak_bytes"] >= long["loaded_bytes"] > 0


@pytest.mark.slow
def test_the_probe_runs_in_a_process_of_its_own(tiny_sled):
    probe = speaking.probe_memory(str(tiny_sled), "cpu", 2)
    assert probe["sentences"] == 2 and probe["peak_bytes"] > 2**20
