"""Spectra and sounds on the semitones of equal temperament (A4 = 440 Hz), for music.

Mel bands below 1 kHz are wider than a semitone, so a model that hears and speaks through them cannot hold a key. Here
each semitone has a band and an oscillator of its own. Letters: B batch, S samples, J frames, N semitones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LOWEST = 24
"""MIDI number of the first semitone, C1 at 32.7 Hz."""


def semitone_hz(count: int) -> Tensor:
    """Frequencies [N] float64 of `count` semitones from C1 upwards."""
    return 440.0 * 2.0 ** ((torch.arange(LOWEST, LOWEST + count, dtype=torch.float64) - 69.0) / 12.0)


def semitone_filterbank(count: int, n_fft: int, sample_rate: int) -> Tensor:
    """Triangles [N, n_fft/2+1] over one semitone to each side; never narrower than the spectrum can tell apart."""
    centres = semitone_hz(count)[:, None]
    bin_hz = sample_rate / n_fft
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[None] * bin_hz
    half = (centres * (2.0 ** (1.0 / 12.0) - 1.0)).clamp_min(bin_hz)
    return (1.0 - (bins - centres).abs() / half).clamp_min(0.0).float()


class SemitoneLevels(nn.Module):
    """Amplitude around each semitone to the power 0.3: [B, S] -> [B, J, N] in about [0, 1], J = ceil(S / hop).

    Frame j is centred at sample j * hop + centre. The power is close to loudness: a logarithm would give what lies
    between the tones, 60 dB down, as much weight as the tones. A sine of amplitude 1 gives about 0.9 at its semitone,
    whatever its pitch.
    """

    POWER, FLOOR = 0.3, 1e-4

    def __init__(self, sample_rate: int, n_fft: int, hop: int, count: int, centre: int = 0) -> None:
        super().__init__()
        self.n_fft, self.hop, self.shift = n_fft, hop, n_fft // 2 - centre
        self.register_buffer("window", torch.hann_window(n_fft) * (1.0 / n_fft), persistent=False)
        self.register_buffer("filters", semitone_filterbank(count, n_fft, sample_rate), persistent=False)
        self.bins = int(self.filters.any(0).nonzero().max()) + 1
        self.filters = self.filters[:, : self.bins]

    def forward(self, waveform: Tensor) -> Tensor:
        """Frames of a batch of waveforms, computed in float32."""
        frames = -(-waveform.shape[-1] // self.hop)
        right = max(0, (frames - 1) * self.hop + self.n_fft - self.shift - waveform.shape[-1])
        padded = functional.pad(waveform.float(), (self.shift, right))
        spectrum = torch.stft(padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
        power = torch.view_as_real(spectrum[:, : self.bins, :frames]).square().sum(-1)
        amplitude_squared = (self.filters @ power) * 8.0 + self.FLOOR**2
        return amplitude_squared.pow(0.5 * self.POWER).transpose(1, 2)


class ToneBank(nn.Module):
    """Fixed oscillators, one for each semitone, with given amplitudes: [B, J, N] -> [B, J * hop].

    Frame j covers samples [j*hop, (j+2)*hop) under a Hann window, so amplitudes glide from frame to frame. Phases run
    on with absolute time (`first` counts the frames before the given ones): a sound made in pieces is the sound made
    at once. With `cycle`, a number of frames, pitches bend by less than half a turn per cycle so that all phases come
    back after it: a loop then has no seam.

    Within a frame cos(w (t + n)) = cos(w t) cos(w n) - sin(w t) sin(w n), hence two small products with fixed matrices
    instead of N oscillators at the sample rate.
    """

    def __init__(self, sample_rate: int, hop: int, count: int) -> None:
        super().__init__()
        if count < 1 or float(semitone_hz(count)[-1]) >= sample_rate / 2:
            raise ValueError(f"{count} semitones from C1 upwards do not fit below half of {sample_rate} Hz")
        self.hop = hop
        turns = semitone_hz(count) / sample_rate * hop
        golden = 0.5 * (math.sqrt(5.0) - 1.0)  # spreads the starting phases, so that tones do not all peak at once
        self.register_buffer("turns", turns, persistent=False)  # per frame
        self.register_buffer("start", (torch.arange(count, dtype=torch.float64) * golden) % 1.0, persistent=False)
        self.register_buffer("within", self._within(turns), persistent=False)

    def _within(self, turns: Tensor) -> Tensor:
        """[2 N, 2 hop]: cosines and negated sines over the two hops of a frame, under the window."""
        angles = 2.0 * math.pi * turns[:, None] * torch.arange(2 * self.hop, device=turns.device) / self.hop
        window = torch.hann_window(2 * self.hop, dtype=torch.float64, device=turns.device)
        return torch.cat((angles.cos() * window, -angles.sin() * window)).float()

    def forward(self, amplitudes: Tensor, first: int = 0, cycle: int | None = None) -> Tensor:
        """Waveforms in float32; the second half of the last frame is dropped."""
        batch, frames, _ = amplitudes.shape
        turns, within = self.turns, self.within
        if cycle is not None:
            turns = (turns * cycle).round() / cycle
            within = self._within(turns)
        at = torch.arange(first, first + frames, dtype=torch.float64, device=amplitudes.device)
        angles = (2.0 * math.pi * ((at[:, None] * turns + self.start) % 1.0)).float()
        loud = amplitudes.float()
        parts = torch.cat((loud * angles.cos(), loud * angles.sin()), -1) @ within  # [B, J, 2 hop]
        here, over = parts[..., : self.hop], parts[..., self.hop :]
        return (here + functional.pad(over, (0, 0, 1, 0))[:, :frames]).reshape(batch, frames * self.hop)
