"""Which instrument plays, by linear discriminants on log-mel statistics, trained on recordings with known instruments.

Letters: N recordings, S samples, K classes, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from genmm.core.errors import DataError, ShapeError
from genmm.nn.spectral import LogMel

BANDS = 64
RATE = 24_000
QUANTILES = (0.1, 0.5, 0.9)


def timbre_features(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """What a recording sounds like, whatever its loudness: [F] float64.

    Quantiles and mean change over time of log-mel bands, and how steady loud bands stay.
    Shapes: samples [S] or [C, S]. Raises: ShapeError for anything else or less than a tenth of a second.
    """
    from genmm.media.resampling import resample

    mono = samples.mean(0) if samples.ndim == 2 else samples
    if mono.ndim != 1 or len(mono) < sample_rate // 10:
        raise ShapeError(f"timbre needs samples [S] or [C, S] of at least a tenth of a second, got {samples.shape}")
    if sample_rate != RATE:
        mono = resample(mono.astype(np.float32), sample_rate, RATE)
    with torch.inference_mode():
        mel = LogMel(RATE, 1024, 240, BANDS, 512)(torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))[None])[
            0
        ]
    frames = mel.double().numpy()
    loud = frames.max(1) > frames.max() - 5.0
    frames = frames[loud] if loud.sum() >= 8 else frames
    frames = np.maximum(frames - frames.max(), -9.0)
    shape = frames - frames.mean(1, keepdims=True)
    change = np.abs(np.diff(frames, axis=0)) if len(frames) > 1 else np.zeros((1, BANDS))
    cepstra = np.fft.rfft(np.concatenate([shape, shape[:, ::-1]], 1), axis=1).real[:, 1:21]
    parts = [np.quantile(shape, q, axis=0) for q in QUANTILES] + [change.mean(0), change.std(0)]
    return np.concatenate([*parts, cepstra.mean(0) / BANDS, cepstra.std(0) / BANDS])


@dataclass(frozen=True)
class InstrumentJudge:
    """Gaussian classes with one shrunk covariance."""

    names: tuple[str, ...]
    """The K classes."""
    weight: np.ndarray
    """[F, K]."""
    bias: np.ndarray
    """[K]."""
    mean: np.ndarray
    """[F] of the training features."""
    scale: np.ndarray
    """[F]."""

    @classmethod
    def train(cls, features: np.ndarray, labels: Sequence[str], shrinkage: float = 0.1) -> InstrumentJudge:
        """Fit on features [N, F]. Raises: DataError with fewer than two classes or two recordings of one."""
        names = tuple(sorted(set(labels)))
        counts = [sum(label == name for label in labels) for name in names]
        if len(names) < 2 or min(counts) < 2:
            found = dict(zip(names, counts, strict=True))
            raise DataError(f"a judge of instruments needs two classes with two recordings each, got {found}")
        mean, scale = features.mean(0), features.std(0) + 1e-6
        whitened = (features - mean) / scale
        index = np.array([names.index(label) for label in labels])
        centres = np.stack([whitened[index == k].mean(0) for k in range(len(names))])
        spread = np.cov((whitened - centres[index]).T)
        spread = (1 - shrinkage) * spread + shrinkage * np.trace(spread) / len(spread) * np.eye(len(spread))
        weight = np.linalg.solve(spread, centres.T)
        return cls(names, weight, -0.5 * np.einsum("kf,fk->k", centres, weight), mean, scale)

    def predict(self, features: np.ndarray) -> list[str]:
        """Names for features [N, F] or [F]."""
        rows = (np.atleast_2d(features) - self.mean) / self.scale
        return [self.names[k] for k in np.argmax(rows @ self.weight + self.bias, axis=1)]
