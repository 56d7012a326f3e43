"""The caption grammar, free text, and the score that follows from a caption."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm.core.errors import UsageError
from genmm.systems.melodyflow.captions import PROGRESSIONS, VALUES, Caption, chord_pitch_classes
from genmm.systems.melodyflow.prompts import parse_key, planned
from genmm.systems.melodyflow.reading import read_caption
from genmm.systems.melodyflow.score import GROUPS, SCORE_FEATURES, score_features
from genmm.systems.melodyflow.text import CaptionText, CaptionTextConfig, caption_codes


@st.composite
def captions(draw):
    mode = draw(st.sampled_from(["major", "minor"]))
    fitting = [name for name, (of, _) in PROGRESSIONS.items() if of == mode]
    fields = {name: draw(st.sampled_from(values)) for name, values in VALUES.items() if name != "progression"}
    fields |= {
        "mode": mode,
        "progression": draw(st.sampled_from(fitting)),
        "tempo_bpm": float(draw(st.integers(60, 180))),
    }
    keys = sorted(fields)
    open_fields = draw(st.sets(st.sampled_from(keys)))
    return Caption(**{name: value for name, value in fields.items() if name not in open_fields})


@settings(deadline=None, max_examples=150)
@given(captions())
def test_what_the_grammar_writes_is_read_back(caption):
    if caption.tonic and not caption.mode:  # a lone letter is no key in free text
        return
    reading = read_caption(caption.text())
    expected = caption.known()
    if caption.progression and not caption.mode:
        expected["mode"] = PROGRESSIONS[caption.progression][0]
    assert reading.caption.known() == expected and not reading.ignored, caption.text()


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("calm piano in A minor, 90 bpm, no drums",
         {"mood": "calm", "lead": "piano", "tonic": "A", "mode": "minor", "tempo_bpm": 90.0, "drums": "none"}),
        ("Happy ukulele tune, 3/4", {"mood": "bright", "lead": "guitar", "mode": "major", "metre": "3/4"}),
        ("violin over organ chords with upright bass and a drum machine",
         {"lead": "strings", "backing": "organ", "bass": "double bass", "drums": "electronic"}),
        ("piano and flute, key of Eb major", {"lead": "flute", "backing": "piano", "tonic": "Eb", "mode": "major"}),
        ("fast synth without bass", {"lead": "synth", "tempo_bpm": 145.0, "bass": "none"}),
        ("F sharp minor waltz", {"tonic": "F#", "mode": "minor", "metre": "3/4"}),
        ("Db major", {"tonic": "C#", "mode": "major"}),
        ("tempo 120, techno drums, sub bass", {"tempo_bpm": 120.0, "drums": "electronic", "bass": "synth bass"}),
        ("a tune", {}),
    ],
)  # fmt: skip
def test_free_text_is_mapped_to_fields(text, fields):
    assert read_caption(text).caption.known() == fields


def test_what_is_not_understood_is_said():
    reading = read_caption("calm zither over 300 bpm")
    assert reading.ignored == ("zither",) and "not understood: zither" in reading.sentence()
    assert reading.caption.tempo_bpm == 180.0 and any("300" in note for note in reading.notes)
    clash = read_caption("C major, chords i-iv-v-i")
    assert clash.caption.progression is None and clash.notes
    with pytest.raises(UsageError):
        read_caption(7)


@pytest.mark.parametrize(
    ("key", "expected"),
    [("A minor", ("A", "minor")), ("Eb", ("Eb", None)), ("minor", (None, "minor")), ("F#", ("F#", None)),
     ("", (None, None)), ("Bb major", ("Bb", "major")), (None, (None, None))],
)  # fmt: skip
def test_keys_are_read(key, expected):
    assert parse_key(key) == expected


@pytest.mark.parametrize("bad", ["H", "calm piano", "A minor 90 bpm"])
def test_what_is_no_key_is_refused(bad):
    with pytest.raises(UsageError, match="key"):
        parse_key(bad)


def test_captions_refuse_what_cannot_be():
    for bad in ({"tempo_bpm": 30.0}, {"lead": "kazoo"}, {"mode": "minor", "progression": "I-V-vi-IV"}):
        with pytest.raises(UsageError):
            Caption(**bad)
    with pytest.raises(UsageError, match="unknown"):
        Caption.from_dict({"colour": "red"})


def test_chords_and_signatures_are_those_of_music_theory():
    assert chord_pitch_classes("C", "major", 4) == (7, 11, 2)  # G B D
    assert chord_pitch_classes("A", "minor", 5) == (5, 9, 0)  # F A C
    assert Caption(tonic="A", mode="minor").signature == Caption(tonic="C", mode="major").signature == 0


def test_planning_fills_what_the_score_needs_and_keeps_what_was_said():
    said = Caption(mood="calm", lead="piano", mode="minor")
    first, again, other = (planned(said, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert {"tempo_bpm", "tonic", "metre", "progression"} <= set(first.known()) and first.mode == "minor"
    assert first.bass is None and first.drums is None


def test_the_score_marks_beats_bars_and_chords():
    caption = Caption(tempo_bpm=75.0, metre="4/4", tonic="C", mode="major", progression="I-V-vi-IV")
    features = score_features(caption, 160, 12.5, total_s=12.8)  # a beat is ten frames, a bar forty
    assert features.shape == (160, SCORE_FEATURES)
    beat, bar = features[:, 8], features[:, 9]
    assert np.flatnonzero(beat).tolist() == list(range(0, 160, 10))
    assert np.flatnonzero(bar).tolist() == list(range(0, 160, 40))
    chords = features[:, 10:22]
    assert set(np.flatnonzero(chords[0])) == {0, 4, 7} and set(np.flatnonzero(chords[45])) == {7, 11, 2}
    assert features[0, 34] > 0.9 and features[-1, 35] > 0.9 and features[80, 34] < 1e-3
    later = score_features(caption, 80, 12.5, start_s=6.4, total_s=12.8)
    np.testing.assert_allclose(later, features[80:], atol=1e-5)


def test_columns_are_zero_without_their_fields():
    whole = {"tempo_bpm": 100.0, "metre": "3/4", "tonic": "D", "mode": "minor", "progression": "i-iv-v-i"}
    for columns, fields in GROUPS:
        for name in fields:
            caption = Caption(**{key: value for key, value in whole.items() if key != name})
            assert not score_features(caption, 40, 12.5)[:, list(columns)].any()
        assert score_features(Caption(**whole), 40, 12.5)[:, list(columns)].any()


def test_open_fields_are_masked_and_change_nothing():
    torch.manual_seed(0)
    encoder = CaptionText(CaptionTextConfig(width=16, layers=1, heads=2)).eval()
    states, mask = encoder.states([Caption(lead="piano"), Caption()])
    assert mask.sum(1).tolist() == [1.0, 0.0] and not states[1].any() and states.isfinite().all()
    ids, tempi = caption_codes([Caption(lead="piano")])
    other = ids.clone()
    assert int((other >= 0).sum()) == 1 and float(tempi) == 0.0
    with torch.no_grad():
        alone, _ = encoder(ids, tempi)
    torch.testing.assert_close(alone[0], states[0])
