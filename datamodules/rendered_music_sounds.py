"""One note of any instrument at any pitch: real one-shots, moved to the nearest pitch, and our own synthesis.

The samples are those of `instrument_samples` in the data folder (CC0 and CC BY 3.0). Where they are absent everything
is synthesised, so rendering always works; `SoundBank.sources` says which is which.
"""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np

from datamodules.rendered_music_synthesis import LONGEST_S, NOTES, RATE, drum, faded
from genmm.core.paths import data_home
from genmm.media.audio import read_audio, resample

SAMPLED: dict[str, tuple[str, ...]] = {
    "piano": ("grand piano",),
    "strings": ("double bass bowed",),
    "choir": ("femalevoices aa",),
    "double bass": ("double bass pizzicato",),
}
"""Instrument of ours -> values of the column `instrument` whose pitched samples it is made from."""
STROKES: dict[str, dict[str, tuple[str, ...]]] = {
    "acoustic": {
        "kick": ("drum heavy kick", "bd pure"),
        "snare": ("drum snare hard", "drum snare soft"),
        "hat": ("drum cymbal closed", "hat zild"),
        "open hat": ("drum cymbal pedal",),
        "crash": ("drum splash hard",),
    },
    "electronic": {
        "kick": ("synthesised Kick06", "bd haus"),
        "snare": ("synthesised Snare09", "synthesised Clap01"),
        "hat": ("synthesised ClosedHiHat02 01", "synthesised ClosedHiHat01 01"),
        "open hat": ("synthesised OpenHiHat02 01",),
        "crash": ("synthesised Cymbal02",),
    },
}
"""Drum kit -> stroke -> descriptions of the samples that a kit may choose from."""
LARGEST_SHIFT = 9
"""Semitones that a sample is moved at most; further away a synthesised note stands in."""
_VARIANTS = 2


class SoundBank:
    """Notes [S] float32 at 48 kHz, peak 1, made when first asked for and kept."""

    def __init__(self, root: Path | None = None, *, use_samples: bool = True) -> None:
        """root: the folder with metadata.tsv and samples.zip; None = instrument_samples in the data folder."""
        folder = data_home() / "instrument_samples" if root is None else Path(root)
        self._zip = folder / "samples.zip"
        self._pitched: dict[str, dict[int, str]] = {}
        self._named: dict[str, str] = {}
        if use_samples and self._zip.is_file() and (folder / "metadata.tsv").is_file():
            self._read_table(folder / "metadata.tsv")
        self.files = (self._zip, folder / "metadata.tsv") if self._named else ()
        """What the samples come from; nothing where everything is synthesised."""
        self._notes: dict[tuple[str, int, int], np.ndarray] = {}
        self._raw: dict[str, tuple[np.ndarray, int]] = {}

    def _read_table(self, path: Path) -> None:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
        for row in rows:
            self._named[row["description"]] = row["file"]
        for instrument, kinds in SAMPLED.items():
            pitched = {int(row["midi"]): row["file"] for row in rows if row["instrument"] in kinds and row["midi"]}
            if pitched:
                self._pitched[instrument] = pitched

    @property
    def sources(self) -> dict[str, str]:
        """For each instrument and drum kit: "samples" or "synthesis"."""
        drums = {f"{kit} drums": "samples" if self._named else "synthesis" for kit in STROKES}
        return {name: "samples" if name in self._pitched else "synthesis" for name in NOTES} | drums

    def note(self, instrument: str, midi: int, variant: int = 0) -> np.ndarray:
        """One note at full length; two variants differ in small ways."""
        key = (instrument, int(midi), variant % _VARIANTS)
        if key not in self._notes:
            self._notes[key] = self._made(*key)
        return self._notes[key]

    def stroke(self, kit: str, kind: str, variant: int = 0) -> np.ndarray:
        """One drum stroke."""
        key = (f"{kit} {kind}", 0, variant % _VARIANTS)
        if key not in self._notes:
            wanted = STROKES[kit][kind]
            name = self._named.get(wanted[key[2] % len(wanted)])
            rng = np.random.default_rng((key[2], len(kind), len(kit)))
            self._notes[key] = faded(self._shifted(name, 0) if name else drum(kind, rng)[: int(1.5 * RATE)])
        return self._notes[key]

    def _made(self, instrument: str, midi: int, variant: int) -> np.ndarray:
        rng = np.random.default_rng((midi, variant, *instrument.encode()))
        pitched = self._pitched.get(instrument, {})
        if pitched:
            nearest = min(pitched, key=lambda other: (abs(other - midi), other))
            if abs(nearest - midi) <= LARGEST_SHIFT:
                return faded(self._shifted(pitched[nearest], midi - nearest))
        detune = rng.uniform(-0.04, 0.04) if variant else 0.0
        return faded(NOTES[instrument](midi + detune, rng))

    def _shifted(self, file: str, semitones: float) -> np.ndarray:
        """A sample, mono, higher by so many semitones and as much shorter."""
        samples, rate = self._sample(file)
        source = round(rate * 2.0 ** (semitones / 12.0) / 10) * 10
        moved = samples if source == RATE else resample(samples, source, RATE)
        return moved[: int(LONGEST_S * RATE)].astype(np.float64)

    def _sample(self, file: str) -> tuple[np.ndarray, int]:
        if file not in self._raw:
            with zipfile.ZipFile(self._zip) as archive:
                audio = read_audio(archive.read(file), mono=True)
            start = int(np.argmax(np.abs(audio.samples[0]) > 0.02 * np.abs(audio.samples[0]).max()))
            self._raw[file] = (audio.samples[0, max(0, start - 48) :], audio.sample_rate)
        return self._raw[file]
