"""A tiny checkpoint and manifests for the tests of commands and page."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "batch"))


@pytest.fixture(scope="session")
def tiny_sled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a tiny random SLED model."""
    from tiny_sled import make_tiny_sled

    return make_tiny_sled(tmp_path_factory.mktemp("models") / "tiny")
