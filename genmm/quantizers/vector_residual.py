"""`ResidualVQ` of vector-quantize-pytorch on our `VectorQuantize`; swap the import.

Letters: B batch, N vectors, D width, K codes, Q levels.
Source: SoundStream (arXiv 2107.03312), algorithm 1.
"""

from __future__ import annotations

import random
from functools import wraps
from math import ceil
from typing import Any

import torch
from torch import Tensor
from vector_quantize_pytorch import residual_vq as package

from genmm.core.errors import UsageError
from genmm.quantizers.nearest import residual_codes
from genmm.quantizers.vector import VectorQuantize, take_over
from genmm.quantizers.vector_arguments import residual_arguments

__all__ = ["ResidualVQ"]


class ResidualVQ(package.ResidualVQ):
    """Quantise vectors level by level, as `vector_quantize_pytorch.ResidualVQ` does, only faster.

    Arguments, results, parameters and buffers are those of the package (1.32), so a state dict goes either way. Returns
    `(quantised, ids [.., Q], losses [Q])` and with `return_all_codes` the codes of each level [Q, .., codebook_dim].
    Ours: in eval mode all levels in one search (`residual_codes`), in training no growing copies of all residuals, and
    all that `VectorQuantize` says. Beam search, `diveq` and `implicit_neural_codebook` (whose codes differ from vector
    to vector) are the package's own forward.
    Differences: those of `VectorQuantize`; image maps and channel_last=False work (in 1.32 only where the sizes happen
    to fit); `indices` is refused (in 1.32 it fails); a shared codebook revives dead codes from the vectors that count
    of the whole batch, not of its first item.
    Raises: ConfigError for arguments; on call ShapeError for a wrong shape, UsageError for NaN and infinity.
    """

    @wraps(package.ResidualVQ.__init__)
    def __init__(self, **named: Any) -> None:
        given = residual_arguments(named)
        super().__init__(**{**given, "sync_codebook": False})
        for level in self.layers:
            take_over(level, sync_codebook=given.get("sync_codebook"), sync_kmeans=given.get("sync_kmeans", True))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        indices: Tensor | list[Tensor] | None = None,
        return_all_codes: bool = False,
        sample_codebook_temp: float | None = None,
        freeze_codebook: bool = False,
        beam_size: int | None = None,
        rand_quantize_dropout_fixed_seed: int | None = None,
    ) -> tuple:
        """Quantise x [B, N, D] (or [B, D, N], [B, D, H, W] as built); `mask` [B, N] bool is True at what counts.

        Levels that quantize_dropout leaves out have the id -1 and the loss 0.
        """
        if indices is not None:
            raise UsageError("cross-entropy on given codes is a matter of one level: call layers[q](rest, indices=ids)")
        beam = beam_size or (self.beam_size if self.training else self.eval_beam_size) or 1
        if beam > 1 or self.diveq or self.implicit_neural_codebook or self._levels_need_package():
            return super().forward(
                x,
                mask=mask,
                return_all_codes=return_all_codes,
                sample_codebook_temp=sample_codebook_temp,
                freeze_codebook=freeze_codebook,
                beam_size=beam_size,
                rand_quantize_dropout_fixed_seed=rand_quantize_dropout_fixed_seed,
            )
        first: VectorQuantize = self.layers[0]
        mask = first.check_input(x, mask, width=self._width)
        source = first.rows_of(x)
        rows = self.project_in(source)
        if self._one_search_serves(rows, mask):
            quantised, ids, losses = self._quantise_at_once(rows)
        else:
            active = self._levels_now(x.device, rand_quantize_dropout_fixed_seed)
            quantised, ids, losses = self._quantise_levels(
                rows, mask, active, sample_codebook_temp=sample_codebook_temp, freeze_codebook=freeze_codebook
            )
        quantised = self.project_out(quantised)
        if mask is not None:
            padding = torch.zeros_like(source) if self.return_zeros_for_masked_padding else source
            quantised = torch.where(mask.unsqueeze(-1), quantised, padding.to(quantised.dtype))
        quantised, ids = first.shaped_like(x, quantised, ids)
        if not return_all_codes:
            return quantised, ids, losses
        return quantised, ids, losses, self.get_codes_from_indices(ids)

    @property
    def check_finite(self) -> bool:
        """Whether NaN and infinity are refused, as in `VectorQuantize`; holds for all levels."""
        return all(level.check_finite for level in self.layers)

    @check_finite.setter
    def check_finite(self, check: bool) -> None:
        for level in self.layers:
            level.check_finite = check

    def _quantise_levels(
        self, rows: Tensor, mask: Tensor | None, active: int, **codebook: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [B, N, D] through the first `active` levels: sum of codes, ids [B, N, Q], losses [Q]."""
        rest, quantised = rows, torch.zeros_like(rows)
        residuals, ids, losses = [], [], []
        for level in self.layers[:active]:
            if self.shared_codebook:
                residuals.append(rest.detach())
            codes, chosen, commitment = level.quantise_rows(rest, mask, **codebook)
            rest = rest - package.frac_gradient(codes, self.quant_grad_frac)
            quantised = quantised + codes
            ids.append(chosen)
            weighted = self.training and level.has_commitment_loss
            losses.append(commitment * level.commitment_weight if weighted else commitment)
        if self.training and self.shared_codebook:
            self._update_shared(torch.stack(residuals, dim=-2), mask)
        left_out = len(self.layers) - active
        ids += [torch.full_like(ids[0], -1)] * left_out
        losses += [torch.zeros_like(losses[0])] * left_out
        return quantised, torch.stack(ids, dim=-1), torch.stack(losses)

    def _quantise_at_once(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        codebooks = torch.stack([level._codebook.codes_now()[0].detach() for level in self.layers])
        ids, quantised = residual_codes(rows.float(), codebooks, check=self.check_finite)
        return quantised.to(rows.dtype), ids, quantised.new_zeros(len(self.layers))

    def _one_search_serves(self, rows: Tensor, mask: Tensor | None) -> bool:
        """Whether all levels are plain Euclidean codebooks of one size that nothing trains or moves now.

        Levels round what is left to the type of the rows, one search keeps it in float32: other ids for half types.
        """
        if self.training or mask is not None or not self.uniform_codebook_size or rows.dtype != torch.float32:
            return False
        codebooks = [level._codebook for level in self.layers]
        if torch.is_grad_enabled() and any(p.requires_grad for one in codebooks for p in one.parameters()):
            return False
        return all(one.is_started() and not one.use_cosine_sim and not one.affine_param for one in codebooks)

    def _levels_now(self, device: torch.device, seed: int | None) -> int:
        """How many levels this call uses; processes draw one number together, as the package does."""
        count = self.num_quantizers
        if not (self.training and self.quantize_dropout):
            return count
        seed = package.get_maybe_sync_seed(device) if seed is None else seed
        last = random.Random(seed).randrange(self.quantize_dropout_cutoff_index, count)
        multiple = self.quantize_dropout_multiple_of
        return min(count, ceil((last + 1) / multiple) * multiple)

    def _update_shared(self, residuals: Tensor, mask: Tensor | None) -> None:
        """Codes of a shared codebook from its averages, then dead ones from residuals [B, N, Q, D], once a step."""
        first = self.layers[0]
        if self.vq_is_ema_updating:
            first._codebook.update_ema()
        rows = residuals if mask is None else residuals[mask]
        first.expire_codes_(rows.reshape(1, -1, rows.shape[-1]))

    def _levels_need_package(self) -> bool:
        return any(level.needs_package() for level in self.layers)

    @property
    def _width(self) -> int:
        """D of the input."""
        return self.project_in.in_features if self.has_projections else self.codebook_dim
