"""The fused kernels: in Triton's interpreter on any machine, and as they are where there is a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
pytest.importorskip("triton", reason="needs the triton package, which torch brings along on Linux")


def load_cases():
    spec = importlib.util.spec_from_file_location("nearest_cases_of_triton", HERE / "nearest_cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = load_cases()


@pytest.fixture(scope="module")
def interpreted() -> dict[str, str]:
    """What became of each case in a process whose Triton interprets: it reads the variable when it is imported."""
    done = subprocess.run(
        [sys.executable, str(HERE / "nearest_cases.py"), "triton"],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", cases.CASES)
def test_the_interpreted_kernels_keep_the_promise(name, interpreted):
    assert interpreted[name] == "ok", interpreted[name]


@pytest.mark.gpu
@pytest.mark.parametrize("name", cases.CASES)
def test_the_kernels_of_a_gpu_keep_the_promise(name):
    cases.CASES[name]("triton", "cuda")


@pytest.mark.gpu
def test_memory_does_not_grow_with_rows_times_codes():
    x, c = cases.drawn(20_000, 16, device="cuda"), cases.drawn(65_536, 16, device="cuda")
    cases.nearest_codes(x, c)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cases.nearest_codes(x, c)
    assert torch.cuda.max_memory_allocated() - before < 64 * 2**20  # scores would be 5 GB
