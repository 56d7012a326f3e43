"""The package's own names."""

from __future__ import annotations

import importlib
import subprocess
import sys

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


def test_drawing_and_reading_leave_pyplot_alone():
    code = """
import sys, numpy as np
from genmm.media import encode_audio_bytes, read_audio, sound_picture
sound_picture(np.ones(100, np.float32), 8000)
read_audio(encode_audio_bytes(np.ones(10), 8000))
print("matplotlib.pyplot" in sys.modules)
"""
    assert printed_by(code) == "False"


def test_unknown_names_say_what_there_is():
    with pytest.raises(AttributeError, match="read_audio"):
        genmm.media.read_sound  # noqa: B018
