"""Decay groups and schedules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genmm.core.errors import ConfigError
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.network import SledNetwork
from models.optim import OptimConfig, build_optimizer, gradient_norm, parameter_groups, rate_factor

TINY = SledConfig(
    vocab_size=12, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vae_embed_dim=4,
    diffloss_d=1, diffloss_w=16, noise_channels=4,
)  # fmt: skip


def decay_of(network: nn.Module, **options) -> dict[str, float]:
    names = {id(p): name for name, p in network.named_parameters()}
    groups = parameter_groups(network, OptimConfig(weight_decay=0.5, **options))
    return {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}


def test_norms_biases_and_embeddings_do_not_decay_and_matrices_do():
    decay = decay_of(SledNetwork(TINY))
    free = ("bias", "norm.weight", "layernorm.weight", "_ln.weight", "embed_tokens.weight")
    for name, value in decay.items():
        assert value == (0.0 if name.endswith(free) else 0.5), name
    assert len(decay) == len(list(SledNetwork(TINY).parameters()))


def test_shared_and_frozen_parameters_are_counted_once_or_not():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    module[2].requires_grad_(False)
    groups = parameter_groups(module, OptimConfig())
    assert sum(len(group["params"]) for group in groups) == 3  # one shared weight, two biases


def test_rate_scales_reach_the_named_part_and_the_longest_name_wins():
    module = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.ModuleDict({"last": nn.Linear(2, 2)})})
    config = OptimConfig(learning_rate=1.0, rate_scales={"head": 0.25, "head.last": 0.5})
    with pytest.raises(ConfigError, match="'head'"):  # everything under head belongs to head.last
        parameter_groups(module, config)
    module["head"]["first"] = nn.Linear(2, 2)
    rates = {id(p): group["lr"] for group in build_optimizer(module, config).param_groups for p in group["params"]}
    assert rates[id(module["body"].weight)] == 1.0
    assert rates[id(module["head"]["first"].weight)] == 0.25
    assert rates[id(module["head"]["last"].bias)] == 0.5


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.55), ("cosine", 0.55), ("constant", 1.0)])
def test_schedules_warm_up_then_fall_to_the_final_fraction(schedule, middle):
    factor = rate_factor(OptimConfig(warmup_steps=10, schedule=schedule, final_fraction=0.1), total_steps=110)
    assert [factor(0), factor(4), factor(9), factor(10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert factor(60) == pytest.approx(middle)
    assert factor(110) == factor(500) == pytest.approx(1.0 if schedule == "constant" else 0.1)


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": 0.0}, {"betas": (0.9, 1.0)}, {"warmup_steps": -1}, {"final_fraction": 2.0}]
)
def test_a_bad_optimizer_fails_at_construction(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OptimConfig(**wrong)


def test_gradient_norm_is_the_norm_of_everything_and_shows_nan():
    left, right = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
    assert gradient_norm([left, right]) == 0.0
    left.grad, right.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])
    assert gradient_norm([left, right]) == 5.0
    right.grad[2] = float("nan")
    assert not torch.isfinite(gradient_norm([left, right]))
