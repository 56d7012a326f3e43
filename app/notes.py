"""What commands say beside their results."""

from __future__ import annotations

import sys

__all__ = ["say"]


def say(text: object) -> None:
    """Say something on stderr; stdout is for results, which scripts read."""
    print(f"genmm: {text}", file=sys.stderr, flush=True)
