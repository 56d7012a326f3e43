"""Sample rate conversion with a windowed sinc, for arrays and tensors, on any device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from genmm.core.errors import ShapeError, UsageError

__all__ = ["check_rates", "resample", "resampled_length"]

if TYPE_CHECKING:
    from torch import Tensor

Samples = TypeVar("Samples", np.ndarray, "Tensor")

WIDTH = 64
"""Zero crossings of the sinc on each side."""
ROLLOFF = 0.9475937167399596
"""Cut-off as a share of the lower Nyquist rate."""
BETA = 14.769656459379492
"""Shape of the Kaiser window. These three measure -100 dB aliasing and 105 dB signal to noise from 44.1 to 16 kHz up to
7 kHz; torchaudio's own defaults reach 15 dB there, at the same speed."""

MAX_KERNEL = 3_000_000
"""Largest polyphase kernel, in taps. 44.1 <-> 48 kHz needs 0.07 million; 44 099 -> 16 000 Hz would need 720 million
(2.9 GB), so such rates go through the spectrum instead."""

CONTEXT = 512
"""On that way: samples of the lower rate on each side of a block, where the low-pass still reaches in."""
BLOCK = 262_144
"""On that way: samples of the higher rate per block, at least."""


def resampled_length(samples: int, from_rate: int, to_rate: int) -> int:
    """Exact number of samples after conversion: ceil(samples * to_rate / from_rate)."""
    return -(-samples * to_rate // from_rate)


def resample(samples: Samples, from_rate: int, to_rate: int) -> Samples:
    """Convert the sample rate along the last axis.

    Shapes: samples [..., S] -> [..., ceil(S * to_rate / from_rate)]; array in, array out; tensor in, tensor out.
    Dtype: float32 and float64 stay; other dtypes become float32. Time zero stays where it is (no delay).
    Raises: UsageError for rates that are not whole numbers above 0; ShapeError for a scalar.
    Source: torchaudio.functional.resample (Kaiser-windowed sinc). Differs for rates without a useful common divisor,
    whose kernel would not fit in memory: there the spectrum of blocks is cut or extended, which is as exact.
    """
    import torch  # takes seconds, so only once it is needed

    check_rates(from_rate, to_rate)
    is_array = isinstance(samples, np.ndarray)
    signal = torch.from_numpy(np.ascontiguousarray(samples)) if is_array else samples
    if signal.ndim == 0:
        raise ShapeError("samples need a time axis [..., S], got a scalar")
    if signal.dtype not in (torch.float32, torch.float64):
        signal = signal.to(torch.float32)
    converted = _convert(signal, int(from_rate), int(to_rate))
    return converted.numpy() if is_array else converted


def check_rates(*rates: int) -> None:
    """Raises: UsageError unless each rate is a whole number of at least 1 Hz."""
    for rate in rates:
        if isinstance(rate, bool) or int(rate) != rate or rate < 1:
            raise UsageError(f"sample rates are whole numbers of at least 1 Hz, got {rate!r}")


def _convert(signal: Tensor, from_rate: int, to_rate: int) -> Tensor:
    if from_rate == to_rate or signal.shape[-1] == 0:
        return signal
    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    if new * (old + 2 * math.ceil(WIDTH * old / (min(old, new) * ROLLOFF))) > MAX_KERNEL:
        return _through_spectrum(signal, old, new)
    from torchaudio.functional import resample as polyphase

    return polyphase(
        signal,
        old,
        new,
        lowpass_filter_width=WIDTH,
        rolloff=ROLLOFF,
        resampling_method="sinc_interp_kaiser",
        beta=BETA,
    )


def _through_spectrum(signal: Tensor, old: int, new: int) -> Tensor:
    """Blocks of whole periods (`old` samples in, `new` out), so that both ends of each fall on samples exactly."""
    import torch

    context = math.ceil(CONTEXT / min(old, new))  # periods
    inner = max(2 * context, math.ceil(BLOCK / max(old, new)))
    periods = inner + 2 * context
    low_pass = _low_pass(periods, old, new).to(signal)
    rows = signal.reshape(-1, signal.shape[-1])
    count = math.ceil(signal.shape[-1] / (inner * old))
    behind = (count * inner + context) * old - signal.shape[-1]
    padded = torch.nn.functional.pad(rows, (context * old, behind))  # [N, (count * inner + 2 * context) * old]
    parts = []
    for block in range(count):
        start = block * inner * old
        spectrum = torch.fft.rfft(padded[:, start : start + periods * old])[:, : len(low_pass)] * low_pass
        parts.append(torch.fft.irfft(spectrum, periods * new)[:, context * new : (context + inner) * new] * (new / old))
    length = resampled_length(signal.shape[-1], old, new)
    return torch.cat(parts, dim=-1)[:, :length].reshape(*signal.shape[:-1], length)


def _low_pass(periods: int, old: int, new: int) -> Tensor:
    """Gain per bin: 1 up to ROLLOFF of the lower Nyquist rate, then half a cosine down to 0 there. [bins] float64."""
    import torch

    nyquist = periods * min(old, new) / 2
    place = (torch.arange(math.ceil(nyquist), dtype=torch.float64) / nyquist - ROLLOFF) / (1 - ROLLOFF)
    return 0.5 + 0.5 * torch.cos(math.pi * place.clamp(0, 1))
