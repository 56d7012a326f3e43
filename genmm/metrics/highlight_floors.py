"""What highlight scorers without any learning reach: the floors that a model has to clear.

Letters: n clips, D features, M motion features. Every scorer gives [n] float64, higher is more interesting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["FLOORS", "centre_prior", "floor_scores", "standard"]

FLOW_COLUMN, CHANGE_COLUMN = 1, 0
"""Columns of the mean flow and the mean frame difference among the motion features."""


def standard(values: np.ndarray) -> np.ndarray:
    """Values [n] with mean 0 and deviation 1; zeros for constants."""
    deviation = float(np.std(values))
    return (values - np.mean(values)) / deviation if deviation > 0 else np.zeros_like(values, np.float64)


def centre_prior(count: int) -> np.ndarray:
    """How close each of n clips is to the middle of the video, without looking at it."""
    return -np.abs(np.linspace(-1.0, 1.0, count))


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(1e-9, np.linalg.norm(features, axis=1, keepdims=True))


def _novelty(features: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(features, axis=0, prepend=features[:1]), axis=1)


def _pairwise(features: np.ndarray) -> np.ndarray:
    unit = _unit(features)
    return (unit @ unit.T).mean(1)


Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]

FLOORS: Mapping[str, Scorer] = {
    "feature norm": lambda x, m: np.linalg.norm(x, axis=1),
    "closeness to mean, cosine": lambda x, m: _unit(x) @ _unit(x.mean(0, keepdims=True))[0],
    "closeness to mean, L2": lambda x, m: -np.linalg.norm(x - x.mean(0), axis=1),
    "distance from mean, L2": lambda x, m: np.linalg.norm(x - x.mean(0), axis=1),
    "mean pairwise similarity": lambda x, m: _pairwise(x),
    "novelty against the previous clip": lambda x, m: _novelty(x),
    "frame difference": lambda x, m: m[:, CHANGE_COLUMN],
    "optical flow": lambda x, m: m[:, FLOW_COLUMN],
    "centre of the video": lambda x, m: centre_prior(len(x)),
    "similarity and flow": lambda x, m: standard(_pairwise(x)) + standard(m[:, FLOW_COLUMN]),
    "flow and centre": lambda x, m: standard(m[:, FLOW_COLUMN]) + standard(centre_prior(len(x))),
}
"""Name -> scorer of (features [n, D], motion [n, M])."""


def floor_scores(features: np.ndarray, motion: np.ndarray) -> dict[str, np.ndarray]:
    """The scores [n] of every floor for one video: features [n, D], motion [n, M]."""
    values, moving = np.asarray(features, np.float64), np.asarray(motion, np.float64)
    return {name: np.asarray(scorer(values, moving), np.float64) for name, scorer in FLOORS.items()}
