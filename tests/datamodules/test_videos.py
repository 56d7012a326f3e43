"""Pairs of frames: every split has scenes of its own, clips and emoji are for training and validation alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.sampler import Pick
from datamodules.videos import FramePairs
from genmm.core.errors import ConfigError


@pytest.fixture
def data() -> FramePairs:
    """One clip of 16 frames, 16 emoji, 16 scenes for training."""
    data = FramePairs(emoji=16, scenes=16, side=16, batch_size=2)
    rng = np.random.default_rng(0)
    data._clips = [rng.integers(0, 255, (16, 20, 24, 3), np.uint8)]
    data._pictures = [np.full((64, 64, 3), n, np.uint8) for n in range(16)]
    return data


def test_validation_has_other_frames_emoji_and_scenes_than_training(data):
    train, val = data.dataset("train"), data.dataset("val")
    assert train.counts == (14, 14, 16) and val.counts == (2, 2, 2)
    assert np.array_equal(np.concatenate([train.clips[0], val.clips[0]]), data._clips[0])
    assert not {int(e.max()) for e in train.emoji} & {int(e.max()) for e in val.emoji}


def test_the_test_has_scenes_that_neither_training_nor_validation_has(data):
    splits = {name: data.dataset(name) for name in ("train", "val", "test")}
    assert splits["test"].counts == (0, 0, 2)
    numbers = [set(range(pairs.first, pairs.first + pairs.counts[2])) for pairs in splits.values()]
    assert len(set.union(*numbers)) == sum(map(len, numbers)) == 20
    first, again = (splits["test"][Pick(1, 3)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    last = splits["val"][Pick(len(splits["val"]) - 1, 3)]
    assert not torch.equal(first[0], last[0])


def test_without_scenes_there_is_no_test_data_and_that_is_said():
    with pytest.raises(ConfigError, match="no test data; genmm validate"):
        FramePairs(clips=False, emoji=0, scenes=4, side=16).test_dataloader()
