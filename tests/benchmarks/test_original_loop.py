"""The peer is a fair one only if it computes the same: against stored official cases, and against our decoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.decoding import decode, random_network
from genmm.samplers.autoregressive import StopRule
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.engine import DecodeEngine
from genmm.systems.sled.generation import generate_latents
from genmm.systems.sled.joint import Utterance
from genmm.systems.sled.network import SledNetwork

pytest.importorskip("transformers", reason="needs transformers: pip install 'genmm[official]'")
from benchmarks.original_loop import OriginalLoop  # noqa: E402

SIZES = SledConfig(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    vae_embed_dim=6,
    diffloss_d=2,
    diffloss_w=24,
    noise_channels=5,
)


@pytest.fixture(scope="module")
def network() -> SledNetwork:
    return random_network(SIZES, seed=3)


def noise_of(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_both_loops_speak_the_same_latents(network, guidance):
    ids, noise = torch.tensor([0, 17, 9, 33, 2]), noise_of(20, SIZES.noise_channels)
    ours = decode(DecodeEngine(network), ids, noise, guidance=guidance)
    mask = torch.ones(1, 5, dtype=torch.bool)
    original = OriginalLoop(network).generate(ids[None], mask, noise[None], guidance, threshold=2.0)
    assert original.shape == (1, 20, SIZES.vae_embed_dim) and original.std() > 1e-3
    torch.testing.assert_close(ours, original[0], rtol=1e-4, atol=1e-6)


def test_both_loops_agree_on_a_padded_batch(network):
    texts, noise = [[0, 5, 6, 7, 8, 2], [0, 40, 2]], noise_of(2, 12, SIZES.noise_channels)
    ids = torch.tensor([texts[0], [1, 1, 1, *texts[1]]])
    mask = torch.tensor([[1] * 6, [0] * 3 + [1] * 3], dtype=torch.bool)
    original = OriginalLoop(network).generate(ids, mask, noise, 2.0, threshold=2.0)
    rule = StopRule(threshold=1.0, max_frames=12)
    utterances = [Utterance(ids=text, noise=row, stop=rule) for text, row in zip(texts, noise, strict=True)]
    written = list(generate_latents(DecodeEngine(network), utterances))
    for row in range(2):
        ours = torch.cat([part.frames[row] for part in written if row in part.frames])
        torch.testing.assert_close(ours, original[row], rtol=1e-4, atol=1e-6)


def test_the_loop_ends_when_every_row_has_stopped(network):
    ids, noise = torch.tensor([[0, 5, 2]]), noise_of(1, 30, SIZES.noise_channels)
    mask = torch.ones_like(ids, dtype=torch.bool)
    assert OriginalLoop(network).generate(ids, mask, noise, 2.0, threshold=0.0).shape[1] == 1


def test_weights_are_shared(network):
    loop = OriginalLoop(network)
    assert loop.z_proj.weight.data_ptr() == network.z_proj.weight.data_ptr()
    assert loop.model.layers[1].mlp.up_proj.weight.data_ptr() == network.model.layers[1].mlp.up_proj.weight.data_ptr()


@pytest.mark.parity("sled")
def test_the_loop_reproduces_official_generation(parity_case: Path):
    about = json.loads(parity_case.read_text(encoding="utf-8"))
    tensors = load_file(parity_case.with_suffix(".safetensors")) if about["kind"] == "generate_offline" else {}
    if not tensors or "prompt_latents" in tensors:
        pytest.skip("not an offline generation case without a prompt")
    network = SledNetwork(SledConfig.from_dict(about["config"], strict=False)).eval()
    network.load_state_dict({name[2:]: value for name, value in tensors.items() if name.startswith("w.")})
    mask = tensors["attention_mask"].bool()
    made = OriginalLoop(network).generate(
        tensors["input_ids"], mask, tensors["noise"], about["cfg_lambda"], about["eos_threshold"]
    )
    for row, frames in enumerate(tensors["num_frames"].tolist()):
        torch.testing.assert_close(made[row, :frames], tensors["features"][row, :frames], **about["tolerance"])
