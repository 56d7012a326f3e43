from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import genmm
from app.cli import main

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_writes_report_and_card(tiny_sled, corpus, tmp_path, capsys):
    pytest.importorskip("pocketsphinx", reason="needs pocketsphinx: pip install pocketsphinx")
    card = tmp_path / "README.md"
    card.write_text("# tiny\n\nA model.\n")
    line = ["evaluate", "--quick", "--model", str(tiny_sled), "--device", "cpu", "--data", str(corpus)]
    packed = ["--packing", "int8"]
    assert main([*line, *packed, "--out", str(tmp_path / "report"), "--card", str(card)]) == 0
    shown = capsys.readouterr().out
    data = json.loads((tmp_path / "report" / "speech.json").read_text())
    assert data["report"] == "speech" and data["numbers"] and "## Goals" in shown
    assert data["settings"]["packing"] == "int8" and "packed as int8" in shown
    assert card.read_text().startswith("# tiny") and "word error rate" in card.read_text()


def test_an_unknown_model_is_a_plain_message(capsys):
    assert main(["evaluate", "--model", "no-such-model"]) == 2
    assert "no-such-model" in capsys.readouterr().err


@pytest.mark.parametrize(("model", "instead"), [("vqtoken", "bench video_answers"), ("rasl", "highlight_study")])
def test_models_that_are_measured_elsewhere_are_sent_there(model, instead, capsys):
    if not any(found.name == model for found in genmm.models()):
        pytest.skip(f"needs the embedded model {model}")
    assert main(["evaluate", "--model", model]) == 2
    said = capsys.readouterr().err
    assert f"{model} is a model of {model}" in said and instead in said


def test_packing_is_for_speech_and_music(capsys):
    assert main(["evaluate", "--model", "tokenset", "--packing", "int8"]) == 2
    assert "--packing is for speech and music models" in capsys.readouterr().err


def test_help_answers_without_heavy_imports():
    code = (
        "import sys\nfrom app.cli import main\ncode = main(['evaluate', '--help'])\n"
        "assert code == 0 and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pocketsphinx" in done.stdout


def test_pictures_are_named_or_found(tmp_path):
    from app.evaluation.image_command import picture_source
    from genmm.core.errors import UsageError

    assert picture_source("sign_digits").kind == "sign_digits"
    assert picture_source(str(tmp_path)).kind == "folder"
    (tmp_path / "0.tar").write_bytes(b"")
    assert picture_source(str(tmp_path)).kind == "webdataset"
    with pytest.raises(UsageError, match="no 'cats'"):
        picture_source("cats")
