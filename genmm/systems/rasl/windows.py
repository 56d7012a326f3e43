"""Training windows cut out of videos, and batches of them.

Letters: B windows, T steps of a window, Dv and Da sizes of the features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from genmm.systems.rasl.inputs import Inputs
from genmm.systems.rasl.network import RaslNetwork

__all__ = ["fit_statistics", "stack_windows", "window_of"]


def window_of(
    inputs: Inputs, length: int, generator: torch.Generator | None, *, sound: bool = True, drop_sound: float = 0.0
) -> dict[str, Tensor]:
    """A window of `length` steps at a random place (the first one without a generator), filled up with zeros.

    Args: `sound=False` leaves the sound out; `drop_sound` is the chance of leaving it out of this window, so that the
    objective also works without.
    Returns: visual [T, Dv] and mask [T]; audio [T, Da], audio_mask [T] and audible [T], all False without sound, and
    absent where no sound is wanted at all.
    """
    spare = max(0, inputs.steps - length)
    start = 0 if generator is None or not spare else int(torch.randint(spare + 1, (1,), generator=generator))
    dropped = drop_sound > 0 and generator is not None and float(torch.rand(1, generator=generator)) < drop_sound
    count = min(length, inputs.steps)
    item = {"mask": torch.arange(length) < count}
    if inputs.visual is not None:
        item["visual"] = _filled(inputs.visual, start, length)
    if not sound:
        return item
    if inputs.audio is None or dropped:
        item["audible"] = item["audio_mask"] = torch.zeros(length, dtype=torch.bool)
        return item
    item["audio"] = _filled(inputs.audio, start, length)
    item["audio_mask"] = _filled(inputs.audio_valid, start, length)
    item["audible"] = _filled(inputs.audible, start, length)
    return item


def stack_windows(items: Sequence[Mapping[str, Tensor]], audio_size: int) -> dict[str, Tensor]:
    """Windows as one batch; those without sound get silent rows of `audio_size` zeros."""
    batch = {name: torch.stack([item[name] for item in items]) for name in ("visual", "mask")}
    if "audible" in items[0]:
        steps = items[0]["mask"].shape[0]
        silent = torch.zeros(steps, audio_size)
        batch["audio"] = torch.stack([item.get("audio", silent) for item in items])
        batch |= {name: torch.stack([item[name] for item in items]) for name in ("audio_mask", "audible")}
    return batch


def fit_statistics(network: RaslNetwork, videos: Sequence[Inputs]) -> None:
    """Set the mean and deviation by which the network standardises its inputs, from the training videos."""
    for stream in ("visual", "audio"):
        rows = [getattr(video, stream) for video in videos if getattr(video, stream) is not None]
        if stream == "audio":
            rows = [r[v.audio_valid] for r, v in zip(rows, (v for v in videos if v.audio is not None), strict=True)]
        if rows and sum(map(len, rows)):
            every = np.concatenate(rows)
            network.branches[stream].set_statistics(
                torch.from_numpy(every.mean(0)), torch.from_numpy(np.maximum(every.std(0), 1e-3))
            )


def _filled(rows: np.ndarray | None, start: int, length: int) -> Tensor:
    part = torch.from_numpy(np.ascontiguousarray(rows[start : start + length]))  # type: ignore[index]
    out = torch.zeros((length, *part.shape[1:]), dtype=part.dtype)
    out[: len(part)] = part
    return out
