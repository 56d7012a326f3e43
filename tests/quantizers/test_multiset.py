"""Multisets and count vectors: one thing seen twice."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm.core.errors import ShapeError, UsageError
from genmm.quantizers.multiset import (
    MOST_CODES,
    TokenSet,
    check_counts,
    dense_counts,
    sparse_counts,
    to_counts,
    to_tokens,
)

sets = st.tuples(st.integers(1, 40), st.integers(0, 20)).flatmap(
    lambda sizes: st.tuples(
        st.just(sizes[0]), st.lists(st.integers(0, sizes[0] - 1), min_size=sizes[1], max_size=sizes[1])
    )
)


@given(sets)
@settings(max_examples=60, deadline=None)
def test_counting_and_listing_undo_each_other(case):
    codes, tokens = case
    counts = to_counts(torch.tensor(tokens, dtype=torch.int64), codes)
    assert counts.tolist() == [Counter(tokens)[code] for code in range(codes)]
    listed, keep = to_tokens(counts)
    assert listed.tolist() == sorted(tokens)
    assert keep.all()
    assert torch.equal(to_counts(listed, codes), counts)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_every_count_vector_is_the_count_of_its_list(values):
    counts = torch.tensor(values)
    listed, _ = to_tokens(counts)
    assert torch.equal(to_counts(listed, len(values)), counts)
    assert torch.equal(dense_counts(*sparse_counts(counts), len(values)), counts)


def test_sets_of_different_sizes_share_a_batch():
    counts = torch.tensor([[0, 2, 1], [1, 0, 0], [0, 0, 0]])
    tokens, keep = to_tokens(counts, padding=2)
    assert tokens.tolist() == [[1, 1, 2], [0, 2, 2], [2, 2, 2]]
    assert keep.sum(-1).tolist() == [3, 1, 0]
    assert torch.equal(to_counts(tokens, 3, keep=keep), counts)


def test_the_largest_codebook_works():
    tokens = torch.tensor([[MOST_CODES - 1, 0, MOST_CODES - 1, 77]])
    assert to_tokens(to_counts(tokens, MOST_CODES))[0].tolist() == [[0, 77, MOST_CODES - 1, MOST_CODES - 1]]
    with pytest.raises(UsageError, match="65536"):
        to_counts(tokens, MOST_CODES + 1)


def test_unusable_input_is_refused():
    with pytest.raises(UsageError, match="from 0 to 3"):
        to_counts(torch.tensor([4]), 4)
    with pytest.raises(UsageError, match="from 0 to 3, got -1"):
        to_counts(torch.tensor([-1]), 4)
    with pytest.raises(ShapeError):
        to_counts(torch.tensor([0.5]), 4)
    with pytest.raises(UsageError, match="negative"):
        to_tokens(torch.tensor([2, -1]))
    with pytest.raises(UsageError, match="more than the 2"):
        to_tokens(torch.tensor([2, 1]), 2)


def test_counts_are_checked_for_their_sum():
    assert check_counts(torch.tensor([1.0, 2.0]), 3).tolist() == [1, 2]
    with pytest.raises(UsageError, match="must sum to 4, they sum to 3"):
        check_counts(torch.tensor([1, 2]), 4)
    with pytest.raises(ShapeError, match="whole"):
        check_counts(torch.tensor([1.5]))
    with pytest.raises(ShapeError):
        check_counts(torch.tensor([1, 2]), codes=3)


def test_token_sets_are_values():
    one, other = TokenSet.from_tokens([3, 1, 3], 5), TokenSet.from_tokens([3, 3, 1], 5)
    assert one == other
    assert len({one, other}) == 1
    assert list(one) == [1, 3, 3]
    assert len(one) == 3
    assert 3 in one
    assert 2 not in one


@given(st.lists(st.integers(0, 4)), st.lists(st.integers(0, 4)))
@settings(max_examples=40, deadline=None)
def test_the_algebra_is_that_of_counters(left, right):
    one, other = TokenSet.from_tokens(left, 5), TokenSet.from_tokens(right, 5)
    rules = ((one | other, Counter(left) | Counter(right)), (one & other, Counter(left) & Counter(right)))
    more = ((one + other, Counter(left) + Counter(right)), (one - other, Counter(left) - Counter(right)))
    for found, expected in (*rules, *more):
        assert dict(found.pairs) == dict(expected)


def test_sets_of_other_codebooks_do_not_join():
    with pytest.raises(UsageError):
        TokenSet.from_tokens([1], 5) | TokenSet.from_tokens([1], 6)


def test_padding_of_any_number_comes_back():
    counts = torch.tensor([[2, 0, 1], [0, 1, 0]])
    tokens, keep = to_tokens(counts, padding=-1)
    assert int(tokens.min()) == -1 and torch.equal(to_counts(tokens, 3, keep=keep), counts)
    with pytest.raises(UsageError, match="from 0 to 2"):
        to_counts(tokens, 3)
