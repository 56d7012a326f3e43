"""Guesses for mistyped names, to put into messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The words "; did you mean NAME?" for the known name nearest to `word`, or "" when none is near."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower()[:100], by_lower, n=1)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""
