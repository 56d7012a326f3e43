"""The base data module: what a batch holds depends on seed and position alone."""

from __future__ import annotations

import pytest
import torch

from datamodules.toy import ToyData
from genmm.core.errors import ConfigError


def batches(**options) -> list[dict[str, torch.Tensor]]:
    return list(ToyData(**options).train_dataloader())


def same(left: list[dict], right: list[dict]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a[key], b[key]) for a, b in pairs for key in a)


def test_the_same_seed_gives_the_same_batches_whatever_the_global_state():
    torch.manual_seed(1)
    first = batches(seed=3)
    torch.manual_seed(2)
    assert same(first, batches(seed=3))
    assert not same(first, batches(seed=4))


def test_loading_data_leaves_the_global_random_state_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    batches()
    assert torch.equal(before, torch.random.get_rng_state())


def test_no_wave_of_the_toy_data_is_in_two_splits():
    data = ToyData()
    numbers = [number for split in ("train", "val", "test") for number in data.dataset(split).numbers]
    assert len(numbers) == len(set(numbers)) == 44 + 8 + 8


@pytest.mark.slow
def test_worker_processes_change_nothing():
    assert same(batches(), batches(workers=2))


def test_validation_batches_are_the_same_every_time():
    data = ToyData()
    assert same(list(data.val_dataloader()), list(data.val_dataloader()))


def test_negative_workers_are_refused():
    with pytest.raises(ConfigError, match="workers"):
        ToyData(workers=-1)
