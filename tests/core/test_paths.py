import os
from pathlib import Path

from genmm.core import paths


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GENMM_HOME", str(tmp_path))
    assert paths.genmm_home() == tmp_path
    assert paths.models_home() == tmp_path / "models"


def test_home_without_environment(monkeypatch):
    monkeypatch.delenv("GENMM_HOME", raising=False)
    assert paths.genmm_home() == Path.home() / ".cache" / "genmm"


def test_data_home_prefers_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GENMM_DATA", str(tmp_path / "media"))
    assert paths.data_home() == tmp_path / "media"


def test_data_home_beside_the_repository_or_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("GENMM_DATA", raising=False)
    monkeypatch.setenv("GENMM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "repository" / "genmm")
    assert paths.data_home() == tmp_path / "home" / "data"
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert paths.data_home() == tmp_path / "shared" / "data"


def test_extra_folders_are_a_path_list(monkeypatch, tmp_path):
    monkeypatch.setenv("GENMM_MODELS", os.pathsep.join([str(tmp_path / "a"), " ", str(tmp_path / "b")]))
    assert paths.extra_model_folders() == (tmp_path / "a", tmp_path / "b")
    monkeypatch.delenv("GENMM_MODELS")
    assert paths.extra_model_folders() == ()


def test_embedded_models_are_in_the_package():
    import genmm

    assert paths.embedded_home() == Path(genmm.__file__).parent / "checkpoints"
