"""AdamW with decay groups, Muon for the matrices of layers, and step based learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from genmm.core.devices import multiplies_bfloat16
from genmm.core.errors import ConfigError

NORM_TYPES = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.RMSNorm, nn.Embedding)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move: AdamW or Muon with AdamW, the schedule, and which weights decay."""

    learning_rate: float = 5e-4
    """Peak learning rate, above 0. Default: SLED, section 11 of its recipe."""
    weight_decay: float = 0.01
    """Decoupled decay of matrices and kernels; norms, biases and embeddings never decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam averages of the gradient and of its square, each in [0, 1)."""
    muon_rate: float | None = None
    """Peak learning rate of Muon for the matrices of repeated layers, above 0; None leaves all weights to AdamW.
    Updates are scaled to the size of AdamW's, so the same order of rate fits both."""
    muon_all: bool = False
    """Give Muon the matrices of first and last layers too."""
    eps: float = 1e-8
    """Added to Adam's denominator, above 0."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up from 0, at least 0."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Shape after the warm-up: constant, or falling to final_fraction at total_steps."""
    total_steps: int | None = None
    """Length of the schedule in optimizer steps; None takes it from the Trainer (max_steps or max_epochs)."""
    final_fraction: float = 0.0
    """Learning rate at the end as a fraction of the peak, in [0, 1]."""
    rate_scales: dict[str, float] = field(default_factory=dict)
    """Start of a parameter name -> factor on its learning rate, e.g. {"network.scoreloss": 0.25}; the longest wins."""

    def __post_init__(self) -> None:
        checks = {
            f"learning_rate must be above 0, got {self.learning_rate}": self.learning_rate > 0,
            f"weight_decay must be at least 0, got {self.weight_decay}": self.weight_decay >= 0,
            f"betas must both be in [0, 1), got {self.betas}": all(0 <= b < 1 for b in self.betas),
            f"eps must be above 0, got {self.eps}": self.eps > 0,
            f"muon_rate must be above 0 or null, got {self.muon_rate}": self.muon_rate is None or self.muon_rate > 0,
            f"warmup_steps must be at least 0, got {self.warmup_steps}": self.warmup_steps >= 0,
            f"final_fraction must be in [0, 1], got {self.final_fraction}": 0 <= self.final_fraction <= 1,
            f"total_steps must be at least 1 or null, got {self.total_steps}": self.total_steps is None
            or self.total_steps >= 1,
        }
        wrong = [text for text, holds in checks.items() if not holds]
        if wrong:
            raise ConfigError("optimizer: " + "; ".join(wrong))


def decays(owner: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: matrices and kernels of layers that are neither norms nor embeddings."""
    return parameter.ndim >= 2 and not isinstance(owner, NORM_TYPES)


def is_layer_matrix(name: str, parameter: nn.Parameter, everywhere: bool = False) -> bool:
    """Whether Muon may move it: a matrix of a numbered layer, such as `blocks.3.mlp.weight`, or any matrix.

    First and last layers are usually left to AdamW (Muon's authors, kellerjordan.github.io/posts/muon).
    """
    is_numbered = any(part.isdecimal() for part in name.split("."))
    return parameter.ndim == 2 and min(parameter.shape) > 1 and (everywhere or is_numbered)


def parameter_groups(module: nn.Module, config: OptimConfig, *, prefix: str = "") -> list[dict]:
    """Group the trainable parameters of `module` by (optimizer, decay, learning-rate scale), in a stable order.

    Groups have `is_muon`. Shared parameters appear once. Raises: ConfigError when a prefix of rate_scales names no
    parameter.
    """
    groups: dict[tuple[bool, float, float], dict] = {}
    unused, seen = set(config.rate_scales), set()
    for owner_name, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            full = ".".join(part for part in (prefix, owner_name, name) if part)
            match = max((p for p in config.rate_scales if full.startswith(p)), key=len, default=None)
            unused.discard(match)
            scale = config.rate_scales[match] if match is not None else 1.0
            decay = config.weight_decay if decays(owner, parameter) else 0.0
            muon = (
                config.muon_rate is not None
                and decays(owner, parameter)
                and is_layer_matrix(full, parameter, config.muon_all)
            )
            rate = (config.muon_rate if muon else config.learning_rate) * scale
            group = groups.setdefault(
                (muon, decay, scale), {"params": [], "weight_decay": decay, "lr": rate, "is_muon": muon}
            )
            group["params"].append(parameter)
    if unused:
        known = sorted({name.split(".")[0] for name, _ in module.named_parameters()})
        raise ConfigError(f"optimizer.rate_scales names no trainable parameter: {sorted(unused)}; top names: {known}")
    return list(groups.values())


class MuonAdamW(torch.optim.Optimizer):
    """Muon for some parameter groups and AdamW for the others, as one optimizer with one state.

    Groups with a true `is_muon` hold matrices [R, C], or stacks [..., R, C] whose matrices are moved each by itself.
    Muon orthogonalises the averaged gradient of a matrix, so that weak directions learn as fast as strong ones; on
    small transformers it needs a third of AdamW's steps. Same updates as `torch.optim.Muon` with
    `adjust_lr_fn="match_rms_adamw"`, but matrices of one shape go through the iteration together, in bfloat16 only
    where the device multiplies it fast: on an older processor torch's takes 20 times as long as float32, more than the
    rest of a step.
    Source: Muon (kellerjordan.github.io/posts/muon), rates matched to AdamW as in arXiv 2502.16982.
    """

    def __init__(self, groups: Iterable[dict], *, betas: tuple[float, float], eps: float, momentum: float = 0.95):
        groups = list(groups)
        muon = [{**group, "momentum": momentum} for group in groups if group["is_muon"]]
        others = [group for group in groups if not group["is_muon"]]
        on_cpu = all(p.device.type == "cpu" for group in others for p in group["params"])  # one pass instead of ten
        self._adam = torch.optim.AdamW(others, betas=betas, eps=eps, fused=on_cpu)
        super().__init__([*muon, *self._adam.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["is_muon"]:
                self._step_matrices(group)
        self._adam.param_groups = [group for group in self.param_groups if not group["is_muon"]]
        self._adam.state = self.state  # loading a checkpoint makes a new one
        self._adam.step()
        return loss

    def _step_matrices(self, group: dict) -> None:
        alike: dict[tuple, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(parameter)
        for (shape, _, _), parameters in alike.items():
            averages = []
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                averages.append(state["momentum_buffer"])
            gradients = [parameter.grad for parameter in parameters]
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            ahead = torch._foreach_lerp(gradients, averages, group["momentum"])  # Nesterov's look ahead
            matrices = torch.stack(ahead)
            updates = orthogonalised(matrices.flatten(0, -3)).to(matrices.dtype).reshape(matrices.shape)
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, list(updates), alpha=-0.2 * math.sqrt(max(shape[-2:])) * group["lr"])


NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
"""Coefficients of the quintic of Muon: steepest at zero, so that five rounds bring all singular values near 1."""


def orthogonalised(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Matrices [N, R, C] with singular values brought to about 0.7 .. 1.2, directions kept.

    In bfloat16 where the device multiplies it fast, else in float32.
    Source: Muon (kellerjordan.github.io/posts/muon).
    """
    linear, cubic, quintic = NEWTON_SCHULZ
    x = matrices.to(torch.bfloat16 if multiplies_bfloat16(matrices.device) else torch.float32)
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    return x.mT if is_tall else x


def build_optimizer(module: nn.Module, config: OptimConfig, *, prefix: str = "") -> torch.optim.Optimizer:
    """The optimizer that a config asks for, over the trainable parameters of `module`."""
    groups = parameter_groups(module, config, prefix=prefix)
    if len({group["is_muon"] for group in groups}) == 2:
        return MuonAdamW(groups, betas=config.betas, eps=config.eps)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps)


def rate_factor(config: OptimConfig, total_steps: int) -> Callable[[int], float]:
    """Function of the optimizer step (0-based) that gives the factor on the peak learning rate."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        if config.schedule == "constant":
            return 1.0
        share = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
        shape = 1.0 - share if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))
        return config.final_fraction + (1.0 - config.final_fraction) * shape

    return factor


def build_schedule(optimizer: torch.optim.Optimizer, config: OptimConfig, total_steps: int) -> LambdaLR:
    """Schedule over optimizer steps. A plain function keeps it out of checkpoints, so a longer run re-plans it."""
    return LambdaLR(optimizer, rate_factor(config, config.total_steps or total_steps))


def apply_schedule(schedule: LambdaLR) -> None:
    """Set the learning rates of the schedule's step from the peaks that its optimizer's groups have now."""
    groups = schedule.optimizer.param_groups
    schedule.base_lrs = [group["initial_lr"] for group in groups]
    for group, peak, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = peak * factor(schedule.last_epoch)
    schedule._last_lr = [group["lr"] for group in groups]


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """L2 norm of all gradients as one float32 scalar (0 when none); NaN or Inf when any element is."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    return torch.nn.utils.get_total_norm(grads).float()
