"""compose, edit, extend, loop and batches, as a person types them, on the tiny model."""

from __future__ import annotations

import json
import wave

import numpy as np
import pytest
from tiny_music import chirp

from app.cli import main
from genmm.media.audio import read_audio

TEXT = "calm piano in A minor, 90 bpm, no drums"


def run(*line: str) -> int:
    return main([*line, "--model", "./tiny", "--device", "cpu"])


def test_compose_writes_music_and_says_what_was_understood(here, capsys):
    assert run("compose", TEXT, "--seconds", "1.5", "--seed", "4", "-o", "out.flac") == 0
    said = capsys.readouterr()
    assert said.out == "out.flac\n" and "understood: calm piano melody" in said.err and "seed 4" in said.err
    first = read_audio(here / "out.flac")
    assert first.samples.shape == (2, 12000)
    assert main(["compose", "--recipe", "out.json", "-o", "again.flac", "--model", "./tiny", "--device", "cpu"]) == 0
    assert np.array_equal(read_audio(here / "again.flac").samples, first.samples)
    (here / "out.json").unlink()  # the sound itself carries its recipe
    assert main(["compose", "--recipe", "out.flac", "-o", "third.flac", "--model", "./tiny", "--device", "cpu"]) == 0
    assert np.array_equal(read_audio(here / "third.flac").samples, first.samples)


@pytest.mark.fbgemm
def test_music_can_be_made_with_weights_in_bytes(here):
    line = ["compose", TEXT, "--seconds", "1", "--seed", "4", "--dtype", "float32"]
    assert run(*line, "-o", "exact.wav") == 0
    assert run(*line, "--packing", "int8", "-o", "bytes.wav") == 0
    exact, packed = (read_audio(here / name).samples for name in ("exact.wav", "bytes.wav"))
    assert not np.array_equal(exact, packed)
    assert np.corrcoef(exact.ravel(), packed.ravel())[0, 1] > 0.9


def test_edit_extend_and_loop(here, capsys):
    assert run("edit", "in.flac", "organ", "--strength", "0.6", "--seed", "1", "-o", "e.wav") == 0
    assert read_audio(here / "e.wav").samples.shape == (2, 16000)
    assert run("edit", "in.flac", "organ", "--then", "choir", "--seed", "1", "-o", "two.wav") == 0
    assert (here / "two_1_organ.wav").is_file() and (here / "two_2_choir.wav").is_file()
    assert run("edit", "in.flac", "organ", "--region", "0.5:1", "--seed", "1", "-o", "p.flac") == 0
    source, patched = read_audio(here / "in.flac").samples, read_audio(here / "p.flac").samples
    assert np.abs(source[:, :4000] - patched[:, :4000]).max() < 1e-4 and not np.allclose(source, patched, atol=1e-3)
    assert run("extend", "in.flac", TEXT, "--seconds", "1", "--seed", "1", "-o", "x.flac") == 0
    assert read_audio(here / "x.flac").samples.shape == (2, 24000)
    assert run("loop", "organ", "--bpm", "100", "--bars", "1", "--seed", "1", "-o", "l.wav") == 0
    assert "end and start join" in capsys.readouterr().err


def test_steps_are_those_of_the_edit(here):
    counts = {}
    for steps in ("3", "6"):
        assert run("edit", "in.flac", "organ", "--steps", steps, "--seed", "1", "-o", f"{steps}.wav") == 0
        counts[steps] = json.loads((here / f"{steps}.json").read_text())["settings"]["edit_steps"]
    assert counts == {"3": 3, "6": 6}
    assert not np.array_equal(read_audio(here / "3.wav").samples, read_audio(here / "6.wav").samples)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["compose"], "describe the music"),
        (["compose", TEXT, "-o", "out.txt"], "suffix"),
        (["compose", TEXT, "--steps", "5"], "even"),
        (["compose", TEXT, "--bpm", "500"], "tempo"),
        (["compose", TEXT, "--key", "piano"], "key"),
        (["compose", TEXT, "--seconds", "0.1"], "at least 0.5"),
        (["compose", TEXT, "--seconds", "0"], "at least 0.5"),
        (["extend", "in.flac", TEXT, "--seconds", "0"], "at least 0.5"),
        (["compose", TEXT, "--seconds", "nan"], "at least 0.5"),
        (["compose", TEXT, "--then", "organ", "--then", "choir", "--seconds", "0.5"], "too short for 3"),
        (["compose", TEXT, "--set", "solver=adaptive", "--takes", "2"], "adaptive"),
        (["compose", TEXT, "--set", "speed=1"], "unknown music settings"),
        (["compose", TEXT, "--set", "loudness_lufs=loud"], "loudness_lufs must be from -40 to 0, or null, got 'loud'"),
        (["edit", "in.flac", "organ", "--strength", "2"], "strength"),
        (["edit", "in.flac", "organ", "--set", "keep=0"], "keep"),
        (["edit", "nothing.flac", "organ"], "nothing.flac"),
        (["edit", "in.flac", "organ", "--region", "5"], "START:END"),
        (["edit", "in.flac", "organ", "--region", "0.2:1", "--strength", "1"], "--region"),
        (["extend", "in.flac", TEXT, "--seconds", "9999"], "at most"),
        (["loop", "organ", "--bars", "0"], "bars"),
    ],
)  # fmt: skip
def test_wrong_usage_ends_with_2_and_a_plain_sentence(here, capsys, line, message):
    assert run(*line) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def odd_sound(kind: str) -> tuple[np.ndarray, int]:
    """Samples [S, C] and rate of a sound that is out of the ordinary."""
    tone = chirp(1.0).samples.T
    broken = tone.copy()
    broken[100:200] = np.nan
    return {
        "nan": (broken, 8000),
        "8 kHz mono": (tone[:, :1], 8000),
        "5.1": (np.tile(np.repeat(tone[:, :1], 6, 1), (6, 1)), 48000),
        "192 kHz": (np.tile(tone, (24, 1)), 192000),
        "silent": (np.zeros((8000, 2), np.float32), 8000),
        "0.1 s": (tone[:800], 8000),
        "six minutes": (np.tile(tone, (360, 1)), 8000),
        "all nan": (np.full((8000, 2), np.nan, np.float32), 8000),
    }[kind]


def test_hours_of_sound_are_refused_before_they_fill_the_memory(here, capsys):
    """Two hours as a file of holes; reading stops at the limit."""
    with wave.open(str(here / "long.wav"), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(b"\0\1" * 80_000)
    count = 2 * 3600 * 8000 * 2
    with (here / "long.wav").open("r+b") as stream:
        stream.seek(4)
        stream.write((count + 36).to_bytes(4, "little"))
        stream.seek(40)
        stream.write(count.to_bytes(4, "little"))
        stream.truncate(count + 44)
    assert run("edit", "long.wav", "organ") == 2
    said = capsys.readouterr().err
    assert "limit" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("nan", 0, "not finite numbers"),
        ("8 kHz mono", 0, "mixed to 2"),
        ("5.1", 0, "mixed to 2"),
        ("192 kHz", 0, "seed 1"),
        ("silent", 2, "silent"),
        ("0.1 s", 2, "at least 0.5"),
        ("six minutes", 2, "limit is 300"),
        ("all nan", 2, "finite"),
    ],
)
def test_odd_recordings_are_repaired_with_a_note_or_refused(here, capsys, kind, code, said):
    import soundfile

    samples, rate = odd_sound(kind)
    soundfile.write(here / "odd.wav", samples, rate, subtype="FLOAT")
    line = ["edit", "odd.wav", "organ", "--strength", "0.3", "--method", "plain", "--seed", "1", "-o", "o.wav"]
    assert run(*line) == code
    message = capsys.readouterr().err
    assert said in message and "Traceback" not in message
    if code == 0:
        assert read_audio(here / "o.wav").samples.shape[0] == 2


def test_batches_make_every_kind(here, capsys):
    rows = [
        {"id": "new", "text": TEXT, "seconds": 1, "seed": 4},
        {"id": "edit", "text": "organ", "source": "in.flac", "strength": 0.5},
        {"id": "patch", "text": "organ", "kind": "inpaint", "source": "in.flac", "spans": [[0.5, 1.0]]},
        {"id": "more", "text": "organ", "kind": "extend", "source": "in.flac", "seconds": 1},
        {"id": "loop", "text": "organ", "kind": "loop", "bpm": 100, "bars": 1},
        {"id": "bad", "text": "organ", "kind": "inpaint", "source": "in.flac", "spans": [[5, 6]]},
    ]
    (here / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("batch", "music", "--manifest", "in.jsonl", "--out", "made") == 3
    said = capsys.readouterr()
    assert "5 of 6 done" in said.out and "bad failed" in said.err
    results = {}
    for line in (here / "made" / "results.jsonl").read_text().splitlines():
        record = json.loads(line)
        results[record["id"]] = record
    assert set(results) == {row["id"] for row in rows}
    assert list((here / "made").rglob("new.flac"))


@pytest.mark.parametrize(
    "row",
    [
        {"seconds": 3},
        {"text": "x", "kind": "sing"},
        {"text": "x", "kind": "edit"},
        {"text": "x", "source": "nothing.flac"},
        {"text": "x", "seconds": -1},
        {"text": "x", "settings": [1]},
        {"text": "x", "settings": {"steps": 5}},
        {"text": "x", "kind": "generate", "source": "in.flac"},
        {"text": "x", "source": "in.flac", "method": "magic"},
    ],
)
def test_bad_rows_are_named_before_any_work(here, capsys, row):
    (here / "in.jsonl").write_text(json.dumps({"id": "one", **row}) + "\n")
    assert run("batch", "music", "--manifest", "in.jsonl", "--out", "made") == 2
    assert "line 1" in capsys.readouterr().err
