"""The smallest complete data module: noisy waves of different lengths, made on the fly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datamodules.base import GenerativeData
from datamodules.sampler import Pick

HELD_OUT = 8
"""Waves of the validation data, and of the test data."""


class Waves:
    """Every third wave [T], from the number `first` on; each has its own pitch, and noise from the seed of the pick."""

    def __init__(self, first: int, count: int) -> None:
        self.numbers = range(first, first + 3 * count, 3)
        self.lengths = [4 + 3 * (i % 7) for i in range(count)]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, pick: Pick) -> Tensor:
        generator = torch.Generator().manual_seed(pick.seed)
        length = self.lengths[pick.index]
        wave = torch.sin(torch.arange(length) / (1 + self.numbers[pick.index]))
        return wave + 0.1 * torch.randn(length, generator=generator)


class ToyData(GenerativeData):
    """Padded batches of waves: x [B, T, 1] float32, mask [B, T] bool."""

    def __init__(self, count: int = 44, batch_size: int = 4, workers: int = 0, seed: int = 0) -> None:
        """
        Args:
            count: Waves in the training data.
            batch_size: Waves in a batch.
            workers: Processes that read data.
            seed: Seed of order and noise.
        """
        super().__init__(batch_size=batch_size, bucket_batches=2, workers=workers, seed=seed)
        self.count = count

    def dataset(self, split: str) -> Waves:
        # No wave is in two splits.
        return Waves(("train", "val", "test").index(split), self.count if split == "train" else HELD_OUT)

    def collate(self, items: list[Tensor]) -> dict[str, Tensor]:
        lengths = torch.tensor([len(item) for item in items])
        x = nn.utils.rnn.pad_sequence(items, batch_first=True).unsqueeze(-1)  # [B, T] -> [B, T, 1]
        return {"x": x, "mask": torch.arange(x.shape[1]) < lengths[:, None]}
