"""A small judge of picture patches; its hinge losses are those of `genmm.losses.adversarial`.

Source: the patch discriminator of pix2pix (arXiv 1611.07004), with spectral norm instead of batch norm.
Letters: B batch, H height = width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["PatchJudge"]


class PatchJudge(nn.Module):
    """Pictures [B, 3, H, H] -> logits [B, 1, H/4, H/4], positive for real patches of about 22 pixels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            spectral_norm(nn.Conv2d(3, width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * width, 2 * width, 3, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(2 * width, 1, 3, padding=1)),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures)
