"""Base of the data modules: resumable bucketed training batches, fixed validation batches."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from datamodules.sampler import BucketBatchSampler, Pick
from genmm.core.errors import ConfigError

log = logging.getLogger(__name__)


class SizedItems(Protocol):
    """A data set whose items have a length and take a `Pick`: index and seed."""

    lengths: Sequence[int]

    def __len__(self) -> int: ...

    def __getitem__(self, pick: Pick) -> Any: ...


class GenerativeData(pl.LightningDataModule):
    """Training data with an exact position.

    A data module makes data sets in `datasets(stage)` and a batch in `collate(items)`. A data set takes a `Pick` and
    draws everything random from `pick.seed`, so items do not depend on workers, order or a restart. The position in
    the training data follows from the number of batches that were trained on; it is stored in the checkpoint, and a
    resumed run goes on with the next batch, in the middle of an epoch too.
    """

    def __init__(
        self,
        *,
        batch_size: int = 16,
        max_frames: int | None = None,
        bucket_batches: int = 8,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            batch_size: Most items in a batch on one device.
            max_frames: Most padded frames in a batch; null means no limit.
            bucket_batches: Batches in a length bucket; 1 pads least, more mixes more.
            workers: Processes that read data; 0 reads in the training process.
            seed: Seed of order, crops and augmentation.
        """
        super().__init__()
        if workers < 0 or batch_size < 1 or bucket_batches < 1:
            raise ConfigError(
                f"data needs workers of at least 0 and batch_size and bucket_batches of at least 1, got workers "
                f"{workers}, batch_size {batch_size}, bucket_batches {bucket_batches}"
            )
        self.batch_size, self.max_frames, self.bucket_batches = batch_size, max_frames, bucket_batches
        self.workers, self.seed = workers, seed
        self._loaded: dict[str, Any] | None = None
        self._train_sampler: BucketBatchSampler | None = None

    @abstractmethod
    def dataset(self, split: str) -> SizedItems | None:
        """Data of "train", "val" or "test"; None when the data module has no such split. Called once per split.

        Test data are disjoint from the others: validation has chosen the checkpoint that is tested.
        """

    @abstractmethod
    def collate(self, items: list[Any]) -> Any:
        """One batch of items."""

    # Loaders ---------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader:
        """Shuffled, bucketed batches from the position of the run on."""
        data = self._require("train")
        sampler = self._sampler(data, shuffle=True)
        if self._loaded is not None:
            sampler.load_state_dict(self._loaded)
        self._train_sampler = sampler
        return self._loader(data, PositionedBatches(sampler, self._consumed), PositionedLoader)

    def val_dataloader(self) -> DataLoader | list:
        """The same batches in the same order every time."""
        data = self.dataset("val")
        return [] if data is None else self._loader(data, self._sampler(data, shuffle=False))

    def test_dataloader(self) -> DataLoader:
        data = self._require("test")
        return self._loader(data, self._sampler(data, shuffle=False))

    def _require(self, split: str) -> SizedItems:
        data = self.dataset(split)
        if data is None:
            instead = "; genmm validate measures on the validation data" if split == "test" else ""
            raise ConfigError(f"{type(self).__name__} as configured has no {split} data{instead}")
        return data

    def _sampler(self, data: SizedItems, *, shuffle: bool) -> BucketBatchSampler:
        trainer = self.trainer
        return BucketBatchSampler(
            data.lengths,
            batch_size=self.batch_size,
            max_frames=self.max_frames,
            bucket_batches=self.bucket_batches if shuffle else 1,
            shuffle=shuffle,
            seed=self.seed,
            rank=trainer.global_rank if trainer is not None else 0,
            ranks=trainer.world_size if trainer is not None else 1,
        )

    def _loader(self, data: SizedItems, batches: Any, kind: type[DataLoader] = DataLoader) -> DataLoader:
        return kind(
            data,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=self.collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),  # keeps worker seeds off the global generator
        )

    @property
    def is_testing(self) -> bool:
        """Whether the attached trainer reads the test data, and no other."""
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.TESTING

    # Position --------------------------------------------------------------------------------------------------

    def _consumed(self) -> int | None:
        """Batches trained on so far by the attached trainer; None outside a training."""
        if self.trainer is None or self.trainer.state.fn != "fit":
            return None
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed

    def state_dict(self) -> dict[str, Any]:
        consumed = self._consumed()
        if self._train_sampler is None or consumed is None:
            return {}
        self._train_sampler.seek(consumed)
        return self._train_sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict or None


class PositionedLoader(DataLoader):
    """DataLoader that Lightning accepts as resumable; the position itself is the data module's."""

    def state_dict(self) -> dict[str, int]:
        return {"batches": len(self)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to do: PositionedBatches asks for the position when a pass begins."""


class PositionedBatches:
    """Batch sampler that starts each pass where the run stands, asked at the moment the pass begins."""

    def __init__(self, sampler: BucketBatchSampler, consumed: Callable[[], int | None]) -> None:
        self.sampler, self.consumed = sampler, consumed
        self.batch_size = sampler.batch_size
        self.drop_last = False

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[Pick]]:
        consumed = self.consumed()
        if consumed is not None:
            self.sampler.seek(consumed)
        return iter(self.sampler)
