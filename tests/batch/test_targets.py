"""A run replaces no file that it did not make, and never a file that its manifest reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from batch_folders import contents, records, tones, write_manifest
from tone_task import ToneTask

from genmm.batch.folder import RunFolder
from genmm.batch.highlight import HighlightTask
from genmm.batch.manifest import ManifestError
from genmm.batch.music import MusicTask
from genmm.batch.runner import check_batch, run_batch
from genmm.batch.speech import SpeechTask
from genmm.batch.task import BatchTask
from genmm.batch.video import VideoTask
from genmm.media.audio import write_audio


class EchoTask(ToneTask):
    """Tones that name a source."""

    fields: ClassVar[Mapping[str, str]] = {**ToneTask.fields, "source": "any file"}

    def validate(self, row: Any) -> dict[str, Any]:
        source = row.fields.get("source")
        return {**super().validate(row), "source": source and str((row.folder / source).resolve())}

    def sources(self, request: dict[str, Any]) -> tuple[Path, ...]:
        return (Path(request["source"]),) if request["source"] else ()


def refused(task: BatchTask, manifest: Path, out: Path) -> list[tuple[int, str]]:
    """What is wrong, found alike by the check and by runs of every kind; nothing in the folder is changed."""
    before = contents(out)
    found = []
    for refuse in (check_batch, run_batch, lambda *given: run_batch(*given, workers=2)):
        with pytest.raises(ManifestError, match="use another --out or another id") as caught:
            refuse(task, manifest, out)
        found.append(caught.value.problems)
    assert found[0] == found[1] == found[2]
    assert contents(out) == before
    return list(found[0])


def test_a_source_in_the_run_folder_is_not_replaced(tmp_path, tiny_sled):
    sound = 0.1 * np.sin(np.arange(8000) / 10)
    for name in ("out.flac", "me.wav", "game.mp4"):
        write_audio(tmp_path / name.replace(".mp4", ".wav"), sound, 8000)
    (tmp_path / "game.wav").rename(tmp_path / "game.mp4")
    speech = SpeechTask(model=str(tiny_sled), device="cpu")
    music, video = MusicTask(), VideoTask(format="gmvq")
    music._model_fingerprint = video._model_fingerprint = "0"
    rows = {
        "out.flac": (music, {"id": "out", "text": "organ", "source": "out.flac"}),
        "me.wav": (speech, {"id": "me", "text": "a", "voice": "me.wav"}),
        "game.mp4": (HighlightTask(model="heuristic", format="mp4"), {"id": "game", "video": "game.mp4"}),
    }
    for file, (task, row) in rows.items():
        manifest = write_manifest(tmp_path / "in.jsonl", [row])
        text = f"id {row['id']!r} would replace in {tmp_path}: {file} (the source of line 1); use another --out"
        for refuse in (check_batch, run_batch):
            with pytest.raises(ManifestError) as caught:
                refuse(task, manifest, tmp_path)
            assert caught.value.problems == ((1, f"{text} or another id"),)
        assert not (tmp_path / ".run").exists()
    manifest = write_manifest(tmp_path / "in.jsonl", [{"id": "game", "video": "game.mp4"}])
    assert check_batch(video, manifest, tmp_path)[1].left == 1


def test_files_of_other_people_are_not_replaced(tmp_path):
    out, manifest = tmp_path / "out", write_manifest(tmp_path / "in.jsonl", tones(4))
    out.mkdir()
    (out / "tone-001.wav").write_text("mine")
    (out / "tone-001.json").write_text("{}")
    (out / "tone-003.json").symlink_to("nowhere")
    (out / "tone-002.mp4").write_text("no item writes this")
    (first, one), (second, two) = refused(ToneTask(), manifest, out)
    assert (first, second) == (2, 4)
    assert "tone-001.wav and tone-001.json, which this run did not make" in one
    assert "tone-003.json, which this run did not make" in two
    assert not (out / ".run").exists()
    run_batch(ToneTask(), manifest, out, shard="1/2")  # its items are in nobody's way


def test_a_line_added_later_does_not_replace_a_file_either(tmp_path):
    out, manifest = tmp_path / "out", write_manifest(tmp_path / "in.jsonl", tones(2))
    run_batch(ToneTask(), manifest, out)
    (out / "tone-002.wav").write_text("mine")
    assert [line for line, _ in refused(ToneTask(), write_manifest(manifest, tones(3)), out)] == [3]


@pytest.mark.parametrize("renames", [1, 2, 3])
def test_what_a_stopped_run_left_without_a_record_is_made_again(tmp_path, monkeypatch, renames):
    """The folder is left between the renames of an item, after them, and between those of the next."""
    out, manifest = tmp_path / "out", write_manifest(tmp_path / "in.jsonl", tones(4))
    publish = RunFolder.publish
    left = [renames]

    def stop(folder, staged):
        for path in staged:
            publish(folder, [path])
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "publish", stop)
    with pytest.raises(KeyboardInterrupt):
        run_batch(ToneTask(), manifest, out, batch_size=4)
    monkeypatch.undo()
    assert not (out / "results.jsonl").exists() and len(contents(out)) == renames
    assert check_batch(ToneTask(), manifest, out)[1].left == 4
    assert run_batch(ToneTask(), manifest, out).made == 4


def test_items_made_before_may_be_made_again_though_their_record_is_gone(tmp_path):
    out, manifest = tmp_path / "out", write_manifest(tmp_path / "in.jsonl", tones(3))
    run_batch(ToneTask(), manifest, out)
    (out / "results.jsonl").unlink()
    (out / "tone-001.wav").unlink()
    assert run_batch(ToneTask(), manifest, out).made == 3
    for path in (out / ".run").glob("made-*"):  # of a version that kept no such list
        path.unlink()
    (out / "tone-001.wav").unlink()
    assert run_batch(ToneTask(), write_manifest(manifest, tones(3, seconds=0.03)), out).made == 3
    assert len(records(out)) == 3


def test_an_own_file_that_another_row_reads_is_not_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    rows = tones(1)
    run_batch(EchoTask(), write_manifest(out / "in.jsonl", rows), out)
    rows.append({"id": "echo", "source": "tone-000.wav"})
    assert run_batch(EchoTask(), write_manifest(out / "in.jsonl", rows), out).made == 1
    rows[0]["hertz"] = 50
    ((line, text),) = refused(EchoTask(), write_manifest(out / "in.jsonl", rows), out)
    assert line == 1 and "tone-000.wav (the source of line 2)" in text


def test_the_manifest_is_not_replaced(tmp_path):
    manifest = write_manifest(tmp_path / "in.json", [{"id": "in"}])
    assert "in.json (the manifest)" in refused(ToneTask(), manifest, tmp_path)[0][1]
