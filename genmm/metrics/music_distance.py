"""How far two recordings, or two sets of them, are apart: harmony, rhythm, spectrum, stereo image, Frechet distance.

Letters: S samples, N recordings, F features.
"""

from __future__ import annotations

import numpy as np
import torch

from genmm.core.errors import ShapeError
from genmm.metrics.music_key import pitch_class_frames
from genmm.metrics.music_tempo import onset_envelope
from genmm.nn.spectral import LogMel


def harmony_similarity(first: np.ndarray, second: np.ndarray, sample_rate: int) -> float:
    """Mean cosine of the pitch-class profiles at the same moments, 0 to 1. Shapes: two [C, S] or [S] of one length."""
    a, b = (pitch_class_frames(part, sample_rate) for part in _same_length(first, second))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    sounding = norms > 1e-9
    return float(((a * b).sum(1)[sounding] / norms[sounding]).mean()) if sounding.any() else 0.0


def rhythm_similarity(first: np.ndarray, second: np.ndarray, sample_rate: int) -> float:
    """Correlation of the onset envelopes, smoothed over 50 ms, -1 to 1. Shapes: two [C, S] or [S] of one length."""
    smooth = np.hanning(7) / np.hanning(7).sum()
    a, b = (np.convolve(onset_envelope(part, sample_rate), smooth, mode="same") for part in _same_length(first, second))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def mel_distance(first: np.ndarray, second: np.ndarray, sample_rate: int) -> float:
    """Mean absolute difference of log-mel spectra (80 bands, 2048 window), in natural log units."""
    mel = LogMel(sample_rate, 2048, 512, 80, 1024)
    a, b = (mel(torch.from_numpy(np.atleast_2d(part).astype(np.float32))) for part in _same_length(first, second))
    return float((a - b).abs().mean())


def si_sdr_db(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal to distortion ratio in dB over all samples together. Source: arXiv 1811.02508."""
    estimate, reference = _same_length(estimate, reference)
    x, y = estimate.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    x, y = x - x.mean(), y - y.mean()
    target = (x @ y) / max(y @ y, 1e-12) * y
    return float(10 * np.log10(max(target @ target, 1e-12) / max(((x - target) ** 2).sum(), 1e-12)))


def stereo_image(samples: np.ndarray) -> tuple[float, float]:
    """Share of the side in the whole energy (0 mono, 0.5 unrelated channels) and the balance in dB (left over right).

    Shapes: samples [2, S]. Raises: ShapeError.
    """
    if samples.ndim != 2 or len(samples) != 2:
        raise ShapeError(f"a stereo image needs samples [2, S], got {samples.shape}")
    left, right = (float((channel.astype(np.float64) ** 2).sum()) for channel in samples)
    middle, side = samples[0].astype(np.float64) + samples[1], samples[0].astype(np.float64) - samples[1]
    whole = float((middle**2).sum() + (side**2).sum())
    return float((side**2).sum()) / max(whole, 1e-12), float(10 * np.log10(max(left, 1e-12) / max(right, 1e-12)))


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two sets of features [N, F] as normal distributions; at least 0, in float64.

    Few recordings for many features overestimate it, so quote it beside the distance of two halves of the truth.
    Raises: ShapeError unless both are [N >= 2, F].
    Source: Heusel et al. (arXiv 1706.08500) eq. 6; for audio Kilgour et al. (arXiv 1812.08466).
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ShapeError(f"two sets [N >= 2, F] are needed, got {first.shape} and {second.shape}")
    a, b = first.astype(np.float64), second.astype(np.float64)
    cov_a, cov_b = np.cov(a.T).reshape(a.shape[1], -1), np.cov(b.T).reshape(a.shape[1], -1)
    eigen = np.linalg.eigvals(cov_a @ cov_b)
    cross = np.sqrt(np.maximum(eigen.real, 0.0)).sum()
    return float(max(0.0, ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross))


def _same_length(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if first.ndim != second.ndim or abs(first.shape[-1] - second.shape[-1]) > 0.1 * first.shape[-1]:
        raise ShapeError(f"two recordings of one shape are needed, got {first.shape} and {second.shape}")
    count = min(first.shape[-1], second.shape[-1])
    return first[..., :count], second[..., :count]
