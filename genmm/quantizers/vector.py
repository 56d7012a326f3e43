"""`VectorQuantize` of vector-quantize-pytorch with our search, gradients and statistics; swap the import.

Letters: B batch, N vectors, D width, K codes, H codebooks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional
from vector_quantize_pytorch import vector_quantize_pytorch as package

from genmm.core.errors import ShapeError, UsageError
from genmm.quantizers.vector_arguments import vector_arguments
from genmm.quantizers.vector_codebook import UNIT_EPS, Codebook
from genmm.quantizers.vector_gradients import rotate_to, straight_through

__all__ = ["VectorQuantize", "take_over"]


class VectorQuantize(package.VectorQuantize):
    """Replace vectors by their nearest codes, as `vector_quantize_pytorch.VectorQuantize` does, only faster.

    Arguments, results, parameters and buffers are those of the package (1.32), so a state dict goes either way. Returns
    `(quantised, ids, loss)` and with `return_loss_breakdown` a fourth part.
    Ours: the search without an N x K matrix, the rotation trick without matrix products, moving averages from sums and
    counts in one exchange, see `vector_codebook`. The package's own forward, with all its distances, still serves
    cross-entropy on codes (`indices`, `commitment_use_cross_entropy_loss`), `codebook_diversity_loss_weight`, `topk`,
    `codebook_transform_fn` and codes drawn at random; it also adds `orthogonal_reg_weight`, `directional_reparam`,
    `sync_update_v` and `in_place_codebook_optimizer` around our search.
    Differences: (1) the value that training gives is the code itself, not the code plus rounding; (2) with a mask, the
    commitment is taken between code and projected (for cosine: normalised) vector, as it is without a mask; (3) an
    empty batch, or one that is masked throughout, gives the loss 0 and not NaN, and padding may hold anything; (4) with
    `sync_codebook=None` processes share statistics whenever there are several, also if they joined after construction;
    (5) heads that share a codebook are put together again by `get_codes_from_indices`, where the id -1 gives zeros.
    Raises: ConfigError for arguments; on call ShapeError for a wrong shape, UsageError for NaN and infinity.
    """

    @wraps(package.VectorQuantize.__init__)
    def __init__(self, *args: Any, **named: Any) -> None:
        given = vector_arguments(args, named)
        super().__init__(**{**given, "sync_codebook": False})
        take_over(self, sync_codebook=given["sync_codebook"], sync_kmeans=given["sync_kmeans"])

    def forward(
        self,
        x: Tensor,
        indices: Tensor | None = None,
        mask: Tensor | None = None,
        lens: Tensor | None = None,
        topk: int | None = None,
        sample_codebook_temp: float | None = None,
        freeze_codebook: bool | None = None,
        return_loss_breakdown: bool = False,
        codebook_transform_fn: Callable | None = None,
        ema_update_weight: Tensor | Callable | None = None,
        accum_ema_update: bool = False,
        ema_update: bool | None = None,
    ) -> tuple:
        """Quantise x: [B, N, D], [B, D], [B, D, N] without channel_last, [B, D, H, W] or [B, D, T, H, W] for maps.

        `mask` [B, N] bool (or `lens` [B]) is True at the vectors that count; the others come back as zeros (or as they
        are, without return_zeros_for_masked_padding) with the id -1. Ids are int64 like x without its width, and with
        heads one more dimension. The loss is a scalar, 0 in eval mode.
        """
        if topk is None:  # beam search brings vectors of any rank
            mask, lens = self.check_input(x, mask, lens), None
        codebook = {
            "sample_codebook_temp": sample_codebook_temp,
            "freeze_codebook": self.freeze_codebook if freeze_codebook is None else freeze_codebook,
            "ema_update_weight": ema_update_weight,
            "accum_ema_update": accum_ema_update,
            "ema_update": ema_update,
        }
        if self.needs_package(indices, topk, codebook_transform_fn):
            self._codebook.with_distances = indices is not None or (self.training and self._losses_need_distances())
            try:
                return super().forward(
                    x,
                    indices=indices,
                    mask=mask,
                    lens=lens,
                    topk=topk,
                    return_loss_breakdown=return_loss_breakdown,
                    codebook_transform_fn=codebook_transform_fn,
                    **codebook,
                )
            finally:
                self._codebook.with_distances = False
        rows = self.rows_of(x)
        quantised, ids, commitment = self.quantise_rows(rows, mask, **codebook)
        loss = commitment * self.commitment_weight if self.training and self.has_commitment_loss else commitment
        quantised = self.project_out(quantised)
        if mask is not None:
            padding = torch.zeros_like(rows) if self.return_zeros_for_masked_padding else rows
            quantised = torch.where(mask.unsqueeze(-1), quantised, padding.to(quantised.dtype))
        result = self.shaped_like(x, quantised, ids)
        if not return_loss_breakdown:
            return *result, loss
        nothing = torch.zeros_like(commitment)
        return *result, loss, package.LossBreakdown(commitment, nothing, nothing, nothing)

    def quantise_rows(self, rows: Tensor, mask: Tensor | None, **codebook: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise rows [B, N, dim]: codes [B, N, heads x codebook_dim], ids [B, N(, heads)], unweighted commitment.

        Outside `mask` [B, N] codes are undefined and ids -1.
        """
        if mask is not None:
            rows = rows.masked_fill(~mask.unsqueeze(-1), 0.0)
        routed = rows.requires_grad and self.route_gradients_to_input
        x = self._split_heads(self.project_in(rows))
        if self.use_cosine_sim:
            x = functional.normalize(x, dim=-1, eps=UNIT_EPS)
        quantised, ids, _ = self._codebook(x, mask=mask, **codebook)
        quantised = quantised.to(rows.dtype)
        commitment = x.new_zeros((), dtype=torch.float32)
        if self.training:
            fixed = codebook.get("freeze_codebook") or not self.learnable_codebook
            if self.has_commitment_loss:
                commitment = self._commitment(quantised.detach() if fixed else quantised, x, mask)
            elif not commitment.requires_grad:
                commitment.requires_grad_()  # a loss that a trainer may call backward on, as the package's
            if routed:
                quantised = (rotate_to if self.rotation_trick else straight_through)(x, quantised.to(x.dtype))
        quantised, ids = self._merge_heads(quantised), self._merge_heads(ids.unsqueeze(-1))
        ids = ids if self.heads > 1 else ids.squeeze(-1)
        if mask is not None:
            ids = ids.masked_fill(~(mask if ids.ndim == 2 else mask.unsqueeze(-1)), -1)
        return quantised, ids, commitment

    def needs_package(
        self, indices: Tensor | None = None, topk: int | None = None, transform: Callable | None = None
    ) -> bool:
        """Whether this call is the package's own forward, around our codebook."""
        if indices is not None or topk is not None or transform is not None:
            return True
        return self.training and (
            self._losses_need_distances()
            or self.has_codebook_orthogonal_loss
            or self.in_place_codebook_optimizer is not None
            or self.directional_reparam
            or self.sync_update_v > 0.0
        )

    def check_input(
        self, x: Tensor, mask: Tensor | None = None, lens: Tensor | None = None, width: int | None = None
    ) -> Tensor | None:
        """Refuse a wrong shape; give back the mask [B, N], made from the lengths [B] where those are given."""
        width = self.dim if width is None else width
        last = self.channel_last and not self._is_map
        ranks = (4,) if self.accept_image_fmap else (5,) if self.accept_3d_fmap else (2, 3)
        if x.ndim not in ranks or x.shape[-1 if last or x.ndim == 2 else 1] != width or not x.is_floating_point():
            where = "last" if last else "second"
            raise ShapeError(
                f"vectors must be floating, of rank {' or '.join(map(str, ranks))}, with the width {width} as the "
                f"{where} dimension, got {x.dtype} {tuple(x.shape)}"
            )
        if mask is None and lens is None:
            return None
        if (mask is not None and lens is not None) or x.ndim != 3:
            raise UsageError("give mask or lens, not both, and only for sequences [B, N, D]")
        batch, count = x.shape[0], x.shape[1 if last else 2]
        if lens is not None:
            mask = torch.arange(count, device=x.device) < lens.unsqueeze(-1)
        if mask.dtype != torch.bool or mask.shape != (batch, count):
            raise ShapeError(f"the mask must be bool {(batch, count)}, got {mask.dtype} {tuple(mask.shape)}")
        return mask

    def rows_of(self, x: Tensor) -> Tensor:
        """Any accepted layout as [B, N, dim]."""
        if x.ndim == 2:
            return x.unsqueeze(1)
        return x.flatten(2).transpose(1, 2) if self._is_map or not self.channel_last else x

    def shaped_like(self, x: Tensor, quantised: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [B, N, dim] and ids [B, N(, heads)] in the layout of x."""
        if x.ndim == 2:
            return quantised.squeeze(1), ids.squeeze(1)
        if self._is_map:
            return quantised.transpose(1, 2).reshape(x.shape), ids.unflatten(1, x.shape[2:])
        return (quantised if self.channel_last else quantised.transpose(1, 2)), ids

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """Codes, heads x codebook_dim wide, of ids in the layout that `forward` gives; zero where the id is -1."""
        table = self._codebook.embed
        ids = indices.clamp_min(0)
        if self.heads > 1 and self.separate_codebook_per_head:
            ids = ids + table.shape[1] * torch.arange(self.heads, device=ids.device)
        codes = functional.embedding(ids, table.flatten(0, 1)).masked_fill((indices < 0).unsqueeze(-1), 0.0)
        codes = codes.flatten(-2) if self.heads > 1 else codes
        return codes if self.channel_last and not self._is_map else codes.movedim(-1, 1)

    def update_in_place_optimizer(self) -> None:
        """Step the optimizer of the codebook, on gradients averaged over processes."""
        if self.in_place_codebook_optimizer is not None and self._codebook.shares:
            for parameter in self._codebook.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= distributed.get_world_size()
        super().update_in_place_optimizer()

    @property
    def check_finite(self) -> bool:
        """Whether NaN and infinity are refused, for which a GPU is waited for; with False they get some id."""
        return self._codebook.check_finite

    @check_finite.setter
    def check_finite(self, check: bool) -> None:
        self._codebook.check_finite = check

    @property
    def _is_map(self) -> bool:
        return self.accept_image_fmap or self.accept_3d_fmap

    def _losses_need_distances(self) -> bool:
        cross_entropy = self.has_commitment_loss and self.commitment_use_cross_entropy_loss
        return cross_entropy or self.has_codebook_diversity_loss

    def _split_heads(self, x: Tensor) -> Tensor:
        """[B, N, heads x D] -> [heads, B, N, D] with a codebook for each head, else [1, B x heads, N, D]."""
        if self.heads == 1:
            return x.unsqueeze(0)
        x = x.unflatten(-1, (self.heads, -1))
        if self.separate_codebook_per_head:
            return x.permute(2, 0, 1, 3)
        return x.transpose(1, 2).flatten(0, 1).unsqueeze(0)

    def _merge_heads(self, x: Tensor) -> Tensor:
        """Undo `_split_heads`."""
        if self.heads == 1:
            return x.squeeze(0)
        x = (
            x.permute(1, 2, 0, 3)
            if self.separate_codebook_per_head
            else x[0].unflatten(0, (-1, self.heads)).transpose(1, 2)
        )
        return x.flatten(-2)

    def _commitment(self, codes: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mean squared difference of codes and vectors, both [H, B x heads, N, D], over the vectors that count."""
        if mask is None:
            return functional.mse_loss(codes, x) if x.numel() else x.float().sum()
        errors = functional.mse_loss(codes, x, reduction="none").mean(-1)
        keep = mask.repeat_interleave(errors.shape[1] // len(mask), dim=0).expand_as(errors) if len(mask) else mask
        return (errors * keep).sum() / keep.sum().clamp_min(1)


def take_over(quantizer: package.VectorQuantize, *, sync_codebook: bool | None, sync_kmeans: bool) -> None:
    """Make a quantizer of the package one of ours, in place; both classes hold the same things."""
    quantizer.__class__ = VectorQuantize
    codebook = quantizer._codebook
    codebook.__class__ = Codebook
    codebook.sync, codebook.sync_kmeans = sync_codebook, sync_kmeans
