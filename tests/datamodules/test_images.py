"""Decoded pictures and their tokens on disk: found again, made anew for other files, never copied to workers."""

from __future__ import annotations

import pickle
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.image_sources import PictureSource
from datamodules.images import PictureStore
from datamodules.images_counts import TokenStore


@pytest.fixture(autouse=True)
def _own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("GENMM_HOME", str(tmp_path / "home"))


def picture(value: int, side: int = 8) -> bytes:
    stream = BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def store_of(folder: Path) -> PictureStore:
    return PictureStore(PictureSource(kind="folder", path=str(folder)), 8)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(picture(10 * number))
    return folder


def test_decoded_pictures_are_found_again(photos, monkeypatch):
    store = store_of(photos)
    assert store[2].max() == 20
    monkeypatch.setattr("datamodules.images.square", None)  # from here on everything comes from the cache
    again = store_of(photos)
    assert again.path == store.path and again[2].max() == 20


def test_a_replaced_picture_is_decoded_again(photos):
    first = store_of(photos)
    assert first[2].max() == 20
    (photos / "2.png").write_bytes(picture(99, 16))
    second = store_of(photos)
    assert second[2].min() == 99 and second[1].max() == 10 and second.path != first.path
    assert not list(second.path.parent.glob(".*")), "nothing half-written is left"


def test_a_replaced_archive_of_hand_signs_is_decoded_again(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMM_DATA", str(tmp_path))
    (tmp_path / "images_sign_digits").mkdir()
    found = []
    for value, side in ((10, 8), (200, 16)):
        with zipfile.ZipFile(tmp_path / "images_sign_digits" / "images.zip", "w") as archive:
            archive.writestr("0/a.png", picture(value, side))
        found.append(int(PictureStore(PictureSource(kind="sign_digits"), 8)[0].max()))
    assert found == [10, 200]


def test_drawn_pictures_have_one_name():
    source = PictureSource(kind="drawn", count=4)
    assert PictureStore(source, 8).path == PictureStore(source, 8).path != PictureStore(source, 16).path
    assert all(entry.file is None for entry in source.entries(Path()))


class Counter:
    """Stands for a tokenizer: three tokens that tell how light a picture is."""

    def eval(self) -> Counter:
        return self

    def encode(self, images: torch.Tensor, size: int) -> torch.Tensor:
        light = ((images.mean((1, 2, 3)) + 1.0) * 127.5).round().long()
        return light[:, None].expand(-1, size)


def test_tokens_and_pictures_are_mapped_and_do_not_travel_to_workers(photos, monkeypatch):
    monkeypatch.setattr("datamodules.images_counts.load_tokenizer", lambda folder: Counter())
    monkeypatch.setattr("datamodules.images_counts.fingerprint", lambda folder: "f")
    pictures = store_of(photos)
    tokens = TokenStore(pictures, "tokenizer", 3, mirrored=False)
    built = tokens.build()
    assert isinstance(built, np.memmap) and built[:, 0, 0].tolist() == [0, 10, 20, 30]
    assert isinstance(pictures._array, np.memmap)
    copied = pickle.loads(pickle.dumps(tokens))  # noqa: S301 - what a worker process is sent
    assert copied._tokens is None and copied.pictures._array is None
    monkeypatch.setattr(TokenStore, "_encoded", None)
    assert np.array_equal(copied.build(), built) and np.array_equal(copied.pictures[3], pictures[3])


def test_a_replaced_picture_is_tokenised_again(photos, monkeypatch):
    monkeypatch.setattr("datamodules.images_counts.load_tokenizer", lambda folder: Counter())
    monkeypatch.setattr("datamodules.images_counts.fingerprint", lambda folder: "f")
    TokenStore(store_of(photos), "tokenizer", 3, mirrored=False).build()
    (photos / "2.png").write_bytes(picture(99, 16))
    built = TokenStore(store_of(photos), "tokenizer", 3, mirrored=False).build()
    assert built[:, 0, 0].tolist() == [0, 10, 99, 30]
