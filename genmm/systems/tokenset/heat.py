"""Token maps as pictures. Letters: H height = width."""

from __future__ import annotations

import numpy as np

from genmm.core.errors import ShapeError

__all__ = ["heat_picture"]

COLD, WARM, HOT = (46, 42, 120), (214, 62, 60), (255, 236, 130)
"""Colours of nothing, half and most."""
SCALE = 4
"""Each pixel of the model becomes so many, since small pictures are hard to read."""


def heat_picture(picture: np.ndarray, heat: np.ndarray, share: float = 0.65) -> np.ndarray:
    """A picture [H, H, 3] uint8 under its heat [H, H], as [4H, 4H, 3] uint8; `share` of the colour is heat's."""
    if picture.shape[:2] != heat.shape:
        raise ShapeError(f"picture and heat must have one size, got {picture.shape[:2]} and {heat.shape}")
    level = (heat / max(float(heat.max()), 1e-12))[..., None]
    cold, warm, hot = (np.asarray(colour, dtype=np.float32) for colour in (COLD, WARM, HOT))
    colours = np.where(level < 0.5, cold + (warm - cold) * 2 * level, warm + (hot - warm) * (2 * level - 1))
    mixed = share * colours + (1.0 - share) * picture.astype(np.float32)
    return np.rint(mixed).clip(0, 255).astype(np.uint8).repeat(SCALE, 0).repeat(SCALE, 1)
