"""Speech in batches: rows are checked before the model is loaded, and spoken with their own voice and seed."""

from __future__ import annotations

import os
import pickle
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from batch_folders import records, write_manifest

from genmm.batch.manifest import ManifestError
from genmm.batch.runner import make_plan, run_batch
from genmm.batch.speech import SpeechTask, VoiceFile
from genmm.batch.task import BatchTask
from genmm.core.errors import ConfigError, UsageError
from genmm.media.audio import read_audio, write_audio


@pytest.fixture
def task(tiny_sled) -> SpeechTask:
    return SpeechTask(model=str(tiny_sled), device="cpu")


@pytest.fixture
def recording(tmp_path) -> Path:
    """Two seconds of a gliding tone."""
    time_s = np.arange(16000) / 8000
    return write_audio(tmp_path / "ann voice.wav", 0.3 * np.sin(2 * np.pi * (150 + 40 * time_s) * time_s), 8000)


def sounds(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: read_audio(path).samples for path in sorted(folder.glob("*.wav"))}


def problem(task: SpeechTask, tmp_path: Path, **row) -> str:
    with pytest.raises(ManifestError) as caught:
        make_plan(task, write_manifest(tmp_path / "in.jsonl", [{"id": "a", **row}]))
    return caught.value.problems[0][1]


def test_it_follows_the_protocol_and_pickles_without_its_model(task):
    assert isinstance(task, BatchTask)
    task.setup()
    copy = pickle.loads(pickle.dumps(task))  # noqa: S301
    assert copy == task
    assert copy._pipeline is None


@pytest.mark.parametrize(("row", "text"), [
    ({}, 'has no "text"'),
    ({"text": None}, 'has no "text"'),
    ({"text": 5}, "must be a string"),
    ({"text": " \n"}, "the text is empty"),
    ({"text": "a" * 2001}, "2001 characters"),
    ({"text": "a", "voice": "bob"}, r"no voice 'bob' .*it has: ann.*no file 'bob'"),
    ({"text": "a", "voice": 7}, "voice must be a string"),
    ({"text": "a", "transcript": "x"}, "a transcript belongs to a recording"),
    ({"text": "a", "guidance": 11}, "guidance must be from 0 to 10, got 11"),
    ({"text": "a", "guidance": "2"}, "guidance must be from 0 to 10, got '2'"),
    ({"text": "a", "temperature": -1}, "temperature must be from 0 to 4"),
    ({"text": "a", "settings": {"speed": 2}}, "unknown speech settings: speed"),
    ({"text": "a", "settings": {"max_s": "long"}}, "a setting has the wrong type"),
    ({"text": "a", "settings": [1]}, "settings must be an object"),
    ({"text": "a", "speaker": "ann"}, "unknown field \"speaker\""),
])  # fmt: skip
def test_bad_rows_are_found_before_the_model_is_loaded(task, tmp_path, row, text):
    import re

    assert re.search(text, problem(task, tmp_path, **row))
    assert task._pipeline is None


def test_recordings_are_found_from_the_folder_of_the_manifest_unless_forbidden(task, tmp_path, recording, monkeypatch):
    rows = [{"id": "a", "text": "one", "voice": "ann voice.wav", "transcript": "glide"}, {"id": "b", "text": "two"}]
    manifest = write_manifest(tmp_path / "in.jsonl", rows)
    monkeypatch.chdir("/")
    plan = make_plan(task, manifest)
    assert plan.requests["a"].voice == VoiceFile(recording, "glide")
    assert plan.requests["b"].voice is None
    strict = SpeechTask(model=task.model, allow_files=False)
    for voice in ("ann voice.wav", str(recording), "/etc/passwd"):
        said = problem(strict, tmp_path, text="one", voice=voice)
        assert "there is no voice" in said
        assert "file" not in said


def test_rows_are_spoken_as_the_pipeline_alone_would(task, tmp_path, recording):
    rows = [
        {"id": "plain", "text": "seven four one"},
        {"id": "ann", "text": "please hold", "voice": "ann", "seed": 5},
        {"id": "file", "text": "one", "voice": recording.name, "guidance": 1.0},
        {"id": "long", "text": "hold the line please", "settings": {"max_s": 0.8}, "temperature": 0.5},
        {"id": "none", "text": "4", "voice": ""},
    ]
    report = run_batch(task, write_manifest(tmp_path / "in.jsonl", rows), tmp_path / "out", seed=3)
    assert (report.done, report.exit_code) == (5, 0)
    lines = {line["id"]: line for line in records(tmp_path / "out")}
    assert lines["long"]["facts"]["seconds"] == pytest.approx(0.8)
    assert lines["none"]["facts"]["text_spoken"] == "four."
    assert all(line["files"] == [f"{name}.wav", f"{name}.json"] for name, line in lines.items())
    pipeline, made = task._pipeline, sounds(tmp_path / "out")
    audio = read_audio(recording)
    voices = {"ann": "ann", "file": pipeline.voice(audio.samples, audio.sample_rate), "none": ""}
    for row in rows:
        alone = pipeline.generate(
            row["text"],
            voice=voices.get(row["id"]),
            seed=lines[row["id"]]["seed"],
            guidance=row.get("guidance"),
            temperature=row.get("temperature"),
            settings=row.get("settings"),
        )
        difference = np.abs(made[f"{row['id']}.wav"][0] - np.clip(alone.samples[0], -1, 1)).max()
        assert difference < 2e-3, f"{row['id']} differs by {difference}"


def test_a_recording_that_cannot_speak_fails_alone(task, tmp_path, recording):
    (tmp_path / "broken.wav").write_bytes(b"no sound at all")
    write_audio(tmp_path / "silent.wav", np.zeros(8000), 8000)
    rows = [{"id": name, "text": "one", "voice": f"{name}.wav"} for name in ("broken", "silent")]
    rows += [{"id": "punctuation", "text": "?!"}, {"id": "good", "text": "one", "voice": recording.name}]
    report = run_batch(task, write_manifest(tmp_path / "in.jsonl", rows), tmp_path / "out")
    assert (report.done, report.failed, report.exit_code) == (1, 3, 3)
    errors = {line["id"]: line.get("error") for line in records(tmp_path / "out")}
    assert errors["broken"]["type"] == "MediaError"
    assert "a voice needs 1 s or more" in errors["silent"]["text"]
    assert "nothing to say" in errors["punctuation"]["text"]
    assert errors["good"] is None


def test_model_and_settings_belong_to_the_run(task, tiny_sled, tmp_path, recording):
    manifest = write_manifest(tmp_path / "in.jsonl", [{"id": "a", "text": "one"}])
    run_batch(task, manifest, tmp_path / "out")
    for change, field in [
        ({"voice": "ann"}, "settings.voice"),
        ({"guidance": 1.0}, "settings.settings"),
        ({"format": "flac"}, "settings.format"),
    ]:
        other = SpeechTask(model=str(tiny_sled), **{"device": "cpu", **change})
        with pytest.raises(ConfigError, match=field):
            run_batch(other, manifest, tmp_path / "out")
    one = SpeechTask(model=str(tiny_sled), voice=str(recording)).fingerprint()
    write_audio(recording, np.linspace(-1, 1, 9000), 8000)
    assert one != SpeechTask(model=str(tiny_sled), voice=str(recording)).fingerprint()


def test_another_model_in_the_same_folder_is_another_run(task, tiny_sled, tmp_path):
    from tiny_sled import make_tiny_sled

    manifest = write_manifest(tmp_path / "in.jsonl", [{"id": "a", "text": "one"}])
    run_batch(task, manifest, tmp_path / "out")
    other = make_tiny_sled(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match=r"settings\.model"):
        run_batch(SpeechTask(model=str(other)), manifest, tmp_path / "out")


def test_a_loaded_pipeline_can_be_brought(task, tiny_sled, tmp_path):
    import genmm

    pipeline = genmm.load(tiny_sled, device="cpu")
    brought = SpeechTask(model="no such model").use(pipeline)
    assert brought.fingerprint()["model"] == task.fingerprint()["model"]
    manifest = write_manifest(tmp_path / "in.jsonl", [{"id": "a", "text": "one", "voice": "ann"}])
    assert run_batch(brought, manifest, tmp_path / "out").done == 1
    with pytest.raises(UsageError, match="there is no model"):
        run_batch(SpeechTask(model="no such model"), manifest, tmp_path / "out2")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("kills", [6, pytest.param(25, marks=pytest.mark.slow)])
def test_the_command_survives_kill_9(tiny_sled, tmp_path, kills):
    import torch

    from app.cli import main

    rows = [{"id": f"u{n:02d}", "text": f"seven {n}", "voice": "ann" if n % 3 else ""} for n in range(16)]
    manifest, out = write_manifest(tmp_path / "in.jsonl", rows), tmp_path / "out"
    line = ["batch", "speech", "--manifest", str(manifest), "--model", str(tiny_sled), "--batch-size", "2"]
    line += ["--seed", "11", "--device", "cpu", "--out"]
    assert main([*line, str(tmp_path / "whole")]) == 0
    rng, killed = random.Random(kills), 0  # noqa: S311
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)  # the parent's thread pool does not exist in a fork
            os._exit(main([*line, str(out)]))
        time.sleep(rng.uniform(0.02, 0.5))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
    assert killed
    assert main([*line, str(out)]) == 0
    assert (out / "results.jsonl").read_bytes() == (tmp_path / "whole" / "results.jsonl").read_bytes()
    whole, survived = sounds(tmp_path / "whole"), sounds(out)
    assert whole.keys() == survived.keys()
    for name in whole:
        assert np.abs(whole[name] - survived[name]).max() < 1e-3
    assert {path.suffix for path in out.iterdir() if path.is_file()} == {".wav", ".json", ".jsonl"}
