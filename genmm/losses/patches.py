"""A small judge of picture patches, and the hinge losses of training against it.

Source: the patch discriminator of pix2pix (arXiv 1611.07004), with spectral norm instead of batch norm.
Letters: B batch, H height = width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["PatchJudge", "fooling_loss", "judging_loss"]


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


def judging_loss(real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss of the judge from its logits for real and made pictures."""
    return (1.0 - real).clamp_min(0.0).mean() + (1.0 + made).clamp_min(0.0).mean()


def fooling_loss(made: Tensor) -> Tensor:
    """What the maker of pictures minimises."""
    return -made.mean()
