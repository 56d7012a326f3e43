"""Discriminators on complex spectra and the hinge and feature-matching losses that go with them.

Letters: B batch, S samples, T frames, F frequency bins.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm


class SpectrumDiscriminator(nn.Module):
    """Judges patches of a complex spectrogram: [B, S] -> (logits [B, 1, T', F'], features of every layer).

    Source: multi-scale STFT discriminator of EnCodec (arXiv 2210.13438) section 3.4, narrower and with strides from the
    first layer on so that two CPU cores can train it.
    """

    def __init__(self, window_samples: int, width: int = 16) -> None:
        super().__init__()
        self.window_samples = window_samples
        self.register_buffer("window", torch.hann_window(window_samples), persistent=False)
        self.layers = nn.ModuleList(
            weight_norm(layer)
            for layer in (
                nn.Conv2d(2, width, (3, 8), stride=(1, 4), padding=(1, 4)),
                nn.Conv2d(width, 2 * width, (3, 5), stride=(1, 2), padding=(1, 2)),
                nn.Conv2d(2 * width, 2 * width, (3, 5), stride=(2, 2), padding=(1, 2)),
                nn.Conv2d(2 * width, 2 * width, (3, 3), padding=(1, 1)),
            )
        )
        self.judge = weight_norm(nn.Conv2d(2 * width, 1, (3, 3), padding=(1, 1)))

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, positive for real; and the activations that feature matching compares."""
        spectrum = torch.stft(
            waveform.float(), self.window_samples, self.window_samples // 4, window=self.window, return_complex=True
        )
        # The cube root of the magnitude evens out loud and quiet parts while the phase stays.
        scaled = spectrum * (spectrum.abs() + 1e-5).pow(-2.0 / 3.0)
        hidden = (
            torch.view_as_real(scaled).permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)
        )  # [B, 2, T, F]
        features = []
        for layer in self.layers:
            hidden = functional.leaky_relu(layer(hidden), 0.2)
            features.append(hidden)
        return self.judge(hidden), features


class MultiScaleSpectrumDiscriminator(nn.Module):
    """Several spectrum discriminators side by side."""

    def __init__(self, windows: Sequence[int] = (512, 1024, 2048), width: int = 16) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectrumDiscriminator(window, width) for window in windows)

    def forward(self, waveform: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """One (logits, features) pair for each window size."""
        return [part(waveform) for part in self.parts]


def discriminator_hinge_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Mean over discriminators of max(0, 1 - real) + max(0, 1 + fake); logits of any shape."""
    losses = [
        functional.relu(1.0 - r.float()).mean() + functional.relu(1.0 + f.float()).mean()
        for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def generator_hinge_loss(fake: Sequence[Tensor]) -> Tensor:
    """Mean over discriminators of -fake; logits of any shape."""
    return torch.stack([-f.float().mean() for f in fake]).mean()


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean absolute difference of the features, each relative to the mean size of the real one; gradients flow into
    `fake` only.
    """
    losses = []
    for real_layers, fake_layers in zip(real, fake, strict=True):
        for r, f in zip(real_layers, fake_layers, strict=True):
            r = r.detach().float()
            losses.append((f.float() - r).abs().mean() / r.abs().mean().clamp_min(1e-3))
    return torch.stack(losses).mean()
