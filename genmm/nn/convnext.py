"""Causal ConvNeXt blocks over time, with a state that makes streaming exact.

Letters: B batch, T frames, C channels. A causal block sees frames t-k+1 .. t, so its streaming twin only has to carry
the last k-1 inputs of its depthwise convolution: no look-ahead, no windows, and the same numbers as one long call.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class CausalDepthwiseConv(nn.Module):
    """Depthwise convolution over time that looks back only: [B, T, C] -> [B, T, C].

    The past before the first frame is zero, so the start needs no special case when streaming.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv = nn.Conv1d(channels, channels, kernel, groups=channels)

    def forward(self, frames: Tensor) -> Tensor:
        """Filter a whole sequence [B, T, C]."""
        padded = functional.pad(frames.transpose(1, 2), (self.kernel - 1, 0))  # [B, C, k-1+T]
        return self.conv(padded).transpose(1, 2)

    def step(self, frames: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Filter the next frames [B, n, C] after `history` [B, k-1, C]; give back the output and the new history."""
        window = torch.cat([history, frames], dim=1)
        out = self.conv(window.transpose(1, 2)).transpose(1, 2)
        return out, window[:, window.shape[1] - (self.kernel - 1) :]


class CausalConvNeXtBlock(nn.Module):
    """Depthwise causal convolution, LayerNorm, two pointwise layers, learned residual scale: [B, T, C] -> [B, T, C].

    Source: ConvNeXt (arXiv 2201.03545) as used over time by Vocos (arXiv 2306.00814); the causal padding is ours.
    """

    def __init__(self, channels: int, expansion: int = 3, kernel: int = 7, init_scale: float = 0.2) -> None:
        super().__init__()
        self.mix = CausalDepthwiseConv(channels, kernel)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, expansion * channels)
        self.contract = nn.Linear(expansion * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), init_scale))

    def _pointwise(self, mixed: Tensor) -> Tensor:
        return self.scale * self.contract(functional.gelu(self.expand(self.norm(mixed))))

    def forward(self, frames: Tensor) -> Tensor:
        """Transform a whole sequence [B, T, C]."""
        return frames + self._pointwise(self.mix(frames))

    def step(self, frames: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Transform the next frames [B, n, C] given the history [B, k-1, C] of the convolution."""
        mixed, history = self.mix.step(frames, history)
        return frames + self._pointwise(mixed), history

    def initial_history(self, batch: int) -> Tensor:
        """Zeros [B, k-1, C]: what the convolution has seen before the first frame."""
        weight = self.mix.conv.weight
        return weight.new_zeros(batch, self.mix.kernel - 1, weight.shape[0])


class CausalConvNeXtStack(nn.Module):
    """A sequence of causal blocks [B, T, C] -> [B, T, C] with one carried state per block."""

    def __init__(self, channels: int, depth: int, expansion: int = 3, kernel: int = 7) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CausalConvNeXtBlock(channels, expansion, kernel) for _ in range(depth))

    def forward(self, frames: Tensor) -> Tensor:
        """Transform a whole sequence [B, T, C]."""
        for block in self.blocks:
            frames = block(frames)
        return frames

    def initial_state(self, batch: int) -> list[Tensor]:
        """The state before the first frame, one history per block."""
        return [block.initial_history(batch) for block in self.blocks]

    def step(self, frames: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Transform the next frames [B, n, C]; equals the matching rows of one `forward` over everything."""
        after = []
        for block, history in zip(self.blocks, state, strict=True):
            frames, history = block.step(frames, history)
            after.append(history)
        return frames, after
