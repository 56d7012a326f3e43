"""A voice: the latents of a few seconds of speech, kept so that it is encoded once and used many times.

Letters: S samples, T latent frames, D latent channels.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from genmm.core.errors import CheckpointError, DataError, ShapeError, UsageError
from genmm.core.files import read_json, write_bytes
from genmm.core.limits import clean_text
from genmm.core.weights import read_tensors
from genmm.media.audio import resample
from genmm.media.loudness import integrated_loudness, normalise
from genmm.media.silence import trim_silence
from genmm.systems.sled.latents import LatentCodec

SHORTEST_S, LONGEST_S = 1.0, 12.0
"""Speech that a voice needs, and the most that is used, in seconds; 3 to 10 s work best."""
QUIET_LUFS, USUAL_LUFS = -36.0, -23.0
"""Below the first a recording is made louder, to the second."""
CLIPPED_SHARE = 0.001
"""Share of samples at full scale from which a recording counts as distorted."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")


@dataclass(frozen=True, eq=False, kw_only=True)
class Voice:
    """One voice, for checkpoints with the same codec."""

    name: str
    """What it is called, in lists and recipes."""
    latents: Tensor
    """[T, D] float32 on the CPU, as the codec encodes them (standardised, where the codec does that)."""
    frame_rate: float
    """Latent frames a second."""
    transcript: str | None = None
    """What is said in it, or None; needed only to continue the recording."""
    licence: str = ""
    """Licence of the recording."""
    source: str = ""
    """Where the recording comes from."""
    notes: tuple[str, ...] = ()
    """What was unusual about the recording, in sentences."""

    def __post_init__(self) -> None:
        if self.latents.ndim != 2 or not len(self.latents):
            raise ShapeError(f"the latents of a voice must be [T, D] with T >= 1, got {tuple(self.latents.shape)}")
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"a voice name has up to 64 letters, digits, spaces, dots and dashes, got {self.name!r}")

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return len(self.latents) / self.frame_rate

    @property
    def statistics(self) -> Tensor:
        """Mean and standard deviation over time of each channel, one after the other: [2 D] float32."""
        return torch.cat((self.latents.mean(0), self.latents.std(0, unbiased=False)))

    def files(self) -> dict[str, bytes]:
        """<name>.json and <name>.safetensors with their contents; latents are stored in float16."""
        about = {
            "name": self.name,
            "frame_rate": self.frame_rate,
            "transcript": self.transcript,
            "licence": self.licence,
            "source": self.source,
            "notes": list(self.notes),
        }
        tensors = {"latents": self.latents.to(torch.float16).contiguous()}
        text = json.dumps(about, indent=2, ensure_ascii=False)
        return {f"{self.name}.json": f"{text}\n".encode(), f"{self.name}.safetensors": safetensors_bytes(tensors)}

    def save(self, folder: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write <name>.json and <name>.safetensors into a folder, each whole or not at all; gives back the paths."""
        return tuple(write_bytes(Path(folder) / name, content) for name, content in self.files().items())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Voice:
        """Read a voice from its .json or .safetensors file, or from their common stem.

        Raises: DataError when a file is missing or damaged.
        """
        path = Path(path)
        stem = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
        about_path, weights_path = stem.parent / f"{stem.name}.json", stem.parent / f"{stem.name}.safetensors"
        if not about_path.is_file() or not weights_path.is_file():
            raise DataError(f"a voice is two files, {about_path} and {weights_path.name}; both must be there")
        about = read_json(about_path)
        try:
            latents = read_tensors(weights_path, dtype=torch.float32)["latents"]
            return cls(
                name=str(about["name"]),
                latents=latents,
                frame_rate=float(about["frame_rate"]),
                transcript=about.get("transcript"),
                licence=str(about.get("licence", "")),
                source=str(about.get("source", "")),
                notes=tuple(about.get("notes", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError, CheckpointError) as error:
            raise DataError(f"the voice at {about_path} cannot be read: {error}") from error


class VoiceShelf(Mapping[str, Voice]):
    """The voices of a checkpoint by name, read from its folder when they are first used."""

    def __init__(self, voices: Mapping[str, Voice] | None = None, folder: Path | None = None) -> None:
        self._loaded = dict(voices or {})
        self._files = {path.stem: path for path in sorted(folder.glob("*.json"))} if folder and folder.is_dir() else {}

    def __getitem__(self, name: str) -> Voice:
        if name not in self._loaded:
            self._loaded[name] = Voice.load(self._files[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._loaded, *self._files}))

    def __len__(self) -> int:
        return len({*self._loaded, *self._files})

    def files(self) -> dict[str, bytes]:
        """The voices as files of a checkpoint: "voices/<name>.json" and the like -> contents."""
        return {f"voices/{name}": content for voice in self.values() for name, content in voice.files().items()}


def encode_voice(
    samples: np.ndarray | Tensor,
    sample_rate: int,
    codec: LatentCodec,
    *,
    transcript: str | None = None,
    name: str = "recording",
    licence: str = "",
    source: str = "",
) -> Voice:
    """Make a voice of a recording: one channel, the codec's rate, no silence at the ends, 1 to 12 seconds.

    samples: [S] or [C, S], full scale at 1. What had to be changed is said in `Voice.notes`.
    Raises: UsageError when less than a second of sound is left; ShapeError for other shapes.
    """
    mono, notes = _prepared(samples, sample_rate, codec.sample_rate)
    longest = int(LONGEST_S * codec.sample_rate)
    if len(mono) > longest:
        mono = mono[:longest]
        notes.append(f"only the first {LONGEST_S:g} seconds of the recording are used")
        if transcript is not None:
            transcript = None
            notes.append("the transcript no longer fits the shortened recording, so it is not used")
    device = next(iter(codec.parameters())).device if isinstance(codec, torch.nn.Module) else "cpu"
    latents = codec.encode(mono[None].to(device))[0].float().cpu().clone()
    return Voice(
        name=name,
        latents=latents,
        frame_rate=codec.frame_rate,
        transcript=None if transcript is None else clean_text(transcript),
        licence=licence,
        source=source,
        notes=tuple(notes),
    )


def _prepared(samples: np.ndarray | Tensor, from_rate: int, to_rate: int) -> tuple[Tensor, list[str]]:
    """One channel at the codec's rate without silence at the ends: [S] float32, and notes."""
    signal = torch.as_tensor(samples).detach().cpu().float()
    if signal.ndim == 2 and signal.shape[0] <= 8:
        signal = signal.mean(0)
    if signal.ndim != 1 or not len(signal):
        raise ShapeError(f"a recording must be [S] or [C, S] with at most 8 channels, got {tuple(signal.shape)}")
    if not bool(signal.isfinite().all()):
        raise UsageError("the recording holds NaN or infinity; export it again")
    notes = []
    if float((signal.abs() >= 0.999).float().mean()) > CLIPPED_SHARE:
        notes.append("the recording is clipped (too loud when it was recorded), so the voice may sound rough")
    whole = len(signal) / from_rate
    signal = trim_silence(signal, from_rate)
    if len(signal) < SHORTEST_S * from_rate or not bool(signal.any()):
        raise UsageError(
            f"the recording has {len(signal) / from_rate if bool(signal.any()) else 0.0:.1f} s of sound "
            f"({whole:.1f} s in all); a voice needs {SHORTEST_S:g} s or more, best 3 to 10 s"
        )
    if from_rate < to_rate:
        notes.append(f"the recording has {from_rate} Hz, the model {to_rate} Hz, so the voice will sound dull")
    loudness = integrated_loudness(signal.numpy(), from_rate)
    if loudness < QUIET_LUFS:
        signal = normalise(signal, from_rate, USUAL_LUFS)
        notes.append(f"the recording is very quiet ({loudness:.0f} LUFS) and was made louder")
    if whole > 2 * len(signal) / from_rate + 1:
        notes.append("most of the recording is silence")
    return resample(signal, from_rate, to_rate), notes
