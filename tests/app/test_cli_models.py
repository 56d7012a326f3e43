"""`genmm models`: the list, one model with the names that it knows, JSON, and what is no model."""

from __future__ import annotations

import json

import pytest

from app.cli import main


@pytest.fixture(autouse=True)
def no_models_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("GENMM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GENMM_MODELS", raising=False)


def test_the_list_names_every_embedded_model_and_what_could_be_pulled(capsys):
    assert main(["models", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"sled", "vqtoken", "melodyflow", "tokenset", "rasl"} <= set(lines)
    assert any(line.strip() == "genmm pull vqtoken" for line in lines)
    assert not any(line.startswith("  voice:") for line in lines)


def test_a_named_model_says_which_voices_and_labels_it_takes(capsys):
    assert main(["models", "sled", "tokenset", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "  voice: callie, fay, " in said and "  style: noto, twemoji\n" in said
    assert "to be pulled" not in said
    assert main(["models", "sled", "--device", "cpu", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["models"]
    assert row["choices"]["voice"][0] == "callie" and row["fits"] is True and row["problem"] == ""


def test_what_is_no_model_is_said(tmp_path, capsys):
    assert main(["models", "slid"]) == 2
    assert "did you mean" in capsys.readouterr().err.lower()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("[]")
    assert main(["models", str(tmp_path / "empty")]) == 2
    assert "empty" in capsys.readouterr().err
