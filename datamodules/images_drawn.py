"""Drawn shapes with names, colours and places: pictures that need no data folder, for tests and first tries.

Letters: H height = width in pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"red": (222, 46, 56), "blue": (46, 92, 222), "green": (40, 168, 84), "yellow": (250, 206, 60)}
SHAPES = ("circle", "square", "triangle")
STYLES = ("flat", "outline")


def shape_picture(colour: str, shape: str, style: str, side: int, seed: int) -> np.ndarray:
    """One shape on white, [H, H, 3] uint8; the seed decides place and size."""
    rng = np.random.default_rng(seed)
    scale = 4  # drawn larger and made smaller, for smooth edges
    radius = side * scale * rng.uniform(0.24, 0.4)
    x, y = rng.uniform(radius, side * scale - radius, 2)
    picture = Image.new("RGB", (side * scale, side * scale), "white")
    pen = ImageDraw.Draw(picture)
    fill = COLOURS[colour] if style == "flat" else (255, 255, 255)
    look = {"fill": fill, "outline": COLOURS[colour], "width": max(1, side * scale // 16)}
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        pen.ellipse(box, **look)
    elif shape == "square":
        pen.rectangle(box, **look)
    else:
        pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], **look)
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS))


def all_shapes() -> list[tuple[str, str, str]]:
    """Every (colour, shape, style)."""
    return [(colour, shape, style) for colour in COLOURS for shape in SHAPES for style in STYLES]
