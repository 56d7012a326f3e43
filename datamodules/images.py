"""Batches of pictures for training tokenizers and judges. Letters: B batch, H height = width in pixels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import GenerativeData
from datamodules.image_sources import PictureEntry, PictureSource
from datamodules.sampler import Pick
from datamodules.source_files import sources_digest
from genmm.core.errors import ConfigError
from genmm.core.files import atomic_path
from genmm.core.paths import data_home, genmm_home
from genmm.systems.tokenset.pictures import square

STORED_PIXELS = 400_000_000
"""Sets of up to so many pixels are decoded once and kept in one file; larger ones are decoded when read."""


class PictureStore:
    """Square pictures of a source at one size: item i is [side, side, 3] uint8."""

    def __init__(self, source: PictureSource, side: int) -> None:
        self.source, self.entries, self.side = source, source.entries(data_home()), side
        self._array: np.ndarray | None = None
        self.is_stored = len(self.entries) * side * side <= STORED_PIXELS

    @functools.cached_property
    def path(self) -> Path:
        """File of the decoded pictures, named after what decides them: the source, its files, the size."""
        digest = sources_digest((entry.key, entry.file) for entry in self.entries)
        name = f"{self.source.kind}-{self.source.fingerprint()}-{digest}-{self.side}.npy"
        return cache_folder("pictures") / name

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped array, which would be copied into every process that is handed this."""
        return {**self.__dict__, "_array": None}

    def build(self) -> None:
        """Decode everything into one file, once."""
        if not self.is_stored or self.path.is_file():
            return
        with atomic_path(self.path) as temporary:
            pictures = np.stack([square(entry.read(), self.side) for entry in self.entries])
            np.save(temporary, pictures, allow_pickle=False)

    def __getitem__(self, index: int) -> np.ndarray:
        if not self.is_stored:
            return square(self.entries[index].read(), self.side)
        if self._array is None:
            self.build()
            self._array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return np.asarray(self._array[index])

    def chosen(self, split: str) -> list[int]:
        """Indices of a split."""
        return [index for index, entry in enumerate(self.entries) if entry.split == split]


def label_values(entries: Sequence[PictureEntry]) -> dict[str, tuple[str, ...]]:
    """Every label field with its values in alphabetical order (numbers by value)."""
    fields = sorted({name for entry in entries for name in entry.labels})

    def order(value: str) -> tuple[int, str]:
        return (int(value), "") if value.isdecimal() else (-1, value)

    found = {name: {entry.labels[name] for entry in entries if name in entry.labels} for name in fields}
    return {name: tuple(sorted(values, key=order)) for name, values in found.items()}


class Pictures:
    """Pictures of a split with random changes drawn from the seed of each pick."""

    def __init__(self, store: PictureStore, split: str, *, flip: bool, shift: int, recolour: float) -> None:
        self.store, self.flip, self.shift, self.recolour = store, flip, shift, recolour
        self.indices = store.chosen(split)
        self.lengths = [1] * len(self.indices)
        self.values = label_values(store.entries)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, pick: Pick) -> dict[str, Any]:
        index = self.indices[pick.index]
        picture = self._changed(self.store[index], np.random.default_rng(pick.seed))
        labels = self.store.entries[index].labels
        ids = {name: values.index(labels[name]) if name in labels else -1 for name, values in self.values.items()}
        return {"image": picture, **{f"label_{name}": number for name, number in ids.items()}}

    def _changed(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.flip and rng.random() < 0.5:
            picture = picture[:, ::-1]
        if self.shift:
            down, right = rng.integers(-self.shift, self.shift + 1, 2)
            edge = self.shift
            padded = np.pad(picture, ((edge, edge), (edge, edge), (0, 0)), mode="edge")
            side = picture.shape[0]
            picture = padded[edge + down : edge + down + side, edge + right : edge + right + side]
        if rng.random() < self.recolour:
            picture = picture[..., rng.permutation(3)]
        return np.ascontiguousarray(picture)


class ImageData(GenerativeData):
    """Batches {image [B, 3, H, H] float32 in [-1, 1], label_<field> [B] int64 (-1 where unknown)}."""

    def __init__(
        self,
        source: PictureSource = PictureSource(),  # noqa: B008 - frozen
        image_size: int = 64,
        flip: bool = True,
        shift: int = 0,
        recolour: float = 0.0,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            source: Where the pictures come from.
            image_size: Height and width after cutting the middle square, in pixels.
            flip: Mirror every second training picture.
            shift: Move training pictures by up to so many pixels.
            recolour: Probability that a training picture gets its colour channels exchanged.
            batch_size: Pictures in a batch on one device.
            workers: Processes that read data; 0 reads in the training process.
            seed: Seed of order and changes.
        """
        super().__init__(batch_size=batch_size, bucket_batches=1_000_000, workers=workers, seed=seed)
        if image_size < 1 or shift < 0 or not 0 <= recolour <= 1:
            raise ConfigError(
                f"image_size must be at least 1, shift at least 0, recolour from 0 to 1; got {image_size}, {shift}, "
                f"{recolour}"
            )
        self.source, self.image_size = source, image_size
        self.changes = {"flip": flip, "shift": shift, "recolour": recolour}
        self._store: PictureStore | None = None

    @property
    def store(self) -> PictureStore:
        """The pictures."""
        self._store = self._store or PictureStore(self.source, self.image_size)
        return self._store

    def prepare_data(self) -> None:
        self.store.build()

    def dataset(self, split: str) -> Pictures | None:
        still = {"flip": False, "shift": 0, "recolour": 0.0}
        pictures = Pictures(self.store, split, **(self.changes if split == "train" else still))
        return pictures if len(pictures) else None

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        images = torch.from_numpy(np.stack([item["image"] for item in items])).permute(0, 3, 1, 2)
        batch = {"image": images.float().div_(127.5).sub_(1.0).contiguous()}
        names = [name for name in items[0] if name != "image"]
        return {**batch, **{name: torch.tensor([item[name] for item in items]) for name in names}}


def cache_folder(name: str) -> Path:
    """Folder for what is derived from pictures."""
    return genmm_home() / "cache" / name
