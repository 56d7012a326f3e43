"""The music measurements: the peer computes the same, and a quick run gives every table."""

from __future__ import annotations

import pytest
import torch

from benchmarks.music import SMALL, memory_section, random_network
from benchmarks.music_original import original_guided_step
from benchmarks.run import main
from genmm.samplers.guidance import Guidance
from genmm.systems.melodyflow.velocity import PromptedFlow


def test_the_original_manner_gives_the_same_velocity():
    network = random_network(SMALL, torch.device("cpu"))
    states, mask = torch.randn(2, 6, 96), torch.tensor([[1.0] * 6, [1.0] * 3 + [0.0] * 3])
    x = torch.randn(2, 64, 12)
    ours = PromptedFlow(network, network.condition(states, mask)).guided(Guidance(weight=4.0))(x, 0.4)
    torch.testing.assert_close(ours, original_guided_step(network, x, 0.4, states, mask, 4.0), atol=2e-4, rtol=1e-3)


def test_a_quick_run_gives_tables(capsys):
    assert main(["music", "--quick", "--only", "solver", "step", "codec", "released", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "torchdiffeq" in said and "original manner" in said and "needs a CUDA device" in said


@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own():
    grown, sound = memory_section(quick=True).rows[-2:]
    assert grown.ours >= 0 and sound.ours == pytest.approx(8 * 48_000 * 2 * 4 / 2**20)
