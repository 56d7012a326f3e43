"""From what a person types to what a model was trained to read: numbers in words, one style, parts of a length.

Everything is a plain function of the text, and its outcome is shown to the person (`SpeechResult.text_spoken`).
English only. Numbers are spelled out by num2words.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from num2words import num2words

from genmm.core.config import read_fields

_ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "missus",
    "ms": "miss",
    "dr": "doctor",
    "prof": "professor",
    "st": "saint",
    "jr": "junior",
    "sr": "senior",
    "vs": "versus",
    "etc": "et cetera",
    "approx": "approximately",
    "dept": "department",
    "no": "number",
    "e.g": "for example",
    "i.e": "that is",
}
_UNITS = {
    "km": "kilometer",
    "cm": "centimeter",
    "mm": "millimeter",
    "m": "meter",
    "kg": "kilogram",
    "g": "gram",
    "lb": "pound",
    "mph": "mile per hour",
    "kmh": "kilometer per hour",
    "s": "second",
    "ms": "millisecond",
    "min": "minute",
    "h": "hour",
    "hz": "hertz",
    "khz": "kilohertz",
    "gb": "gigabyte",
    "mb": "megabyte",
}
_CURRENCIES = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
_SIGNS = {"%": " percent", "&": " and ", "@": " at ", "+": " plus ", "=": " equals ", "°": " degrees", "#": " number "}
_IRREGULAR = {"penny": "pence", "hertz": "hertz", "kilohertz": "kilohertz", "mile per hour": "miles per hour"}
_NUMBER = r"\d{1,3}(?:,\d{3})+|\d+"
_ENDS = ".?!"


@dataclass(frozen=True, kw_only=True)
class TextRules:
    """The written style of one checkpoint; the defaults fit the official models (case and punctuation kept)."""

    expand: bool = True
    """Write numbers, signs and common abbreviations in words."""
    lower_case: bool = False
    """Words in lower case; single spelled letters stay capitals, and short words in capitals are spelled."""
    leading_space: bool = False
    """Begin with a space, so that the first word is tokenised like the others."""
    final_stop: bool = True
    """End with a full stop when there is no closing mark; models stop more reliably after one."""
    letters: str = ""
    """Characters that are kept besides letters, digits and spaces; "" keeps everything."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextRules:
        """Read the "text" section of a checkpoint. Raises: ConfigError for a field we do not know."""
        return read_fields(cls, values, "text")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.json."""
        return dataclasses.asdict(self)


def spoken_text(text: str, rules: TextRules) -> str:
    """The text as the checkpoint reads it, without the leading space: one line, numbers in words, one style.

    A text without any letter or digit comes back empty.
    """
    text = text.replace("\u2019", "'").replace("\u2018", "'").replace("\u2026", "...")
    text = re.sub(r"\s*\n\s*", lambda match: _line_break(text, match), text)
    if rules.expand:
        text = expand(text)
    if rules.lower_case:
        text = _lowered(text)
    if rules.letters:
        text = re.sub(f"[^A-Za-z0-9 {re.escape(rules.letters)}]", " ", text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r" +([,.?!;:])", r"\1", text).strip()
    if not re.search(r"\w", text):
        return ""
    if rules.final_stop and text.rstrip("\"')]\u201d")[-1:] not in tuple(_ENDS):
        text = text.rstrip(",;:- \u2013\u2014") + "."
    return text


def model_text(spoken: str, rules: TextRules, prompt: str = "") -> str:
    """What is tokenised: transcript of the prompt, a space, the spoken text; with the leading space of the style."""
    joined = f"{prompt} {spoken}" if prompt else spoken
    return f" {joined}" if rules.leading_space else joined


def _line_break(text: str, match: re.Match[str]) -> str:
    """A line that ends without a mark ends a sentence when the next one begins with a capital."""
    before, after = text[: match.start()].rstrip()[-1:], text[match.end() :][:1]
    return ". " if before and before not in ".?!,;:" and after.isupper() else " "


# ---------------------------------------------------------------- numbers, signs, abbreviations


def expand(text: str) -> str:
    """Numbers, money, times, ordinals, percentages, units, signs and common abbreviations in English words."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def _cardinal(digits: str) -> str:
    return _plain_words(num2words(int(digits.replace(",", ""))))


def _plain_words(words: str) -> str:
    """ "three hundred and forty-two" -> "three hundred forty two"."""
    return words.replace(",", "").replace("-", " ").replace(" and ", " ")


def digit_words(digits: str) -> str:
    """Digit by digit: "407" -> "four zero seven"."""
    return " ".join(num2words(int(digit)) for digit in digits if digit.isdigit())


def _plural(word: str, count: str) -> str:
    if count == "1":
        return word
    return _IRREGULAR.get(word) or f"{word}s"


def _money(match: re.Match[str]) -> str:
    unit, small = _CURRENCIES[match[1]]
    whole, part, scale = match[2].replace(",", ""), match[3], match[4]
    if scale:
        amount = f"{_cardinal(whole)} point {digit_words(part)}" if part else _cardinal(whole)
        return f"{amount} {scale.lower()} {unit}s"
    words = [f"{_cardinal(whole)} {_plural(unit, whole)}"] if int(whole) or not part else []
    if part and int(part):
        cents = str(int(part.ljust(2, "0")[:2]))
        words.append(f"{_cardinal(cents)} {_plural(small, cents)}")
    return " and ".join(words) or f"zero {unit}s"


def _time(match: re.Match[str]) -> str:
    hour, minute, half = int(match[1]), int(match[2]), match[3]
    if hour > 23 or minute > 59:
        return match[0]
    said = _cardinal(str(hour))
    if minute:
        said += f" {'oh ' if minute < 10 else ''}{_cardinal(str(minute))}"
    elif not half:
        said += " o'clock" if 0 < hour <= 12 else " hundred hours"
    return f"{said} {' '.join(half[0].upper() + 'M')}" if half else said


def _number(match: re.Match[str]) -> str:
    """A bare whole number: a year, a code digit by digit, or a quantity."""
    digits = match[0]
    if "," in digits:
        return _cardinal(digits)
    if len(digits) > 4 or (len(digits) > 1 and digits[0] == "0"):
        return digit_words(digits)
    if len(digits) == 4 and (1100 <= int(digits) <= 1999 or 2010 <= int(digits) <= 2099):
        return _plain_words(num2words(int(digits), to="year"))
    return _cardinal(digits)


def _telephone(match: re.Match[str]) -> str:
    return ", ".join(digit_words(group) for group in re.split("[-.]", match[0]))


def _decimal(match: re.Match[str]) -> str:
    return f"{_cardinal(match[1])} point {digit_words(match[2])}"


def _abbreviation(match: re.Match[str]) -> str:
    word = match[1]
    said = _ABBREVIATIONS[word.lower()]
    if word.lower() == "no" and not re.match(r"\s*\d", match.string[match.end() :]):
        return match[0]  # the answer, at the end of a sentence
    return said.capitalize() if word[0].isupper() else said


def _unit(match: re.Match[str]) -> str:
    return f"{match[1]} {_plural(_UNITS[match[2].lower()], match[1])}"


def _rule(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> tuple[re.Pattern[str], Any]:
    return re.compile(pattern, re.IGNORECASE), replacement


_RULES = (
    _rule(rf"\b({'|'.join(map(re.escape, _ABBREVIATIONS))})\.(?=\s|,|$)", _abbreviation),
    _rule(rf"([$£€])\s?({_NUMBER})(?:\.(\d+))?(?:\s?(thousand|million|billion)\b)?", _money),
    _rule(r"\b(\d{1,2}):(\d{2})(?!\d)(?:\s?([ap])\.?m\b\.?)?", _time),
    _rule(r"\b(\d+)(?:st|nd|rd|th)\b", lambda match: _plain_words(num2words(int(match[1]), to="ordinal"))),
    _rule(rf"\b({_NUMBER})\s?({'|'.join(_UNITS)})\b(?!')", _unit),
    _rule(r"(?:\+\s?)?\b\d{2,4}(?:[-.]\d{2,4}){2,}\b", _telephone),
    _rule(r"\b(\d+)\s?[-\u2013]\s?(\d+)\b", r"\1 to \2"),
    _rule(rf"(?<![\w.])[-\u2212]({_NUMBER})", r"minus \1"),
    _rule(rf"\b({_NUMBER})\.(\d+)\b", _decimal),
    _rule(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " "),
    _rule(_NUMBER, _number),
    _rule("[" + re.escape("".join(_SIGNS)) + "]", lambda match: _SIGNS[match[0]]),
)


# ---------------------------------------------------------------- letters


def _lowered(text: str) -> str:
    """Words in lower case, spelled letters as single capitals: "NASA, gate b" -> "N A S A, gate B"."""
    dotted = r"\b[A-Za-z](?:\.[A-Za-z])+\b\.?"  # "U.S."
    text = re.sub(dotted, lambda match: " ".join(match[0].replace(".", "").upper()), text)
    parts = re.split(r"([A-Za-z']+)", text)
    words = list(range(1, len(parts), 2))
    shouting = _is_shouting([parts[index] for index in words])
    lone = {index for index in words if len(parts[index]) == 1}
    for place, index in enumerate(words):
        word = parts[index]
        beside = {words[place + step] for step in (-1, 1) if 0 <= place + step < len(words)}
        if index in lone:
            is_letter = word.lower() not in "aio" or (word.isupper() and bool(beside & lone))
            parts[index] = word.upper() if is_letter else word.lower()
        elif word.isupper() and word.isalpha() and 2 <= len(word) <= 5 and not shouting and _is_initialism(word):
            parts[index] = " ".join(word)
        else:
            parts[index] = word.lower()
    return "".join(parts)


def _is_initialism(word: str) -> bool:
    """Whether capitals are spelled: short ones and those without a vowel ("US", "HTML"), not "STOP"."""
    return len(word) <= 3 or not re.search("[AEIOUY]", word)


def _is_shouting(words: list[str]) -> bool:
    """Whether a text is written in capitals throughout, so that capitals mean nothing."""
    longer = [word for word in words if len(word) > 1]
    return all(word.isupper() for word in longer) and not all(map(_is_initialism, longer))


# ---------------------------------------------------------------- long text


def split_text(text: str, max_chars: int = 220) -> list[str]:
    """Cut a spoken text into parts of at most `max_chars` characters, at the ends of sentences where possible.

    Sentences are joined while they fit; a sentence that is too long is cut at a comma, then at a space, then anywhere.
    The parts joined by single spaces give the text again.
    """
    pieces: list[str] = []
    for sentence in re.split(rf"(?<=[{_ENDS}])[\"')\]\u201d]*\s+", text.strip()):
        pieces += _cut(sentence, max_chars)
    parts: list[str] = []
    for piece in pieces:
        if parts and len(parts[-1]) + 1 + len(piece) <= max_chars:
            parts[-1] += f" {piece}"
        else:
            parts.append(piece)
    return parts


def _cut(sentence: str, max_chars: int) -> list[str]:
    pieces = []
    while len(sentence) > max_chars:
        head = sentence[: max_chars + 1]
        marks = [match.end() for match in re.finditer(r"[,;:\u2014]\s", head)]
        comma = marks[-1] if marks and marks[-1] > max_chars // 3 else 0
        place = comma or head.rfind(" ") + 1 or max_chars
        pieces.append(sentence[:place].rstrip())
        sentence = sentence[place:].lstrip()
    return [*pieces, sentence] if sentence else pieces
