"""Short-time spectra in the forward-looking convention: frame j covers samples [j*hop, j*hop + window).

With this convention an inverse transform can emit hop `j` as soon as frame `j` is known, because every later frame
starts later: overlap-add then has no look-ahead at all. Letters: B batch, S samples, T frames, F frequency bins, M mel
bands.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def mel_filterbank(
    bands: int, n_fft: int, sample_rate: int, low_hz: float = 0.0, high_hz: float | None = None
) -> Tensor:
    """Triangular filters [M, n_fft/2+1] with equal area on the HTK mel scale (2595 log10(1 + f/700))."""
    high_hz = sample_rate / 2 if high_hz is None else high_hz
    low, high = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (low_hz, high_hz))
    edges = 700.0 * (10.0 ** (torch.linspace(low, high, bands + 2, dtype=torch.float64) / 2595.0) - 1.0)
    bins = torch.linspace(0.0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rising = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rising, falling).clamp_min(0.0)
    return (filters * (2.0 / (edges[2:] - edges[:-2]))[:, None] * (sample_rate / n_fft)).float()


class LogMel(nn.Module):
    """Natural log of mel magnitudes, floored at 1e-5: [B, S] -> [B, T, M] with T = ceil(S / hop).

    Frame j covers samples [j*hop - shift, j*hop - shift + n_fft); samples outside the signal count as zero.
    """

    def __init__(self, sample_rate: int, n_fft: int, hop: int, bands: int, shift: int) -> None:
        super().__init__()
        self.n_fft, self.hop, self.shift = n_fft, hop, shift
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", mel_filterbank(bands, n_fft, sample_rate), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Log-mel frames of a batch of waveforms, computed in float32."""
        frames = -(-waveform.shape[-1] // self.hop)
        right = max(0, (frames - 1) * self.hop + self.n_fft - self.shift - waveform.shape[-1])
        padded = functional.pad(waveform.float(), (self.shift, right))
        spectrum = torch.stft(padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
        magnitude = spectrum[..., :frames].abs()  # [B, F, T]
        with torch.autocast(waveform.device.type, enabled=False):  # it would make the product one of bfloat16
            return (self.filters @ magnitude).clamp_min(1e-5).log().transpose(1, 2)


class OverlapAddSynthesis(nn.Module):
    """Complex spectra to a waveform by windowed inverse FFT and overlap-add: [B, T, F] complex -> [B, T*hop].

    The synthesis window is Hann; each output sample is divided by the sum of squared windows that a full overlap
    gives, so the first window-hop samples fade in instead of being amplified. The tail past T*hop is dropped here and
    carried when streaming.
    """

    def __init__(self, window_samples: int, hop: int) -> None:
        super().__init__()
        if window_samples % hop:
            raise ValueError(f"window_samples must be a multiple of hop, got {window_samples} and {hop}")
        self.window_samples, self.hop = window_samples, hop
        window = torch.hann_window(window_samples)
        power = window.square().view(-1, hop).sum(0)  # [hop]: what full overlap adds up to, by phase within a hop
        self.register_buffer("window", window / power.repeat(window_samples // hop), persistent=False)

    @property
    def tail_samples(self) -> int:
        """Samples that later frames still add to: window - hop."""
        return self.window_samples - self.hop

    def overlap_add(self, spectrum: Tensor) -> Tensor:
        """All samples touched by the frames, [B, (T-1)*hop + window], in float32."""
        batch, frames, _ = spectrum.shape
        segments = torch.fft.irfft(spectrum, n=self.window_samples, dim=-1) * self.window  # [B, T, window]
        total = (frames - 1) * self.hop + self.window_samples
        folded = functional.fold(
            segments.transpose(1, 2), output_size=(1, total), kernel_size=(1, self.window_samples), stride=(1, self.hop)
        )
        return folded.view(batch, total)

    def forward(self, spectrum: Tensor) -> Tensor:
        """Waveform [B, T*hop] of a whole sequence of spectra."""
        return self.overlap_add(spectrum)[:, : spectrum.shape[1] * self.hop]

    def step(self, spectrum: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Next samples [B, n*hop] for n more frames, given the carried tail [B, window-hop]; and the new tail."""
        samples = self.overlap_add(spectrum)
        samples[:, : self.tail_samples] += tail
        ready = spectrum.shape[1] * self.hop
        return samples[:, :ready], samples[:, ready:]
