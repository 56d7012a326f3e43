"""All utterances of a training set in one flat array on disk, built once and mapped into memory after that.

Letters: S samples, T latent frames, D latent channels.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from datamodules.source_files import sources_digest
from datamodules.speech_corpora import Utterance, read_corpus, to_int16
from datamodules.speech_synthesis import synthesise
from genmm.core.errors import ConfigError, DataError
from genmm.core.files import atomic_path, write_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SpeechSources:
    """Which speech a training set is made of."""

    corpora: tuple[str, ...] = ("speech_an4", "speech_callie", "speech_commands_long", "speech_readings")
    """Folders of real recordings under the data folder."""
    synthetic: int = 0
    """Utterances that espeak-ng adds."""
    seed: int = 1
    """Seed of the synthetic texts and voices."""
    sample_rate: int = 16000
    """Samples a second of the stored waveforms."""
    speeds: tuple[float, ...] = ()
    """Further copies of the real training recordings, played at these speeds with the pitch that follows: new voices
    for models that would learn an hour of speech by heart (speed perturbation, Ko et al. 2015)."""

    def __post_init__(self) -> None:
        if any(not 0.5 <= speed <= 2.0 or speed == 1.0 for speed in self.speeds):
            raise ConfigError(f"speeds must be in [0.5, 2] and not 1 (that is there anyway), got {self.speeds}")

    def fingerprint(self, root: Path) -> str:
        """Short hash that names the stored files; changes with every field and with the corpora under `root`.

        Of the tables the content counts, of the recordings the size and the time of the last change.
        """
        files = [(name, root / name / "audio.tar") for name in self.corpora]
        tables = [root / name / "metadata.tsv" for name in self.corpora]
        texts = [hashlib.sha256(table.read_bytes()).hexdigest() if table.is_file() else "missing" for table in tables]
        return hashlib.sha256(f"{self!r}\0{sources_digest(files)}\0{texts}".encode()).hexdigest()[:16]

    def read(self, root: Path) -> Iterable[Utterance]:
        """Every utterance, real ones first; the synthetic ones also speak the training sentences of the real ones."""
        sentences = []
        for name in self.corpora:
            for utterance in read_corpus(root, name, self.sample_rate):
                if utterance.split == "train" and utterance.corpus != "speech_an4":
                    sentences.append(utterance.text)
                yield utterance
                if utterance.split == "train":
                    yield from (at_speed(utterance, speed, self.sample_rate) for speed in self.speeds)
        yield from synthesise(self.synthetic, seed=self.seed, sample_rate=self.sample_rate, sentences=sentences)


def at_speed(utterance: Utterance, speed: float, sample_rate: int) -> Utterance:
    """The utterance played `speed` times as fast, by a speaker of its own."""
    samples = utterance.waveform.astype(np.float32) / 32767.0
    return replace(
        utterance,
        key=f"{utterance.key}@{speed}",
        speaker=f"{utterance.speaker}@{speed}",
        waveform=to_int16(samples, round(sample_rate * speed), sample_rate),
    )


@dataclass(frozen=True)
class ArrayStore:
    """Arrays of different lengths, one after the other in a memory-mapped file, with a table of what each one is."""

    values: np.ndarray
    """[total, ...]: every array, concatenated."""
    offsets: np.ndarray
    """[N + 1] int64: array i is values[offsets[i] : offsets[i + 1]]."""
    table: Sequence[dict[str, str]]
    """Key, text, speaker, corpus and split of each array."""

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Length of each array, [N]."""
        return np.diff(self.offsets)

    def indices(self, split: str) -> list[int]:
        """Positions of the arrays of one split."""
        return [i for i, row in enumerate(self.table) if row["split"] == split]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map a stored set; raises DataError when it is incomplete."""
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf8"))
            values = np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(
                f"the stored training set in {folder} cannot be read ({error}); delete that folder to build it again"
            ) from None
        return cls(values, np.asarray(index["offsets"], dtype=np.int64), index["table"])

    @classmethod
    def build(cls, folder: Path, items: Iterable[tuple[dict[str, str], np.ndarray]]) -> Self:
        """Write a set; the index comes last, so a half-written set is never opened."""
        table, arrays = [], []
        for row, array in items:
            table.append(row)
            arrays.append(array)
            if len(arrays) % 1000 == 0:
                logger.info("%d utterances ready", len(arrays))
        if not arrays:
            raise DataError("the chosen speech sources hold no utterance")
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / "values.npy") as path, open(path, "wb") as file:
            np.save(file, np.concatenate(arrays), allow_pickle=False)
        offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
        write_json(folder / "index.json", {"offsets": offsets.tolist(), "table": table})
        return cls.open(folder)


def describe(utterance: Utterance) -> dict[str, str]:
    """The table row of an utterance."""
    return {name: getattr(utterance, name) for name in ("key", "text", "speaker", "corpus", "split")}


def open_or_build(folder: Path, make: Callable[[], Iterable[tuple[dict[str, str], np.ndarray]]]) -> ArrayStore:
    """Open the set in `folder`, or build it from `make()` when it is not there."""
    return ArrayStore.open(folder) if (folder / "index.json").is_file() else ArrayStore.build(folder, make())


def waveform_store(sources: SpeechSources, *, root: Path, cache: Path) -> ArrayStore:
    """Waveforms [S] int16 of all utterances of `sources` under `root`, cached under `cache`."""
    folder = cache / f"waveforms-{sources.fingerprint(root)}"
    return open_or_build(folder, lambda: ((describe(item), item.waveform) for item in sources.read(root)))
