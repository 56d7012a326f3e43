"""Where the usable cuts of large JSONL manifests are: byte offsets and sizes, read once and kept beside the latents.

Source: the manifests of LibriHeavy (one lhotse cut in a line), and the filter of SLED's official training code.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from genmm.core.errors import DataError
from genmm.core.files import atomic_path
from genmm.systems.sled.tokenizer import SledTokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """One utterance of a manifest."""

    id: str
    """Unique name."""
    text: str
    """Transcript, with case and punctuation."""
    audio: Path
    """Recording that holds it."""
    start_s: float
    """Where it begins in the recording, in seconds."""
    duration_s: float
    """How long it is, in seconds."""
    speaker: str | None
    """Name of the speaker, when the manifest says it."""

    @classmethod
    def parse(cls, line: bytes | str, audio_root: Path) -> Self:
        """Read a line: id, start, duration, supervisions[0].text, recording.sources[0].source.

        A relative source lies under `audio_root`. Raises: DataError that names what is missing or wrong.
        """
        try:
            row = json.loads(line)
            said = row["supervisions"][0]
            text = said.get("text") or said["custom"]["texts"][0]
            source = row["recording"]["sources"][0]["source"]
            start, duration = float(row.get("start", 0.0)), float(row["duration"])
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            kind = f"{type(error).__name__} {error}"
            raise DataError(
                "a manifest line needs id, start, duration, supervisions[0].text and recording.sources[0].source; "
                f"{kind} in {str(line)[:120]!r}"
            ) from error
        if (
            not isinstance(row.get("id"), str)
            or not isinstance(text, str)
            or not 0 <= start < 1e9
            or not 0 < duration < 1e6
        ):
            raise DataError(f"a cut needs a string id, a text, start >= 0 and duration > 0, got {str(line)[:120]!r}")
        return cls(row["id"], text, audio_root / source, start, duration, said.get("speaker"))


@dataclass(frozen=True)
class ManifestIndex:
    """Offsets and sizes of the cuts that are kept, in manifest order."""

    manifest: Path
    """Plain JSONL file that the offsets point into."""
    audio_root: Path
    """Folder of relative sources."""
    offsets: np.ndarray
    """[N] int64 byte offset of each line."""
    frames: np.ndarray
    """[N] int32 latent frames of each cut."""
    tokens: np.ndarray
    """[N] int32 text tokens of each cut, <s> and </s> included."""

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, place: int) -> Cut:
        with self.manifest.open("rb") as stream:
            stream.seek(int(self.offsets[place]))
            return Cut.parse(stream.readline(), self.audio_root)

    @classmethod
    def open(
        cls,
        manifest: Path,
        *,
        audio_root: Path,
        tokenizer: SledTokenizer,
        frame_rate: float,
        max_positions: int,
        cache: Path,
    ) -> Self:
        """Index a manifest (.jsonl or .jsonl.gz), or read the index that an earlier run kept under `cache`.

        Kept are cuts with tokens + int(duration * frame_rate) < max_positions whose recording exists.
        Raises: DataError when the manifest is missing, has a bad line or no usable cut.
        """
        if not manifest.is_file():
            raise DataError(f"there is no manifest {manifest}; give the path of a .jsonl or .jsonl.gz file")
        state = manifest.stat()
        key = (str(manifest.resolve()), state.st_size, state.st_mtime_ns, str(audio_root.resolve()), frame_rate)
        words = hashlib.sha256(repr((key, max_positions)).encode())
        for content in tokenizer.files().values():
            words.update(content)
        name = words.hexdigest()[:24]
        plain = manifest if manifest.suffix != ".gz" else unpacked(manifest, cache / f"{name}.jsonl")
        kept = cache / f"{name}.npz"
        if not kept.is_file():
            columns = scan(plain, audio_root, tokenizer, frame_rate, max_positions)
            with atomic_path(kept) as path:
                np.savez(path, offsets=columns[0], frames=columns[1], tokens=columns[2])
        with np.load(kept, allow_pickle=False) as arrays:
            return cls(plain, audio_root, arrays["offsets"], arrays["frames"], arrays["tokens"])


def scan(
    plain: Path, audio_root: Path, tokenizer: SledTokenizer, frame_rate: float, max_positions: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets, frames and tokens of the usable cuts of a plain JSONL file."""
    rows: list[tuple[int, int, int]] = []
    dropped = {"too long": 0, "without its recording": 0}
    present: dict[Path, bool] = {}
    for number, (offset, line) in enumerate(lines_of(plain), start=1):
        try:
            cut = Cut.parse(line, audio_root)
        except DataError as error:
            raise DataError(f"{plain}, line {number}: {error}") from error
        tokens, frames = len(tokenizer.encode(cut.text)), int(cut.duration_s * frame_rate)
        if cut.audio not in present:
            present[cut.audio] = cut.audio.is_file()
        if not present[cut.audio]:
            dropped["without its recording"] += 1
        elif tokens + frames >= max_positions:
            dropped["too long"] += 1
        else:
            rows.append((offset, frames, tokens))
        if number % 1_000_000 == 0:
            log.info("%s: %d lines read", plain, number)
    if not rows:
        raise DataError(f"{plain} has no usable cut: {dropped}; check audio_root {audio_root}")
    log.info("%s: %d cuts kept, dropped: %s", plain, len(rows), dropped)
    table = np.array(rows, dtype=np.int64)
    return table[:, 0], table[:, 1].astype(np.int32), table[:, 2].astype(np.int32)


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """(byte offset, line) of every line that is not blank."""
    offset = 0
    with path.open("rb") as stream:
        for line in stream:
            if line.strip():
                yield offset, line
            offset += len(line)


def unpacked(manifest: Path, target: Path) -> Path:
    """Plain copy of a .gz manifest, because a compressed file cannot be read from the middle."""
    if not target.is_file():
        try:
            with atomic_path(target) as path, gzip.open(manifest, "rb") as packed, path.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
        except (OSError, EOFError) as error:
            raise DataError(f"{manifest} cannot be unpacked: {error}") from error
    return target


def joined_lengths(indices: Sequence[ManifestIndex]) -> np.ndarray:
    """Joint length (text and speech) of every cut of several indices: [N] int64."""
    return np.concatenate([index.frames.astype(np.int64) + index.tokens for index in indices])


def cache_name(text: str) -> str:
    """Two folder levels and a file stem for a cut id; spreads millions of files evenly."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return os.path.join(digest[:2], digest[2:4], digest[4:24])
