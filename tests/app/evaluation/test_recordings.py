from __future__ import annotations

import numpy as np

from app.evaluation.recordings import VoiceJudge, prompt_for, read_recordings, spread_out, unseen_speakers


def test_recordings_come_with_their_split(recordings):
    assert len(recordings) == 42
    assert sum(recording.is_held_out for recording in recordings) == 12
    assert recordings[0].samples.dtype == np.float32 and abs(recordings[0].seconds - 1.6) < 0.01
    assert [one.key for one in recordings] == sorted(one.key for one in recordings)


def test_no_corpus_is_no_recordings(tmp_path):
    assert read_recordings(tmp_path) == []


def test_unseen_speakers_are_the_held_out_ones(recordings):
    assert unseen_speakers(recordings) == sorted({one.speaker for one in recordings if one.is_held_out})


def test_a_prompt_is_another_recording_of_the_speaker(recordings):
    speaker = unseen_speakers(recordings)[0]
    first = prompt_for(recordings, speaker)
    second = prompt_for(recordings, speaker, first.key)
    assert first.speaker == second.speaker == speaker and first.key != second.key
    assert prompt_for(recordings, "nobody") is None


def test_items_are_taken_from_the_whole_sequence(recordings):
    taken = [recordings.index(one) for one in spread_out(recordings, 4)]
    assert taken == [0, 10, 21, 31]
    assert spread_out(recordings, 100) == recordings


def test_the_voice_judge_knows_whose_recording_it_hears(recordings):
    judge = VoiceJudge.train(recordings)
    own, other = unseen_speakers(recordings)
    sample = next(one for one in recordings if one.speaker == own)
    assert judge.similarity(sample.samples, own, {sample.key}) > judge.similarity(sample.samples, other) + 0.3
    assert judge.similarity(sample.samples, "nobody") is None
    assert judge.levels.speakers == 2


def test_too_few_speakers_make_no_judge(recordings):
    assert VoiceJudge.train([one for one in recordings if one.is_held_out]) is None
