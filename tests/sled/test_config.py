"""Configurations: official files load, mistakes are explained."""

import pytest

from genmm.core.errors import ConfigError
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.network import SledNetwork


def test_the_released_sizes_give_the_released_parameter_count():
    import torch

    with torch.device("meta"):
        network = SledNetwork(SledConfig(diffloss_d=6))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == pytest.approx(203.63e6, abs=5e3)


def test_defaults_are_filled_in():
    config = SledConfig(hidden_size=64, num_attention_heads=4)
    assert (config.kv_heads, config.width_of_head, config.is_streaming, config.padding_id) == (4, 16, False, 1)
    assert SledConfig(stream_n=5, stream_m=45).is_streaming


def test_round_trip():
    config = SledConfig(hidden_size=64, num_attention_heads=4, voice_channels=12)
    assert SledConfig.from_dict(config.to_dict()) == config


def test_an_official_config_loads_and_unknown_fields_are_named_only_when_strict():
    official = {"model_type": "speech_llama", "architectures": ["SpeechLlamaForCausalLM"], "hidden_size": 64}
    official |= {"num_attention_heads": 4, "torch_dtype": "float32", "hidden_act": "silu", "rope_scaling": None}
    assert SledConfig.from_dict(official, strict=False).hidden_size == 64
    with pytest.raises(ConfigError, match="torch_dtype"):
        SledConfig.from_dict(official)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 65}, "multiple of num_attention_heads"),
        ({"num_key_value_heads": 3}, "must divide"),
        ({"stream_n": 5}, "5 and 45"),
        ({"dropout": 1.0}, r"\[0, 1\)"),
        ({"num_hidden_layers": 0}, "greater than 0"),
        ({"voice_channels": -1}, "voice_channels"),
        ({"eos_token_id": 99999}, "outside the vocabulary"),
        ({"stream_positions": "other"}, "slots"),
    ],
)
def test_mistakes_are_explained(changes, words):
    with pytest.raises(ConfigError, match=words):
        SledConfig(**{"hidden_size": 64, "num_attention_heads": 4, **changes})


def test_what_the_network_does_not_build_is_refused():
    with pytest.raises(ConfigError, match="hidden_act"):
        SledConfig.from_dict({"hidden_act": "gelu"}, strict=False)
