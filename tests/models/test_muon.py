"""Muon beside AdamW: which weights it moves, one state for both, exact resume, and that it learns."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from genmm.core.errors import ConfigError
from models.optim import MuonAdamW, OptimConfig, build_optimizer, build_schedule, orthogonalised

BOTH = OptimConfig(learning_rate=1e-2, muon_rate=2e-2, weight_decay=0.1, schedule="constant")


def small() -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6))
    return nn.ModuleDict({"enter": nn.Linear(4, 6), "layers": layers, "leave": nn.Linear(6, 2)})


def said(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return module["leave"](module["layers"](module["enter"](x)))


def one_step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 4, generator=generator)
    loss = (said(module, x) - torch.stack((x.prod(1), x.sum(1)), 1)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss)


def test_muon_gets_the_matrices_of_numbered_layers_and_nothing_else():
    module = small()
    optimizer = build_optimizer(module, BOTH)
    assert isinstance(optimizer, MuonAdamW)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    muon = {names[id(p)] for group in optimizer.param_groups if group["is_muon"] for p in group["params"]}
    assert muon == {"layers.0.weight", "layers.2.weight"}
    assert sorted(names[id(p)] for group in optimizer.param_groups for p in group["params"]) == sorted(names.values())
    assert {group["lr"] for group in optimizer.param_groups if group["is_muon"]} == {2e-2}


def test_muon_gets_every_matrix_when_asked():
    module = small()
    optimizer = build_optimizer(module, replace(BOTH, muon_all=True))
    muon = [p for group in optimizer.param_groups if group["is_muon"] for p in group["params"]]
    assert len(muon) == 4 and all(parameter.ndim == 2 for parameter in muon)


def test_without_a_rate_all_is_adamw():
    assert type(build_optimizer(small(), OptimConfig())) is torch.optim.AdamW
    with pytest.raises(ConfigError, match="muon_rate must be above 0"):
        OptimConfig(muon_rate=0.0)


def test_a_module_without_numbered_layers_needs_no_muon():
    assert type(build_optimizer(nn.Linear(3, 3), BOTH)) is torch.optim.AdamW


def test_both_parts_step_and_both_rates_follow_the_schedule():
    module = small()
    before = copy.deepcopy(module.state_dict())
    optimizer = build_optimizer(module, BOTH)
    schedule = build_schedule(optimizer, OptimConfig(warmup_steps=4, schedule="constant"), 10)
    rates = sorted(group["lr"] for group in optimizer.param_groups)
    assert rates == pytest.approx([2.5e-3, 2.5e-3, 5e-3])
    one_step(module, optimizer, 0)
    schedule.step()
    assert all(not torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_saved_state_goes_on_bit_for_bit():
    module = small()
    optimizer = build_optimizer(module, BOTH)
    for seed in range(3):
        one_step(module, optimizer, seed)
    kept = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    straight = [one_step(module, optimizer, seed) for seed in range(3, 6)]
    other = small()
    resumed = build_optimizer(other, BOTH)
    other.load_state_dict(kept[0])
    resumed.load_state_dict(kept[1])
    assert [one_step(other, resumed, seed) for seed in range(3, 6)] == straight
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_matrices_move_as_torch_moves_them(monkeypatch, bfloat16):
    monkeypatch.setattr("models.optim.multiplies_bfloat16", lambda device: bfloat16)
    generator = torch.Generator().manual_seed(7)
    shapes = [(6, 4), (6, 4), (3, 8), (5, 5), (6, 4)]
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    bias = nn.Parameter(torch.zeros(3))
    groups = [
        {"params": ours, "lr": 0.02, "weight_decay": 0.1, "is_muon": True},
        {"params": [bias], "lr": 0.01, "weight_decay": 0.0, "is_muon": False},
    ]
    optimizer = MuonAdamW(groups, betas=(0.9, 0.99), eps=1e-8)
    peer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    start = [parameter.detach().clone() for parameter in ours]
    for _ in range(5):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn(own.shape, generator=generator)
            other.grad = own.grad.clone()
        optimizer.step()
        peer.step()
    for own, other, begin in zip(ours, theirs, start, strict=True):
        assert (own - begin).abs().max() > 0.02
        assert (own - other).abs().max() < 2e-3  # the rounding of bfloat16, in which torch always works


def test_a_stack_of_matrices_moves_as_its_matrices_do(monkeypatch):
    monkeypatch.setattr("models.optim.multiplies_bfloat16", lambda device: False)
    generator = torch.Generator().manual_seed(9)
    stack = nn.Parameter(torch.randn(3, 6, 4, generator=generator))
    single = [nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    biases = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    first, second = (
        MuonAdamW(
            [
                {"params": matrices, "lr": 0.02, "weight_decay": 0.1, "is_muon": True},
                {"params": [bias], "lr": 0.01, "weight_decay": 0.0, "is_muon": False},
            ],
            betas=(0.9, 0.99),
            eps=1e-8,
        )
        for matrices, bias in zip(([stack], single), biases, strict=True)
    )
    for _ in range(3):
        stack.grad = torch.randn(stack.shape, generator=generator)
        for matrix, gradient in zip(single, stack.grad, strict=True):
            matrix.grad = gradient.clone()
        first.step()
        second.step()
    assert torch.allclose(stack, torch.stack(list(single)), atol=1e-6)


def test_orthogonalised_matrices_keep_their_directions():
    generator = torch.Generator().manual_seed(8)
    for shape in [(3, 8, 5), (2, 4, 9), (1, 6, 6)]:
        matrices = torch.randn(shape, generator=generator)
        u, values, vh = torch.linalg.svd(orthogonalised(matrices).float(), full_matrices=False)
        wanted_u, _, wanted_vh = torch.linalg.svd(matrices, full_matrices=False)
        assert values.min() > 0.3 and values.max() < 1.3
        assert (u @ vh - wanted_u @ wanted_vh).abs().max() < 0.05


def test_weights_without_a_gradient_stay():
    module = small()
    before = copy.deepcopy(module.state_dict())
    build_optimizer(module, BOTH).step()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_it_learns():
    module = small()
    optimizer = build_optimizer(module, BOTH)
    losses = [one_step(module, optimizer, seed) for seed in range(150)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
