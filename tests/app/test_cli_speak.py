"""`genmm speak`, driven as a person would: files, takes, recipes, voices, streams, and the messages for mistakes."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from app.cli import main
from genmm.media.audio import read_audio, write_audio


@pytest.fixture
def speak(tiny_sled, tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder; gives back exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, model: bool = True):
        code = main(["speak", *(["--model", str(tiny_sled), "--device", "cpu"] if model else []), *words])
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


def samples(path) -> np.ndarray:
    return read_audio(path).samples


def test_a_file_with_its_recipe_is_written(speak, tmp_path):
    answer = speak("seven 4 one", "-o", "out.wav", "--seed", "7")
    assert (answer.code, answer.out) == (0, "out.wav\n")
    assert '"seven four one." by tiny' in answer.err
    assert "seed 7" in answer.err
    assert 0 < np.abs(samples("out.wav")).max() <= 1
    recipe = json.loads((tmp_path / "out.json").read_text())
    assert (recipe["task"], recipe["seeds"], recipe["settings"]["text"]) == ("speech", [7], "seven 4 one")


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg"])
def test_the_suffix_chooses_the_format(speak, suffix):
    assert speak("one", "-o", f"out.{suffix}").code == 0
    assert read_audio(f"out.{suffix}").seconds == pytest.approx(0.4, abs=0.1)


def test_takes_are_different_and_each_can_be_made_again_alone(speak):
    answer = speak("one", "--takes", "2", "--seed", "7")
    assert answer.out.split() == ["speech_1.wav", "speech_2.wav"]
    assert not np.array_equal(samples("speech_1.wav"), samples("speech_2.wav"))
    assert speak("--recipe", "speech_2.json", "-o", "again.wav").code == 0
    assert np.abs(samples("again.wav") - samples("speech_2.wav")).max() < 1e-3


def test_a_recipe_makes_the_same_speech_and_options_go_before_it(speak):
    speak("one", "-o", "a.wav", "--voice", "ann", "--guidance", "1.5", "--set", "extra_frames=2", "--seed", "9")
    assert speak("--recipe", "a.wav", "-o", "b.wav").code == 0
    assert np.abs(samples("a.wav") - samples("b.wav")).max() < 1e-3
    first, second = (json.loads(open(f"{name}.json").read()) for name in "ab")
    assert (first["settings"], first["seeds"]) == (second["settings"], second["seeds"])
    assert second["settings"]["voice"] == "ann"
    speak("two", "--recipe", "a.json", "-o", "c.wav", "--temperature", "0.5", "--voice", "")
    third = json.loads(open("c.json").read())["settings"]
    assert (third["text"], third["guidance"], third["temperature"], third["voice"]) == ("two", 1.5, 0.5, "")


def test_a_recipe_names_its_model(speak, tiny_sled, monkeypatch):
    speak("one", "-o", "a.wav")
    monkeypatch.setenv("GENMM_MODELS", str(tiny_sled))
    assert speak("--recipe", "a.json", "-o", "b.wav", model=False).code == 0
    recipe = json.loads(open("a.json").read())
    recipe["model"]["fingerprint"] = "of another day"
    json.dump(recipe, open("a.json", "w"))
    assert "another version of the model" in speak("--recipe", "a.json", "-o", "b.wav").err
    recipe["settings"]["voice"] = "recording"
    json.dump(recipe, open("a.json", "w"))
    answer = speak("--recipe", "a.json", "-o", "b.wav")
    assert answer.code == 2
    assert "give the recording again" in answer.err


def test_a_recording_brings_its_voice(speak):
    time_s = np.arange(16000) / 8000
    write_audio("ann.flac", 0.3 * np.sin(2 * np.pi * 200 * time_s * time_s), 8000)
    assert speak("one", "--voice", "ann.flac", "--transcript", "glide", "--seed", "1").code == 0
    with_voice = samples("speech.wav")
    speak("one", "--voice", "", "--seed", "1")
    assert np.array_equal(with_voice, samples("speech.wav"))  # what nobody named takes nothing's place
    assert not np.array_equal(with_voice, samples("speech-2.wav"))


def test_text_comes_from_standard_input(speak, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO("four one\n"))
    assert speak("-", "-o", "out.wav").code == 0
    assert json.loads((tmp_path / "out.json").read_text())["text_spoken"] == "four one."


@pytest.mark.parametrize(("words", "text"), [
    ([], "what is to be said?"),
    (["  "], "the text is empty"),
    (["x" * 3000], "the limit is 2000"),
    (["one", "-o", "out.txt"], "change the suffix"),
    (["one", "-o", "."], "is a folder"),
    (["one", "-o", "/proc/a.wav"], "nothing can be made in /proc"),
    (["one", "--voice", "anne"], "did you mean ann?"),
    (["one", "--set", "pause=2"], "did you mean pause_s?"),
    (["one", "-o", "-"], "needs --stream"),
    (["one", "--takes", "17"], "takes must be from 1 to 16"),
    (["one", "--takes", "2", "--stream"], "--stream sends one take"),
    (["one", "--stream", "wav", "-o", "a.flac"], "--stream wav writes .wav"),
    (["one", "--guidance", "11"], "guidance must be from 0 to 10"),
    (["one", "--seed", "-1"], "a seed is a whole number"),
    (["one", "--set", "speed=2"], "unknown speech settings: speed"),
    (["one", "--set", "speed"], "NAME=VALUE"),
    (["one", "--voice", "bob"], "voices of model tiny: ann"),
    (["one", "--voice", "ann", "--transcript", "x"], "belongs to a recording"),
    (["one", "--device", "tpu"], "device must be"),
    (["--recipe", "none.json"], "there is no recipe at none.json"),
])  # fmt: skip
def test_mistakes_get_one_message_and_write_nothing(speak, tmp_path, words, text):
    answer = speak(*words)
    assert answer.code == 2
    assert answer.err.startswith("genmm: ")
    assert text in answer.err
    assert "Traceback" not in answer.err
    assert list(tmp_path.glob("*.wav")) == []


@pytest.mark.fbgemm
@pytest.mark.parametrize("packing", ["float16", "int8"])
def test_weights_can_be_packed_and_the_recipe_says_so(speak, tmp_path, packing):
    assert speak("one", "-o", "a.wav", "--packing", packing, "--dtype", "float32").code == 0
    settings = json.loads((tmp_path / "a.json").read_text())["settings"]
    assert settings["precision"] == f"float32 {packing}"


def test_an_unknown_model_lists_what_there_is(speak):
    answer = speak("one", "--model", "opera", model=False)
    assert answer.code == 2
    assert "there is no model or checkpoint folder 'opera'" in answer.err


# ---------------------------------------------------------------- streams


def test_a_streamed_file_is_the_file_with_its_recipe(speak, tmp_path):
    assert speak("one", "--seed", "4", "-o", "whole.wav").code == 0
    assert speak("one", "--seed", "4", "-o", "live.wav", "--stream").out == "live.wav\n"
    assert np.abs(samples("whole.wav") - samples("live.wav")).max() < 1e-3
    assert json.loads((tmp_path / "live.json").read_text())["seeds"] == [4]


def test_standard_output_carries_nothing_but_sound(speak, monkeypatch):
    speak("one", "--seed", "4", "-o", "whole.wav")
    whole = np.rint(samples("whole.wav")[0] * 32768)
    for kind, header in (("raw", 0), ("wav", 44)):
        sink = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=sink, isatty=lambda: False, flush=lambda: None))
        assert main_streamed(speak, kind) == 0
        got = np.frombuffer(sink.getvalue()[header:], "<i2")
        assert np.abs(got - whole).max() <= 32
        assert sink.getvalue()[:4] == b"RIFF" or kind == "raw"


def main_streamed(speak, kind: str) -> int:
    return speak("one", "--seed", "4", "--stream", kind, "-o", "-").code


def test_a_terminal_is_no_place_for_sound(speak, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    answer = speak("one", "--stream", "-o", "-")
    assert answer.code == 2
    assert "ffplay" in answer.err


@pytest.mark.parametrize("given", [None, b"\xff\xfe\x80 latin"])
def test_a_closed_or_unreadable_standard_input_is_explained(capsys, monkeypatch, given):
    stream = None if given is None else io.TextIOWrapper(io.BytesIO(given), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", stream)
    assert main(["speak", "-", "-o", "out.wav"]) == 2
    said = capsys.readouterr().err
    assert ("which is closed" if given is None else "no text in UTF-8") in said and "Traceback" not in said
    assert main(["tokenize-image", "--decode", "-", "-o", "pictures"]) == 2


@pytest.mark.parametrize("command", [["speak", "one"], ["compose", "calm piano"]])
def test_no_takes_are_no_default(capsys, tmp_path, command):
    assert main([*command, "--takes", "0", "-o", str(tmp_path / "out.wav")]) == 2
    assert "takes" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_recipe_of_another_result_beside_the_file_is_passed_over(speak, tmp_path):
    assert speak("one", "--seed", "5", "-o", str(tmp_path / "out.wav")).code == 0
    other = json.loads((tmp_path / "out.json").read_text())
    (tmp_path / "out.json").write_text(json.dumps({**other, "task": "music", "settings": {}}))
    again = speak("--recipe", str(tmp_path / "out.wav"), "-o", str(tmp_path / "again.wav"))
    assert again.code == 0
    np.testing.assert_array_equal(read_audio(tmp_path / "again.wav").samples, read_audio(tmp_path / "out.wav").samples)
