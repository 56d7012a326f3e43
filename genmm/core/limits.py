"""How large an input may be, in one place, and the cleaning of text that comes from outside."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, fields

from genmm.core.errors import LimitError, UsageError

__all__ = ["DEFAULT_LIMITS", "LONG_FOOTAGE", "Limits", "clean_text"]

_LINE_BREAKS = {"\r": "\n", "\x0b": "\n", "\x0c": "\n", "\x85": "\n", "\u2028": "\n", "\u2029": "\n"}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper bounds on input; every one is positive. Decoders count what they really read, not what a header says."""

    file_bytes: int = 200_000_000
    """Size of one media file in bytes."""
    audio_s: float = 1800.0
    """Length of one sound in seconds."""
    video_s: float = 3600.0
    """Length of one video in seconds."""
    width: int = 4096
    """Video width in pixels."""
    height: int = 2304
    """Video height in pixels."""
    image_pixels: int = 40_000_000
    """Width times height of a still picture."""
    audio_channels: int = 8
    """Channels of one sound."""
    sample_rate: int = 192_000
    """Samples per second of one sound."""
    streams: int = 8
    """Streams in one container."""
    decode_s: float = 30.0
    """Seconds spent decoding one file: of the processor time of the reading thread, ten times as many by the clock."""
    text_chars: int = 2000
    """Characters of one text after cleaning."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise UsageError(f"limits.{field.name} must be above 0, got {value!r}")


DEFAULT_LIMITS = Limits()
LONG_FOOTAGE = Limits(file_bytes=64 * 2**30, video_s=12 * 3600.0, audio_s=12 * 3600.0, decode_s=12 * 3600.0)
"""For videos that are read piece by piece at flat memory and belong to the person who runs the command: hours of
footage. A server sets limits of its own."""


def clean_text(text: str, limits: Limits = DEFAULT_LIMITS) -> str:
    """Give back the text in Unicode form NFC without control characters, stripped at both ends.

    Line breaks of every kind become "\\n" and tabs a blank; other control, format-override, surrogate, private-use and
    unassigned characters are removed (joiners inside a word stay).
    Raises: UsageError when it is no string or nothing is left; LimitError when more than `limits.text_chars` are left.
    """
    if not isinstance(text, str):
        raise UsageError(f"the text must be a string, got {type(text).__name__}")
    if len(text) > 16 * limits.text_chars:  # NFC and cleaning cost time, so refuse what cannot fit first
        raise _too_long(len(text), limits)
    kept = "".join(_clean_character(c) for c in unicodedata.normalize("NFC", text.replace("\r\n", "\n"))).strip()
    if not kept:
        raise UsageError("the text is empty; write at least one word")
    if len(kept) > limits.text_chars:
        raise _too_long(len(kept), limits)
    return kept


def _too_long(length: int, limits: Limits) -> LimitError:
    return LimitError(f"the text has {length} characters, the limit is {limits.text_chars}; split it into several")


def _clean_character(character: str) -> str:
    if character in "\n\u200c\u200d":
        return character
    if character in _LINE_BREAKS:
        return _LINE_BREAKS[character]
    if character == "\t":
        return " "
    return "" if unicodedata.category(character).startswith("C") else character
