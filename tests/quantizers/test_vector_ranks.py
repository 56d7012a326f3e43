"""Two processes that train one quantizer: their codebooks stay equal, and are those of one process with all vectors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("vector_ranks_script.py")
ROOT = SCRIPT.parents[2]


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """What each process ends with, by world size and rank; fails when one of them hangs."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    for world in (2, 1):
        processes = [
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(rank), str(world), str(folder / "meeting"), str(folder)],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        try:
            said = [process.communicate(timeout=600)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert not any(process.returncode for process in processes), said
    return {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in ("2_0", "2_1", "1_0")}


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_codebooks_of_two_processes_are_equal_bit_for_bit(states):
    first, second = states["2_0"], states["2_1"]
    for case, state in first.items():
        for name, value in state.items():
            assert torch.equal(value, second[case][name]), f"{case}: {name}"
            assert value.isfinite().all()


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_two_processes_end_where_one_with_all_vectors_ends(states):
    for name, value in states["2_0"]["plain"].items():  # the case in which nothing is drawn
        torch.testing.assert_close(value, states["1_0"]["plain"][name], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1300)
@pytest.mark.parametrize("case", ["k-means", "heads", "dead codes"])
def test_every_code_is_used_after_start_and_revival(states, case):
    sizes = next(value for name, value in states["2_0"][case].items() if name.endswith("cluster_size"))
    assert sizes.min() > 0
