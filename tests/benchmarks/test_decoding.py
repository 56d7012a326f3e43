from __future__ import annotations

import pytest
import torch

from benchmarks.bandwidth import SIDE, matrix_vector_bandwidth
from benchmarks.decoding import (
    CPU_VARIANTS,
    CUDA_VARIANTS,
    RELEASED,
    bytes_per_step,
    decode,
    decoding_section,
    forced_frames,
    make_engine,
    random_network,
    relative_error,
)
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.engine import DecodeEngine
from genmm.systems.sled.network import SledNetwork

TINY = SledConfig(
    vocab_size=60, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vae_embed_dim=6,
    diffloss_d=2, diffloss_w=64, noise_channels=8, max_position_embeddings=128,
)  # fmt: skip
IDS = torch.tensor([0, 17, 9, 33, 2])


@pytest.fixture(scope="module")
def network() -> SledNetwork:
    return random_network(TINY, seed=3)


def test_the_released_size_is_the_published_one():
    with torch.device("meta"):
        network = SledNetwork(RELEASED)
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(203.63e6, rel=1e-3)
    assert bytes_per_step(network, 4) == pytest.approx(4 * (203.63e6 - 16.78e6), rel=1e-3)


def test_no_weight_of_a_random_network_is_zero(network):
    assert all(weight.abs().sum() > 0 for weight in network.parameters())
    again = random_network(TINY, seed=3)
    assert torch.equal(again.z_proj.weight, network.z_proj.weight)


def test_forced_frames_repeat_what_was_spoken(network):
    """Fed with its own latents, the decoder draws them again."""
    noise = torch.randn(18, TINY.noise_channels, generator=torch.Generator().manual_seed(1))
    engine = DecodeEngine(network)
    spoken = decode(engine, IDS, noise)
    states, draws = forced_frames(engine, IDS, spoken, noise)
    assert states.shape == (18, TINY.hidden_size)
    torch.testing.assert_close(draws, spoken, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(one, marks=[pytest.mark.fbgemm] if one.packing != "live" else [], id=one.name)
        for one in CPU_VARIANTS[1:]
    ],
)
def test_fewer_bits_cost_a_little_and_not_nothing(network, variant):
    noise = torch.randn(10, TINY.noise_channels, generator=torch.Generator().manual_seed(1))
    exact = DecodeEngine(network)
    frames = decode(exact, IDS, noise)
    reference = forced_frames(exact, IDS, frames, noise)
    packed = forced_frames(make_engine(network, variant, torch.device("cpu")), IDS, frames, noise)
    for value, truth in zip(packed, reference, strict=True):
        assert 0 < relative_error(value, truth) < 0.1


def test_relative_error_of_known_tensors():
    assert relative_error(torch.tensor([3.0, 4.4]), torch.tensor([3.0, 4.0])) == pytest.approx(0.08)


def test_bandwidth_counts_the_bytes_of_the_matrices(monkeypatch):
    import benchmarks.timing as timing

    monkeypatch.setattr(timing.time, "perf_counter", iter(range(100)).__next__)  # every run takes one second
    measured = matrix_vector_bandwidth(total_bytes=2 * 4 * SIDE * SIDE, runs=3)
    assert measured.median == 2 * 4 * SIDE * SIDE and measured.runs == 3


def test_the_quick_section_has_all_its_rows():
    pytest.importorskip("transformers", reason="needs transformers: pip install 'genmm[official]'")
    section = decoding_section(frames=4, runs=1, quick=True, device=torch.device("cpu"))
    rows = {row.item: row for row in section.rows}
    for variant in CPU_VARIANTS:
        row = rows[f"ours, {variant.name}"]
        assert row.peer == rows["original, float32"].ours and row.limit > 0
        assert row.goal is None  # a small size says nothing about the goals
    assert rows["ours, int8 weights"].limit == pytest.approx(4 * rows["ours, float32"].limit)
    assert rows["error of latents, int8 weights"].ours > 0
    assert rows["original, bfloat16"].limit == pytest.approx(2 * rows["original, float32"].limit)


def test_the_goals_are_those_of_the_released_size():
    goals = {variant.name: variant.goal for variant in (*CPU_VARIANTS, *CUDA_VARIANTS)}
    assert goals["int8 weights"] == 3.0 and goals["bfloat16, CUDA graphs"] == 20.0
    assert [variant.goal for variant in CPU_VARIANTS if variant.name == "float32, split"] == [1.7]
