"""Random stereo crops of music for training codecs. Letters: B batch, S samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.base import GenerativeData, SizedItems
from datamodules.music_store import MusicSources, MusicStore, open_or_build_music
from datamodules.rendered_music_synthesis import RATE
from datamodules.sampler import Pick
from genmm.core.errors import ConfigError
from genmm.core.paths import genmm_home


class MusicCrops:
    """Crop of a piece: place, loudness and swap of the channels follow from the seed of the pick."""

    def __init__(self, store: MusicStore, split: str, samples: int, repeats: int, gain_db: float) -> None:
        self.store, self.samples, self.gain_db = store, samples, gain_db
        self.chosen = store.indices(split) * repeats
        self.lengths = [samples] * len(self.chosen)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, pick: Pick) -> Tensor:
        rng = np.random.default_rng(pick.seed % 2**63)
        piece = self.store.samples[self.chosen[pick.index]]
        start = int(rng.integers(0, piece.shape[1] - self.samples + 1))
        crop = piece[:, start : start + self.samples].astype(np.float32)
        gain = 10.0 ** (rng.uniform(-self.gain_db, self.gain_db / 3) / 20.0) / 32768.0
        if rng.random() < 0.5:
            crop = crop[::-1]
        return torch.from_numpy(np.clip(crop * np.float32(gain), -1.0, 1.0))


class MusicWaveformData(GenerativeData):
    """Batches [B, 2, S] of crops of rendered (and free real) music at 48 kHz."""

    def __init__(
        self,
        sources: MusicSources = MusicSources(),  # noqa: B008 - frozen
        crop_samples: int = 61_440,
        repeats: int = 8,
        gain_db: float = 12.0,
        batch_size: int = 8,
        cache: str | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            sources: what the pieces are.
            crop_samples: length of a crop; a multiple of the latent hop of the codec (3840 for the small one).
            repeats: crops of each piece in an epoch.
            gain_db: crops are up to this much softer, and a third of it louder.
            batch_size: crops in a batch.
            cache: folder of the rendered pieces; null means cache in the home of genmm.
            workers: processes that read.
            seed: seed of order and crops.
        """
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        if crop_samples < 1 or crop_samples > sources.seconds * RATE:
            raise ConfigError(f"crop_samples must be from 1 to the length of a piece, got {crop_samples}")
        self.sources, self.crop_samples, self.repeats, self.gain_db = sources, crop_samples, repeats, gain_db
        self.cache = Path(cache) if cache else genmm_home() / "cache"

    def prepare_data(self) -> None:
        """Render the pieces once: those of training and validation, or those of the test."""
        open_or_build_music(self._sources("test" if self.is_testing else "train"), self.cache)

    def dataset(self, split: str) -> SizedItems | None:
        """Crops of the training pieces, or one of each held-out piece; "test" has other pieces than "val"."""
        store = open_or_build_music(self._sources(split), self.cache)
        training = split == "train"
        wanted = "train" if training else "test"
        if not store.indices(wanted):
            return None
        return MusicCrops(
            store, wanted, self.crop_samples, self.repeats if training else 1, self.gain_db if training else 0
        )

    def _sources(self, split: str) -> MusicSources:
        return self.sources.for_testing() if split == "test" else self.sources

    def collate(self, items: list[Tensor]) -> Tensor:
        """One batch [B, 2, S]."""
        return torch.stack(items)
