"""What a speech model is asked to say when it is measured: fixed lists that follow from a seed."""

from __future__ import annotations

import random

from genmm.metrics.recogniser import LETTERS, TEENS, TENS, UNITS

LONGEST_SEQUENCE = 7
PLAIN_SHARE = 0.75
"""Share of sequences that are digits one by one, as telephone numbers are read."""

SENTENCES = (
    "Please enter your password.",
    "Your call is very important to us.",
    "You have no new messages.",
    "To speak with an operator, press zero.",
    "The number you have dialed is not in service.",
    "Please hold while I transfer your call.",
    "Thank you for calling, goodbye.",
    "Press one for sales.",
    "The extension is busy, please try again later.",
    "Your message has been saved.",
    "To delete this message, press seven.",
    "Please say your name after the tone.",
    "The conference is now being recorded.",
    "You are the first caller in the line.",
    "Our office is closed on Monday.",
    "To hear these options again, press star.",
    "Your account balance is five dollars.",
    "The time is half past nine.",
    "Please leave a message for the manager.",
    "We are sorry, that entry is not valid.",
)
"""Short service sentences; the judge chooses among all of them."""


def number_sequences(count: int, seed: int) -> list[str]:
    """Texts of one to seven number words, each length as often: "seven four one", "twenty three oh five"."""
    draw = random.Random(f"numbers/{seed}")
    return [" ".join(_number_words(draw, 1 + place % LONGEST_SEQUENCE)) for place in range(count)]


def _number_words(draw: random.Random, length: int) -> list[str]:
    if draw.random() < PLAIN_SHARE:
        return draw.choices(UNITS, k=length)
    words: list[str] = []
    while len(words) < length:
        if length - len(words) >= 2 and draw.random() < 0.6:
            words += [draw.choice(TENS), draw.choice(UNITS[2:])]
        else:
            words.append(draw.choice((*TEENS, *TENS, *UNITS)))
    return words


def letter_sequences(count: int, seed: int) -> list[str]:
    """Texts of three to six spelled letters: "B K W T"."""
    draw = random.Random(f"letters/{seed}")
    return [" ".join(draw.choices(LETTERS, k=3 + place % 4)).upper() for place in range(count)]


def sentence_choices(count: int, seed: int) -> list[int]:
    """Indices of SENTENCES, every sentence once before any comes again."""
    draw = random.Random(f"sentences/{seed}")
    found: list[int] = []
    while len(found) < count:
        found += draw.sample(range(len(SENTENCES)), len(SENTENCES))
    return found[:count]


def letters_of(text: str) -> list[str] | None:
    """The letters of a text that is spelled and nothing else, in lower case; else None."""
    words = text.lower().replace(".", " ").replace(",", " ").split()
    return words if words and all(word in LETTERS for word in words) else None
