"""Text tags inside media files: the usual names, and everything else as JSON in the comment (recipes go there).

`tag_reader.read_tags(path)` gives back what `write_audio(..., tags=...)` or `write_video(..., tags=...)` was given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from genmm.core.errors import UsageError

__all__ = ["STANDARD_TAGS", "TAG_BYTES", "pack_tags", "unpack_tags"]

STANDARD_TAGS = ("title", "artist", "album", "date", "genre", "copyright", "comment")
"""Tags that every container here has a place for."""

TAG_BYTES = 1_000_000
"""Largest comment that is written or parsed."""


def pack_tags(tags: Mapping[str, Any] | None) -> dict[str, str]:
    """Turn tags into text fields of STANDARD_TAGS; all other keys go into the comment as one JSON object.

    Raises: UsageError when a value is not JSON, a standard tag is not text, or the whole is above TAG_BYTES.
    """
    if not tags:
        return {}
    fields = {key: tags[key] for key in STANDARD_TAGS if key in tags}
    for key, value in fields.items():
        if not isinstance(value, str):
            raise UsageError(f"the tag {key!r} must be text, got {type(value).__name__}")
    others = {key: value for key, value in tags.items() if key not in STANDARD_TAGS}
    if others:
        if "comment" in fields:
            others["comment"] = fields["comment"]
        try:
            fields["comment"] = json.dumps(others, ensure_ascii=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(f"tags must hold what JSON can hold: {error}") from error
    if sum(len(value.encode()) for value in fields.values()) > TAG_BYTES:
        raise UsageError(f"tags may have {TAG_BYTES} bytes in all; keep the long part in a file beside the media")
    return {key: value.replace("\0", "") for key, value in fields.items() if value}


def unpack_tags(fields: Mapping[str, str]) -> dict[str, Any]:
    """The inverse of `pack_tags`; a comment that is no JSON object stays text. Never fails on strange content."""
    tags: dict[str, Any] = {key: fields[key] for key in STANDARD_TAGS if fields.get(key)}
    comment = tags.get("comment", "")
    if comment.startswith("{") and len(comment) <= TAG_BYTES:
        try:
            others = json.loads(comment)
        except (ValueError, RecursionError):
            return tags
        del tags["comment"]
        tags.update(others)
    return tags
