"""The decoder against transformers' LLaMA, at sizes that the stored cases do not have."""

import pytest
import torch

from genmm.systems.sled.engine import DecodeEngine

SHAPES = {
    "one shared kv head": {"num_key_value_heads": 1},
    "two groups, wide heads": {"num_key_value_heads": 2, "head_dim": 10},
    "deep, another base": {"num_key_value_heads": 4, "num_hidden_layers": 4, "rope_theta": 500.0},
}


@pytest.mark.timeout(600)  # importing transformers takes minutes on a busy machine
@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
def test_hidden_states_equal_those_of_llama(make_network, sizes):
    transformers = pytest.importorskip("transformers", reason="the oracle is transformers' LlamaModel")
    network = make_network(**sizes)
    config = network.config
    llama = transformers.LlamaModel(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.width_of_head,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
    ).eval()
    llama.load_state_dict(network.model.state_dict())
    joint = torch.randn(2, 9, config.hidden_size, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) >= torch.tensor([[0], [3]])
    with torch.no_grad():
        expected = llama(inputs_embeds=joint, attention_mask=mask.long()).last_hidden_state
        hidden = network(joint, mask)
        engine = DecodeEngine(network)
        cache = engine.new_cache(2, 16)
        stepped = [engine.extend(cache, joint[:, :5], mask[:, :5])]
        stepped += [engine.step(cache, joint[:, place]) for place in range(5, 9)]
    torch.testing.assert_close(hidden[mask], expected[mask], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(torch.stack(stepped, 1), expected[:, 4:], atol=2e-5, rtol=1e-4)
