from __future__ import annotations

import json

import pytest

from app.cli import main as genmm
from benchmarks import run
from benchmarks.run import MEASUREMENTS, main
from genmm.core.errors import MediaError


@pytest.mark.parametrize("option", ["--list", "--help"])
def test_it_lists_what_there_is(option, capsys):
    assert main([option]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in MEASUREMENTS)


@pytest.mark.parametrize("line", [[], ["all"], ["--quick"], ["all", "--device", "cpu"]])
def test_without_a_name_all_are_measured(line, monkeypatch):
    asked = []
    monkeypatch.setattr(run, "_measure", lambda module, name, args: asked.append((module.__name__, name, args)) or 0)
    assert main(line) == 0
    (module, name, args) = asked[0]
    assert (module, name) == ("benchmarks.everything", "all") and set(args.only) == set(MEASUREMENTS)


def test_all_reports_stand_in_one_file_and_one_failure_stops_none(tmp_path, monkeypatch, capsys):
    def broken(args):
        raise MediaError("no sound here")

    monkeypatch.setattr("benchmarks.music.measure", broken)
    line = ["--quick", "--only", "quantizers", "music", "--device", "cpu", "--out", str(tmp_path)]
    monkeypatch.setattr("benchmarks.quantizers.SECTIONS", ("gpu", "sums"))
    assert main(line) == 0
    data = json.loads((tmp_path / "all.json").read_text())
    assert [report["name"] for report in data["reports"]] == ["music", "quantizers"]
    assert data["reports"][0]["sections"][0]["skipped"] == "no sound here"
    text = (tmp_path / "all.md").read_text()
    assert text.startswith("# genmm bench\n\nMachine: ") and text.count("Machine: ") == 1
    assert "## genmm bench quantizers" in text and "### Sums and counts of codes" in text
    assert "Not measured: not measured (no CUDA device)" not in text and "no CUDA device" in text


@pytest.mark.parametrize("line", [["nonsense"], ["speech", "--frames", "0"], ["speech", "--only", "nonsense"]])
def test_wrong_usage_ends_with_two(line, capsys):
    with pytest.raises(SystemExit) as stop:
        main(line)
    assert stop.value.code == 2 and capsys.readouterr().err


@pytest.mark.parametrize(("name", "guess"), [("vidoe", "; did you mean video?"), ("xyzzy", "")])
def test_an_unknown_measurement_gets_a_guess_and_the_names(name, guess, capsys):
    assert genmm(["bench", name, "--quick"]) == 2
    said = capsys.readouterr().err
    assert f"there is no measurement {name!r}{guess or '.'} There are " in said
    assert all(known in said.partition("There are ")[2] for known in [*MEASUREMENTS, "all"])


def test_every_measurement_explains_itself(capsys):
    for name in MEASUREMENTS:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0 and "--quick" in capsys.readouterr().out


def test_the_command_measures_and_writes(tiny_sled, tmp_path, capsys):
    line = ["bench", "speech", "--quick", "--only", "live", "batch", "--device", "cpu", "--model", str(tiny_sled)]
    assert genmm([*line, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    data = json.loads((tmp_path / "speech.json").read_text())
    assert [section["title"] for section in data["sections"]] == [
        "Live speech from the embedded model",
        "Batched speech",
    ]
    assert data["machine"]["cpu_cores"] >= 1 and data["settings"]["quick"]
    assert shown.strip() == (tmp_path / "speech.md").read_text().strip()


def test_a_missing_model_is_said_in_the_section(capsys):
    assert main(["speech", "--quick", "--only", "live", "--device", "cpu", "--model", "no-such-model"]) == 0
    assert "Not measured: no-such-model cannot be loaded" in capsys.readouterr().out
