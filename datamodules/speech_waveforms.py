"""Random crops of speech for training the codec. Letters: B batch, S samples."""

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.speech_store import ArrayStore, SpeechSources, waveform_store
from genmm.core.paths import data_home, genmm_home


class RandomCrops(Dataset[Tensor]):
    """Crop i [S] float32: utterance, place and loudness follow from (seed, i), so any crop can be made again alone.

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
        seed: int,
        synthetic_share: float,
        gain_db: float = 12.0,
    ) -> None:
        self.store, self.samples, self.count, self.seed, self.gain_db = store, samples, count, seed, gain_db
        chosen = np.asarray(store.indices(split))
        weight = store.lengths[chosen].astype(np.float64)
        synthetic = np.asarray([store.table[i]["corpus"] == "synthetic" for i in chosen])
        for group, share in ((synthetic, synthetic_share), (~synthetic, 1.0 - synthetic_share)):
            if group.any():
                weight[group] *= share / weight[group].sum()
        self.chosen, self.cumulative = chosen, np.cumsum(weight) / weight.sum()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        rng = np.random.default_rng((self.seed, index))
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


class SpeechWaveformData(pl.LightningDataModule):
    """Batches [B, S] of speech crops.

    Args:
        corpora: real corpora under the data folder (GENMM_DATA).
        synthetic: how many espeak-ng utterances to add.
        synthetic_share: probability that a crop is synthetic.
        crop_s: length of a crop in seconds; cut to a multiple of 0.04 s.
        batch_size: crops in a batch.
        train_batches: batches in an epoch.
        val_batches: batches of the held-out crops, always the same ones.
        seed: seed of crops and of the synthetic utterances.
        workers: loader processes; 0 loads in the training process.
    """

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
        super().__init__()
        self.save_hyperparameters()
        chosen = {} if corpora is None else {"corpora": tuple(corpora)}
        self.sources = SpeechSources(synthetic=synthetic, seed=seed, **chosen)
        self.samples = round(crop_s * 25) * 640
        self.batch_size, self.train_batches, self.val_batches = batch_size, train_batches, val_batches
        self.synthetic_share, self.seed, self.workers = synthetic_share, seed, workers

    def prepare_data(self) -> None:
        """Build the stored set once."""
        waveform_store(self.sources, root=data_home(), cache=genmm_home() / "cache")

    def setup(self, stage: str) -> None:
        """Map the stored set."""
        self.store = waveform_store(self.sources, root=data_home(), cache=genmm_home() / "cache")

    def _loader(self, split: str, batches: int, seed: int) -> DataLoader:
        crops = RandomCrops(self.store, split=split, samples=self.samples, count=batches * self.batch_size, seed=seed,
                            synthetic_share=self.synthetic_share)  # fmt: skip
        return DataLoader(crops, self.batch_size, num_workers=self.workers, persistent_workers=self.workers > 0)

    def train_dataloader(self) -> DataLoader:
        """One epoch of crops; each epoch draws its own (run with reload_dataloaders_every_n_epochs=1)."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        return self._loader("train", self.train_batches, self.seed * 1_000_003 + epoch)

    def val_dataloader(self) -> DataLoader:
        """The same held-out crops every time."""
        return self._loader("test", self.val_batches, 0)
