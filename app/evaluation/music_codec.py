"""What a music codec keeps, and how far made music lies from real music on the codec's own latents.

Letters: S samples, D latent channels, N seconds of sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datamodules.music_store import real_tracks
from datamodules.rendered_music_synthesis import RATE
from genmm.core.errors import DataError
from genmm.core.paths import data_home
from genmm.media.audio import read_audio
from genmm.media.loudness import normalise
from genmm.media.resampling import resample
from genmm.metrics.music_distance import frechet_distance, mel_distance, si_sdr_db, stereo_image

if TYPE_CHECKING:
    from app.evaluation.music import MusicMeasure

LOUDNESS_LUFS = -20.0
"""All sounds are brought to this before they are compared on latents."""
RECONSTRUCTED_S, DISTANCE_S = 8.0, 20.0
"""Length of a real track that is taken."""
RENDERED = 12
"""Rendered pieces in the codec table, at most."""


@torch.inference_mode()
def round_trip(codec: Any, samples: np.ndarray, rate: int) -> np.ndarray:
    """A sound [2, S] encoded (without noise) and decoded, at the codec's rate."""
    wave, count = _prepared(codec, samples, rate)
    return codec.decode(codec.encode(wave).mean)[0, :, :count].float().cpu().numpy()


@torch.inference_mode()
def embeddings(codec: Any, samples: np.ndarray, rate: int) -> list[list[float]]:
    """Mean latent of every second of a sound [2, S], at one loudness: N rows of D."""
    wave, count = _prepared(codec, normalise(samples, rate, LOUDNESS_LUFS), rate)
    mean = codec.encode(wave).mean[0].float().cpu().numpy()  # [D, T]
    parts = np.array_split(mean, max(1, round(count / codec.sample_rate)), axis=1)
    return [[round(float(value), 5) for value in part.mean(1)] for part in parts]


def _prepared(codec: Any, samples: np.ndarray, rate: int) -> tuple[torch.Tensor, int]:
    ready = samples if rate == codec.sample_rate else resample(samples, rate, codec.sample_rate)
    device = next(codec.parameters()).device
    return torch.from_numpy(np.ascontiguousarray(ready, dtype=np.float32))[None].to(device), ready.shape[-1]


def held_out_real(count: int) -> list[dict[str, str]]:
    """Rows of real tracks that shipped weights never train on: the fifth part of the free ones, then the others.

    Raises: DataError when the data folder is not there.
    """
    free = real_tracks()
    names = {row["file"] for row in free}
    kept = [row for number, row in enumerate(free) if number % 5 == 4]
    others = [row for row in real_tracks(free_only=False) if row["file"] not in names]
    step = max(1, len(others) // max(1, count - len(kept)))
    return [*kept, *others[::step]][:count]


def _real(row: dict[str, str], seconds: float) -> np.ndarray:
    audio = read_audio(data_home() / "music_tracks" / row["file"], sample_rate=RATE).stereo()
    return audio.samples[:, : round(seconds * RATE)]


def reconstruction(measure: MusicMeasure) -> dict[str, dict[str, float]]:
    """What the codec alone keeps of held-out rendered music and of real tracks."""
    codec, judges = measure.pipeline.codec, measure.judges

    def figures(sound: np.ndarray) -> dict[str, float]:
        back, at = round_trip(codec, sound, RATE), codec.sample_rate
        sound = sound if at == RATE else resample(sound, RATE, at)
        width, balance = np.subtract(stereo_image(back), stereo_image(sound))
        return {"si_sdr_db": si_sdr_db(back, sound), "mel": mel_distance(back, sound, at),
                "width_error": abs(float(width)), "balance_error_db": abs(float(balance))}  # fmt: skip

    numbers = range(min(RENDERED, measure.options.pieces))
    sets = {
        "rendered, held out": [
            measure.journal.kept(f"codec {n}", lambda n=n: figures(judges.rendered(n, judges.wanted(n))))
            for n in measure.each("codec on rendered music", numbers)
        ]
    }
    tracks = _tracks(measure)
    if tracks:
        sets["real, held out"] = [
            measure.journal.kept(f"codec {row['file']}", lambda row=row: figures(_real(row, RECONSTRUCTED_S)))
            for row in measure.each("codec on real music", tracks)
        ]
    return {name: {**_means(rows), "count": len(rows)} for name, rows in sets.items()}


def distance(measure: MusicMeasure) -> dict[str, Any]:
    """Frechet distances on codec latents: of the model to real and to rendered held-out music, and what is usual."""
    numbers = range(measure.options.pieces)
    made, truth = [], []
    for number in measure.each("pieces for the distance", numbers):
        found = measure.piece(number)["embeddings"]
        made += found["model"]
        truth.append(found["truth"])
    sets = {"model": made, "rendered": [row for rows in truth for row in rows]}
    halves = [[row for rows in truth[first::2] for row in rows] for first in (0, 1)]
    pairs = [("model", "rendered")]
    if min(map(len, halves)) > 1:
        sets |= {"half of the rendered": halves[0], "other half of the rendered": halves[1]}
        pairs.append(("half of the rendered", "other half of the rendered"))
    tracks = _tracks(measure)
    real = [
        measure.journal.kept(
            f"real {row['file']}", lambda row=row: embeddings(measure.pipeline.codec, _real(row, DISTANCE_S), RATE)
        )
        for row in measure.each("real music for the distance", tracks)
    ]
    if len(real) > 1:
        sets["real"] = [row for rows in real for row in rows]
        sets |= {"half of the real": sum(real[::2], []), "other half of the real": sum(real[1::2], [])}
        pairs += [("model", "real"), ("rendered", "real"), ("half of the real", "other half of the real")]
    return {
        "seconds": {name: len(rows) for name, rows in sets.items()},
        "frechet": {f"{a} to {b}": frechet_distance(np.array(sets[a]), np.array(sets[b])) for a, b in pairs},
    }


def _tracks(measure: MusicMeasure) -> list[dict[str, str]]:
    try:
        return held_out_real(measure.options.real)
    except DataError as error:
        measure.say(f"left out: {error}", 0, 1)
        return []


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
