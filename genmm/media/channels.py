"""From any speaker layout to stereo or mono, without clipping.

Shapes: samples [C, S]. Channel order by count, as in WAV and FLAC: 1 M; 2 L R; 3 L R C; 4 L R Ls Rs; 5 L R C Ls Rs;
6 L R C LFE Ls Rs; 7 L R C LFE Cs Ls Rs; 8 L R C LFE Lb Rb Ls Rs.
"""

from __future__ import annotations

import numpy as np

from genmm.core.errors import ShapeError

__all__ = ["downmix", "stereo_matrix"]

_HALF = 2.0**-0.5  # -3 dB, ITU-R BS.775 for centre and surround
_LEFT_RIGHT = {
    "L": (1.0, 0.0),
    "R": (0.0, 1.0),
    "C": (_HALF, _HALF),
    "Ls": (_HALF, 0.0),
    "Rs": (0.0, _HALF),
    "Cs": (0.5, 0.5),
    "LFE": (0.0, 0.0),
}
_ORDERS = {
    3: ("L", "R", "C"),
    4: ("L", "R", "Ls", "Rs"),
    5: ("L", "R", "C", "Ls", "Rs"),
    6: ("L", "R", "C", "LFE", "Ls", "Rs"),
    7: ("L", "R", "C", "LFE", "Cs", "Ls", "Rs"),
    8: ("L", "R", "C", "LFE", "Ls", "Rs", "Ls", "Rs"),
}


def stereo_matrix(channels: int) -> np.ndarray:
    """Weights [2, C] from a layout of 1 to 8 channels to left and right; each row sums to at most 1.

    Source: ITU-R BS.775 (surround and centre at -3 dB, LFE left out), divided by the row sum so that full scale in
    every channel stays full scale. Layouts of more than 8 channels spread evenly over both sides.
    """
    if channels == 1:
        return np.ones((2, 1), np.float32)
    if channels == 2:
        return np.eye(2, dtype=np.float32)
    if channels not in _ORDERS:
        return np.full((2, channels), 1.0 / channels, np.float32)
    matrix = np.array([_LEFT_RIGHT[name] for name in _ORDERS[channels]], np.float32).T  # [2, C]
    return matrix / matrix.sum(axis=1, keepdims=True)


def downmix(samples: np.ndarray, channels: int) -> np.ndarray:
    """Bring samples [C, S] to 1 or 2 channels [channels, S], float32; mono becomes two equal sides.

    Raises: ShapeError for other shapes or counts.
    """
    if samples.ndim != 2 or samples.shape[0] < 1 or channels not in (1, 2):
        raise ShapeError(f"downmix takes samples [C, S] to 1 or 2 channels, got {samples.shape} to {channels}")
    if samples.shape[0] == channels:
        return samples.astype(np.float32, copy=False)
    matrix = stereo_matrix(samples.shape[0])
    if channels == 1:
        matrix = np.ones((1, 1), np.float32) if samples.shape[0] == 1 else matrix.mean(axis=0, keepdims=True)
    return matrix @ samples.astype(np.float32, copy=False)
