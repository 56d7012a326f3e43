"""Several losses on one output whose gradients are brought to chosen shares, whatever the scale of each loss.

Source: EnCodec (arXiv 2210.13438) section 3.4 and its code: norm per item, moving average of the norms.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genmm.core.errors import ConfigError
from genmm.quantizers.vector_ranks import several


class LossBalancer(nn.Module):
    """Weights are shares of the gradient that reaches the output; buffers hold the moving norms."""

    def __init__(self, weights: Mapping[str, float], *, decay: float = 0.999, total_norm: float = 1.0) -> None:
        """weights: share of each loss, at least 0 and not all 0. Raises: ConfigError."""
        super().__init__()
        if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ConfigError(f"balancer weights must be at least 0 and not all 0, got {dict(weights)}")
        if not 0.0 <= decay < 1.0:
            raise ConfigError(f"the decay of the balancer must be in [0, 1), got {decay}")
        self.weights, self.decay, self.total_norm = dict(weights), decay, total_norm
        self.names = sorted(self.weights)
        self.register_buffer("norms", torch.zeros(len(self.names)))
        self.register_buffer("seen", torch.zeros(len(self.names)))

    def gradient(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """The gradient by `output` [B, ...] to go on with: output.backward(gradient).

        Losses must depend on `output` alone. Raises: ConfigError for a loss without a weight.
        """
        unknown = sorted(set(losses) - set(self.weights))
        if unknown:
            raise ConfigError(f"the balancer has no weight for {', '.join(unknown)}")
        share = sum(self.weights[name] for name in losses)
        total = torch.zeros_like(output)
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, [output], retain_graph=True)
            norm = _over_processes(gradient.detach().reshape(len(output), -1).float().norm(dim=1).mean())
            index = self.names.index(name)
            # One gradient that is not finite is for the trainer to skip; it must not stay in the averages.
            counts = norm.isfinite().to(norm)
            self.norms[index] = torch.where(counts > 0, self.decay * self.norms[index] + norm, self.norms[index])
            self.seen[index] = torch.where(counts > 0, self.decay * self.seen[index] + 1.0, self.seen[index])
            average = self.norms[index] / self.seen[index]
            total += gradient * (self.total_norm * self.weights[name] / share / (average + 1e-12))
        return total


def _over_processes(norm: Tensor) -> Tensor:
    """The mean over all processes, so that they weigh their losses alike."""
    if not several():
        return norm
    torch.distributed.all_reduce(norm)
    return norm / torch.distributed.get_world_size()
