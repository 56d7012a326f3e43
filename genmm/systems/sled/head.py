"""The generator head: one pass from a hidden state and noise to a speech latent.

Letters: N rows (frames), H width of the hidden state, W width of the head, C noise channels, D latent channels.
Source: SLED (arXiv 2505.13181); parameter names of the official checkpoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


class HeadBlock(nn.Module):
    """One residual block: the condition is the stream, the noise modulates it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.noise_ln = nn.LayerNorm(width, eps=EPS)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def modulation(self, noise: Tensor) -> Tensor:
        """Shift, scale and gate side by side: [N, W] -> [N, 3 W]."""
        return self.adaLN_modulation(self.noise_ln(noise))

    def forward(self, stream: Tensor, noise: Tensor, shift_scale: float = 1.0) -> Tensor:
        """Shapes: stream, noise [N, W] -> [N, W]."""
        shift, scale, gate = self.modulation(noise).chunk(3, dim=-1)
        return stream + gate * self.mlp(modulate(stream, shift * shift_scale, scale))


class FinalLayer(nn.Module):
    """Modulation without a norm on the noise, then the projection to the latent."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def modulation(self, noise: Tensor) -> Tensor:
        """Shift and scale side by side: [N, W] -> [N, 2 W]."""
        return self.adaLN_modulation(noise)

    def forward(self, stream: Tensor, noise: Tensor, shift_scale: float = 1.0) -> Tensor:
        """Shapes: stream, noise [N, W] -> [N, D]."""
        shift, scale = self.modulation(noise).chunk(2, dim=-1)
        return self.linear(modulate(stream, shift * shift_scale, scale))


def modulate(stream: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights, then scale and shift: [N, W] each."""
    return F.layer_norm(stream, stream.shape[-1:], eps=EPS) * (1 + scale) + shift


class GeneratorHead(nn.Module):
    """g(z, noise): a sample of the next latent; a fresh head gives exactly zero for any noise."""

    def __init__(self, hidden: int, width: int, depth: int, channels: int, noise_channels: int) -> None:
        super().__init__()
        self.cond_embed = nn.Linear(hidden, width)
        self.input_proj = nn.Linear(noise_channels, width)
        self.res_blocks = nn.ModuleList(HeadBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, zero biases, and zeros in every modulation and in the last projection."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for block in [*self.res_blocks, self.final_layer]:
            nn.init.zeros_(block.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(self, z: Tensor, noise: Tensor, shift_scale: float = 1.0) -> Tensor:
        """Draw one latent for each row.

        Shapes: z [N, H], noise [N, C] standard normal. Returns: [N, D].
        shift_scale multiplies every modulation shift, the temperature of EAR (arXiv 2505.07812); 1 is official.
        """
        modulation, stream = self.input_proj(noise), self.cond_embed(z)
        for block in self.res_blocks:
            stream = block(stream, modulation, shift_scale)
        return self.final_layer(stream, modulation, shift_scale)


def draw_pair(head: nn.Module, z: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent draws for each hidden state in one pass of the head over 2 N rows.

    Shapes: z [N, H], noise [2, N, C]. Returns: two tensors [N, D] float32 (distances are taken in float32).
    """
    drawn = head(torch.cat((z, z)), noise.flatten(0, 1)).float()
    first, second = drawn.chunk(2)
    return first, second
