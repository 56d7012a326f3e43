"""Voices: prompt hygiene, statistics, files."""

import numpy as np
import pytest
import torch

from genmm.core.errors import DataError, ShapeError, UsageError
from genmm.systems.sled.voice import Voice, VoiceShelf, encode_voice


def recording(seconds: float = 2.0, rate: int = 8000, level: float = 0.3) -> np.ndarray:
    """A rough voice: harmonics of 120 Hz, switched on and off like syllables."""
    time = np.arange(int(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 8))
    return (level * tone / np.abs(tone).max() * (np.sin(2 * np.pi * 3 * time) > -0.5)).astype(np.float32)


def test_a_clean_recording_becomes_latents_without_notes(tiny_codec):
    voice = encode_voice(recording(), 8000, tiny_codec, transcript="hello there")
    assert voice.notes == ()
    assert voice.latents.shape[1] == tiny_codec.channels
    assert voice.seconds == pytest.approx(2.0, abs=0.1)
    assert voice.transcript == "hello there"


def test_channels_rate_and_silence_do_not_matter_much(tiny_codec):
    clean = encode_voice(recording(), 8000, tiny_codec)
    silence = np.zeros(8000, np.float32)
    padded = np.stack([np.concatenate([silence, recording(), silence])] * 2)
    voice = encode_voice(padded, 8000, tiny_codec)
    assert voice.seconds == pytest.approx(clean.seconds, abs=0.25)
    torch.testing.assert_close(voice.statistics, clean.statistics, atol=0.3, rtol=0.3)
    assert encode_voice(recording(rate=16000), 16000, tiny_codec).seconds == pytest.approx(2.0, abs=0.1)


def test_what_is_odd_is_said(tiny_codec):
    def notes(samples, rate=8000, **more):
        return " ".join(encode_voice(samples, rate, tiny_codec, **more).notes)

    assert "very quiet" in notes(recording(level=0.003))
    assert "clipped" in notes(np.clip(recording(level=9.0), -1, 1))
    assert "6000 Hz" in notes(recording(rate=6000), 6000)
    assert "silence" in notes(np.concatenate([recording(), np.zeros(60000, np.float32)]))
    long = encode_voice(recording(15.0), 8000, tiny_codec, transcript="too long")
    assert long.seconds == pytest.approx(12.0, abs=0.1)
    assert long.transcript is None and "no longer fits" in long.notes[-1]


def test_what_cannot_be_used_is_refused(tiny_codec):
    with pytest.raises(UsageError, match="0.5 s of sound"):
        encode_voice(recording(0.5), 8000, tiny_codec)
    with pytest.raises(UsageError, match="0.0 s of sound"):
        encode_voice(np.zeros(16000, np.float32), 8000, tiny_codec)
    with pytest.raises(UsageError, match="NaN"):
        encode_voice(np.full(16000, np.nan, np.float32), 8000, tiny_codec)
    with pytest.raises(ShapeError, match="at most 8 channels"):
        encode_voice(np.zeros((16000, 2), np.float32), 8000, tiny_codec)


def test_statistics_are_mean_and_deviation():
    latents = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    voice = Voice(name="x", latents=latents, frame_rate=25.0)
    assert voice.statistics.tolist() == [2.0, 2.0, 1.0, 0.0]


def test_a_voice_survives_its_files(tiny_codec, tmp_path):
    voice = encode_voice(recording(), 8000, tiny_codec, transcript="hi", name="anna", licence="CC0", source="test")
    paths = voice.save(tmp_path)
    assert sorted(path.name for path in paths) == ["anna.json", "anna.safetensors"]
    for path in (*paths, tmp_path / "anna"):
        back = Voice.load(path)
        assert (back.name, back.transcript, back.licence, back.source) == ("anna", "hi", "CC0", "test")
        torch.testing.assert_close(back.latents, voice.latents, atol=2e-3, rtol=2e-3)


def test_a_shelf_reads_voices_when_they_are_used(tiny_codec, tmp_path):
    encode_voice(recording(), 8000, tiny_codec, name="anna").save(tmp_path)
    (tmp_path / "broken.json").write_text("{}")
    shelf = VoiceShelf(folder=tmp_path)
    assert list(shelf) == ["anna", "broken"] and len(shelf) == 2
    assert shelf["anna"] is shelf["anna"]
    with pytest.raises(DataError, match="two files"):
        shelf["broken"]
    with pytest.raises(KeyError):
        shelf["nobody"]


def test_names_that_could_leave_the_folder_are_refused():
    for name in ("../x", "a/b", "", ".hidden", "x" * 65):
        with pytest.raises(UsageError, match="voice name"):
            Voice(name=name, latents=torch.zeros(1, 2), frame_rate=25.0)
