from __future__ import annotations

import numpy as np
import pytest

from benchmarks import memory
from benchmarks.memory import peak_memory_bytes, run_alone
from genmm.core.errors import GenerationError

ASK = "from benchmarks.memory import peak_memory_bytes; print(peak_memory_bytes())"


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_bytes()
    if before is None:
        pytest.skip("this system does not tell the peak memory of a process")
    held = np.ones(60_000_000, dtype=np.uint8)
    assert peak_memory_bytes() >= before and peak_memory_bytes() > held.nbytes


def test_a_fresh_process_does_not_begin_with_the_peak_of_the_one_that_started_it():
    if peak_memory_bytes() is None:
        pytest.skip("this system does not tell the peak memory of a process")
    held = np.ones(400_000_000, dtype=np.uint8)
    assert int(run_alone("-c", ASK)) < 100_000_000 < held.nbytes < peak_memory_bytes()


def test_arguments_reach_the_process_and_only_its_last_line_counts():
    assert run_alone("-c", "import sys; print(1); print(*sys.argv[1:])", "a", "b") == "a b"


@pytest.mark.parametrize(
    "program", ["raise SystemExit('no sound here')", "import sys; sys.stderr.write('no sound here')"]
)
def test_a_process_that_fails_or_says_nothing_tells_why(program):
    with pytest.raises(GenerationError, match="no sound here"):
        run_alone("-c", program)


def test_a_process_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(memory, "LONGEST_S", 0.2)
    with pytest.raises(GenerationError, match="more than 0.2 s"):
        run_alone("-c", "import time; time.sleep(600)")
