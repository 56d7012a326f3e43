"""A tiny checkpoint for the measurements that need a whole model."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "batch")]


@pytest.fixture(scope="session")
def tiny_sled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a tiny random SLED model."""
    from tiny_sled import make_tiny_sled

    return make_tiny_sled(tmp_path_factory.mktemp("models") / "tiny")
