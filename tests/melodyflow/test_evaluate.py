"""Measuring a music model: what is compared with what, going on after a stop, the command and its card."""

from __future__ import annotations

import json

import numpy as np
import pytest

from app.cli import main
from app.commands.evaluate import MUSIC_PARTS
from app.evaluation.journal import Journal
from app.evaluation.music import PARTS, MusicEvaluation, MusicMeasure
from app.evaluation.music_command import write_report
from app.evaluation.music_edits import KINDS, case
from app.evaluation.music_judges import INSTRUMENTS, Heard, Judges
from app.evaluation.music_report import report_markdown
from datamodules.rendered_music import MusicRenderer
from datamodules.rendered_music_score import is_held_out
from datamodules.rendered_music_synthesis import RATE
from genmm.core.errors import UsageError
from genmm.metrics.music_tempo import tempo_matches


class QuickSounds:
    """Half a second of harmonics that differ by instrument, and clicks: made in no time, told apart by ear."""

    def note(self, instrument: str, midi: int, variant: int) -> np.ndarray:
        time_s, hertz = np.arange(24_000) / RATE, 440.0 * 2 ** ((midi - 69) / 12)
        draw = np.random.default_rng(sum(map(ord, instrument)))
        strengths, decay = np.arange(1, 13) ** -draw.uniform(0.8, 2.5), draw.uniform(1.0, 8.0)
        partials = (strengths[:, None] * np.sin(2 * np.pi * hertz * np.arange(1, 13)[:, None] * time_s)).sum(0)
        return (partials / np.abs(partials).max() * np.exp(-decay * time_s)).astype(np.float32)

    def stroke(self, kit: str, name: str, variant: int) -> np.ndarray:
        noise = np.random.default_rng(sum(map(ord, name))).standard_normal(4800)
        return (noise / np.abs(noise).max() * np.exp(-np.arange(4800) / 800)).astype(np.float32)


@pytest.fixture(scope="module")
def sounds() -> QuickSounds:
    """Sounds that need no shared data."""
    return QuickSounds()


@pytest.fixture(scope="module")
def judges(sounds) -> Judges:
    return Judges(MusicRenderer(sounds, seconds=4.0), Journal(), 3, 16, lambda what, done, total: None)


def test_a_journal_goes_on_and_forgets_a_torn_line(tmp_path):
    first = Journal(tmp_path, "items", {"model": "a"})
    assert first.kept("one", lambda: {"right": True}) == {"right": True}
    with first.path.open("a") as stream:
        stream.write('["two", {"ri')
    again = Journal(tmp_path, "items", {"model": "a"})
    assert len(again) == 1 and again.kept("one", lambda: 1 / 0) == {"right": True}
    assert again.kept("two", lambda: [2.5]) == [2.5]
    assert len(Journal(tmp_path, "items", {"model": "a"})) == 2 and len(Journal(tmp_path, "items", {"model": "b"})) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_asks_for_one_change_of_a_held_out_source(judges, kind):
    target, untouched = KINDS[kind]
    assert target not in untouched
    for number in range(12):
        before, after = case(judges, kind, number)
        changed = {name for name, value in after.known().items() if before.known()[name] != value}
        assert changed and changed <= {
            "instrument": {"lead"}, "drums": {"drums"}, "key": {"tonic"}, "mode": {"mode", "progression"},
            "tempo": {"tempo_bpm"},
        }[kind]  # fmt: skip
        if kind in ("key", "mode"):
            assert before.signature != after.signature
        if kind == "tempo":
            assert not tempo_matches(after.tempo_bpm, before.tempo_bpm, octaves=True)
        assert is_held_out(judges.wanted(number))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_judges_hear_what_was_rendered(judges):
    """The rendered target passes as changed, the source as it is does not."""
    found = {"target": [], "source": []}
    for kind, (target, _) in KINDS.items():
        before, after = case(judges, kind, 0)
        for who, caption in (("target", after), ("source", before)):
            found[who].append(judges.hear(judges.rendered(0, caption), RATE).matches(after)[target])
    assert sum(found["target"]) >= sum(found["source"]) + 2, found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_part_is_measured_once_and_read_afterwards(pipeline, sounds, tmp_path, monkeypatch):
    """The judges are left out here, so that only what is compared with what, and kept, is looked at."""
    heard = Heard(tempo_bpm=100.0, signature=0, tonic=0, mode="major", instrument="piano", drums=False)
    monkeypatch.setattr(Judges, "hear", lambda self, samples, rate: heard)
    options, seen = MusicEvaluation(pieces=2, each=1, edits=1, training=2 * len(INSTRUMENTS), real=2, seed=1), []
    figures = MusicMeasure(pipeline, options, tmp_path, sounds, seen.append).run()
    assert set(figures) > set(PARTS) and {event.message for event in seen} >= {"adherence", "edits", "instruments"}
    assert figures["instruments"]["model"]["value"] == 1 / len(INSTRUMENTS)
    table = figures["edits"]["table"]
    assert set(table) == {"regularised", "plain", "rendered target", "source as it is"}
    assert table["plain"]["all"]["changed"]["count"] == len(KINDS)
    assert table["regularised"]["key"]["calls"] > table["plain"]["key"]["calls"]
    assert figures["codec"]["rendered, held out"]["mel"] > 0
    assert figures["distance"]["frechet"]["model to rendered"] > 0
    text = report_markdown(figures)
    assert "| all | regularised |" in text and "chance" in text and "Goal: 70 %" in text

    monkeypatch.setattr(type(pipeline), "generate", None)
    monkeypatch.setattr(type(pipeline), "edit", None)
    again = MusicMeasure(pipeline, options, tmp_path, sounds).run()
    assert json.dumps(again, sort_keys=True) == json.dumps(figures, sort_keys=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_measures_a_part_and_writes_the_card(model_folder, sounds, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("datamodules.rendered_music.SoundBank", QuickSounds)
    card = tmp_path / "README.md"
    card.write_text("# tiny\n\nA model.\n")
    line = ["evaluate", "--quick", "--model", str(model_folder), "--device", "cpu", "--only", "codec"]
    assert main([*line, "--out", str(tmp_path), "--card", str(card)]) == 0
    assert "SI-SDR" in capsys.readouterr().out and "SI-SDR" in card.read_text() and "A model." in card.read_text()
    assert set(json.loads((tmp_path / "music.json").read_text())) == {"report", "model", "options", "seconds", "codec"}
    assert list(tmp_path.glob("music-items-*.jsonl"))


def test_parts_that_were_measured_before_stay_in_the_report(tmp_path):
    same = {"report": "music", "model": {"fingerprint": "a"}, "options": {"pieces": 2}, "seconds": 4.0}
    codec = {"real": {"count": 1, "si_sdr_db": 1.0, "mel": 0.5, "width_error": 0.0, "balance_error_db": 0.0}}
    distance = {"frechet": {"model to real": 2.0}, "seconds": {"model": 3, "real": 4}}
    write_report(tmp_path, {**same, "codec": codec}, "tiny")
    both = write_report(tmp_path, {**same, "distance": distance}, "tiny")
    assert both["codec"] == codec and "SI-SDR" in (tmp_path / "music.md").read_text()
    other = write_report(tmp_path, {**same, "options": {"pieces": 9}, "distance": distance}, "tiny")
    assert "codec" not in other


def test_parts_of_music_are_not_for_other_models(tmp_path, capsys):
    assert main(["evaluate", "--model", "sled", "--only", "codec"]) == 2
    assert "--only" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [{"pieces": 0}, {"training": 5}, {"strength": 0.0}, {"seed": -1}])
def test_impossible_amounts_are_refused(bad):
    with pytest.raises(UsageError):
        MusicEvaluation(**bad)


def test_unknown_parts_are_refused(pipeline, sounds):
    with pytest.raises(UsageError, match="unknown parts"):
        MusicMeasure(pipeline, MusicEvaluation(), sounds=sounds).run(["magic"])


def test_the_command_offers_the_parts_there_are():
    assert MUSIC_PARTS == PARTS
