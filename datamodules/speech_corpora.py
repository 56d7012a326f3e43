"""Readers of the small real speech corpora, as one list of utterances with text, speaker, licence and split.

A corpus is a folder with `metadata.tsv` (tab separated, no quoting, first column `file`) and `audio.tar`. The texts are
brought to one style, the one that the embedded model reads: lower-case words, single spelled letters in capitals, a
space in front, punctuation kept and a full stop at the end.
"""

import csv
import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torchaudio.functional import resample

from genmm.core.errors import DataError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One recording and what is said in it."""

    key: str
    """Unique name: corpus/file."""
    waveform: np.ndarray
    """Samples [S] int16 at the rate that was asked for."""
    text: str
    """Spoken text in the style of `spoken_style`."""
    speaker: str
    """Speaker name, unique across corpora; utterances of unknown speakers get a name of their own."""
    corpus: str
    """Folder name of the corpus, or "synthetic"."""
    split: str
    """"train" or "test"."""


def spoken_style(text: str, *, spell_single_letters: bool = False) -> str:
    """Bring a transcript to the training style: `" call extension seven four B."`.

    `spell_single_letters` says that a lone lower-case letter is a spelled letter (AN4), not a word such as "a".
    """
    text = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit[0])]} ", text)
    text = re.sub(r" +([,.?!])", r"\1", text.replace("\u2019", "'")).strip().strip(". ")
    words = []
    for word in text.split():
        core = word.strip(",.?!;:\"'()")
        if len(core) == 1 and core.isalpha() and (spell_single_letters or (core.isupper() and core not in "AI")):
            words.append(word.upper())
        else:
            words.append(word.lower())
    joined = re.sub(r"[^A-Za-z',.?! -]", " ", " ".join(words))
    joined = re.sub(r"\s+", " ", joined).strip()
    return f" {joined}" if joined[-1:] in ".?!" else f" {joined}."


def is_held_out(key: str, share: float) -> bool:
    """Whether a key belongs to the held-out part; decided by its hash, so it never changes as corpora grow."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) < share * 2**32


@dataclass(frozen=True)
class CorpusReader:
    """How one corpus maps its table to text, speaker and split."""

    folder: str
    licence: str
    text: Callable[[dict[str, str]], str]
    speaker: Callable[[dict[str, str]], str]
    split_key: Callable[[dict[str, str]], str]
    held_out_share: float


CORPORA: dict[str, CorpusReader] = {
    reader.folder: reader
    for reader in (
        # AN4 is split by speaker: its test part answers for unseen voices.
        CorpusReader("speech_an4", "BSD-like (CMU)", lambda row: spoken_style(row["text"], spell_single_letters=True),
                     lambda row: f"an4-{row['speaker']}", lambda row: f"an4-{row['speaker']}", 0.12),
        CorpusReader("speech_callie", "CC BY 3.0", lambda row: spoken_style(row["text"],
        spell_single_letters=row["section"] == "ascii"),
                     lambda row: "callie", lambda row: f"callie-{row['text'].lower()}", 0.06),
        CorpusReader("speech_commands_long", "Apache-2.0", lambda row: spoken_style(row["text_machine"]),
                     lambda row: f"command-{row['file'].split('.')[0]}", lambda row: row["file"], 0.06),
        CorpusReader("speech_readings", "CC BY 4.0 and public domain", lambda row: spoken_style(row["text"]),
                     lambda row: f"reading-{row['speaker']}", lambda row: row["text"].lower(), 0.1),
    )
}  # fmt: skip
"""Corpora whose licence lets a model trained on them be shipped without share-alike terms."""


def read_corpus(root: Path, name: str, sample_rate: int) -> Iterator[Utterance]:
    """Yield the utterances of one corpus under `root`, resampled to `sample_rate`.

    Raises DataError when the corpus is unknown or not there; skips rows without any spoken word.
    """
    if name not in CORPORA:
        raise DataError(f"unknown speech corpus {name!r}; known: {', '.join(CORPORA)}")
    reader, folder = CORPORA[name], root / name
    if not (folder / "metadata.tsv").is_file():
        raise DataError(
            f"{name} is not in {root}; set GENMM_DATA to the folder that holds {name}/metadata.tsv and {name}/audio.tar"
        )
    with open(folder / "metadata.tsv", encoding="utf8", newline="") as table:
        rows = {row["file"]: row for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)}
    with tarfile.open(folder / "audio.tar") as archive:
        for member in archive:
            row = rows.get(member.name.removeprefix("./"))
            if row is None or not re.search("[A-Za-z]", reader.text(row)):
                continue
            samples, rate = soundfile.read(
                io.BytesIO(archive.extractfile(member).read()), dtype="float32", always_2d=True
            )
            yield Utterance(
                key=f"{name}/{row['file']}",
                waveform=to_int16(samples.mean(1), rate, sample_rate),
                text=reader.text(row),
                speaker=reader.speaker(row),
                corpus=name,
                split="test" if is_held_out(reader.split_key(row), reader.held_out_share) else "train",
            )


def to_int16(samples: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Resample mono float samples [S] and round them to int16."""
    if rate != sample_rate:
        samples = resample(torch.from_numpy(np.ascontiguousarray(samples)), rate, sample_rate).numpy()
    return np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
