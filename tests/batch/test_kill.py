"""kill -9 at any moment: the same command goes on, and the folder ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from batch_folders import contents, records, tones, write_manifest
from tone_task import ToneTask

from genmm.batch.runner import run_batch

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def forked(work) -> int:
    """Run `work` in a child process; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"child: {error!r}", flush=True)
            os._exit(1)
    return child


def ended(child: int) -> int:
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@pytest.fixture
def manifest(tmp_path) -> Path:
    rows = tones(24)
    rows[7]["poison"] = rows[16]["poison"] = "item"
    return write_manifest(tmp_path / "in.jsonl", rows)


@pytest.fixture
def whole(tmp_path, manifest) -> dict[str, bytes]:
    """What an uninterrupted run leaves."""
    run_batch(ToneTask(), manifest, tmp_path / "whole", batch_size=3)
    return contents(tmp_path / "whole")


def tries_of(log: Path) -> dict[str, int]:
    tried: dict[str, int] = {}
    for line in log.read_text().splitlines():
        for name in json.loads(line):
            tried[name] = tried.get(name, 0) + 1
    return tried


def wait_for_batches(child: int, log: Path, count: int) -> None:
    """Wait until `count` batches stand in the log, or the child has ended by itself."""
    while log.read_bytes().count(b"\n") < count:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.001)


@pytest.mark.parametrize("kills", [15, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nothing_is_lost_or_doubled(tmp_path, manifest, whole, kills):
    """Every kill hits a living run, some batches after its start; a run that ended before it is started over."""
    rng, out, log = random.Random(kills), tmp_path / "out", tmp_path / "log"  # noqa: S311
    task = ToneTask(pause_s=0.003, log=str(log))
    log.touch()
    killed = 0
    while killed < kills:
        begun = log.read_bytes().count(b"\n")
        child = forked(lambda: run_batch(task, manifest, out, batch_size=3))
        wait_for_batches(child, log, begun + rng.randint(0, 5))  # a whole run has 8
        time.sleep(rng.uniform(0.0, 0.01))
        os.kill(child, signal.SIGKILL)
        status = ended(child)
        assert status in (-signal.SIGKILL, 0)
        killed += status != 0
        if (out / "results.jsonl").exists():
            check_promises(out)
        if status == 0:
            assert contents(out) == whole
            out.rename(tmp_path / f"out-{killed}-{begun}")
    run_batch(task, manifest, out, batch_size=3)
    assert contents(out) == whole


def check_promises(out: Path) -> None:
    """At any moment: all lines but the last are whole, no id is done twice, done items have whole files."""
    *lines, torn = (out / "results.jsonl").read_bytes().split(b"\n")
    made = [record for line in lines if (record := json.loads(line))["status"] == "done"]
    assert len({record["id"] for record in made}) == len(made)
    for record in made:
        for name in record["files"]:
            assert (out / name).stat().st_size > 0
    for recipe in out.glob("*.json"):
        json.loads(recipe.read_text())


class KillAt:
    """Counts the calls that touch the disk and kills the process at one of them, before or after it happens."""

    NAMES = ("fsync", "replace", "link", "truncate", "unlink", "rmdir", "mkdir")

    def __init__(self, moment: int) -> None:
        self.moment, self.calls = moment, 0

    def install(self) -> None:
        for name in self.NAMES:
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call):
        def counted(*args, **kwargs):
            self.calls += 1
            if 2 * self.calls - 1 == self.moment:
                os.kill(os.getpid(), signal.SIGKILL)
            number = self.calls
            try:
                return call(*args, **kwargs)
            finally:
                if 2 * number == self.moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        return counted


def run_and_die(task, manifest, out, moment, **settings) -> int:
    """Run in a child that dies at the given disk operation; 0 when it ended before."""

    def work():
        KillAt(moment).install()
        run_batch(task, manifest, out, batch_size=2, **settings)

    return ended(forked(work))


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_and_after_every_disk_operation(tmp_path, stride):
    manifest = write_manifest(tmp_path / "in.jsonl", tones(4))
    run_batch(ToneTask(), manifest, tmp_path / "whole", batch_size=2)
    whole, moments = contents(tmp_path / "whole"), 0
    while True:
        moments += stride
        out = tmp_path / f"out-{moments}"
        status = run_and_die(ToneTask(), manifest, out, moments)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        run_batch(ToneTask(), manifest, out, batch_size=2)
        assert contents(out) == whole, f"killed at disk operation {moments}"
    assert moments > 40


def test_killed_at_every_disk_operation_in_a_row_each_start_gets_further(tmp_path, manifest, whole):
    out, log = tmp_path / "out", tmp_path / "log"
    task = ToneTask(log=str(log))
    for moment in range(60, 200, 14):
        if run_and_die(task, manifest, out, moment) == 0:
            break
    run_batch(task, manifest, out, batch_size=3)
    assert contents(out) == whole
    good = {name: count for name, count in tries_of(log).items() if name not in ("tone-007", "tone-016")}
    assert sum(count > 1 for count in good.values()) <= 2 * 21, "more than the batch in flight was made again"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_line_torn_by_the_kill_is_made_again(tmp_path, manifest, whole, share):
    out = tmp_path / "out"

    def tear(path, batch):
        data = "".join(record.to_line() for record in batch).encode()
        with open(path, "ab", buffering=0) as file:
            file.write(data[: int(share * len(data))])
        os.kill(os.getpid(), signal.SIGKILL)

    def work():
        import genmm.batch.runner as runner

        keep, calls = runner.append_records, iter(range(3))
        runner.append_records = lambda path, batch: keep(path, batch) if next(calls) < 2 else tear(path, batch)
        run_batch(ToneTask(), manifest, out, batch_size=3)

    assert ended(forked(work)) == -signal.SIGKILL
    check_promises(out)
    run_batch(ToneTask(), manifest, out, batch_size=3)
    assert contents(out) == whole


def test_shards_killed_at_disk_operations_still_merge_to_the_whole(tmp_path, manifest, whole):
    out = tmp_path / "out"
    for moment in range(1, 120, 10):
        run_and_die(ToneTask(), manifest, out, moment, shard=f"{1 + moment % 3}/3")
    for index in (1, 2, 3):
        run_batch(ToneTask(), manifest, out, shard=f"{index}/3")
    assert contents(out) == whole
    assert len(records(out)) == 24


def test_the_lock_of_a_killed_run_is_free_at_once(tmp_path, manifest):
    child = forked(lambda: run_batch(ToneTask(pause_s=5), manifest, tmp_path / "out"))
    while not (tmp_path / "out" / ".run" / "lock").exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    ended(child)
    assert run_batch(ToneTask(), manifest, tmp_path / "out").done == 22
