from __future__ import annotations

from collections import Counter

import pytest

from app.evaluation.texts import SENTENCES, letter_sequences, letters_of, number_sequences, sentence_choices
from genmm.metrics.recogniser import SentenceRecogniser, number_words


def test_number_sequences_hold_one_to_seven_judged_words_equally_often():
    texts = number_sequences(70, seed=1)
    lengths = Counter(len(number_words(text)) for text in texts)
    assert lengths == dict.fromkeys(range(1, 8), 10)
    assert any(text.split()[0] in ("twenty", "thirty", "forty", "fifty") for text in texts)


def test_lists_follow_from_their_seed():
    assert number_sequences(20, 3) == number_sequences(20, 3) != number_sequences(20, 4)
    assert number_sequences(10, 3) == number_sequences(20, 3)[:10]
    assert letter_sequences(9, 3) == letter_sequences(9, 3) != letter_sequences(9, 4)
    assert sentence_choices(30, 3) == sentence_choices(30, 3) != sentence_choices(30, 4)


def test_letters_are_spelled_in_capitals():
    for text in letter_sequences(12, 0):
        assert text == text.upper() and 3 <= len(letters_of(text)) <= 6


@pytest.mark.parametrize(("text", "letters"), [("B K. T", ["b", "k", "t"]), ("b one", None), ("", None)])
def test_letters_of_spelled_texts_only(text, letters):
    assert letters_of(text) == letters


def test_every_sentence_comes_once_before_any_comes_again():
    chosen = sentence_choices(len(SENTENCES) + 5, 0)
    assert sorted(chosen[: len(SENTENCES)]) == list(range(len(SENTENCES)))


def test_the_recogniser_knows_every_word_of_the_sentences():
    pytest.importorskip("pocketsphinx", reason="needs pocketsphinx: pip install pocketsphinx")
    assert len(SentenceRecogniser(SENTENCES).sentences) == len(SENTENCES) == len(set(SENTENCES))
