from __future__ import annotations

import json

import pytest

from app.cli import main as genmm
from benchmarks.run import MEASUREMENTS, main


def test_without_a_name_it_lists_what_there_is(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in MEASUREMENTS)


@pytest.mark.parametrize("line", [["nonsense"], ["speech", "--frames", "0"], ["speech", "--only", "nonsense"]])
def test_wrong_usage_ends_with_two(line, capsys):
    with pytest.raises(SystemExit) as stop:
        main(line)
    assert stop.value.code == 2 and capsys.readouterr().err


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
