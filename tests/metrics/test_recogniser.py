from __future__ import annotations

import builtins
import csv
import io
import tarfile

import numpy as np
import pytest

from genmm.core.errors import MissingDependencyError, ShapeError, UsageError
from genmm.metrics.recogniser import (
    LETTER_GRAMMAR,
    LETTERS,
    NUMBER_GRAMMAR,
    NUMBER_WORDS,
    NumberRecogniser,
    SentenceRecogniser,
    number_words,
    plain_words,
)
from genmm.metrics.word_error import total_errors

UTTERANCES = 10


@pytest.fixture(scope="module")
def recogniser() -> NumberRecogniser:
    pytest.importorskip("pocketsphinx", reason="needs pocketsphinx: pip install pocketsphinx")
    return NumberRecogniser()


@pytest.fixture(scope="module")
def spoken_numbers(shared_data) -> list[tuple[list[str], np.ndarray]]:
    """Real recordings of number words: reference and samples at 16 kHz."""
    soundfile = pytest.importorskip("soundfile")
    folder = shared_data / "speech_an4"
    if not folder.is_dir():
        pytest.skip("needs speech_an4 in the shared media folder")
    with open(folder / "metadata.tsv", encoding="utf8") as table:
        every = csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
        rows = [row for row in every if number_words(row["text"])]
    chosen = rows[:: len(rows) // UTTERANCES]
    with tarfile.open(folder / "audio.tar") as archive:
        sounds = [archive.extractfile(row["file"]).read() for row in chosen]
    return [
        (number_words(row["text"]), soundfile.read(io.BytesIO(data), dtype="float32")[0])
        for row, data in zip(chosen, sounds, strict=True)
    ]


def test_number_texts_are_recognised_as_such():
    assert number_words("Twenty-one, oh four.") == ["twenty", "one", "oh", "four"]
    assert number_words("call extension four") is None
    assert number_words("  ") is None


def test_the_grammars_hold_every_word_once():
    words = NUMBER_GRAMMAR.split("=")[1].split()
    assert all(words.count(word) == 1 for word in NUMBER_WORDS - {"and"})
    assert all(LETTER_GRAMMAR.split("=")[1].split().count(letter) == 1 for letter in LETTERS)


def test_words_lose_case_and_marks_but_keep_apostrophes():
    assert plain_words("Please enter your party's PIN, now.") == ["please", "enter", "your", "party's", "pin", "now"]


def test_a_sentence_is_chosen_from_the_list(recogniser, spoken_numbers):
    words, sound = min(spoken_numbers, key=lambda pair: abs(len(pair[0]) - 4))
    chooser = SentenceRecogniser(["Please hold the line.", " ".join(words), "Your call is very important to us."])
    assert chooser.choose(sound, 16000) == 1
    assert chooser.choose(np.zeros(0, np.float32), 16000) is None


def test_unusable_sentence_lists_are_refused(recogniser):
    with pytest.raises(UsageError, match="xyzzyplugh"):
        SentenceRecogniser(["hello there", "xyzzyplugh"])
    with pytest.raises(UsageError, match="two"):
        SentenceRecogniser(["hello there", "Hello, there!"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_numbers_are_heard(recogniser, spoken_numbers):
    errors = total_errors(recogniser.judge(words, sound, 16000) for words, sound in spoken_numbers)
    assert errors.rate < 0.3


def test_an_utterance_does_not_depend_on_those_before(recogniser, spoken_numbers):
    sounds = sorted((sound for _, sound in spoken_numbers), key=len)[:2]
    forward = [recogniser.transcribe(sound, 16000) for sound in sounds]
    assert [NumberRecogniser().transcribe(sound, 16000) for sound in sounds] == forward
    recogniser.transcribe(0.05 * sounds[0], 16000)
    backward = [recogniser.transcribe(sound, 16000) for sound in sounds[::-1]]
    assert backward[::-1] == forward


def test_noise_is_not_heard_as_the_right_words(recogniser):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    assert recogniser.judge(["seven", "four", "one"], noise, 16000).rate > 0.5


def test_silence_and_no_samples_are_answered(recogniser):
    assert recogniser.transcribe(np.zeros(0, np.float32), 16000) == []
    assert isinstance(recogniser.transcribe(np.zeros(8000, np.float32), 16000), list)


def test_unusable_sound_is_refused(recogniser):
    with pytest.raises(UsageError, match="resample"):
        recogniser.transcribe(np.zeros(100, np.float32), 24000)
    with pytest.raises(ShapeError):
        recogniser.transcribe(np.zeros((2, 100), np.float32), 16000)
    with pytest.raises(ShapeError):
        recogniser.transcribe(np.full(100, np.nan, np.float32), 16000)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    plain = builtins.__import__

    def without(name: str, *rest: object, **named: object):
        if name == "pocketsphinx":
            raise ImportError(name)
        return plain(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="pip install pocketsphinx"):
        NumberRecogniser()
