"""The Ray engine makes what the local engine makes; without Ray it says how to get it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from batch_folders import contents, tones, write_manifest
from tone_task import ToneTask

from genmm.batch.ray_engine import require_ray
from genmm.batch.runner import check_batch, run_batch
from genmm.core.errors import GenmmError, MissingDependencyError

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray Data: pip install 'genmm[ray]'"
)


def test_without_ray_the_error_names_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'genmm\[ray\]'"):
        require_ray()
    manifest = write_manifest(tmp_path / "in.jsonl", tones(2))
    with pytest.raises(MissingDependencyError):
        run_batch(ToneTask(), manifest, tmp_path / "out", engine="ray")
    with pytest.raises(MissingDependencyError):
        check_batch(ToneTask(), manifest, tmp_path / "out", engine="ray")
    assert run_batch(ToneTask(), manifest, tmp_path / "out").done == 2


@pytest.fixture(scope="module")
def ray():
    found = require_ray()
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    found.init(
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},  # the actors import tone_task
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield found
    found.shutdown()


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)  # Ray starts a cluster and fresh processes
def test_ray_makes_what_the_local_engine_makes_and_resumes(tmp_path, ray):
    rows = tones(11)
    rows[4]["poison"] = "batch"
    manifest = write_manifest(tmp_path / "in.jsonl", rows)
    run_batch(ToneTask(), manifest, tmp_path / "local", batch_size=3)
    run_batch(ToneTask(), write_manifest(tmp_path / "part.jsonl", rows[:5]), tmp_path / "out")
    report = run_batch(ToneTask(), manifest, tmp_path / "out", engine="ray", workers=2, batch_size=3)
    assert (report.done, report.made, report.failed, report.exit_code) == (10, 6, 1, 3)
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)  # Ray starts a cluster and fresh processes
def test_a_full_disk_of_an_actor_stops_the_run(tmp_path, ray):
    manifest = write_manifest(tmp_path / "in.jsonl", tones(4, poison="disk"))
    with pytest.raises(GenmmError, match="is full; finished items are safe"):
        run_batch(ToneTask(), manifest, tmp_path / "out", engine="ray")
