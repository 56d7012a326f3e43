"""Reconstruction losses on short-time spectra. Letters: B batch, S samples."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genmm.nn.spectral import LogMel


class MultiScaleLogMelLoss(nn.Module):
    """Mean absolute difference of log-mel spectra, averaged over several window sizes: two [B, S] waveforms -> scalar.

    Short windows see timing, long ones pitch; one alone leaves the other free.
    Source: multi-scale mel loss as in DAC (arXiv 2306.06546) section 3.4; natural logarithm and fewer scales are ours.
    """

    def __init__(
        self,
        sample_rate: int,
        windows: Sequence[int] = (256, 512, 1024, 2048),
        bands: Sequence[int] = (32, 64, 80, 128),
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            LogMel(sample_rate, window, window // 4, count, shift=window // 2)
            for window, count in zip(windows, bands, strict=True)
        )

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Loss of `output` against `target`, both [B, S] at the sample rate of construction; float32."""
        return torch.stack([(scale(output) - scale(target)).abs().mean() for scale in self.scales]).mean()
