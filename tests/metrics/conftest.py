"""Makes the sounds of this folder importable as a fixture."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def sounds() -> ModuleType:
    """The module sounds.py beside this file: harmonic, hiss, silence and RATE."""
    spec = importlib.util.spec_from_file_location("metric_sounds", Path(__file__).with_name("sounds.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
