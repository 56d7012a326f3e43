"""Several worker processes: the same results, each item once, and a worker's death costs its batch alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from batch_folders import contents, records, tones, write_manifest
from tone_task import ToneTask

from genmm.batch.runner import run_batch
from genmm.core.errors import GenmmError
from genmm.core.events import Progress

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # every worker is a fresh Python that imports torch


def test_workers_make_what_one_process_makes(tmp_path):
    manifest, log = write_manifest(tmp_path / "in.jsonl", tones(9)), tmp_path / "log"
    events = []
    report = run_batch(
        ToneTask(log=str(log)), manifest, tmp_path / "out", workers=2, batch_size=2, on_event=events.append
    )
    assert (report.done, report.made, report.exit_code) == (9, 9, 0)
    assert [e.done for e in events if isinstance(e, Progress)][-1] == 9
    run_batch(ToneTask(), manifest, tmp_path / "one")
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    assert sorted(sum(map(json.loads, log.read_text().splitlines()), [])) == [row["id"] for row in tones(9)]


def test_a_crashing_worker_costs_its_batch_alone(tmp_path, caplog):
    rows = tones(8)
    rows[2]["poison"] = "crash"
    manifest = write_manifest(tmp_path / "in.jsonl", rows)
    report = run_batch(ToneTask(), manifest, tmp_path / "out", workers=2, batch_size=1)
    assert (report.done, report.left, report.exit_code) == (5, 3, 3)
    assert "worker 1 ended with exit code 9" in caplog.text
    assert [line["id"][-1] for line in records(tmp_path / "out")] == list("01357")
    assert run_batch(ToneTask(), write_manifest(manifest, tones(8)), tmp_path / "out").made == 3


@pytest.mark.parametrize(("limit", "exit_code"), [(1, 3), (None, 3)])
def test_errors_of_all_workers_count_together(tmp_path, limit, exit_code):
    manifest = write_manifest(tmp_path / "in.jsonl", tones(40, poison="item"))
    report = run_batch(ToneTask(pause_s=0.02), manifest, tmp_path / "out", workers=2, batch_size=1, max_errors=limit)
    assert report.exit_code == exit_code
    assert (report.left > 0) == (limit is not None)
    assert len(records(tmp_path / "out")) == report.failed


def test_a_stop_request_reaches_the_workers(tmp_path):
    manifest, stop = write_manifest(tmp_path / "in.jsonl", tones(200)), threading.Event()

    def on_event(event):
        if isinstance(event, Progress) and event.done >= 4:
            stop.set()

    report = run_batch(
        ToneTask(pause_s=0.02), manifest, tmp_path / "out", workers=2, batch_size=2, on_event=on_event, stop=stop
    )
    assert (report.stopped, report.exit_code) == ("asked", 143)
    assert 4 <= report.done < 200
    assert len(records(tmp_path / "out")) == report.done


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device of Linux that is always full")
def test_an_error_that_ends_a_worker_is_raised_here(tmp_path):
    rows = tones(8)
    rows[5]["poison"] = "disk"
    manifest = write_manifest(tmp_path / "in.jsonl", rows)
    with pytest.raises(GenmmError, match="is full; finished items are safe") as caught:
        run_batch(ToneTask(), manifest, tmp_path / "out", workers=2, batch_size=1)
    assert caught.value.exit_code == 3


def test_workers_end_when_their_parent_is_killed(tmp_path):
    manifest = write_manifest(tmp_path / "in.jsonl", tones(300))
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from genmm.batch.runner import run_batch\nfrom tone_task import ToneTask\n"
        f"if __name__ == '__main__': run_batch(ToneTask(pause_s=0.02), {str(manifest)!r}, {str(tmp_path / 'out')!r},"
        " workers=2, batch_size=1)\n"
    )
    script = tmp_path / "start.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, str(script)], cwd=Path(__file__).parents[2])
    shard_files = lambda: list((tmp_path / "out").glob("results.shard-*"))  # noqa: E731
    deadline = time.monotonic() + 240
    while len(shard_files()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 240
    report = None
    while (
        report is None and time.monotonic() < deadline
    ):  # the folder is free for a whole run when the last worker has ended
        try:
            report = run_batch(ToneTask(), manifest, tmp_path / "out")
        except GenmmError:
            time.sleep(0.1)
    assert report is not None, "the workers went on without their parent"
    assert report.done == 300
    assert report.made < 300
