import unicodedata
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm.core.errors import LimitError, UsageError
from genmm.core.limits import DEFAULT_LIMITS, Limits, clean_text


def test_limits_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        DEFAULT_LIMITS.width = 1


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_is_above_zero(value):
    with pytest.raises(UsageError, match="audio_s must be above 0"):
        Limits(audio_s=value)


def test_text_comes_out_composed_and_without_control_characters():
    assert clean_text("  cafe\u0301\x00\x1b[31m \u202eabc\ufeff\t1\r\n2\u20283 ") == "caf\u00e9[31m abc 1\n2\n3"


def test_joiners_inside_words_stay():
    persian = "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert clean_text(persian) == persian


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x01", "\ud800"])
def test_nothing_left_is_an_error(text):
    with pytest.raises(UsageError, match="empty"):
        clean_text(text)


def test_only_strings_are_texts():
    with pytest.raises(UsageError, match="bytes"):
        clean_text(b"abc")


def test_length_counts_what_is_left():
    limits = replace(DEFAULT_LIMITS, text_chars=5)
    assert clean_text("abcde\x00\x00\x00", limits) == "abcde"
    with pytest.raises(LimitError, match="6 characters, the limit is 5"):
        clean_text("abcdef", limits)
    with pytest.raises(LimitError):
        clean_text("\x00" * 1000, limits)


@given(st.text(max_size=200))
def test_clean_text_is_safe_and_settled(text):
    try:
        once = clean_text(text)
    except UsageError:
        return
    assert clean_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert all(unicodedata.category(c)[0] != "C" or c in "\n\u200c\u200d" for c in once)
