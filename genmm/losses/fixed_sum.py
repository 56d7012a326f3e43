"""The training loss of fixed-sum diffusion: cross entropy of the clean counts.

Letters: B batch, C codes, K values of a count.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from genmm.core.errors import ShapeError

__all__ = ["clean_count_loss", "loss_per_time"]


def clean_count_loss(logits: Tensor, clean: Tensor) -> Tensor:
    """Cross entropy of the clean count of every entry, [B, C].

    Shapes: logits [B, C, K], clean [B, C] int64. Computed in float32.
    Source: TokenSet (arXiv 2503.16425) section 3.3: its mean over batch and codes is the paper's loss. Its sum over the
    codes is the negative log-likelihood of the clean set under independent entries, in nats.
    """
    if logits.shape[:2] != clean.shape:
        raise ShapeError(f"logits [B, C, K] and counts [B, C] differ: {tuple(logits.shape)} and {tuple(clean.shape)}")
    flat = functional.cross_entropy(logits.float().flatten(0, 1), clean.flatten(), reduction="none")
    return flat.view_as(clean)


def loss_per_time(loss: Tensor, t: Tensor, bins: int = 5) -> dict[str, Tensor]:
    """Mean loss [B] of the rows in each fifth (say) of time [B]: trivial late times hide early ones in a mean."""
    bin_of = (t * bins).long().clamp(0, bins - 1)
    return {f"t{index}": loss[bin_of == index].mean() for index in range(bins) if bool((bin_of == index).any())}
