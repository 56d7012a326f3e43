"""Pictures: every mode right, upright, on white; bombs and broken files refused before they cost anything."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from genmm.core.errors import LimitError, MediaError, ShapeError, UsageError
from genmm.core.limits import Limits
from genmm.media.image import encode_image_bytes, read_image, write_image
from genmm.media.tag_reader import read_tags


def encoded(picture: Image.Image, form: str = "PNG", **more) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **more)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (21, 33, 3)).astype(np.uint8)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_are_exact_from_path_and_bytes(picture, tmp_path, form):
    data = encoded(Image.fromarray(picture), form, **({"lossless": True} if form == "WEBP" else {}))
    assert np.array_equal(read_image(data), picture)
    (tmp_path / "x.mp4").write_bytes(data)  # the content counts
    assert np.array_equal(read_image(tmp_path / "x.mp4"), picture)


def test_round_trips(picture, tmp_path):
    for suffix, error in ((".png", 0), (".webp", 0), (".jpg", 40), (".JPEG", 40)):
        back = read_image(write_image(tmp_path / f"x{suffix}", picture))
        assert back.shape == picture.shape and np.abs(back.astype(int) - picture).max() <= error
    grey = read_image(encode_image_bytes(torch.full((4, 6), 0.5)))
    assert grey.shape == (4, 6, 3) and (grey == 128).all()


def test_tags_come_back_from_png(picture, tmp_path):
    tags = {"title": "\u00fc", "recipe": {"seeds": [3], "text": "x" * 4000}}
    assert read_tags(write_image(tmp_path / "x.png", picture, tags=tags)) == tags
    assert read_tags(write_image(tmp_path / "x.jpg", picture)) == {}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    corner = np.zeros((16, 32, 3), np.uint8)
    corner[:8, :16] = 255
    upright = {
        1: corner, 2: corner[:, ::-1], 3: corner[::-1, ::-1], 4: corner[::-1],
        5: corner.transpose(1, 0, 2), 6: np.rot90(corner, -1), 7: corner[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(corner, 1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_image(encoded(Image.fromarray(corner), "JPEG", exif=exif, quality=95))
    assert read.shape == upright[orientation].shape
    assert np.abs(read.astype(int) - upright[orientation]).mean() < 8


def test_transparency_lies_on_white():
    layer = np.zeros((2, 3, 4), np.uint8)
    layer[0, 0] = (255, 0, 0, 255)
    layer[0, 1] = (255, 0, 0, 128)
    read = read_image(encoded(Image.fromarray(layer, "RGBA")))
    assert read[0, 0].tolist() == [255, 0, 0] and read[1, 2].tolist() == [255, 255, 255]
    assert read[0, 1, 0] == 255 and abs(int(read[0, 1, 1]) - 127) <= 1
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] + [0] * 765)
    assert (read_image(encoded(palette, transparency=0)) == 255).all()
    assert (read_image(encoded(palette)) == (10, 20, 30)).all()
    grey = Image.fromarray(np.array([[[0, 255], [0, 0]]], np.uint8), "LA")
    assert read_image(encoded(grey))[0, :, 0].tolist() == [0, 255]


def test_other_modes():
    deep = np.array([[0, 32768, 65535]], np.uint16)
    assert read_image(encoded(Image.fromarray(deep)))[0, :, 0].tolist() == [0, 128, 255]
    halves = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert read_image(encoded(Image.fromarray(halves), "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    broken = np.array([[np.nan, np.inf, 1.0]], np.float32)
    assert read_image(encoded(Image.fromarray(broken), "TIFF")).shape == (1, 3, 3)
    assert read_image(encoded(Image.new("1", (3, 2), 1))).min() == 255
    cmyk = read_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert cmyk[0, 0, 0] > 200 and cmyk[0, 0, 1] < 60


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(form):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    more = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=100, **more)
    read = read_image(data)
    assert read.shape == (10, 20, 3) and np.abs(read.astype(int) - (250, 0, 0)).max() < 6


def test_max_side_scales_down_and_never_up(picture):
    for form in ("PNG", "JPEG"):
        big = encoded(Image.new("RGB", (400, 200), (9, 99, 199)), form)
        assert read_image(big, max_side=100).shape == (50, 100, 3)
        assert np.abs(read_image(big, max_side=100).astype(int) - (9, 99, 199)).max() <= 2
        assert read_image(big, max_side=1000).shape == (200, 400, 3)
    with pytest.raises(UsageError):
        read_image(encoded(Image.fromarray(picture)), max_side=0)


def test_pictures_above_the_limit_are_refused_before_they_are_decoded():
    for size in ((60001, 60001), (100_000, 401), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(LimitError, match="limit"):
            read_image(png_header(*size) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    bomb = encoded(Image.new("1", (7000, 6000)))
    assert len(bomb) < 100_000
    with pytest.raises(LimitError, match="7000x6000"):
        read_image(bomb)
    assert read_image(encoded(Image.new("1", (60, 50))), limits=Limits(image_pixels=3000)).shape == (50, 60, 3)
    with pytest.raises(LimitError):
        read_image(encoded(Image.new("1", (60, 50))), limits=Limits(image_pixels=2999))


def test_broken_and_foreign_files_are_refused(picture):
    whole = encoded(Image.fromarray(picture), "JPEG")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) run\n"
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><image href='file:///etc/passwd'/></svg>"
    headers = (b"\x89PNG\r\n\x1a\n", b"GIF89a", b"text", b"%PDF-1.7", bytes(99))
    for data in (whole[: len(whole) // 2], whole[:30], eps, svg, *headers):
        with pytest.raises(MediaError):
            read_image(data)


def test_a_failure_leaves_the_old_file(picture, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    wrong = [(array, ShapeError) for array in (picture.astype(np.int32), picture[..., :2], picture[:0])]
    for array, error in [*wrong, (np.full((2, 2, 3), np.nan), MediaError)]:
        with pytest.raises(error):
            write_image(path, array)
    with pytest.raises(UsageError):
        write_image(tmp_path / "x.exe", picture)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
