from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from app.commands.evaluate import BEGIN, END, with_tables
from app.evaluation.frames import measure_frames, through_codec
from app.evaluation.speaking import FAILED, Speech, TestVoice, choose_voices
from app.evaluation.speech import EvaluationOptions, evaluate_speech
from genmm.core.errors import Cancelled, UsageError
from genmm.core.events import CancelToken
from genmm.metrics.recogniser import number_words
from genmm.metrics.speech_report import ALL
from genmm.metrics.speech_tables import report_markdown
from genmm.metrics.word_error import word_errors
from genmm.systems.sled.pipeline import SledPipeline

FEW = EvaluationOptions(
    embedded_voices=1, unseen_voices=1, sequences=1, letters=1, sentences=1, readings=4, frame_items=3, draws=2
)


@pytest.fixture(scope="module")
def report(pipeline, corpus, tmp_path_factory):
    pytest.importorskip("pocketsphinx", reason="needs pocketsphinx: pip install pocketsphinx")
    events = []
    keep = tmp_path_factory.mktemp("kept")
    found = evaluate_speech(pipeline, corpus, FEW, on_event=events.append, keep=keep)
    assert [event.done for event in events] == list(range(8)) and events[-1].total == 7
    table = (keep / "spoken.tsv").read_text().splitlines()
    assert len(table) - 1 == len(list(keep.glob("*.flac"))) == found.stops.utterances
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_figure_stands_beside_real_recordings(report):
    assert [score.kind for score in report.numbers] == ["real", "codec", "generated", "generated", "generated"]
    assert report.numbers[0].errors.words == report.numbers[1].errors.words == 2 * 7  # two speakers, 3 + 2 + 2 words
    assert report.numbers[-1].name == ALL
    assert report.numbers[-1].errors.words == sum(score.errors.words for score in report.numbers[2:-1])
    assert [score.kind for score in report.letters][:2] == ["real", "codec"]
    assert {score.choices for score in report.sentences} == {20}
    assert [score.kind for score in report.readings] == ["codec", "generated"]
    assert report.levels.speakers == 2 and report.voices[-1].name == ALL
    assert report.frames.draws == 2 and report.frames.frames > 3
    assert report.stops.utterances == 2 * 3 + 4
    assert report.speed.first_audio_s > 0 and report.speed.times_real_time > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_report_is_json_and_markdown(report):
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["frames"]["ratio"] == report.frames.ratio
    names = [goal["name"] for goal in data["goals"]]
    assert len(names) == 3 and all(isinstance(goal["is_met"], bool) for goal in data["goals"])
    text = report_markdown(report)
    for heading in ("Goals", "Number words", "Letters", "Voices", "Held-out frames", "Readings", "Endings", "Speed"):
        assert f"## {heading}" in text
    assert text.startswith("Seed 2024. Speech was made with guidance 2.0, temperature 1.0, draws 1,")
    assert "real recordings, held out" in text and "pocketsphinx" in text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_goals_follow_from_the_figures(report):
    good = replace(report.frames, ratio=1.1)
    bad = replace(report.frames, ratio=0.8)
    met = [
        next(goal for goal in replace(report, frames=frames).goals if "ratio" in goal.name).is_met
        for frames in (good, bad)
    ]
    assert met == [True, False]


def test_without_recordings_the_model_is_still_judged(pipeline, tmp_path):
    pytest.importorskip("pocketsphinx", reason="needs pocketsphinx: pip install pocketsphinx")
    found = evaluate_speech(pipeline, tmp_path, replace(FEW, letters=0, sentences=0))
    assert [score.kind for score in found.numbers] == ["generated", "generated"]
    assert found.frames is None and found.levels is None and not found.readings
    assert "no speech corpus" in found.notes[0]


def test_without_the_recogniser_the_rest_is_measured(pipeline, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    found = evaluate_speech(pipeline, tmp_path, replace(FEW, letters=0, sentences=0))
    assert not found.numbers and found.stops.utterances == 1
    assert any("pip install pocketsphinx" in note for note in found.notes)


def test_cancel_ends_the_measurement(pipeline, tmp_path):
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        evaluate_speech(pipeline, tmp_path, FEW, cancel=token)


def test_speech_repeats_with_its_seed_and_failures_count_as_silence(pipeline):
    voice = TestVoice("ann", "ann")
    speech = Speech(pipeline, seed=5, batch_size=4)
    first = speech.say("numbers", [(voice, "seven four"), (voice, "...")])
    again = Speech(pipeline, seed=5, batch_size=4).say("numbers", [(voice, "seven four"), (voice, "...")])
    np.testing.assert_allclose(first[0].samples, again[0].samples, atol=1e-5)
    assert first[1].stop_reason == FAILED and speech.failures == 1 and not first[1].samples.any()
    assert word_errors(number_words("one two"), []).rate == 1.0


def test_voices_are_those_of_the_checkpoint_and_of_unseen_speakers(pipeline, recordings):
    voices = choose_voices(pipeline, recordings, embedded=1, unseen=2)
    assert voices[0].voice == "ann" and [bool(voice.prompt_key) for voice in voices] == [False, True, True]
    assert choose_voices(pipeline, [], embedded=0, unseen=2)[0].voice is None


def test_the_codec_keeps_length_and_rate(pipeline, recordings):
    coded = through_codec(pipeline, recordings[0].samples)
    assert coded.shape == recordings[0].samples.shape and np.isfinite(coded).all()


def test_a_head_that_ignores_its_noise_is_measured_as_collapsed(tiny_sled, recordings):
    pipeline = SledPipeline.from_folder(tiny_sled, device="cpu")
    items = [(one.samples, one.text, pipeline.voices["ann"]) for one in recordings[:2]]
    alive = measure_frames(pipeline, items, draws=4, seed=0)
    torch.nn.init.zeros_(pipeline.network.scoreloss.net.input_proj.weight)
    deaf = measure_frames(pipeline, items, draws=4, seed=0)
    assert deaf.ratio < 1e-6 < 0.01 < alive.ratio
    assert deaf.frames == alive.frames


def test_no_usable_recording_gives_no_frame_report(pipeline):
    assert measure_frames(pipeline, [], draws=2, seed=0) is None


def test_impossible_options_are_refused():
    with pytest.raises(UsageError, match="draws"):
        EvaluationOptions(draws=1)


def test_tables_go_between_their_marks_and_nowhere_else():
    card = "---\nlicense: mit\n---\n# sled\n\nText.\n"
    once = with_tables(card, "| a |\n")
    assert once.startswith(card.rstrip()) and once.count(BEGIN) == once.count(END) == 1
    more = once.replace(END, f"{END}\n\n## Licence\n")
    twice = with_tables(more, "| b |\n")
    assert "| b |" in twice and "| a |" not in twice and twice.endswith("## Licence\n\n")
