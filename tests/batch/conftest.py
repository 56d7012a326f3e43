"""Lets the tests of this folder, and the processes they start, import the modules beside them by name."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def tiny_sled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a tiny random SLED model."""
    from tiny_sled import make_tiny_sled

    return make_tiny_sled(tmp_path_factory.mktemp("models") / "tiny")
