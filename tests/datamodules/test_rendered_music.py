"""Rendered music: repeatable, labelled exactly, heard by judges that know nothing of the renderer."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.music_store import MusicSources, MusicStore, open_or_build_music, real_tracks
from datamodules.rendered_music import MusicRenderer
from datamodules.rendered_music_score import compose, is_held_out, random_caption, solo
from datamodules.rendered_music_sounds import SoundBank
from datamodules.rendered_music_synthesis import NOTES, RATE, hertz, pluck
from genmm.core.errors import ConfigError, UsageError
from genmm.metrics.music_instruments import InstrumentJudge, timbre_features
from genmm.metrics.music_key import estimate_key, pitch_class_profile
from genmm.metrics.music_tempo import estimate_tempo, tempo_matches
from genmm.systems.melodyflow.captions import SCALES, TONICS, Caption


@pytest.fixture(scope="module")
def sounds() -> SoundBank:
    """Synthesis alone, so that the tests need no shared data."""
    return SoundBank(use_samples=False)


@pytest.fixture(scope="module")
def renderer(sounds) -> MusicRenderer:
    return MusicRenderer(sounds, seconds=6.0)


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(renderer, sounds):
    piece, again = renderer.piece(3), MusicRenderer(sounds, seconds=6.0).piece(3)
    assert np.array_equal(piece.samples, again.samples) and piece.caption == again.caption
    assert piece.samples.shape == (2, 6 * RATE) and np.abs(piece.samples).max() < 1.0
    assert not np.array_equal(piece.samples, renderer.piece(4).samples)


def test_notes_follow_every_field_of_the_caption():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        caption = random_caption(rng)
        notes = compose(caption, 32.0, rng)
        roles = {note.role for note in notes}
        for role in ("lead", "backing", "bass", "drums"):
            assert (role in roles) == (getattr(caption, role) != "none"), (role, caption)
        scale = {(TONICS.index(caption.tonic) + step) % 12 for step in SCALES[caption.mode]}
        assert {note.midi % 12 for note in notes if note.role != "drums"} <= scale
        assert all(0 <= note.start_beats < 32.0 for note in notes)
        assert any(note.start_beats % 1 == 0 for note in notes)


def test_held_out_combinations_never_occur_in_training():
    draws = {
        split: [random_caption(np.random.default_rng(n), split=split) for n in range(40)] for split in ("train", "test")
    }
    assert not any(map(is_held_out, draws["train"])) and all(map(is_held_out, draws["test"]))


def test_the_ground_truth_names_beats_and_chords(renderer):
    piece = renderer.piece(5)
    assert np.allclose(np.diff(piece.beats_s), 60.0 / piece.caption.tempo_bpm)
    start, name, classes = piece.chords[0]
    assert start == 0.0 and TONICS[classes[0]] == name and len(piece.chords) >= 2


@pytest.mark.parametrize("instrument", sorted(NOTES))
def test_synthesised_notes_have_their_pitch(sounds, instrument):
    midi = 40 if "bass" in instrument else 69
    note = sounds.note(instrument, midi)
    assert note.dtype == np.float32 and np.abs(note).max() == pytest.approx(1.0, abs=1e-3)
    lags = np.fft.irfft(np.abs(np.fft.rfft(note[:RATE], 2 * RATE)) ** 2)
    period = RATE / hertz(midi)
    here = lags[round(period) - 3 : round(period) + 4].max()
    assert here > 0.55 * lags[0] if instrument != "bell" else here > 0
    if instrument not in ("bell", "organ"):
        spectrum = np.abs(np.fft.rfft(note[: 2 * RATE] * np.hanning(2 * RATE)))
        low = round(hertz(midi) * 0.9 * 2), round(hertz(midi) * 1.1 * 2)
        assert abs(np.argmax(spectrum[low[0] : low[1]]) + low[0] - 2 * hertz(midi)) < 0.02 * 2 * hertz(midi)


def test_plucked_strings_are_in_tune_to_a_few_cents():
    for midi in (45, 57, 69):
        note = pluck(midi, np.random.default_rng(1))[: 2 * RATE]
        spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note)), 8 * len(note)))
        place = round(hertz(midi) * 16)
        peak = np.argmax(spectrum[place - place // 20 : place + place // 20]) + place - place // 20
        assert abs(1200 * np.log2(peak / 16 / hertz(midi))) < 12


def test_judges_hear_tempo_key_and_instrument(sounds):
    renderer = MusicRenderer(sounds, seconds=8.0)
    caption = Caption(tempo_bpm=112.0, tonic="G", mode="major", metre="4/4", lead="piano", backing="organ",
                      bass="synth bass", drums="electronic", density="medium", mood="bright",
                      progression="I-IV-I-V")  # fmt: skip
    piece = renderer.piece(1, caption=caption)
    assert tempo_matches(estimate_tempo(piece.samples, RATE), 112.0)
    key = estimate_key(piece.samples, RATE)
    assert (key.signature, key.mode) == (7, "major")
    assert pitch_class_profile(piece.samples, RATE).sum() == pytest.approx(1.0)
    short, features, labels = MusicRenderer(sounds, seconds=2.5), [], []
    for seed in range(12):
        for instrument in ("piano", "flute", "organ"):
            one = solo(random_caption(np.random.default_rng(seed)), "lead", instrument)
            features.append(timbre_features(short.piece(seed, caption=one).samples, RATE))
            labels.append(instrument)
    judge = InstrumentJudge.train(np.array(features[:24]), labels[:24])
    right = [a == b for a, b in zip(judge.predict(np.array(features[24:])), labels[24:], strict=True)]
    assert np.mean(right) >= 0.8


def test_stores_are_built_once_and_read_back(tmp_path, sounds, monkeypatch):
    sources = MusicSources(rendered=2, held_out=1, seconds=1.0)
    store = open_or_build_music(sources, tmp_path, sounds)
    assert len(store) == 3 and store.indices("test") == [2] and store.waveform(0).shape == (2, RATE)
    assert is_held_out(store.caption(2)) and not is_held_out(store.caption(0))
    monkeypatch.setattr(MusicRenderer, "piece", None)
    again = open_or_build_music(sources, tmp_path, sounds)
    assert isinstance(again, MusicStore) and np.array_equal(again.samples, store.samples)


def test_impossible_data_is_refused():
    for bad in ({"rendered": 0}, {"seconds": 0.1}):
        with pytest.raises(ConfigError):
            MusicSources(**bad)
    with pytest.raises(UsageError):
        MusicRenderer(SoundBank(use_samples=False), seconds=0.1)


def test_real_samples_and_tracks_are_used_where_they_are(shared_data):
    bank = SoundBank(shared_data / "instrument_samples")
    assert bank.sources["piano"] == "samples" and bank.sources["flute"] == "synthesis"
    assert not np.array_equal(bank.note("piano", 60), SoundBank(use_samples=False).note("piano", 60))
    free = real_tracks(shared_data)
    assert free and not any("GPL" in row["licence"] or "SA" in row["licence"] for row in free)
    assert len(real_tracks(shared_data, free_only=False)) > len(free)
