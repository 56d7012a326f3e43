"""The codebook inside `VectorQuantize`: search, moving averages, k-means start and revival of dead codes.

Letters: H codebooks (heads with a codebook of their own, else 1), N vectors, D width, K codes.
Source: VQ-VAE (arXiv 1711.00937), appendix A.1, for the averages; Jukebox (arXiv 2005.00341) for dead codes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from vector_quantize_pytorch import vector_quantize_pytorch as package

from genmm.quantizers.nearest import code_sums, nearest_codes
from genmm.quantizers.vector_ranks import agreed, row_counts, sample_rows, several, summed

__all__ = ["Codebook"]

logger = logging.getLogger(__name__)
UNIT_EPS = 1e-6


class Codebook(package.Codebook):
    """The package's codebook, with its parameters and buffers, searched and updated our way.

    Ours: the search (`nearest_codes`, no N x K matrix), lookups instead of products with one-hot rows, sums and counts
    in one pass and one exchange between processes, k-means on the same search, dead codes replaced alike in all
    processes. The package's own forward runs only where all distances are needed: `with_distances`, codes drawn at
    random, Gumbel straight-through, `topk`, and codes that differ from vector to vector.
    """

    sync: bool | None = None
    """Share statistics between processes: None = when there are several at the time of the call."""
    sync_kmeans: bool = True
    """Share the k-means start too, when `sync` says so."""
    with_distances: bool = False
    """Set by the owner before a call that needs the distances to all codes."""
    check_finite: bool = True
    """Refuse NaN and infinity, for which a GPU is waited for once a call."""
    _started: bool = False

    @property
    def shares(self) -> bool:
        """Whether statistics are exchanged now."""
        return several() if self.sync is None else self.sync and several()

    @property
    def metric(self) -> str:
        """The metric of the search; for cosine both sides are unit vectors already."""
        return "dot" if self.use_cosine_sim else "euclidean"

    def codes_now(self) -> Tensor:
        """The codes that vectors are compared with, [H, K, D] float32: stored, bridged, or moved to the data."""
        codes = (self.embed if self.learnable_codebook else self.embed.detach()).float()
        if self.vq_bridge is not None:
            codes = self.vq_bridge(codes)
        if self.affine_param:
            codes = (codes - self.codebook_mean) * (self._batch_std() / self._codebook_std()) + self.batch_mean
        return codes

    def forward(
        self,
        x: Tensor,
        sample_codebook_temp: float | None = None,
        mask: Tensor | None = None,
        freeze_codebook: bool = False,
        codebook_transform_fn: Callable | None = None,
        ema_update_weight: Tensor | Callable | None = None,
        accum_ema_update: bool = False,
        ema_update: bool | None = None,
        topk: int | None = None,
        update_usage: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Quantise x [H, B, N, D] or [B, N, D] (H = 1): codes like x in float32, ids [.., B, N], distances or None.

        `mask` [B, N] or [B / heads, N] is True at the vectors that count in the averages.
        """
        by_vector = topk is not None or codebook_transform_fn is not None
        if by_vector or self.with_distances or self._draws(sample_codebook_temp):
            return super().forward(
                x,
                sample_codebook_temp=sample_codebook_temp,
                mask=mask,
                freeze_codebook=freeze_codebook,
                codebook_transform_fn=codebook_transform_fn,
                ema_update_weight=ema_update_weight,
                accum_ema_update=accum_ema_update,
                ema_update=ema_update,
                topk=topk,
                update_usage=update_usage,
            )
        with torch.autocast(x.device.type, enabled=False):
            shape = x.shape if x.ndim == 4 else (1, *x.shape)
            rows = x.float().reshape(shape[0], -1, shape[-1])
            keep = row_mask(mask, rows)
            self.init_embed_(rows, mask=keep)
            if self.affine_param:
                self.update_affine(rows, self.embed, mask=keep)
            codes = self.codes_now()
            ids = nearest_codes(rows, codes, metric=self.metric, check=self.check_finite).indices
            quantised = lookup(codes, ids).view(x.shape)
            if self.training and update_usage and not freeze_codebook:
                self.update_codebook(rows, ids, keep, ema_update_weight, accum_ema_update, ema_update)
        return quantised, ids.view(x.shape[:-1]), None

    def _draws(self, temperature: float | None) -> bool:
        """Whether codes are drawn, or get a soft gradient, in this call."""
        options = getattr(self.gumbel_sample, "keywords", {})
        warm = (self.sample_codebook_temp if temperature is None else temperature) > 0
        return self.training and warm and (options.get("stochastic", False) or options.get("straight_through", False))

    # ------------------------------------------------------------ statistics

    @torch.no_grad()
    def track_cluster_size_and_embed_avg(
        self,
        flatten: Tensor,
        embed_onehot: Tensor,
        mask: Tensor | None = None,
        ema_update_weight: Tensor | Callable | None = None,
        accum_ema_update: bool = False,
    ) -> None:
        """Move the averages by vectors [H, N, D] and their codes: ids [H, N], or one-hot rows from the package.

        Vectors outside `mask` [H, N] and negative ids do not count. A batch without any vector that counts still
        decays the averages, as in the package.
        """
        ids = embed_onehot if embed_onehot.ndim == 2 else embed_onehot.argmax(-1)
        if mask is not None:
            ids = ids.masked_fill(~mask, -1)
        if self.affine_param:
            flatten = (flatten - self.batch_mean) * (self._codebook_std() / self._batch_std()) + self.codebook_mean
        sums, counts = summed(*code_sums(flatten, ids, self.codebook_size), shared=self.shares)
        if callable(ema_update_weight):
            ema_update_weight = ema_update_weight(sums, counts)
        for average, new in ((self.cluster_size, counts), (self.embed_avg, sums)):
            if accum_ema_update:
                package.accum_grad_(average, new)
            else:
                package.ema_inplace(average, new, self.decay, ema_update_weight)

    def update_indices(self, x: Tensor, embed_ind: Tensor, mask: Tensor | None = None, **update: Any) -> None:
        """Move the averages by x [(H,) B, N, D] whose codes [(H,) B, N] were chosen elsewhere; -1 does not count."""
        rows = x.float().reshape(x.shape[0] if x.ndim == 4 else 1, -1, x.shape[-1])
        ids = embed_ind.reshape(rows.shape[:2])
        self.update_codebook(rows, ids, row_mask(mask, rows), **update)

    update_ema_indices = update_indices

    # ------------------------------------------------------------ start and revival

    @torch.no_grad()
    def init_embed_(self, data: Tensor, mask: Tensor | None = None) -> None:
        """Start the codes by k-means on data [H, N, D] unless they are started; waits for data where there is none."""
        if self.is_started():
            return
        data = data.detach()
        heads = list(data) if mask is None else [rows[keep] for rows, keep in zip(data, mask, strict=True)]
        shared = self.shares and self.sync_kmeans
        found = sum(row_counts(heads[0], shared=shared))
        if not found:
            return
        if found < self.codebook_size:
            logger.warning("k-means starts %d codes on %d vectors; some codes will be equal", self.codebook_size, found)
        means, counts = self._kmeans(torch.stack(heads), shared)
        self.embed_avg.data.copy_(means * counts.unsqueeze(-1))
        self.cluster_size.data.copy_(counts)
        self.update_ema()
        self.initted.fill_(True)

    def is_started(self) -> bool:
        """Whether there are codes; once there are, a GPU is not waited for to answer."""
        self._started = self._started or bool(self.initted)
        return self._started

    def _kmeans(self, data: Tensor, shared: bool) -> tuple[Tensor, Tensor]:
        """Lloyd's steps from random vectors: means [H, K, D] and how many vectors each has, [H, K]."""
        means = torch.stack([sample_rows(rows, self.codebook_size, shared=shared) for rows in data])
        for _ in range(self.kmeans_iters):
            ids = nearest_codes(data, means, metric=self.metric, check=self.check_finite).indices
            sums, counts = summed(*code_sums(data, ids, self.codebook_size), shared=shared)
            new = sums / counts.clamp_min(1.0).unsqueeze(-1)
            if self.use_cosine_sim:
                new = functional.normalize(new, dim=-1, eps=UNIT_EPS)
            means = torch.where(counts.unsqueeze(-1) == 0, means, new)
        return means, counts

    @torch.no_grad()
    def replace(self, batch_samples: Tensor, batch_mask: Tensor, seq_mask: Tensor | None = None) -> None:
        """Put dead codes, batch_mask [H, K], on random vectors of batch_samples [H, N, D]; `seq_mask` [H, N] counts.

        All processes draw from the vectors of all. With more dead codes than vectors some of them stay for later.
        """
        if self.use_cosine_sim:
            batch_samples = functional.normalize(batch_samples, dim=-1, eps=UNIT_EPS)
        shared = self.shares
        for head, rows in enumerate(batch_samples.detach()):
            dead = batch_mask[head].nonzero().flatten()  # alike in all processes, as the averages are
            rows = rows if seq_mask is None else rows[seq_mask[head]]
            total = sum(row_counts(rows, shared=shared))
            if len(dead) > total > 0:
                dead = dead[agreed(torch.randperm(len(dead), device=dead.device)[:total], shared=shared)]
            if not total or not len(dead):
                continue
            drawn = sample_rows(rows, len(dead), shared=shared).to(self.embed.dtype)
            self.embed.data[head, dead] = drawn
            self.cluster_size.data[head, dead] = float(self.reset_cluster_size)
            self.embed_avg.data[head, dead] = drawn * self.reset_cluster_size

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        self._started = False
        super()._load_from_state_dict(*arguments, **named)

    def _batch_std(self) -> Tensor:
        return self.batch_variance.clamp(min=1e-5).sqrt()

    def _codebook_std(self) -> Tensor:
        return self.codebook_variance.clamp(min=1e-5).sqrt()


def row_mask(mask: Tensor | None, rows: Tensor) -> Tensor | None:
    """Mask [B, N] for rows [H, B x heads x N, D], each batch item repeated for its heads: [H, rows]."""
    if mask is None:
        return None
    heads = rows.shape[1] // max(mask.numel(), 1)
    return mask.repeat_interleave(heads, dim=0).flatten().expand(len(rows), -1)


def lookup(codes: Tensor, ids: Tensor) -> Tensor:
    """Codes [H, N, D] of ids [H, N] in codebooks [H, K, D]; gradients reach the codebooks."""
    if len(codes) > 1:
        ids = ids + codes.shape[1] * torch.arange(len(codes), device=ids.device).unsqueeze(-1)
    return functional.embedding(ids, codes.flatten(0, 1))
