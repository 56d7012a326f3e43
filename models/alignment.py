"""Reads attention of chosen SLED layers during a training pass, so that a loss can point it at the spoken text.

Letters: B batch, g guided heads, T frames, Tt text tokens, S = Tt + T positions, H width, d width of one head.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor
from torch.nn.functional import linear

from genmm.core.errors import ConfigError
from genmm.losses.alignment import guided_alignment_loss
from genmm.nn.attention import GroupedAttention
from genmm.nn.rotary import rotate
from genmm.systems.sled.network import SledNetwork


@dataclass(frozen=True, kw_only=True)
class AlignmentGuide:
    """How strongly, where and for how long attention is guided; off by default, as in the paper."""

    weight: float = 0.0
    """Weight of the loss beside the energy loss; 0 switches it off."""
    layers: tuple[int, ...] = (1, 2)
    """Decoder layers whose attention is guided, counted from 0."""
    heads: int = 2
    """Guided heads of each such layer, the first ones."""
    width_tokens: float = 1.5
    """How far from the expected token attention may stray, in tokens."""
    steps: int = 6000
    """Training steps after which the weight has fallen to zero, linearly."""

    def __post_init__(self) -> None:
        if self.weight < 0 or self.heads < 1 or self.width_tokens <= 0 or self.steps < 1:
            raise ConfigError("guide: weight at least 0, heads and steps at least 1, width_tokens above 0")

    def weight_at(self, step: int) -> float:
        """The weight at an optimizer step."""
        return self.weight * max(0.0, 1.0 - step / self.steps)


class AttentionReader:
    """Context manager that keeps the inputs of some attention layers of one forward pass."""

    def __init__(self, network: SledNetwork, layers: tuple[int, ...]) -> None:
        count = network.config.num_hidden_layers
        if network.config.is_streaming or not all(0 <= layer < count for layer in layers):
            raise ConfigError(f"guide.layers must lie in 0 .. {count - 1} of an offline network, got {layers}")
        self._attentions = [network.model.layers[layer].self_attn for layer in layers]
        self._inputs: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __enter__(self) -> AttentionReader:
        def keep(module: GroupedAttention, args: tuple[Tensor, ...]) -> None:
            self._inputs[id(module)] = args[:3]

        self._handles = [attention.register_forward_pre_hook(keep) for attention in self._attentions]
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def text_scores(self, tokens: int, heads: int) -> Tensor:
        """Attention logits of the positions that predict frames over the text: [B, layers * heads, T, Tt].

        The softmax over all positions is not needed: the loss compares text positions among themselves.
        """
        return torch.cat([self._scores(attention, tokens, heads) for attention in self._attentions], dim=1)

    def _scores(self, attention: GroupedAttention, tokens: int, heads: int) -> Tensor:
        x, cosine, sine = self._inputs[id(attention)]
        width = attention.head_dim
        groups = attention.heads // attention.kv_heads
        query = self._heads(x, attention.q_proj.weight[: heads * width], heads, cosine, sine)
        key = self._heads(x, attention.k_proj.weight[: -(-heads // groups) * width], -(-heads // groups), cosine, sine)
        key = key.repeat_interleave(groups, dim=1)[:, :heads] if groups > 1 else key
        return query[:, :, tokens - 1 : -1] @ key[:, :, :tokens].transpose(-1, -2) * width**-0.5

    @staticmethod
    def _heads(x: Tensor, weight: Tensor, heads: int, cosine: Tensor, sine: Tensor) -> Tensor:
        return rotate(linear(x, weight).unflatten(-1, (heads, -1)).transpose(1, 2), cosine, sine)


def alignment_loss(
    reader: AttentionReader, guide: AlignmentGuide, path: Tensor, text_mask: Tensor, frame_mask: Tensor
) -> Tensor:
    """The guided alignment loss of the pass that `reader` saw.

    Shapes: path [B, T], expected index among the real tokens of each row, counted from <s>; masks [B, Tt] and [B, T].
    """
    padding = (~text_mask).sum(1, keepdim=True) * (~text_mask[:, :1])  # [B, 1]: columns left of the text
    scores = reader.text_scores(text_mask.shape[1], guide.heads)
    return guided_alignment_loss(scores, path + padding, text_mask, frame_mask, guide.width_tokens)
