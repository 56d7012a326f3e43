"""Random crops of speech for training the codec. Letters: B batch, S samples."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from datamodules.base import GenerativeData
from datamodules.sampler import Pick
from datamodules.speech_store import ArrayStore, SpeechSources, waveform_store
from genmm.core.errors import ConfigError
from genmm.core.paths import data_home, genmm_home

UNIT_SAMPLES = 640
"""Crops are a multiple of this long: 0.04 s, one latent of the codec."""


class RandomCrops:
    """Crops [S] float32: utterance, place and loudness follow from the seed of the pick, its index plays no part.

    Every corpus group is drawn with its own probability; within a group longer utterances are drawn more often, in
    proportion to their length. Utterances shorter than a crop are padded with silence at a random place.
    """

    def __init__(
        self,
        store: ArrayStore,
        *,
        split: str,
        samples: int,
        count: int,
        synthetic_share: float,
        gain_db: float = 12.0,
        fixed_seed: int | None = None,
    ) -> None:
        """
        Args:
            store: waveforms [S] int16.
            split: which of them are drawn from.
            samples: length of a crop.
            count: crops in the set.
            synthetic_share: probability that a crop is synthetic.
            gain_db: crops are up to this much softer, and half of it louder.
            fixed_seed: crop i follows from (fixed_seed, i) instead, whatever the seed of the pick.
        """
        self.store, self.samples, self.gain_db, self.fixed_seed = store, samples, gain_db, fixed_seed
        self.lengths = [samples] * count
        chosen = np.asarray(store.indices(split))
        weight = store.lengths[chosen].astype(np.float64)
        synthetic = np.asarray([store.table[i]["corpus"] == "synthetic" for i in chosen])
        for group, share in ((synthetic, synthetic_share), (~synthetic, 1.0 - synthetic_share)):
            if group.any():
                weight[group] *= share / weight[group].sum()
        self.chosen, self.cumulative = chosen, np.cumsum(weight) / weight.sum()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, pick: Pick) -> Tensor:
        rng = np.random.default_rng(pick.seed if self.fixed_seed is None else (self.fixed_seed, pick.index))
        picked = min(int(np.searchsorted(self.cumulative, rng.random())), len(self.chosen) - 1)
        waveform = self.store[int(self.chosen[picked])]
        room = len(waveform) - self.samples
        if room >= 0:
            start = int(rng.integers(0, room + 1))
            crop = waveform[start : start + self.samples].astype(np.float32)
        else:
            start = int(rng.integers(0, 1 - room))
            crop = np.pad(waveform.astype(np.float32), (start, -room - start))
        peak = max(float(np.abs(crop).max()), 1.0)
        gain = min(10.0 ** (rng.uniform(-self.gain_db, self.gain_db / 2) / 20.0), 32000.0 / peak)
        return torch.from_numpy(crop * (gain / 32768.0))


class SpeechWaveformData(GenerativeData):
    """Batches [B, S] of speech crops, other ones in every epoch and on every rank."""

    def __init__(
        self,
        corpora: list[str] | None = None,
        synthetic: int = 3000,
        synthetic_share: float = 0.25,
        crop_s: float = 0.96,
        batch_size: int = 16,
        train_batches: int = 1000,
        val_batches: int = 8,
        seed: int = 1,
        workers: int = 0,
    ) -> None:
        """
        Args:
            corpora: real corpora under the data folder (GENMM_DATA); null takes all that may be shipped.
            synthetic: how many espeak-ng utterances to add.
            synthetic_share: probability that a crop is synthetic.
            crop_s: length of a crop in seconds; rounded to a multiple of 0.04 s.
            batch_size: crops in a batch.
            train_batches: batches in an epoch, of all processes together.
            val_batches: batches of the held-out crops, always the same ones.
            seed: seed of crops and of the synthetic utterances.
            workers: loader processes; 0 loads in the training process.
        """
        super().__init__(batch_size=batch_size, bucket_batches=1_000_000, workers=workers, seed=seed)
        self.samples = round(crop_s * 25) * UNIT_SAMPLES
        if min(self.samples, train_batches, val_batches) < 1 or not 0.0 <= synthetic_share <= 1.0:
            raise ConfigError(
                f"data needs crop_s of at least 0.04, train_batches and val_batches of at least 1 and synthetic_share "
                f"in [0, 1], got {crop_s}, {train_batches}, {val_batches} and {synthetic_share}"
            )
        chosen = {} if corpora is None else {"corpora": tuple(corpora)}
        self.sources = SpeechSources(synthetic=synthetic, seed=seed, **chosen)
        self.train_batches, self.val_batches, self.synthetic_share = train_batches, val_batches, synthetic_share

    def prepare_data(self) -> None:
        """Build the stored set once."""
        waveform_store(self.sources, root=data_home(), cache=genmm_home() / "cache")

    def setup(self, stage: str) -> None:
        """Map the stored set."""
        self.store = waveform_store(self.sources, root=data_home(), cache=genmm_home() / "cache")

    def dataset(self, split: str) -> RandomCrops | None:
        """Crops of the training utterances, or for "val" fixed ones of the held-out utterances.

        There is no test data: the held-out recordings are few, and all of them are for validation.
        """
        drawn = {"train": "train", "val": "test"}.get(split)
        if drawn is None or not self.store.indices(drawn):
            return None
        training = split == "train"
        return RandomCrops(
            self.store,
            split=drawn,
            samples=self.samples,
            count=(self.train_batches if training else self.val_batches) * self.batch_size,
            synthetic_share=self.synthetic_share,
            fixed_seed=None if training else 0,
        )

    def collate(self, items: list[Tensor]) -> Tensor:
        """One batch [B, S]."""
        return torch.stack(items)
