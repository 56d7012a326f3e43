"""A loss that points attention at the text that is being spoken.

A decoder-only speech model has to find out by itself which word a frame belongs to, and on little data that is what it
learns last. Where it is roughly known how far the text is at each frame, attention heads can be told.

Letters: B batch, h heads, T frames, Tt text tokens.
Source: guided attention of DC-TTS (arXiv 1710.08969) section 4.1; differs in that the expected position comes from
known utterance boundaries instead of one diagonal, its width is in tokens, and only attention among text tokens
counts, so that a head stays free to look at speech as well.
"""

import torch
from torch import Tensor


def guided_alignment_loss(
    scores: Tensor, path: Tensor, text_mask: Tensor, frame_mask: Tensor, width_tokens: float = 1.5
) -> Tensor:
    """Mean share of text attention that lies away from the expected token.

    Shapes: scores [B, h, T, Tt], attention logits of frames over text; path [B, T] expected position as a (fractional)
    index into the Tt text columns; text_mask [B, Tt] and frame_mask [B, T] bool. Returns: scalar float32 in [0, 1].
    A token at distance d from the path costs 1 - exp(-d^2 / (2 width^2)). Rows without text (all masked) cost nothing.
    """
    hidden = torch.finfo(torch.float32).min
    weights = torch.softmax(scores.float().masked_fill(~text_mask[:, None, None, :], hidden), dim=-1)
    columns = torch.arange(scores.shape[-1], device=scores.device)
    away = 1.0 - torch.exp(-(columns - path[..., None]).square() / (2.0 * width_tokens**2))  # [B, T, Tt]
    cost = (weights * away[:, None]).sum(-1).mean(1)  # [B, T]
    counted = frame_mask & text_mask.any(1, keepdim=True)
    return (cost * counted).sum() / counted.sum().clamp_min(1)


def piecewise_path(token_counts: list[int], frame_counts: list[int], first_token: int = 0) -> Tensor:
    """Expected token index of every frame when part i speaks token_counts[i] tokens in frame_counts[i] frames.

    Returns: [sum(frame_counts)] float32, linear within a part: the first frame of a part sits near its first token.
    """
    pieces, start = [], float(first_token)
    for tokens, frames in zip(token_counts, frame_counts, strict=True):
        pieces.append(start + (torch.arange(frames) + 0.5) * (tokens / max(frames, 1)) - 0.5)
        start += tokens
    return torch.cat(pieces) if pieces else torch.zeros(0)
