"""Options that commands of several systems share."""

from __future__ import annotations

import json
from typing import Any

from genmm.core.errors import UsageError

__all__ = ["read_setting"]


def read_setting(text: str) -> tuple[str, Any]:
    """Name and value of one `--set NAME=VALUE`; a value that is not JSON is a text. Raises: UsageError without "="."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set takes NAME=VALUE, got {text!r}")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value
