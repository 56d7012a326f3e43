"""Letting a recogniser hear sets of utterances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genmm.core.events import CancelToken
from genmm.metrics.bootstrap import bootstrap_mean
from genmm.metrics.recogniser import SAMPLE_RATE, Recogniser, SentenceRecogniser
from genmm.metrics.speech_report import ChoiceScore, Kind, WordScore
from genmm.metrics.word_error import word_errors

Sets = Sequence[tuple[str, Kind, Sequence[tuple[Any, np.ndarray]]]]
"""Name, kind, and pairs of a reference with samples [S] at 16 kHz."""


def judge_words(recogniser: Recogniser, sets: Sets, cancel: CancelToken | None = None) -> tuple[WordScore, ...]:
    """Word error rate of every set that is not empty; an utterance in several sets is heard once."""
    heard: dict[int, list[str]] = {}
    scores = []
    for name, kind, pairs in sets:
        errors = [word_errors(words, _once(recogniser.transcribe, heard, samples, cancel)) for words, samples in pairs]
        if errors:
            scores.append(WordScore.of(name, kind, errors))
    return tuple(scores)


def judge_choices(
    recogniser: SentenceRecogniser, sets: Sets, cancel: CancelToken | None = None
) -> tuple[ChoiceScore, ...]:
    """Share of right choices of every set that is not empty."""
    heard: dict[int, int | None] = {}
    scores = []
    for name, kind, pairs in sets:
        right = [_once(recogniser.choose, heard, samples, cancel) == wanted for wanted, samples in pairs]
        if right:
            scores.append(ChoiceScore(name, kind, bootstrap_mean(right), len(recogniser.sentences)))
    return tuple(scores)


def _once(listen: Any, heard: dict[int, Any], samples: np.ndarray, cancel: CancelToken | None) -> Any:
    """What is heard in an array, remembered by the array's identity (the sets keep it alive)."""
    if cancel is not None:
        cancel.check()
    if id(samples) not in heard:
        heard[id(samples)] = listen(samples, SAMPLE_RATE)
    return heard[id(samples)]
