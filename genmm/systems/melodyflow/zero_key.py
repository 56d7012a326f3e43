"""Attention with an all-zero key and value in front, without ever building them.

The zero key has logit 0 and adds nothing to the sum, so softmax over it and the real keys is the plain softmax times
Z / (Z + 1), where Z = sum exp(logits): `out * sigmoid(log Z)`. Flash kernels give log Z beside their output.

Letters: B batch, h heads, T queries, L keys, d width of one head.
Source: `add_zero_attn` of MelodyFlow (arXiv 2407.03648); the identity is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FAR = -1e30
"""What is added to masked logits: finite, so that a row without any key gives 0 and never NaN."""


def mask_bias(mask: Tensor) -> Tensor:
    """Additive bias [B, 1, 1, L] float32 of a mask [B, L], 1 for real keys."""
    return torch.where(mask.bool(), 0.0, FAR)[:, None, None, :]


def attend_with_zero(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention with an extra key of logit 0; a row whose keys are all masked gives exactly 0.

    Shapes: query [B, h, T, d]; key, value [B, h, L, d]; bias [B, 1, 1, L] or None. Returns: [B, h, T, d] in the dtype
    of query. Training on a CPU takes the written-out twin, whose backward pass is faster there.
    """
    on_device = query.device.type == "cpu" or (query.device.type == "cuda" and query.shape[-1] % 8 == 0)
    if torch.is_grad_enabled() or not on_device:
        return attend_with_zero_plain(query, key, value, bias)
    if bias is not None:
        bias = bias.to(query.dtype).expand(query.shape[0], 1, query.shape[2], key.shape[2])
    out, log_sum = _fused(query, key, value, bias)
    return out * torch.sigmoid(log_sum[..., : query.shape[2]]).unsqueeze(-1).to(out.dtype)


def attend_with_zero_plain(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same as `attend_with_zero`, written out: [B, h, T, L] weights in memory, any device, differentiable."""
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2)).float()
    if bias is not None:
        scores = scores + bias
    # exp(-top) is the share of the zero key; top is at least its logit, 0, so nothing overflows.
    top = scores.detach().amax(-1, keepdim=True).clamp_min(0.0)
    weights = torch.exp(scores - top)
    weights = weights / (weights.sum(-1, keepdim=True) + torch.exp(-top))
    return torch.matmul(weights.to(value.dtype), value)


def attend_with_explicit_zero(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same with a real zero key and value in front, as the original does; for comparison."""
    key, value = (functional.pad(part, (0, 0, 1, 0)) for part in (key, value))
    if bias is not None:
        bias = functional.pad(bias, (1, 0)).to(query.dtype).expand(query.shape[0], 1, query.shape[2], -1)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def _fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output [B, h, T, d] and log Z [B, h, >= T] of the fused kernel of the device."""
    operations = torch.ops.aten
    if query.device.type == "cpu":
        return operations._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, False, attn_mask=bias)
    if bias is None and query.dtype in (torch.float16, torch.bfloat16):
        return operations._scaled_dot_product_flash_attention(query, key, value, 0.0, False)[:2]
    if bias is not None:
        bias = _aligned(bias.expand(-1, query.shape[1], -1, -1))
    return operations._scaled_dot_product_efficient_attention(query, key, value, bias, True)[:2]


def _aligned(bias: Tensor) -> Tensor:
    """The bias on memory rows of a multiple of 16 entries, which the memory-efficient kernel needs."""
    length = bias.shape[-1]
    return functional.pad(bias, (0, -length % 16))[..., :length]
