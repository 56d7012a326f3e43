"""Guesses for mistyped names."""

from __future__ import annotations

import pytest

from genmm.core.suggest import did_you_mean


@pytest.mark.parametrize(
    ("word", "guess"),
    [("sleed", "; did you mean sled?"), ("SLED", "; did you mean sled?"), ("opera", ""), ("", ""), ("x" * 10**6, "")],
)
def test_only_a_near_name_is_guessed(word, guess):
    assert did_you_mean(word, ["sled", "rasl"]) == guess
