from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm.metrics.word_error import WordErrors, align_words, total_errors, word_errors

WORDS = st.lists(st.sampled_from(["one", "two", "three"]), max_size=6)


def slow_distance(reference: list[str], heard: list[str]) -> int:
    @cache
    def cost(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        same = cost(i - 1, j - 1) + (reference[i - 1] != heard[j - 1])
        return min(same, cost(i - 1, j) + 1, cost(i, j - 1) + 1)

    return cost(len(reference), len(heard))


@given(WORDS, WORDS)
def test_the_alignment_is_the_cheapest_and_rebuilds_both_sides(reference, heard):
    edits = align_words(reference, heard)
    assert sum(edit != "match" for edit, _, _ in edits) == slow_distance(reference, heard)
    assert [wanted for _, wanted, _ in edits if wanted] == reference
    assert [got for _, _, got in edits if got] == heard
    assert all((wanted == got) == (edit == "match") for edit, wanted, got in edits)


@pytest.mark.parametrize(
    ("reference", "heard", "expected"),
    [
        ("one two three", "one two three", WordErrors(0, 0, 0, 3)),
        ("one two three", "one three", WordErrors(0, 1, 0, 3)),
        ("one three", "one two three", WordErrors(0, 0, 1, 2)),
        ("one two three", "one five three", WordErrors(1, 0, 0, 3)),
        ("one two", "", WordErrors(0, 2, 0, 2)),
        ("", "one", WordErrors(0, 0, 1, 0)),
    ],
)
def test_each_kind_of_error_is_counted(reference, heard, expected):
    assert word_errors(reference.split(), heard.split()) == expected


def test_totals_weight_words_and_not_utterances():
    total = total_errors([WordErrors(1, 0, 0, 1), WordErrors(0, 0, 0, 9)])
    assert total.rate == pytest.approx(0.1)


def test_the_rate_can_exceed_one_and_has_no_value_without_words():
    assert WordErrors(insertions=3, words=2).rate == 1.5
    assert WordErrors(insertions=3).rate is None
