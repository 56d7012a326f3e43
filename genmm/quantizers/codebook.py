"""A codebook on the unit sphere: nearest code by cosine, moving-average updates, revival of unused codes, health.

Letters: B batch, M tokens, C codes, D width of a code.
Source: the L2-normalised quantiser of TiTok (arXiv 2406.07550) as TokenSet uses it; moving averages as in VQ-VAE
(arXiv 1711.00937) appendix A.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genmm.core.errors import ShapeError, UsageError
from genmm.quantizers.nearest import code_sums, nearest_codes
from genmm.quantizers.vector_gradients import straight_through
from genmm.quantizers.vector_ranks import agreed, several, summed

__all__ = ["Quantised", "SphereCodebook", "Usage"]


@dataclass(frozen=True)
class Quantised:
    """What a codebook makes of vectors."""

    codes: Tensor
    """[..., D] float32 on the unit sphere; gradients pass straight to the input."""
    ids: Tensor
    """[...] int64."""
    loss: Tensor
    """Scalar: squared distance of the normalised input to its code, gradients to the input only (commitment)."""


@dataclass(frozen=True)
class Usage:
    """How a codebook was used over a stretch of data."""

    used: float
    """Share of the codes that occurred at all."""
    entropy: float
    """Entropy of the codes as a share of log C; 1 is uniform."""
    dead: float
    """Share of the codes that never occurred."""

    @classmethod
    def of(cls, times: Tensor) -> Usage:
        """From how often each code occurred, [C]."""
        total = float(times.sum())
        if total == 0:
            return cls(0.0, 0.0, 1.0)
        p = times.double() / total
        entropy = float(-(p * p.clamp_min(1e-30).log()).sum()) / max(math.log(len(times)), 1e-9)
        used = float((times > 0).double().mean())
        return cls(used, entropy, 1.0 - used)


class SphereCodebook(nn.Module):
    """C codes of width D. The stored vectors need not have length 1; they are normalised at every use."""

    def __init__(self, codes: int, width: int, *, decay: float = 0.99) -> None:
        """`decay` is that of the moving averages, per training step."""
        super().__init__()
        self.decay = decay
        self.embedding = nn.Embedding(codes, width)
        nn.init.uniform_(self.embedding.weight, -1.0 / codes, 1.0 / codes)  # as the original
        self.embedding.weight.requires_grad_(False)
        # Averages of training only; a training saves them itself, a checkpoint of a finished model has no use for them.
        self.register_buffer("mass", torch.ones(codes), persistent=False)
        self.register_buffer("sums", torch.zeros(codes, width), persistent=False)
        self.restart_averages()
        self.register_load_state_dict_post_hook(SphereCodebook._after_loading)

    @torch.no_grad()
    def restart_averages(self) -> None:
        """Let the moving averages start from the codes as they are."""
        self.mass.fill_(1.0)
        self.sums.copy_(functional.normalize(self.embedding.weight, dim=-1))

    @torch.no_grad()
    def _after_loading(self, *_: Any) -> None:
        """Averages are no part of a state dict: those of other codes would pull the loaded ones away at once."""
        codes = functional.normalize(self.embedding.weight.float(), dim=-1)
        agreement = (functional.normalize(self.sums.float(), dim=-1) * codes).sum(-1).mean()
        if not self.sums.is_meta and not float(agreement) >= 0.5:  # not: uninitialised ones may be NaN
            self.restart_averages()

    @property
    def codes(self) -> int:
        """C."""
        return self.embedding.num_embeddings

    def lookup(self, ids: Tensor) -> Tensor:
        """Unit vectors [..., D] float32 of codes [...]."""
        return functional.normalize(self.embedding(ids).float(), dim=-1)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Ids [...] of the codes with the largest cosine to vectors [..., D]; ties go to the lowest id."""
        if vectors.shape[-1] != self.embedding.embedding_dim:
            raise ShapeError(
                f"vectors must have the width {self.embedding.embedding_dim}, got {tuple(vectors.shape)}; the codebook "
                "belongs to another model"
            )
        rows = functional.normalize(vectors.float(), dim=-1).flatten(0, -2)
        table = functional.normalize(self.embedding.weight.float(), dim=-1)
        return nearest_codes(rows, table, metric="dot").indices.view(vectors.shape[:-1])

    def forward(self, vectors: Tensor) -> Quantised:
        """Replace vectors [..., D] by their nearest codes; in training mode the averages move."""
        with torch.autocast(vectors.device.type, enabled=False):
            unit = functional.normalize(vectors.float(), dim=-1)
            ids = self.nearest(unit.detach())
            if self.training:
                self._move(unit.detach().flatten(0, -2), ids.flatten())
            codes = self.lookup(ids).detach()
            loss = (unit - codes).square().sum(-1).mean() if len(ids.flatten()) else unit.sum()
            return Quantised(straight_through(unit, codes), ids, loss)

    @torch.no_grad()
    def _move(self, rows: Tensor, ids: Tensor) -> None:
        sums, times = summed(*code_sums(rows, ids, self.codes), shared=several())
        self.mass.lerp_(times.to(self.mass), 1.0 - self.decay)
        self.sums.lerp_(sums.to(self.sums), 1.0 - self.decay)
        seen = self.sums.norm(dim=-1, keepdim=True) > 1e-6
        self.embedding.weight.copy_(torch.where(seen, functional.normalize(self.sums, dim=-1), self.embedding.weight))

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Put the codes on random vectors [..., D] of the data, which starts them inside it.

        With several processes all take those of the first one, so that the codebooks are equal.
        Raises: UsageError when there is no vector.
        """
        picked = _drawn(vectors, self.codes)
        picked = agreed(picked + 0.02 * torch.randn_like(picked), shared=several())
        self._put(torch.arange(self.codes, device=picked.device), picked)

    @torch.no_grad()
    def revive(self, vectors: Tensor, least: float) -> int:
        """Move codes whose moving average fell below `least` of a fair share onto random vectors of a batch.

        Their averages start anew, so that old sums do not pull them back. Returns: how many moved. With several
        processes all take the vectors of the first one, so that the codebooks stay equal.
        Raises: UsageError when there is no vector for a code that moves.
        """
        dead = (self.mass < least * self.mass.mean()).nonzero().flatten()
        if not len(dead):
            return 0
        self._put(dead, agreed(_drawn(vectors, len(dead)), shared=several()))
        return len(dead)

    def _put(self, ids: Tensor, rows: Tensor) -> None:
        rows = functional.normalize(rows, dim=-1)
        fair = self.mass.mean().clamp_min(1e-3)
        self.embedding.weight[ids] = rows.to(self.embedding.weight)
        self.mass[ids] = fair
        self.sums[ids] = rows.to(self.sums) * fair


def _drawn(vectors: Tensor, count: int) -> Tensor:
    """Directions [count, D] of random vectors [..., D]; the same one may come twice."""
    rows = vectors.float().flatten(0, -2)
    if not len(rows):
        raise UsageError(f"codes are put on vectors of the data, got none: {tuple(vectors.shape)}")
    return functional.normalize(rows[torch.randint(len(rows), (count,), device=rows.device)], dim=-1)
