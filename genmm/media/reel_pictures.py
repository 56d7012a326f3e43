"""Still pictures of moments of a video: single files, and one sheet of all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from genmm.core.errors import MediaError, UsageError
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.media.image import write_image
from genmm.media.source import MediaInput
from genmm.media.video import iter_frames

__all__ = ["picture_at", "write_contact_sheet", "write_thumbnails"]

CAPTION = 22
"""Height of a caption in pixels."""
SPACE = 8
"""Pixels between the pictures of a sheet."""
GROUND, INK = (24, 26, 32), (235, 236, 240)


def picture_at(
    source: MediaInput, time_s: float, *, max_side: int | None = None, limits: Limits = DEFAULT_LIMITS
) -> np.ndarray:
    """The picture [H, W, 3] uint8 that is shown at a time; the last one before it where the pictures end earlier.

    Raises: MediaError when there is no picture near it.
    """
    for start_s in dict.fromkeys((max(0.0, time_s - 1.0), 0.0)):  # from the beginning only when there is nothing near
        held = None
        with iter_frames(source, max_side=max_side, start_s=start_s, limits=limits) as reader:
            for frame in reader:
                if held is not None and frame.time_s > time_s + 1e-3:
                    break
                held = frame.image
        if held is not None:
            return held
    raise MediaError(f"no picture could be read at {time_s:.2f} s")


def write_thumbnails(
    folder: str | os.PathLike[str],
    source: MediaInput,
    times_s: Sequence[float],
    *,
    max_side: int = 320,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Path]:
    """Write highlight_001.jpg and so on, one for each time; gives back the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write_image(folder / f"highlight_{i:03d}.jpg", picture_at(source, time_s, max_side=max_side, limits=limits))
        for i, time_s in enumerate(times_s, 1)
    ]


def write_contact_sheet(
    path: str | os.PathLike[str],
    source: MediaInput,
    times_s: Sequence[float],
    captions: Sequence[str],
    *,
    columns: int = 4,
    max_side: int = 320,
    limits: Limits = DEFAULT_LIMITS,
) -> Path:
    """Write the pictures at some times as a grid with captions. Raises: UsageError without times or columns."""
    if not times_s or columns < 1:
        raise UsageError("a contact sheet needs at least one picture and one column")
    pictures = [Image.fromarray(picture_at(source, t, max_side=max_side, limits=limits)) for t in times_s]
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (SPACE + columns * (width + SPACE), SPACE + rows * (height + CAPTION + SPACE)), GROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = SPACE + (index % columns) * (width + SPACE)
        y = SPACE + (index // columns) * (height + CAPTION + SPACE)
        sheet.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
        pen.text((x + 2, y + height + 3), caption, fill=INK, font=font)
    return write_image(path, np.asarray(sheet))
