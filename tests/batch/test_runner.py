"""The runner's promises on one process: resume, failures, memory, limits, stopping, one run per folder."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from batch_folders import contents, records, tones, write_manifest
from tone_task import ToneTask

from genmm.batch.execute import RunStoppedError
from genmm.batch.manifest import ManifestError
from genmm.batch.runner import run_batch
from genmm.batch.task import TASKS, BatchTask, on_device, task_class
from genmm.core.errors import ConfigError, DataError, UsageError
from genmm.core.events import CancelToken, Finished, Progress
from genmm.core.seeds import derive_seed


@pytest.fixture
def manifest(tmp_path) -> Path:
    return write_manifest(tmp_path / "in.jsonl", tones(10))


def batches(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_tone_task_follows_the_protocol():
    assert isinstance(ToneTask(), BatchTask)
    assert on_device(ToneTask(), "cuda:1") == ToneTask()


def test_a_run_makes_every_item_once_in_manifest_order(tmp_path, manifest):
    report = run_batch(ToneTask(), manifest, tmp_path / "out", seed=5)
    assert (report.total, report.done, report.made, report.failed, report.left, report.exit_code) == (
        10,
        10,
        10,
        0,
        0,
        0,
    )
    lines = records(tmp_path / "out")
    assert [line["id"] for line in lines] == [row["id"] for row in tones(10)]
    assert lines[3]["seed"] == derive_seed(5, "tone-003")
    assert lines[3]["files"] == ["tone-003.wav", "tone-003.json"]
    assert lines[3]["facts"] == {"samples": 160}
    expected = {"results.jsonl"} | {f"{row['id']}{suffix}" for row in tones(10) for suffix in (".wav", ".json")}
    assert contents(tmp_path / "out").keys() == expected


def test_results_do_not_depend_on_batch_size_shards_or_earlier_stops(tmp_path, manifest):
    run_batch(ToneTask(), manifest, tmp_path / "a", batch_size=1)
    run_batch(ToneTask(), manifest, tmp_path / "b", batch_size=7)
    for index in (3, 1, 2):
        run_batch(ToneTask(), manifest, tmp_path / "c", shard=f"{index}/3", batch_size=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_a_row_may_bring_its_own_seed(tmp_path):
    write_manifest(tmp_path / "in.jsonl", [{"id": "a", "seed": 9}, {"id": "b", "seed": 9}, {"id": "c", "seed": None}])
    run_batch(ToneTask(), tmp_path / "in.jsonl", tmp_path / "out")
    files = contents(tmp_path / "out")
    assert [line["seed"] for line in records(tmp_path / "out")] == [9, 9, derive_seed(0, "c")]
    assert files["a.wav"] == files["b.wav"] != files["c.wav"]


@pytest.mark.parametrize("seed", [-1, 2**63, "7", 1.5, True])
def test_a_bad_row_seed_is_found_before_any_work(tmp_path, seed):
    write_manifest(tmp_path / "in.jsonl", [{"id": "a"}, {"id": "b", "seed": seed}])
    with pytest.raises(ManifestError, match="line 2: .*seed"):
        run_batch(ToneTask(), tmp_path / "in.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_command_again_does_nothing_and_a_longer_manifest_does_the_rest(tmp_path, manifest):
    log = tmp_path / "log"
    task = ToneTask(log=str(log))
    run_batch(task, manifest, tmp_path / "out")
    before = contents(tmp_path / "out")
    log.write_text("")
    report = run_batch(task, manifest, tmp_path / "out")
    assert (report.done, report.made, log.read_text()) == (10, 0, "")
    assert contents(tmp_path / "out") == before
    write_manifest(manifest, tones(13))
    assert run_batch(task, manifest, tmp_path / "out").made == 3
    assert sum(batches(log), []) == ["tone-010", "tone-011", "tone-012"]
    assert [line["id"] for line in records(tmp_path / "out")] == [row["id"] for row in tones(13)]


def test_an_edited_row_and_a_lost_file_are_made_again(tmp_path, manifest):
    run_batch(ToneTask(), manifest, tmp_path / "out")
    (tmp_path / "out" / "tone-002.wav").unlink()
    rows = tones(10)
    rows[5]["hertz"] = 999
    write_manifest(manifest, rows)
    assert run_batch(ToneTask(), manifest, tmp_path / "out").made == 2
    run_batch(ToneTask(), manifest, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_items_that_left_the_manifest_keep_their_line(tmp_path, manifest):
    run_batch(ToneTask(), manifest, tmp_path / "out")
    write_manifest(manifest, tones(10)[6:])
    report = run_batch(ToneTask(), manifest, tmp_path / "out")
    assert (report.total, report.done, report.made) == (4, 4, 0)
    assert [line["id"][-1] for line in records(tmp_path / "out")] == list("6789012345")


@pytest.mark.parametrize(("poison", "kind", "text"), [
    ("batch", "ValueError", "bad item tone-004"),
    ("item", "MediaError", "the voice of this item cannot be read"),
    ("memory", "MemoryError", "memory ran out for this item alone; shorten it or use a larger device"),
    ("facts", "UsageError", "a recipe cannot hold the number nan"),
])  # fmt: skip
def test_a_poisoned_item_is_recorded_and_the_others_are_made(tmp_path, poison, kind, text):
    rows = tones(10)
    rows[4]["poison"] = poison
    write_manifest(tmp_path / "in.jsonl", rows)
    report = run_batch(ToneTask(), tmp_path / "in.jsonl", tmp_path / "out", batch_size=4)
    assert (report.done, report.failed, report.left, report.exit_code) == (9, 1, 0, 3)
    line = records(tmp_path / "out")[4]
    assert line["status"] == "failed"
    assert line["error"] == {"type": kind, "text": text}
    assert "files" not in line
    run_batch(ToneTask(), write_manifest(tmp_path / "good.jsonl", tones(10)), tmp_path / "good", batch_size=4)
    good, mixed = contents(tmp_path / "good"), contents(tmp_path / "out")
    assert {name for name in good if good[name] != mixed.get(name)} == {
        "tone-004.wav",
        "tone-004.json",
        "results.jsonl",
    }


def test_failed_items_are_tried_again_unless_told_not_to(tmp_path):
    rows = tones(6)
    rows[2]["poison"] = rows[3]["poison"] = "flaky"
    write_manifest(tmp_path / "in.jsonl", rows)
    task = ToneTask(log=str(tmp_path / "log"))
    assert run_batch(task, tmp_path / "in.jsonl", tmp_path / "out").failed == 2
    assert run_batch(task, tmp_path / "in.jsonl", tmp_path / "out").failed == 2
    (tmp_path / "log.mended").touch()
    report = run_batch(task, tmp_path / "in.jsonl", tmp_path / "out", retry_failed=False)
    assert (report.failed, report.made, report.exit_code) == (2, 0, 3)
    report = run_batch(task, tmp_path / "in.jsonl", tmp_path / "out")
    assert (report.failed, report.made, report.done, report.exit_code) == (0, 2, 6, 0)
    assert [line["status"] for line in records(tmp_path / "out")] == ["done"] * 6


class OneByOne(ToneTask):
    one_by_one = True


def test_tasks_that_make_one_item_after_another_keep_each_when_it_is_made(tmp_path, manifest):
    def interrupt(event):
        if isinstance(event, Progress) and event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(OneByOne(), manifest, tmp_path / "out", on_event=interrupt)
    assert len(records(tmp_path / "out")) == 3
    kinds = {name for name in TASKS if getattr(task_class(name), "one_by_one", False)}
    assert kinds == {"video", "highlight", "music"}


def test_too_little_memory_halves_the_batch_and_says_so(tmp_path, manifest):
    log = tmp_path / "log"
    run_batch(ToneTask(fits=3, log=str(log)), manifest, tmp_path / "out", batch_size=8)
    assert [len(batch) for batch in batches(log)] == [8, 4, 2, 2, 2, 2, 2]
    lines = records(tmp_path / "out")
    assert [line.get("notes") for line in lines[:8]] == [["memory ran out; made in a batch of at most 2"]] * 8
    assert all("notes" not in line for line in lines[8:])
    run_batch(ToneTask(), manifest, tmp_path / "fresh")
    mine, fresh = contents(tmp_path / "out"), contents(tmp_path / "fresh")
    assert {name for name in fresh if mine[name] != fresh[name]} == {"results.jsonl"}


@pytest.mark.parametrize(("limit", "tried"), [(0, 1), (2, 3), (0.25, 3), (None, 10)])
def test_too_many_errors_end_the_run(tmp_path, limit, tried):
    write_manifest(tmp_path / "in.jsonl", tones(10, poison="item"))
    report = run_batch(ToneTask(), tmp_path / "in.jsonl", tmp_path / "out", batch_size=1, max_errors=limit)
    assert (report.failed, report.left, report.exit_code) == (tried, 10 - tried, 3)
    assert report.stopped == ("errors" if limit is not None else "")
    assert len(records(tmp_path / "out")) == tried


def test_items_of_like_cost_share_a_batch(tmp_path):
    rows = [{"id": f"{k}", "seconds": 0.1 if k % 3 == 0 else 0.01} for k in range(12)]
    write_manifest(tmp_path / "in.jsonl", rows)
    run_batch(ToneTask(log=str(tmp_path / "log")), tmp_path / "in.jsonl", tmp_path / "out", batch_size=4)
    assert batches(tmp_path / "log")[0] == ["0", "3", "6", "9"]
    assert [line["id"] for line in records(tmp_path / "out")] == [str(k) for k in range(12)]


def test_a_stop_request_finishes_the_batch_in_flight(tmp_path, manifest):
    stop = threading.Event()

    def on_event(event):
        if isinstance(event, Progress) and event.done >= 4:
            stop.set()

    report = run_batch(ToneTask(), manifest, tmp_path / "out", batch_size=2, on_event=on_event, stop=stop)
    assert (report.stopped, report.done, report.left, report.exit_code) == ("asked", 4, 6, 143)
    assert run_batch(ToneTask(), manifest, tmp_path / "out").made == 6


def test_a_stop_request_after_the_last_batch_is_no_stop(tmp_path, manifest):
    stop = threading.Event()
    done = run_batch(
        ToneTask(), manifest, tmp_path / "out", stop=stop, on_event=lambda e: getattr(e, "done", 0) == 10 and stop.set()
    )
    assert (done.stopped, done.exit_code) == ("", 0)


def test_cancel_drops_the_batch_in_flight_alone(tmp_path, manifest):
    cancel = CancelToken()
    timer = threading.Timer(0.35, cancel.cancel)
    timer.start()
    report = run_batch(ToneTask(pause_s=0.05), manifest, tmp_path / "out", batch_size=3, cancel=cancel)
    assert (report.stopped, report.exit_code) == ("cancelled", 130)
    assert report.done % 3 == 0
    assert 0 < report.left
    run_batch(ToneTask(), manifest, tmp_path / "out", batch_size=3)
    run_batch(ToneTask(), manifest, tmp_path / "fresh", batch_size=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_ctrl_c_leaves_a_tidy_folder(tmp_path, manifest):
    def interrupt(event):
        if isinstance(event, Progress) and event.done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(ToneTask(), manifest, tmp_path / "out", batch_size=2, on_event=interrupt)
    assert [line["id"] for line in records(tmp_path / "out")] == ["tone-000", "tone-001", "tone-002", "tone-003"]
    assert run_batch(ToneTask(), manifest, tmp_path / "out").made == 6


def test_events_count_up_and_end_with_the_report(tmp_path, manifest):
    events = []
    report = run_batch(ToneTask(), manifest, tmp_path / "out", batch_size=4, on_event=events.append)
    assert [e.done for e in events if isinstance(e, Progress)] == [0, 0, 4, 8, 10]
    assert {e.total for e in events if isinstance(e, Progress)} == {10}
    assert isinstance(events[-1], Finished)
    assert events[-1].result is report


# ---------------------------------------------------------------- one folder, one run


@pytest.mark.parametrize(("change", "named"), [
    ({"seed": 1}, r"seed: folder 0, now 1"),
    ({"task": ToneTask(gain=0.25)}, r"settings\.gain: folder 0\.5, now 0\.25"),
])  # fmt: skip
def test_a_folder_refuses_another_run_and_names_the_field(tmp_path, manifest, change, named):
    run_batch(ToneTask(), manifest, tmp_path / "out")
    before = contents(tmp_path / "out")
    settings = {"task": ToneTask(), "manifest": manifest, "out_dir": tmp_path / "out", **change}
    with pytest.raises(ConfigError, match=named) as caught:
        run_batch(**settings)
    assert str(caught.value).count(": folder") == 1
    assert contents(tmp_path / "out") == before


def test_another_code_version_is_another_run(tmp_path, manifest, monkeypatch):
    run_batch(ToneTask(), manifest, tmp_path / "out")
    monkeypatch.setattr("genmm.__version__", "9.9.9")
    with pytest.raises(ConfigError, match=r"genmm: folder '.*', now '9\.9\.9'"):
        run_batch(ToneTask(), manifest, tmp_path / "out")


def test_results_without_their_fingerprint_are_not_touched(tmp_path, manifest):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.jsonl").write_text("somebody's notes\n")
    with pytest.raises(DataError, match="not the fingerprint"):
        run_batch(ToneTask(), manifest, tmp_path / "out")
    assert (tmp_path / "out" / "results.jsonl").read_text() == "somebody's notes\n"


def test_a_damaged_fingerprint_is_an_error(tmp_path, manifest):
    run_batch(ToneTask(), manifest, tmp_path / "out")
    (tmp_path / "out" / ".run" / "fingerprint.json").write_text("[]")
    with pytest.raises(DataError, match="damaged"):
        run_batch(ToneTask(), manifest, tmp_path / "out")


def at_first_event(act):
    """An on_event that calls `act` once, while the run holds its folder."""
    called = []
    return lambda event: called or called.append(act())


def test_two_runs_do_not_share_a_folder(tmp_path, manifest, monkeypatch):
    monkeypatch.setattr("genmm.batch.folder.SHARED_LOCK_PATIENCE", 2)

    def refused():
        for shard in (None, "1/2"):
            with pytest.raises(UsageError, match=r"at work already \(process \d+ on "):
                run_batch(ToneTask(), manifest, tmp_path / "out", shard=shard)

    run_batch(ToneTask(), manifest, tmp_path / "out", on_event=at_first_event(refused))
    assert len(records(tmp_path / "out")) == 10


def test_shards_share_a_folder_but_each_works_once_and_no_whole_run_joins(tmp_path, manifest):
    def others():
        for shard in (None, "1/2"):
            with pytest.raises(UsageError, match="at work already"):
                run_batch(ToneTask(), manifest, tmp_path / "out", shard=shard)
        assert run_batch(ToneTask(), manifest, tmp_path / "out", shard="2/2").made == 5
        assert not (tmp_path / "out" / "results.jsonl").exists()

    assert run_batch(ToneTask(), manifest, tmp_path / "out", shard="1/2", on_event=at_first_event(others)).made == 5
    run_batch(ToneTask(), manifest, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_out_must_be_a_folder_that_can_be_written(tmp_path, manifest):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        run_batch(ToneTask(), manifest, tmp_path / "file")
    with pytest.raises(DataError, match="cannot make the run folder"):
        run_batch(ToneTask(), manifest, tmp_path / "file" / "out")


@pytest.mark.parametrize("wrong", [
    {"workers": 0}, {"batch_size": 0}, {"batch_size": 5000}, {"max_errors": -1}, {"max_errors": float("nan")},
    {"shard": "0/2"}, {"shard": "3/2"}, {"shard": "x"}, {"seed": -1}, {"engine": "slurm"},
])  # fmt: skip
def test_wrong_settings_are_told_before_any_work(tmp_path, manifest, wrong):
    with pytest.raises(UsageError):
        run_batch(ToneTask(), manifest, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the disk


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device of Linux that is always full")
def test_a_full_disk_stops_the_run_with_a_clear_message_and_loses_nothing(tmp_path):
    rows = tones(10)
    rows[5]["poison"] = "disk"
    write_manifest(tmp_path / "in.jsonl", rows)
    with pytest.raises(RunStoppedError, match="is full; finished items are safe") as caught:
        run_batch(ToneTask(), tmp_path / "in.jsonl", tmp_path / "out", batch_size=2)
    assert caught.value.exit_code == 3
    assert len(records(tmp_path / "out")) == 4
    assert run_batch(ToneTask(), write_manifest(tmp_path / "in.jsonl", tones(10)), tmp_path / "out").made == 6


def test_a_results_file_that_cannot_grow_stops_the_run(tmp_path, manifest, monkeypatch):
    def refuse(path, records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("genmm.batch.runner.append_records", refuse)
    with pytest.raises(RunStoppedError, match="is full"):
        run_batch(ToneTask(), manifest, tmp_path / "out")
    monkeypatch.undo()
    assert run_batch(ToneTask(), manifest, tmp_path / "out").made == 10
