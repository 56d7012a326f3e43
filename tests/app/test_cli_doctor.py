"""`genmm doctor`: every finding has a state, and what is missing says how to get it."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from app import checkup
from app.cli import main


@pytest.fixture(scope="module")
def findings():
    return {(finding.group, finding.name): finding for finding in checkup.examine()}


def test_it_looks_at_everything_that_matters(findings):
    names = {name for _, name in findings}
    assert {"genmm", "python", "torch", "gradio", "pytorch-lightning", "av", "device", "free disk", "PyAV",
            "training data", "official", "ray", "espeak-ng", "official models"} <= names  # fmt: skip
    assert findings["program", "torch"].detail == metadata.version("torch")
    assert "cpu" in findings["machine", "device"].detail or "cuda" in findings["machine", "device"].detail


def test_what_is_not_there_says_how_to_get_it(findings):
    for finding in findings.values():
        assert finding.state in ("ok", "optional", "missing")
        assert finding.detail
        if finding.state != "ok" and finding.group != "models":
            assert finding.remedy, finding


def test_a_missing_or_wrong_dependency_is_found(monkeypatch):
    versions = {"gradio": None, "pytorch-lightning": "2.6.2"}
    real = checkup._version
    monkeypatch.setattr(checkup, "_version", lambda name: versions[name] if name in versions else real(name))
    found = {finding.name: finding for finding in checkup._packages()}
    assert (found["gradio"].state, found["gradio"].detail) == ("missing", "not installed")
    assert "pip install 'gradio" in found["gradio"].remedy
    assert found["pytorch-lightning"].state == "missing"
    assert "2.6.2, needs" in found["pytorch-lightning"].detail
    assert found["torch"].state == "ok"


def test_a_look_that_fails_is_a_finding(monkeypatch, capsys):
    def _media():
        raise OSError("libsndfile is broken")
        yield

    monkeypatch.setattr(checkup, "_media", _media)
    assert main(["doctor"]) == 3
    said = capsys.readouterr().out
    assert "libsndfile is broken" in said
    assert "missing" in said.splitlines()[-1]


def test_json_is_json_and_the_code_follows_the_findings(capsys):
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    missing = [finding for finding in report["findings"] if finding["state"] == "missing"]
    assert (code == 0) == report["ok"] == (not missing)


def test_a_damaged_model_is_told(tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    monkeypatch.setenv("GENMM_MODELS", str(tmp_path / "broken"))
    found = {finding.name: finding for finding in checkup._models()}
    assert found["broken"].state == "optional"
    assert "not JSON" in found["broken"].detail or "config.json" in found["broken"].detail
