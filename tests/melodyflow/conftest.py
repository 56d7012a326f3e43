"""A tiny untrained model with the small codec and captions, saved once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import end, serve

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a checkpoint folder."""
    from tiny_music import tiny_pipeline

    return tiny_pipeline().save(tmp_path_factory.mktemp("melodyflow") / "tiny-music")


@pytest.fixture(scope="session")
def pipeline(model_folder: Path) -> object:
    """The tiny model, loaded from its folder."""
    from genmm.systems.melodyflow.pipeline import MelodyFlowPipeline

    return MelodyFlowPipeline.from_folder(model_folder, device="cpu", dtype="float32")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> Path:
    """A working folder with a recording and the model's folder as ./tiny."""
    from tiny_music import chirp

    from genmm.media.audio import write_audio

    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(model_folder)
    write_audio(tmp_path / "in.flac", chirp(2.0).samples, 8000)
    return tmp_path


@pytest.fixture(scope="session")
def page(model_folder: Path) -> Iterator[str]:
    """Address of a running page with the tiny music model."""
    from app.web.main import build
    from app.web.settings import WebSettings

    demo = build(WebSettings(port=0, model=str(model_folder), device="cpu"))
    yield serve(demo)
    end(demo)
