"""Still pictures: any accepted file or bytes to RGB [H, W, 3] uint8, upright, on white; and writing them."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from genmm.core.errors import GenmmError, LimitError, MediaError, ShapeError, UsageError
from genmm.core.files import atomic_path
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.media.source import MediaInput, MediaSource, open_source
from genmm.media.tags import pack_tags

__all__ = [
    "as_picture",
    "encode_image_bytes",
    "is_picture",
    "open_picture",
    "pillow_pixels",
    "read_image",
    "write_image",
]

READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's plugins that uploads reach; formats that run programs or fetch files (EPS, SVG, PDF, FPX) are not here."""

WRITABLE = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}

JPEG_QUALITY = 95
"""Of 100; with full colour resolution."""


def is_picture(head: bytes) -> bool:
    """Whether the first bytes are those of a still picture (GIF counts as one)."""
    return head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")) or (
        head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    )


def read_image(source: MediaInput, *, max_side: int | None = None, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Read a picture as RGB [H, W, 3] uint8.

    Turned upright by its EXIF orientation, transparency on white, the first frame of an animation, 16 bits to 8.
    `max_side` scales larger pictures down so that neither side is longer.
    Raises: MediaError when it is no picture of READABLE, damaged or cut off; LimitError above `limits.image_pixels`,
    before anything is decoded.
    """
    if max_side is not None and max_side < 1:
        raise UsageError(f"max_side must be at least 1 pixel, got {max_side}")
    with open_source(source, limits) as media, open_picture(media) as picture:
        try:
            if max_side is not None and picture.format == "JPEG":
                picture.draft("RGB", (max_side, max_side))  # decodes at a half, quarter or eighth of the size
            picture.load()
            media.clock.check()
            upright = ImageOps.exif_transpose(picture)
            if max_side is not None:
                upright = _eight_bits(upright)
                upright.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
            return _pixels(upright)
        except GenmmError:
            raise
        except Exception as error:  # plugins raise SyntaxError, struct.error, OverflowError, EOFError and more
            raise _unreadable(media.name, error) from error


@contextmanager
def open_picture(media: MediaSource) -> Iterator[Image.Image]:
    """The header of a picture, checked against the limits; nothing is decoded yet. Raises: as `read_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours and an error
            picture = Image.open(media.reader(), formats=READABLE)
    except GenmmError:
        raise
    except Image.DecompressionBombError as error:
        raise LimitError(f"{media.name}: {_too_large(media)}") from error
    except Exception as error:  # as above
        raise _unreadable(media.name, error) from error
    with picture:
        width, height = picture.size
        if width * height > media.limits.image_pixels:
            raise LimitError(f"{media.name} has {width}x{height} pixels; {_too_large(media)}")
        if width < 1 or height < 1:
            raise MediaError(f"{media.name} has {width}x{height} pixels; it is damaged")
        yield picture


def pillow_pixels(picture: Image.Image) -> np.ndarray:
    """A picture that Pillow has opened as RGB [H, W, 3] uint8, by the rules of `read_image`; limits are the caller's.

    Raises: MediaError when its data is damaged.
    """
    try:
        return _pixels(ImageOps.exif_transpose(picture))
    except Exception as error:  # as above
        raise _unreadable("the picture", error) from error


def _pixels(upright: Image.Image) -> np.ndarray:
    return np.array(_on_white(_eight_bits(upright)))


def _too_large(media: MediaSource) -> str:
    return f"the limit is {media.limits.image_pixels} pixels in all; scale the picture down"


def _unreadable(name: str, error: BaseException) -> MediaError:
    reason = "it is none of them" if isinstance(error, Image.UnidentifiedImageError) else str(error)
    return MediaError(f"{name} cannot be read as a picture ({reason}). Accepted: PNG, JPEG, WebP, GIF, BMP, TIFF")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey pictures of 16 or 32 bits or floats as 8 bits; Pillow itself would clip them."""
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;"):
        return picture
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    highest = 65535.0 if picture.mode != "F" else max(1.0, float(values.max()))
    return Image.fromarray(np.rint((values / highest).clip(0.0, 1.0) * 255.0).astype(np.uint8))


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer).convert("RGB")
    return picture.convert("RGB")


def as_picture(array: Any) -> np.ndarray:
    """Any array or tensor [H, W, 3] or [H, W], uint8 or floating in [0, 1], as uint8 [H, W, 3].

    Raises: ShapeError for other shapes or types; MediaError for NaN.
    """
    array = array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ShapeError(f"a picture must be [H, W, 3] or [H, W], got shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise MediaError("the picture holds NaN or infinite values and was not written")
        return np.rint(array.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ShapeError(f"a picture must be uint8, or floating in [0, 1], got {array.dtype}")
    return np.ascontiguousarray(array)


def write_image(path: str | os.PathLike[str], array: Any, *, tags: Mapping[str, Any] | None = None) -> Path:
    """Write a picture as .png, .jpg or .webp (lossless), whole or not at all; gives back the path.

    `tags` (see `genmm.media.tags`) are kept in PNG only. Raises: UsageError for another suffix; ShapeError, MediaError.
    """
    path = Path(path)
    data = encode_image_bytes(array, path.suffix, tags=tags)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


def encode_image_bytes(array: Any, format: str = "png", *, tags: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of the file that `write_image` would write; `format` is "png", "jpg" or "webp"."""
    kind = format.lower().removeprefix(".")
    if kind not in WRITABLE:
        raise UsageError(f"pictures are written as .png, .jpg or .webp, got {format!r}; change the suffix")
    picture, stream = Image.fromarray(as_picture(array)), io.BytesIO()
    if WRITABLE[kind] == "PNG":
        text = PngImagePlugin.PngInfo()
        for key, value in pack_tags(tags).items():
            text.add_itxt(key, value)
        picture.save(stream, "PNG", pnginfo=text)
    elif WRITABLE[kind] == "JPEG":
        picture.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        picture.save(stream, "WEBP", lossless=True)
    return stream.getvalue()
