"""The multi-task objective: reconstruction, masked reconstruction, contrast between streams, k-point contrast.

Letters: B videos, T steps, D features, k picked steps.
Source: RASL (arXiv 2403.09401): the tasks are the paper's, their formulas, weights and temperatures our own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genmm.losses.contrastive import k_point_loss, k_points, picked_embedding, symmetric_contrast
from genmm.systems.rasl.config import ObjectiveConfig
from genmm.systems.rasl.network import STREAMS, BranchOutput, RaslNetwork

__all__ = ["hidden_spans", "rasl_losses"]


def rasl_losses(
    network: RaslNetwork, batch: Mapping[str, Tensor], config: ObjectiveConfig, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """All parts of the objective and their weighted sum as "loss".

    Batch: visual [B, T, Dv] and mask [B, T] bool; audio [B, T, Da], audio_mask and audible [B, T] bool where the
    videos have sound, all False for those without. A video without sound is compared with a second, partly hidden
    view of its own pictures. `generator` (on the CPU) decides what is hidden and picked; None takes the global one.
    """
    streams = [name for name in STREAMS if name in batch]
    masks = {"visual": batch.get("mask"), "audio": batch.get("audio_mask")}
    clean: dict[str, BranchOutput] = {}
    veiled: dict[str, BranchOutput] = {}
    parts: dict[str, list[Tensor]] = {"reconstruction": [], "masked": [], "spread": []}
    for name in streams:
        mask = masks[name]
        hide = hidden_spans(mask, config.mask_share, config.mask_span, generator) & mask
        clean[name] = network(name, batch[name], mask)
        veiled[name] = network(name, batch[name], mask, hide)
        parts["reconstruction"].append(_error(clean[name], mask))
        parts["masked"].append(_error(veiled[name], hide))
        parts["spread"].append(_spread(clean[name].activation, mask, config))
    terms = {name: torch.stack(values).mean() for name, values in parts.items()}
    first, second = _partners(clean, veiled, batch)
    terms["contrast"] = _contrast(network, clean, batch, config, generator)
    terms["k_point"] = _k_point(first, second, config, generator)
    weights = {name: getattr(config, name) for name in terms}
    if config.spread is None:
        weights["spread"] = 0.0 if "audio" in batch and bool(batch["audible"].any()) else 1.0
    return {"loss": sum(weights[name] * value for name, value in terms.items()), **terms}


def hidden_spans(mask: Tensor, share: float, longest: int, generator: torch.Generator | None = None) -> Tensor:
    """Steps to hide, [B, T] bool: runs of 1 to `longest` steps, about `share` of all, at least one in each row."""
    batch, steps = mask.shape
    starts = torch.rand(batch, steps, generator=generator) < share / (0.5 * (1 + longest))
    starts[torch.arange(batch), torch.randint(steps, (batch,), generator=generator)] = True
    lengths = torch.randint(1, longest + 1, (batch, steps), generator=generator)
    hide = torch.zeros(batch, steps, dtype=torch.bool)
    for offset in range(longest):
        reach = starts & (lengths > offset)
        hide[:, offset:] |= reach[:, : steps - offset]
    return hide.to(mask.device)


def _error(output: BranchOutput, where: Tensor) -> Tensor:
    """Mean squared error of the standardised features over the steps that count."""
    error = (output.reconstruction.float() - output.target).square().mean(-1)
    return (error * where).sum() / where.sum().clamp_min(1)


def _spread(activation: Tensor, mask: Tensor, config: ObjectiveConfig) -> Tensor:
    """Anti-collapse: activations that hardly change within a video, that are not rare, and a little their size."""
    count = mask.sum(1).clamp_min(1)
    mean = activation.sum(1) / count
    off = (activation - mean[:, None]) * mask
    deviation = (off.square().sum(1) / count + 1e-12).sqrt()
    has = (mask.sum(1) > 1).float()
    flat = (config.least_spread - deviation / mean.clamp_min(1e-6)).clamp_min(0.0)
    skew = (off / deviation[:, None].clamp_min(1e-4)).pow(3).sum(1) / count
    common = (config.least_skew - skew).clamp(0.0, 4.0)
    return ((flat + config.rareness * common + config.sparsity * mean) * has).sum() / has.sum().clamp_min(1)


def _partners(
    clean: Mapping[str, BranchOutput], veiled: Mapping[str, BranchOutput], batch: Mapping[str, Tensor]
) -> tuple[tuple[BranchOutput, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """The first stream, and what each of its videos is compared with: (activation, embedding, mask) of a partner."""
    visual, mask = clean["visual"], batch["mask"]
    partner = veiled["visual"]
    activation, embedding, other_mask = partner.activation, partner.embedding, mask
    if "audio" in clean:
        choose = (batch["audible"].sum(1) >= 4)[:, None]
        activation = torch.where(choose, clean["audio"].activation, activation)
        embedding = torch.where(choose[..., None], clean["audio"].embedding, embedding)
        other_mask = torch.where(choose, batch["audio_mask"], mask)
    return (visual, mask), (activation, embedding, other_mask)


def _contrast(
    network: RaslNetwork,
    clean: Mapping[str, BranchOutput],
    batch: Mapping[str, Tensor],
    config: ObjectiveConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """Symmetric contrast between the streams at a few audible steps of every video."""
    if "audio" not in clean:
        return clean["visual"].activation.sum() * 0.0
    usable = batch["mask"] & batch["audible"]
    draw = torch.rand(usable.shape, generator=generator).to(usable.device)
    indices, real = k_points(draw, usable, config.pairs, config.pair_gap - 1)
    rows = torch.arange(len(usable), device=usable.device)[:, None].expand_as(indices)
    video, step = rows[real], indices[real]
    ignored = (video[:, None] == video[None, :]) & ((step[:, None] - step[None, :]).abs() < config.near)
    first, second = (clean[name].embedding[video, step] for name in STREAMS)
    return symmetric_contrast(first, second, network.temperature, ignored)


def _k_point(
    first: tuple[BranchOutput, Tensor],
    second: tuple[Tensor, Tensor, Tensor],
    config: ObjectiveConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """The moments that each stream picks must agree, and differ from dull moments and from other videos."""
    output, mask = first
    sides = [(output.activation, output.embedding, mask), second]
    high, dull, dull_real = [], [], []
    for activation, embedding, valid in sides:
        level = _standard(activation, valid)
        noise = torch.randn(level.shape, generator=generator).to(level.device) * config.explore
        k = max(2, round(config.share * valid.shape[1]))
        indices, real = k_points(level.detach() + noise, valid, k, config.gap)
        high.append(picked_embedding(level, embedding, indices, real, config.score_temperature))
        lowest, lowest_real = k_points(-level.detach() - noise, valid, k, config.gap)
        dull.append(embedding.gather(1, lowest.unsqueeze(-1).expand(-1, -1, embedding.shape[-1])))
        dull_real.append(lowest_real)
    return k_point_loss((high[0], high[1]), (dull[0], dull[1]), (dull_real[0], dull_real[1]), config.temperature)


def _standard(activation: Tensor, mask: Tensor) -> Tensor:
    """Activations [B, T] with mean 0 and deviation 1 over the valid steps of each video; 0 elsewhere."""
    count = mask.sum(1, keepdim=True).clamp_min(1)
    mean = (activation * mask).sum(1, keepdim=True) / count
    off = (activation - mean) * mask
    return off / (off.square().sum(1, keepdim=True) / count + 1e-8).sqrt()
