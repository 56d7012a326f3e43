"""The package's own names."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import genmm.media


def test_every_public_name_is_there_and_no_module_hides_one():
    for home in ("audio", "audio_write", "figures", "image", "loudness", "media_info", "silence", "tags", "video"):
        importlib.import_module(f"genmm.media.{home}")
    for name in genmm.media.__all__:
        assert callable(getattr(genmm.media, name)), name


def printed_by(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_loads_nothing_heavy():
    heavy = "('av', 'torch', 'soundfile', 'PIL', 'matplotlib')"
    assert printed_by(f"import sys, genmm.media; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_drawing_leaves_pyplot_and_its_global_state_alone():
    for path in Path(genmm.media.__file__).parent.glob("*.py"):
        assert "pyplot" not in path.read_text(encoding="utf-8"), path.name


def test_unknown_names_say_what_there_is():
    with pytest.raises(AttributeError, match="read_audio"):
        genmm.media.read_sound  # noqa: B018
