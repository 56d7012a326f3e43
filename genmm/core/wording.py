"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["counted", "percent"]


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it takes one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(share: float) -> str:
    """A share of 1 in per cent with two digits, or as many as whole per cents have."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"
