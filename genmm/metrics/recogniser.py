"""A judge that we did not train: pocketsphinx with its own acoustic model and a grammar of what may be said.

The model files are part of the pocketsphinx wheel, so nothing is downloaded. The settings below were fixed on real
recordings before any generated speech was heard, and stay as they are; a figure means something only beside the figure
for real recordings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from genmm.core.errors import MissingDependencyError, ShapeError, UsageError
from genmm.metrics.word_error import WordErrors, word_errors

SAMPLE_RATE = 16000
"""Samples a second that the acoustic model was trained on."""
EDGE_S = 0.25
"""Seconds of faint noise put on both sides, so that a tight cut at the first word is no handicap.
Measured on 55 real AN4 number utterances: 13.7 % word error rate with it, 14.7 % without; on all 220 of the shared
part, 66 speakers: 15.7 % (95 % interval 13.4 to 18.3), three quarters of it insertions."""

UNITS = ("zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SCALES = ("hundred", "thousand")
NUMBER_WORDS = frozenset((*UNITS, *TEENS, *TENS, *SCALES, "and"))
"""Every word that the judge can hear."""

_DICTIONARY = "en-us/cmudict-en-us.dict"
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")


def jsgf(alternatives: str) -> str:
    """A grammar whose one rule is the given expansion."""
    return f"#JSGF V1.0;\ngrammar judge;\npublic <utterance> = {alternatives};\n"


NUMBER_GRAMMAR = jsgf(f"( {' | '.join((*UNITS, *TEENS, *TENS))} | ( {' | '.join(SCALES)} ) [and] )+")
"""Any sequence of number words; "and" only after hundred or thousand."""
LETTER_GRAMMAR = jsgf(f"( {' | '.join(LETTERS)} )+")
"""Any sequence of spelled letters."""


def number_words(text: str) -> list[str] | None:
    """The words of a text that holds number words only, in lower case without punctuation; else None."""
    words = re.sub(r"[.,;:!?-]", " ", text.lower()).split()
    return words if words and NUMBER_WORDS.issuperset(words) else None


class Recogniser:
    """Hears what a grammar allows in 16 kHz speech. One utterance does not depend on those before it."""

    name = "pocketsphinx, en-us model of its wheel"

    def __init__(self, grammar: str) -> None:
        """Load the model (about a second). Raises: MissingDependencyError without pocketsphinx."""
        self._decoder = _decoder(grammar)

    def transcribe(self, samples: np.ndarray, sample_rate: int) -> list[str]:
        """Words heard in mono float samples [S] in [-1, 1]; an empty list when none fits.

        Raises: UsageError at another rate than 16 kHz (resample first); ShapeError unless samples are [S] and finite.
        """
        if sample_rate != SAMPLE_RATE:
            raise UsageError(f"the recogniser listens at {SAMPLE_RATE} Hz, got {sample_rate}; resample first")
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise ShapeError(f"need finite mono samples [S], got shape {samples.shape}")
        if not len(samples):
            return []
        self._decoder.reinit_feat()  # else its estimate of the noise carries over to the next utterance
        self._decoder.start_utt()
        self._decoder.process_raw(_with_edges(samples).tobytes(), full_utt=True)
        self._decoder.end_utt()
        best = self._decoder.hyp()
        return best.hypstr.split() if best else []

    def judge(self, reference: Sequence[str], samples: np.ndarray, sample_rate: int) -> WordErrors:
        """Word errors of an utterance that should say `reference`."""
        return word_errors(reference, self.transcribe(samples, sample_rate))


class NumberRecogniser(Recogniser):
    """Hears number words: the judge of intelligibility."""

    name = f"{Recogniser.name}, grammar of number words"

    def __init__(self) -> None:
        """Load the model with NUMBER_GRAMMAR."""
        super().__init__(NUMBER_GRAMMAR)


class LetterRecogniser(Recogniser):
    """Hears spelled letters. Real ones are hard for it too (b, d, e, g, p, t, v): look at the figure beside."""

    name = f"{Recogniser.name}, grammar of letters"

    def __init__(self) -> None:
        """Load the model with LETTER_GRAMMAR."""
        super().__init__(LETTER_GRAMMAR)


class SentenceRecogniser(Recogniser):
    """Says which sentence of a closed list it heard."""

    name = f"{Recogniser.name}, choice from a list of sentences"

    def __init__(self, sentences: Sequence[str]) -> None:
        """Load the model for at least two different sentences.

        Raises: UsageError for fewer, and for a word that its dictionary does not hold.
        """
        self.sentences = [plain_words(sentence) for sentence in sentences]
        if len({" ".join(words) for words in self.sentences}) != len(sentences) or len(sentences) < 2:
            raise UsageError("give at least two sentences, each of them once")
        known = _dictionary()
        missing = sorted({word for words in self.sentences for word in words} - known)
        if missing:
            raise UsageError(f"the recogniser does not know these words: {', '.join(missing)}; use other sentences")
        super().__init__(jsgf(" | ".join(" ".join(words) for words in self.sentences)))

    def choose(self, samples: np.ndarray, sample_rate: int) -> int | None:
        """Index of the sentence heard in mono samples [S]; None when none fits."""
        heard = self.transcribe(samples, sample_rate)
        return self.sentences.index(heard) if heard in self.sentences else None


def plain_words(text: str) -> list[str]:
    """Lower-case words without punctuation; apostrophes inside words stay."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)*", text.lower())


def _with_edges(samples: np.ndarray) -> np.ndarray:
    """Samples [S] float -> [S + 2 edges] int16; the edges hold a little noise, for digital zero has no logarithm."""
    edge = np.random.default_rng(0).standard_normal((2, int(EDGE_S * SAMPLE_RATE))) * 2.0
    spoken = np.clip(samples, -1.0, 1.0) * 32767.0
    return np.round(np.concatenate((edge[0], spoken, edge[1]))).astype(np.int16)


def _pocketsphinx() -> Any:
    try:
        import pocketsphinx
    except ImportError as error:
        raise MissingDependencyError(
            "the recogniser needs pocketsphinx, which is not installed; run: pip install pocketsphinx"
        ) from error
    return pocketsphinx


def _decoder(grammar: str) -> Any:
    pocketsphinx = _pocketsphinx()
    # Normalisation over the whole utterance ("batch"): the default one carries over to the next utterance.
    decoder = pocketsphinx.Decoder(
        hmm=pocketsphinx.get_model_path("en-us/en-us"),
        dict=pocketsphinx.get_model_path(_DICTIONARY),
        lm=None,
        samprate=SAMPLE_RATE,
        cmn="batch",
        loglevel="FATAL",
    )
    decoder.add_jsgf_string("judge", grammar)
    decoder.activate_search("judge")
    return decoder


def _dictionary() -> set[str]:
    """Every word that the model can pronounce."""
    with open(_pocketsphinx().get_model_path(_DICTIONARY), encoding="utf-8") as lines:
        return {line.split(" ", 1)[0].partition("(")[0] for line in lines}
