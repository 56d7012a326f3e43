"""Synthetic speech from espeak-ng: endless, exactly transcribed utterances that teach alignment, never called
recordings.

The texts are number sequences, spelled letters and short service sentences. Everything follows from one seed.
"""

import functools
import io
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence

import numpy as np
import soundfile

from datamodules.speech_corpora import DIGITS, Utterance, is_held_out, to_int16
from genmm.core.errors import MissingDependencyError

TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
MONTHS = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "twelfth",
    "twentieth",
)
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 Alex Alicia Andrea Andy Annie Denis Diogo Gene Henrique Hugo Jacky Lee "
    "Marco Mario Michael Mike adam anika antonio aunty belinda benjamin boris caleb david ed edward grandma john "
    "kaukovalta linda marcelo max michel miguel norbert pablo paul pedro quincy rob robert sandro shelby steph travis "
    "victor zac"
).split()
ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-us-nyc", "en-gb-scotland")
TEMPLATES = (
    "please press {digit}|press {digit} to continue|your code is {digits}|the number is {digits}|extension {digits}|"
    "please call {digits}|flight {letter} {digits}|the time is {number} {teen}|{month} {ordinal}|"
    "{month} {ordinal} nineteen {number}|room {digits}|you have {number} new messages|you have {digit} new message|"
    "to accept, press {digit}|to cancel, press {digit}|for english, press {digit}|please enter your pin number|"
    "please try again|thank you for calling|goodbye|please hold|message {number}|channel {number}|"
    "the total is {number} dollars|your call is number {number}|yes|no|stop|go|start|help|repeat|enter {number}|erase|"
    "rubout {letter} {digit}|gate {letter} {number}|platform {number}|can i get a {size} {drink}|"
    "i would like a {size} {drink} with {extra}|make me a {drink}|please enter the conference number|"
    "the account balance is {number} dollars|your estimated hold time is {number} minutes"
).split("|")
CHOICES = {
    "size": ("small", "medium", "large", "twelve ounce", "sixteen ounce", "double shot"),
    "drink": ("coffee", "latte", "mocha", "cappuccino", "americano", "espresso", "iced coffee"),
    "extra": ("milk", "whole milk", "soy milk", "cream", "some sugar", "a lot of sugar"),
    "month": MONTHS, "ordinal": ORDINALS, "digit": DIGITS, "letter": LETTERS, "teen": TEENS,
}  # fmt: skip


def number_words(rng: random.Random) -> str:
    """A number below ten thousand as it is said: "forty two", "three hundred", "two thousand"."""
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(DIGITS + TEENS)
    if kind < 0.75:
        return f"{rng.choice(TENS)} {rng.choice(DIGITS[1:])}" if rng.random() < 0.8 else rng.choice(TENS)
    scale = "hundred" if kind < 0.9 else "thousand"
    return f"{rng.choice(DIGITS[1:])} {scale}" + (
        f" {rng.choice(TENS)} {rng.choice(DIGITS[1:])}" if rng.random() < 0.4 else ""
    )


def random_text(rng: random.Random, sentences: Sequence[str] = ()) -> str:
    """One utterance: digits (35 %), numbers (15 %), letters (15 %), a template (25 %) or one of `sentences` (10 %)."""
    kind = rng.random()
    if kind < 0.35:
        return " ".join(rng.choice((*DIGITS, "oh")) for _ in range(rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6, 7))))
    if kind < 0.5:
        return " ".join(number_words(rng) for _ in range(rng.choice((1, 1, 2, 3))))
    if kind < 0.65:
        return " ".join(rng.choice(LETTERS) for _ in range(rng.choice((1, 2, 3, 4, 5))))
    if kind < 0.9 or not sentences:
        template = rng.choice(TEMPLATES)
        fill = {name: rng.choice(options) for name, options in CHOICES.items()}
        digits = " ".join(rng.choice(DIGITS) for _ in range(rng.choice((2, 3, 4))))
        return template.format(**fill, digits=digits, number=number_words(rng))
    return rng.choice(sentences).strip()


@functools.cache
def find_espeak() -> str:
    """The path of espeak-ng; raises MissingDependencyError when it is not installed."""
    found = shutil.which("espeak-ng")
    if found is None:
        raise MissingDependencyError(
            "espeak-ng is not installed; synthetic training speech needs it (Debian: apt-get install espeak-ng)"
        )
    return found


def espeak(text: str, *, voice: str, words_per_minute: int, pitch: int, sample_rate: int) -> np.ndarray:
    """Speak `text`, give back int16 samples [S] with the silence at both ends cut to at most 60 ms."""
    command = [find_espeak(), "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "--stdout", "--", text]
    audio = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout  # noqa: S603 - fixed program, list arguments
    samples, rate = soundfile.read(io.BytesIO(audio), dtype="float32")
    samples = to_int16(samples * 0.8, rate, sample_rate)
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 200)
    if len(loud) == 0:
        return samples
    margin = sample_rate * 60 // 1000
    return samples[max(0, loud[0] - margin) : loud[-1] + margin]


def synthesise(count: int, *, seed: int, sample_rate: int, sentences: Sequence[str] = ()) -> Iterator[Utterance]:
    """Yield `count` synthetic utterances; voice, speed, pitch and text of item i follow from (seed, i).

    A voice is an accent with a variant and one pitch; whole voices are held out for testing.
    """
    for index in range(count):
        rng = random.Random(f"{seed}/{index}")
        accent, variant = rng.choice(ACCENTS), rng.choice(VARIANTS)
        pitch = random.Random(f"{accent}+{variant}").randint(35, 65)
        text = random_text(rng, sentences)
        text = f" {text}" if text[-1] in ".?!" else f" {text}."
        # Spelled letters are set apart, or espeak-ng would read "AM" for "A M".
        spoken = ", ".join(text.strip(" .").split()) if text.strip(" .").replace(" ", "").isupper() else text
        waveform = espeak(
            spoken,
            voice=f"{accent}+{variant}",
            words_per_minute=rng.randint(110, 170),
            pitch=pitch,
            sample_rate=sample_rate,
        )
        speaker = f"espeak-{accent}-{variant}"
        yield Utterance(key=f"synthetic/{seed}-{index}", waveform=waveform, text=text, speaker=speaker,
        corpus="synthetic",
                        split="test" if is_held_out(speaker, 0.05) else "train")  # fmt: skip
