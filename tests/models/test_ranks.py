"""Tasks that step their optimizers by hand, trained by two processes: every gradient is exchanged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ranks_script.py")


@pytest.mark.slow
@pytest.mark.timeout(650)
@pytest.mark.parametrize("task", ["speech", "music", "vae", "set"])
def test_both_processes_end_with_the_same_weights(task, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), task, str(tmp_path)],
        env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "moved.json").read_text())
    assert found["processes"] == 2 and found["moved"] > 1e-4 and found["apart"] == 0.0
