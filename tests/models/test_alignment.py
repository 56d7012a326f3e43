"""Guided alignment inside a SLED training pass."""

import pytest
import torch

import genmm.nn.attention as attention
from genmm.core.errors import ConfigError
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.network import SledNetwork
from models.alignment import AlignmentGuide, AttentionReader, alignment_loss

SIZES = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vae_embed_dim": 3,
    "diffloss_d": 1,
    "diffloss_w": 8,
    "noise_channels": 2,
}


def batch(rows: int = 2) -> dict[str, torch.Tensor]:
    text_mask = torch.ones(rows, 5, dtype=torch.bool)
    text_mask[0, :2] = False
    return {
        "ids": torch.randint(4, 20, (rows, 5)),
        "text_mask": text_mask,
        "latents": torch.randn(rows, 7, 3),
        "frame_mask": torch.ones(rows, 7, dtype=torch.bool),
    }


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_the_scores_are_those_of_the_attention_itself(kv_heads, monkeypatch):
    torch.manual_seed(0)
    network, seen = SledNetwork(SledConfig(**SIZES, num_key_value_heads=kv_heads)), []
    plain = attention.attend_plain

    def recording(query, key, value, bias, dropout=0.0):
        seen.append(torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2)))
        return plain(query, key, value, bias, dropout)

    monkeypatch.setattr(attention, "attend_plain", recording)
    with AttentionReader(network, (1,)) as reader:
        network.teacher_forcing(**batch())
        scores = reader.text_scores(tokens=5, heads=3)
    torch.testing.assert_close(scores, seen[1][:, :3, 4:-1, :5])


def test_training_on_it_pulls_attention_to_the_path():
    torch.manual_seed(0)
    network, data = SledNetwork(SledConfig(**SIZES)), batch()
    path = torch.linspace(0, 4, 7).expand(2, 7).clone()
    path[0] = torch.linspace(0, 2, 7)
    guide = AlignmentGuide(weight=1.0, layers=(0, 1), heads=2, width_tokens=0.7)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(150):
        with AttentionReader(network, guide.layers) as reader:
            network.teacher_forcing(**data)
        loss = alignment_loss(reader, guide, path, data["text_mask"], data["frame_mask"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_the_weight_fades_out_and_bad_settings_are_named():
    guide = AlignmentGuide(weight=2.0, steps=100)
    assert [guide.weight_at(step) for step in (0, 50, 100, 500)] == [2.0, 1.0, 0.0, 0.0]
    with pytest.raises(ConfigError, match="weight"):
        AlignmentGuide(weight=-1.0)
    with pytest.raises(ConfigError, match="layers"):
        AttentionReader(SledNetwork(SledConfig(**SIZES)), (2,))
    with pytest.raises(ConfigError, match="offline"):
        AttentionReader(SledNetwork(SledConfig(**SIZES, stream_n=2, stream_m=3)), (1,))
