"""A small speech corpus of synthetic vowels in the layout of the real ones."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from app.evaluation.recordings import Recording, read_recordings
from datamodules.speech_corpora import CORPORA, is_held_out
from genmm.systems.sled.pipeline import SledPipeline

RATE = 16000
TEXTS = ("seven four one", "yes", "two oh", "b c d", "nine nine", "a k")


def vowel(speaker: int, take: int, seconds: float = 1.6) -> np.ndarray:
    """A speaker is a set of resonances; takes differ in pitch."""
    draw = np.random.default_rng(speaker)
    formants, time_s = draw.uniform((300, 1000, 2300), (800, 2000, 3200)), np.arange(int(seconds * RATE)) / RATE
    sound = np.zeros(len(time_s))
    for harmonic in range(1, 50):
        hz = harmonic * (110 + 5 * take)
        sound += (np.exp(-np.square((hz - formants) / 300)).sum() + 0.02) * np.sin(2 * np.pi * hz * time_s)
    noise = 0.002 * np.random.default_rng(100 * speaker + take).standard_normal(len(sound))
    return (0.3 * sound / np.abs(sound).max() + noise).astype(np.float32)


def speaker_names(held_out: bool, count: int) -> list[str]:
    """Names that fall into one part of AN4's split."""
    share = CORPORA["speech_an4"].held_out_share
    names = (f"s{number}" for number in range(1000))
    return [name for name in names if is_held_out(f"an4-{name}", share) == held_out][:count]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with speech_an4: five speakers to train on and two held out, six utterances each."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "speech_an4"
    folder.mkdir()
    lines = ["file\tspeaker\tgender\tseconds\ttext"]
    with tarfile.open(folder / "audio.tar", "w") as archive:
        for number, name in enumerate(speaker_names(False, 5) + speaker_names(True, 2)):
            for take, text in enumerate(TEXTS):
                buffer = io.BytesIO()
                soundfile.write(buffer, vowel(number, take), RATE, format="FLAC")
                entry = tarfile.TarInfo(f"{name}/{take}.flac")
                entry.size = len(buffer.getvalue())
                buffer.seek(0)
                archive.addfile(entry, buffer)
                lines.append(f"{entry.name}\t{name}\tF\t1.6\t{text}")
    (folder / "metadata.tsv").write_text("\n".join(lines) + "\n", encoding="utf8")
    return root


@pytest.fixture(scope="session")
def recordings(corpus: Path) -> list[Recording]:
    return read_recordings(corpus)


@pytest.fixture(scope="session")
def pipeline(tiny_sled: Path) -> SledPipeline:
    return SledPipeline.from_folder(tiny_sled, device="cpu")
