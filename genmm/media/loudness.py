"""Loudness as people hear it (ITU-R BS.1770-4, in LUFS), measured with pyloudnorm, and a torch twin for tensors.

Shapes: samples [S] or [C, S]; tensors also [..., C, S]. Five channels are L R C Ls Rs; more are read as in `channels`.
"""

from __future__ import annotations

import math
import warnings
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from genmm.core.devices import widest_float
from genmm.core.errors import MediaError, ShapeError, UsageError
from genmm.media.channels import stereo_matrix
from genmm.media.resampling import resample

__all__ = ["integrated_loudness", "integrated_loudness_torch", "normalise"]

Samples = TypeVar("Samples", np.ndarray, Tensor)

BLOCK_S = 0.4
STEP = 0.25
"""Gating blocks of 0.4 s that overlap by three quarters (BS.1770-4)."""
ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
OFFSET_LUFS = -0.691
LOWEST_RATE = 8000
"""The weighting filter reaches to 1.5 kHz and more; slower sound is converted up to 16 kHz first."""
RING_S = 0.25
"""What the weighting filter adds after the end is below -200 dB after this time."""

_SHELF = (4.0, 1 / math.sqrt(2), 1500.0)  # gain dB, Q, Hz
_HIGH_PASS = (0.5, 38.0)  # Q, Hz
_CHANNEL_GAINS = (1.0, 1.0, 1.0, 1.41, 1.41)


def integrated_loudness(samples: np.ndarray | Tensor, sample_rate: int) -> float:
    """Integrated loudness in LUFS; -inf for silence (nothing above -70 LUFS).

    Sounds below 0.4 s are measured over their own length, without gates. Shapes: [S] or [C, S], at least 1 sample.
    Raises: ShapeError; MediaError for NaN or infinite samples; UsageError for a rate below 1 Hz.
    Source: ITU-R BS.1770-4 through pyloudnorm. Differs for more than 5 channels, which that measures not at all.
    """
    import pyloudnorm  # brings scipy, half a second

    signal = torch.as_tensor(samples).detach().cpu()
    array, rate, missing_db = _prepared(_as_channels(signal), sample_rate)
    if not bool(array.any()):
        return -math.inf
    with warnings.catch_warnings():  # an empty gate divides 0 by 0 inside; the answer, -inf, is right
        warnings.simplefilter("ignore", RuntimeWarning)
        measured = pyloudnorm.Meter(rate).integrated_loudness(array.T.numpy())
    return float(measured) + missing_db if math.isfinite(measured) else -math.inf


def integrated_loudness_torch(samples: Tensor, sample_rate: int) -> Tensor:
    """The same measure on the tensor's own device, for batches: [..., C, S] or [S] -> [...] float64 (float32 on MPS).

    The weighting filter is applied through its frequency response, so the measure is differentiable. -inf for silence.
    Raises: as `integrated_loudness`. Agrees with it to 0.01 LU.
    """
    signal, rate, missing_db = _prepared(_as_channels(samples), sample_rate)
    count = signal.shape[-1]
    weighted = _k_weighted(signal, rate)
    blocks = round((count / rate - BLOCK_S) / (BLOCK_S * STEP)) + 1
    index = np.arange(blocks)
    first = torch.from_numpy((BLOCK_S * (index * STEP) * rate).astype(np.int64)).to(signal.device)
    last = torch.from_numpy((BLOCK_S * (index * STEP + 1) * rate).astype(np.int64).clip(max=count)).to(signal.device)
    running = torch.nn.functional.pad(weighted.square().cumsum(-1), (1, 0))  # [..., C, S + 1]
    power = (running[..., last] - running[..., first]).clamp_min(0.0) / (BLOCK_S * rate)  # [..., C, blocks]
    gains = torch.tensor(_CHANNEL_GAINS[: signal.shape[-2]], dtype=power.dtype, device=power.device)
    power = (power * gains[:, None]).sum(-2)  # [..., blocks]
    return _gated(power) + missing_db


def _gated(power: Tensor) -> Tensor:
    loud = _lufs(power) >= ABSOLUTE_GATE_LUFS
    relative = _lufs(_mean(power, loud)) + RELATIVE_GATE_LU
    return _lufs(_mean(power, loud & (_lufs(power) > relative[..., None])))


def _mean(power: Tensor, chosen: Tensor) -> Tensor:
    return (power * chosen).sum(-1) / chosen.sum(-1).clamp_min(1)


def _lufs(power: Tensor) -> Tensor:
    return OFFSET_LUFS + 10.0 * torch.log10(power)


def _as_channels(samples: Tensor) -> Tensor:
    """[..., C, S] in float64 (float32 on MPS), of the channels that count: L R C Ls Rs."""
    if samples.ndim == 0 or 0 in samples.shape:
        raise ShapeError(f"loudness needs samples [S] or [C, S] with at least one sample, got {tuple(samples.shape)}")
    signal = samples[None] if samples.ndim == 1 else samples
    signal = signal.to(widest_float(signal.device))
    if not bool(torch.isfinite(signal).all()):
        raise MediaError("the sound holds NaN or infinite samples; its loudness is not defined")
    channels = signal.shape[-2]
    if channels == 4:
        return torch.cat([signal[..., :2, :], torch.zeros_like(signal[..., :1, :]), signal[..., 2:, :]], dim=-2)
    if channels == 6:
        return signal[..., [0, 1, 2, 4, 5], :]
    if channels > 6:
        return torch.as_tensor(stereo_matrix(channels), dtype=signal.dtype, device=signal.device) @ signal
    return signal


def _prepared(signal: Tensor, sample_rate: int) -> tuple[Tensor, int, float]:
    """Signal and rate that the measure can take, and what to add to its result, in dB, for silence that was added."""
    if sample_rate < 1:
        raise UsageError(f"sample_rate must be at least 1 Hz, got {sample_rate!r}")
    if sample_rate < LOWEST_RATE:
        signal, sample_rate = resample(signal, sample_rate, 2 * LOWEST_RATE), 2 * LOWEST_RATE
    count, least = signal.shape[-1], math.ceil(BLOCK_S * sample_rate)
    if count >= least:
        return signal, sample_rate, 0.0
    return torch.nn.functional.pad(signal, (0, least - count)), sample_rate, 10.0 * math.log10(least / count)


def _k_weighted(signal: Tensor, rate: int) -> Tensor:
    """The two filters of BS.1770 with the coefficients that pyloudnorm uses (RBJ cookbook forms)."""
    count = signal.shape[-1]
    size = count + math.ceil(RING_S * rate)
    size += size % 2
    turn = torch.arange(size // 2 + 1, dtype=signal.dtype, device=signal.device) * (2 * math.pi / size)
    delay = torch.polar(torch.ones_like(turn), -turn)  # z^-1 on the unit circle
    response = _biquad(delay, *_shelf(rate)) * _biquad(delay, *_high_pass(rate))
    return torch.fft.irfft(torch.fft.rfft(signal, size) * response, size)[..., :count]


def _biquad(delay: Tensor, top: tuple[float, ...], bottom: tuple[float, ...]) -> Tensor:
    return (top[0] + delay * (top[1] + delay * top[2])) / (bottom[0] + delay * (bottom[1] + delay * bottom[2]))


def _shelf(rate: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    gain_db, q, hertz = _SHELF
    a, turn = 10 ** (gain_db / 40), 2 * math.pi * hertz / rate
    alpha, cos = math.sin(turn) / (2 * q), math.cos(turn)
    wide = 2 * math.sqrt(a) * alpha
    top = (a * (a + 1 + (a - 1) * cos + wide), -2 * a * (a - 1 + (a + 1) * cos), a * (a + 1 + (a - 1) * cos - wide))
    return top, (a + 1 - (a - 1) * cos + wide, 2 * (a - 1 - (a + 1) * cos), a + 1 - (a - 1) * cos - wide)


def _high_pass(rate: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    q, hertz = _HIGH_PASS
    turn = 2 * math.pi * hertz / rate
    alpha, cos = math.sin(turn) / (2 * q), math.cos(turn)
    return ((1 + cos) / 2, -(1 + cos), (1 + cos) / 2), (1 + alpha, -2 * cos, 1 - alpha)


def normalise(samples: Samples, sample_rate: int, target_lufs: float = -20.0, *, peak_db: float = -1.0) -> Samples:
    """Scale sound to a loudness, never above a peak; array in, array out; tensor in, tensor out, same shape and dtype.

    Args: `target_lufs` below 0 (-14 is common for music, -16 for podcasts, -23 for broadcast); `peak_db` is the
    highest sample in dB of full scale, and wins over the target. Silence stays as it is.
    Raises: as `integrated_loudness`; UsageError for a target or peak above 0.
    """
    if target_lufs > 0 or peak_db > 0:
        raise UsageError(f"target_lufs and peak_db are at most 0, got {target_lufs} and {peak_db}")
    if isinstance(samples, np.ndarray):
        gain = _gain(np.array(integrated_loudness(samples, sample_rate)), np.abs(samples).max(), target_lufs, peak_db)
        return samples * samples.dtype.type(gain)
    loudness = integrated_loudness_torch(samples, sample_rate)  # [...]
    peak = samples.abs().amax() if samples.ndim == 1 else samples.abs().amax(dim=(-2, -1))
    gains = _gain(loudness.detach().cpu().numpy(), peak.detach().cpu().double().numpy(), target_lufs, peak_db)
    gain = torch.from_numpy(np.asarray(gains)).to(samples)
    return samples * (gain if samples.ndim <= 2 else gain[..., None, None])


def _gain(loudness: np.ndarray, peak: np.ndarray, target_lufs: float, peak_db: float) -> np.ndarray:
    """Linear gain in float64; 1 for silence."""
    audible = np.isfinite(loudness)
    wanted = 10 ** ((target_lufs - np.where(audible, loudness, 0.0)) / 20)
    allowed = 10 ** (peak_db / 20) / np.maximum(peak, 1e-12)
    return np.where(audible, np.minimum(wanted, allowed), 1.0)
