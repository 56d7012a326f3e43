"""The batch sampler: every item once an epoch, little padding, ranks that share fairly, a position that is exact."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.sampler import BucketBatchSampler
from genmm.core.errors import ConfigError, DataError


def indices(sampler: BucketBatchSampler) -> list[list[int]]:
    return [[pick.index for pick in batch] for batch in sampler]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=80),
    batch_size=st.integers(1, 9),
    ranks=st.integers(1, 4),
    bucket_batches=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_ranks_together_see_every_item_and_the_same_number_of_batches(
    lengths, batch_size, ranks, bucket_batches, epoch
):
    seen, counts = Counter(), set()
    for rank in range(ranks):
        options = {"batch_size": batch_size, "bucket_batches": bucket_batches, "rank": rank, "ranks": ranks}
        sampler = BucketBatchSampler(lengths, max_frames=120, **options)
        sampler.seek(epoch * len(sampler))
        batches = indices(sampler)
        assert len(batches) == len(sampler)
        for batch in batches:
            assert len(batch) <= batch_size
            assert len(batch) * max(lengths[i] for i in batch) <= 120
        seen.update(i for batch in batches for i in batch)
        counts.add(len(batches))
    assert set(seen) == set(range(len(lengths)))
    assert len(counts) == 1
    if ranks == 1:
        assert set(seen.values()) == {1}


@settings(max_examples=30, deadline=None)
@given(consumed=st.integers(0, 40), seed=st.integers(0, 5))
def test_seeking_gives_exactly_the_rest(consumed, seed):
    lengths = [random.Random(seed).randint(1, 30) for _ in range(37)]
    whole, rest = (BucketBatchSampler(lengths, batch_size=4, seed=seed) for _ in range(2))
    stream = []
    for epoch in range(6):
        whole.seek(epoch * len(whole))
        stream += list(whole)
    rest.seek(consumed)
    end = (consumed // len(rest) + 1) * len(rest)
    assert list(rest) == stream[consumed:end]
    assert rest.consumed == consumed
    again = BucketBatchSampler(lengths, batch_size=4, seed=seed)
    again.load_state_dict(rest.state_dict())
    assert list(again) == stream[consumed:end]


def test_batches_have_similar_lengths_and_epochs_differ():
    rng = random.Random(0)
    lengths = [rng.randint(1, 400) for _ in range(2000)]
    sampler = BucketBatchSampler(lengths, batch_size=16, bucket_batches=4)
    first = indices(sampler)
    real = sum(lengths)
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in first)
    shuffled = rng.sample(range(2000), 2000)
    plain = sum(16 * max(lengths[i] for i in shuffled[k : k + 16]) for k in range(0, 2000, 16))
    assert padded < 1.06 * real < 0.7 * plain
    sampler.seek(len(sampler))
    assert indices(sampler) != first
    assert [max(lengths[i] for i in batch) for batch in first] != sorted(max(lengths[i] for i in b) for b in first)


def test_item_seeds_differ_between_items_and_epochs_and_repeat():
    sampler = BucketBatchSampler([5] * 8, batch_size=4)
    first = {pick.index: pick.seed for batch in sampler for pick in batch}
    assert first == {pick.index: pick.seed for batch in sampler for pick in batch}
    sampler.seek(len(sampler))
    second = {pick.index: pick.seed for batch in sampler for pick in batch}
    assert len({*first.values(), *second.values()}) == 16


def test_without_shuffling_every_epoch_is_the_same():
    sampler = BucketBatchSampler([3, 1, 2, 9, 4], batch_size=2, shuffle=False, bucket_batches=1)
    first = indices(sampler)
    sampler.seek(len(sampler))
    assert indices(sampler) == first


def test_a_position_of_other_data_is_refused():
    state = BucketBatchSampler([5] * 8, batch_size=4, seed=1).state_dict()
    for other in (
        BucketBatchSampler([5] * 20, batch_size=4, seed=1),
        BucketBatchSampler([5] * 8, batch_size=4, seed=2),
    ):
        with pytest.raises(DataError, match="same data, batch size, ranks and seed"):
            other.load_state_dict(state)


def test_unusable_settings_say_why():
    with pytest.raises(ConfigError, match="longer than max_frames"):
        BucketBatchSampler([5, 200], batch_size=4, max_frames=100)
    with pytest.raises(DataError, match="no items"):
        BucketBatchSampler([], batch_size=4)
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        BucketBatchSampler([5], batch_size=4, rank=2, ranks=2)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("count", [3, 7, 16, 33, 101])
@pytest.mark.parametrize("bucket_batches", [1, 4, 1_000_000])
def test_ranks_never_share_an_item_where_there_are_enough(ranks, count, bucket_batches):
    lengths = [random.Random(i).randint(1, 40) for i in range(count)]
    options = {"batch_size": 4, "max_frames": 100, "bucket_batches": bucket_batches, "ranks": ranks}
    samplers = [BucketBatchSampler(lengths, rank=rank, **options) for rank in range(ranks)]
    for epoch in range(2):
        batches = [sampler.plan(epoch) for sampler in samplers]
        assert {len(own) for own in batches} == {len(samplers[0])}
        assert sorted(i for own in batches for batch in own for i in batch) == list(range(count))


def test_fixed_order_gives_each_rank_full_batches():
    for ranks in (2, 3):
        samplers = [
            BucketBatchSampler([5] * 48, batch_size=8, bucket_batches=1, shuffle=False, rank=rank, ranks=ranks)
            for rank in range(ranks)
        ]
        assert [len(batch) for sampler in samplers for batch in sampler] == [8] * 6


def test_too_few_items_for_the_ranks_are_repeated():
    batches = [indices(BucketBatchSampler([5] * 2, batch_size=4, rank=rank, ranks=3)) for rank in range(3)]
    assert [len(own) for own in batches] == [1, 1, 1]
    assert {i for own in batches for batch in own for i in batch} == {0, 1}


def test_one_rank_keeps_the_order_that_stored_positions_count_in():
    sampler = BucketBatchSampler([3, 9, 4, 1, 7, 7, 2, 5, 8, 6, 10], batch_size=2, bucket_batches=2, seed=4)
    assert [batch.tolist() for batch in sampler.plan(1)] == [[10, 8], [0], [5, 1], [6, 3], [9, 7], [4, 2]]
