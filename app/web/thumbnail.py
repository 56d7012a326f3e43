"""Small pictures for the history: a few bars on a clear ground, so that they suit light and dark pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from genmm.core.files import atomic_path

__all__ = ["draw_sound_bars"]

SIZE = (320, 180)
BARS = 40
BAR_SHARE = 0.56
"""Width of a bar, as a share of its place."""
COLOUR = (74, 122, 246, 255)
MIDDLE = 0.42
"""Where the bars are centred, from the top; the caption lies below."""
SCALE = 3
"""Drawn this much larger and then made smaller, for smooth edges."""


def draw_sound_bars(target: Path, samples: np.ndarray) -> Path:
    """Write the loudness over time of samples [S] as a transparent PNG; gives back the path."""
    levels = bar_levels(samples, BARS)
    width, height = SIZE[0] * SCALE, SIZE[1] * SCALE
    picture = Image.new("RGBA", (width, height), (*COLOUR[:3], 0))
    pen = ImageDraw.Draw(picture)
    left, place = 0.08 * width, 0.84 * width / BARS
    for number, level in enumerate(levels):
        half = max(0.012, 0.28 * level) * height
        x = left + (number + 0.5) * place
        box = (x - place * BAR_SHARE / 2, MIDDLE * height - half, x + place * BAR_SHARE / 2, MIDDLE * height + half)
        pen.rounded_rectangle(box, radius=place * BAR_SHARE / 2, fill=COLOUR)
    with atomic_path(target) as temporary:
        picture.resize(SIZE, Image.Resampling.LANCZOS).save(temporary, format="PNG")
    return target


def bar_levels(samples: np.ndarray, bars: int) -> np.ndarray:
    """Loudness [bars] in [0, 1], the loudest 1 (0 throughout for silence), on a scale that shows quiet parts too."""
    parts = np.array_split(np.asarray(samples, np.float32).reshape(-1), bars)
    loud = np.array([np.sqrt(np.mean(part**2)) if len(part) else 0.0 for part in parts])
    return (loud / loud.max()) ** 0.6 if loud.max() > 0 else loud
