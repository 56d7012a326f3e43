"""Text from standard input, which may be closed or no text at all."""

from __future__ import annotations

import sys

from genmm.core.errors import UsageError


def read_standard_input(most: int = -1) -> str:
    """At most so many characters (-1: all). Raises: UsageError when it is closed or not UTF-8."""
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError('"-" stands for standard input, which is closed; pipe something in or name a file')
    try:
        return sys.stdin.read(most)
    except UnicodeDecodeError as error:
        raise UsageError("standard input is no text in UTF-8; convert it first, for example with iconv") from error
