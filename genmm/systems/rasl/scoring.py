"""From features to one score a clip: windows through the network, streams together, smoothing, a range of 0 to 1.

Letters: T steps of one second, n clips, W steps of a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from genmm.metrics.highlight_floors import centre_prior, standard
from genmm.systems.rasl.audio_features import ONSET_COLUMN, SILENCE_DB
from genmm.systems.rasl.extractors import HANDCRAFTED
from genmm.systems.rasl.feature_table import STEP_S, FeatureTable
from genmm.systems.rasl.inputs import Inputs, network_inputs
from genmm.systems.rasl.network import RaslNetwork
from genmm.systems.rasl.visual_features import STATIC_SIZE

__all__ = ["Curves", "clip_times", "heuristic_scores", "model_scores", "normalised", "robust", "score_curves"]

MOSTLY_SILENT = 0.6
"""When more than this share of the steps is silent, the sound takes no part in joint scores."""
SMOOTHING = np.array([0.25, 0.5, 0.25])
"""Hann kernel over three clips."""
POSITION_FROM_S = 60.0
"""Length in seconds from which the position in the video counts; shorter videos are often single takes."""
BATCH = 16
"""Windows that go through the network together."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Scores of one video; a stream that is missing or was not asked for is None."""

    times_s: np.ndarray
    """[n, 2] float64, start and end of each clip."""
    scores: np.ndarray
    """[n] float64 in [0, 1], smoothed."""
    raw: dict[str, np.ndarray]
    """Stream ("v", "a", "av") -> [n] float64, clip means before smoothing and normalising."""
    curves: dict[str, np.ndarray]
    """Stream -> [n] float64 in [0, 1], smoothed."""
    notes: tuple[str, ...]


def score_curves(
    table: FeatureTable,
    modality: str,
    scorer: Callable[[FeatureTable], dict[str, np.ndarray]],
    *,
    clip_s: float = 2.0,
    audio_weight: float = 0.5,
) -> Curves:
    """Score a video by "v", "a", "av" or "auto", which takes what is there.

    Both streams are put on one scale by the median and the median deviation of the whole video, then averaged with
    `audio_weight`; where the sound is mostly silent its weight is 0.
    """
    raw_steps = scorer(table)
    notes: list[str] = []
    wanted = _wanted(modality, raw_steps, notes)
    is_silent = table.loudness_db is not None and float(np.mean(table.loudness_db < SILENCE_DB)) > MOSTLY_SILENT
    if wanted == "a" and is_silent:
        notes.append("the sound is mostly silent, so its scores say little")
    if "v" in raw_steps and "a" in raw_steps:
        weight = 0.0 if is_silent else audio_weight
        if wanted == "av" and is_silent:
            notes.append("the sound is mostly silent and was left out of the score")
        raw_steps["av"] = (1.0 - weight) * robust(raw_steps["v"]) + weight * robust(raw_steps["a"])
    times = clip_times(table.duration_s, clip_s)
    raw = {name: _clip_means(values, times) for name, values in raw_steps.items()}
    curves = {name: normalised(_smoothed(values)) for name, values in raw.items()}
    if len(times) > 1 and np.ptp(raw[wanted]) <= 1e-9:
        notes.append("nothing stands out: all moments have the same score")
    return Curves(times, curves[wanted], raw, curves, tuple(notes))


def _wanted(modality: str, raw: dict[str, np.ndarray], notes: list[str]) -> str:
    both = "v" in raw and "a" in raw
    if modality in ("auto", "av"):
        if not both and modality == "av":
            notes.append("only one of picture and sound is there; the score comes from it alone")
        return "av" if both else next(iter(raw))
    if modality not in raw:
        other = next(iter(raw))
        missing = "sound" if modality == "a" else "picture"
        notes.append(f"there is no {missing} to score; the other stream was used")
        return other
    return modality


def model_scores(network: RaslNetwork, table: FeatureTable, device: torch.device) -> dict[str, np.ndarray]:
    """The activation of every step, per stream: "v" and "a" -> [T] float64; streams that are missing are left out."""
    inputs = network_inputs(table)
    found = {}
    if inputs.visual is not None:
        found["v"] = _windowed(network, "visual", inputs, device)
    if inputs.audio is not None:
        found["a"] = _windowed(network, "audio", inputs, device)
    return found


def heuristic_scores(table: FeatureTable, position: float = 1.0) -> dict[str, np.ndarray]:
    """Scores without weights: movement and typicality of the pictures; loudness and onsets of the sound; position.

    Movement is the mean optical flow, without the steps in which a shot begins (their flow measures the cut);
    typicality is the mean similarity of a step's look (without its movement) to that of all other steps. Position is
    how near a step is to the middle of the video, with weight `position` beside 1 for each other part: openings and
    endings are seldom what people pick. Where there are both streams each gets half of it, so that it counts once in
    the joint score. It decides nothing where nothing else stands out, nor in short videos.
    """
    found = {}
    position = position / 2.0 if table.has_picture and table.has_sound else position
    if table.visual is not None and table.motion is not None:
        flow = table.motion[:, 1].astype(np.float64).copy()
        steps = {int(cut / STEP_S) for cut in table.cuts_s}
        at_cuts = np.isin(np.arange(len(flow)), list(steps))
        if at_cuts.any() and not at_cuts.all():
            flow[at_cuts] = np.interp(np.flatnonzero(at_cuts), np.flatnonzero(~at_cuts), flow[~at_cuts])
        looks = table.visual[:, :STATIC_SIZE] if table.extractor == HANDCRAFTED.name else table.visual
        unit = looks / np.maximum(1e-9, np.linalg.norm(looks, axis=1, keepdims=True))
        typical = (unit @ unit.mean(0)).astype(np.float64)
        found["v"] = _with_position(_cue(flow) + _cue(typical), table, position)
    if table.has_sound:
        loudness = np.asarray(table.loudness_db, np.float64)
        onsets = table.audio[:, ONSET_COLUMN].astype(np.float64)  # type: ignore[index]
        found["a"] = _with_position(_cue(loudness) + _cue(onsets), table, position)
    return found


def _cue(values: np.ndarray) -> np.ndarray:
    """Values [T] with mean 0 and deviation 1; zeros where they differ by rounding alone, as in a still picture."""
    if float(np.std(values)) <= 1e-6 * max(1.0, abs(float(np.mean(values)))):
        return np.zeros_like(values, np.float64)
    return standard(values)


def _with_position(scores: np.ndarray, table: FeatureTable, weight: float) -> np.ndarray:
    """Scores [T] of what is seen or heard, with the preference for the middle added to them."""
    if table.duration_s < POSITION_FROM_S or np.ptp(scores) < 1e-9:
        return scores
    return scores + weight * standard(centre_prior(len(scores)))


@torch.inference_mode()
def _windowed(network: RaslNetwork, stream: str, inputs: Inputs, device: torch.device) -> np.ndarray:
    """Activations [T] over windows that overlap by half, averaged with triangular weights."""
    features = inputs.visual if stream == "visual" else inputs.audio
    valid = np.ones(inputs.steps, bool) if stream == "visual" else np.asarray(inputs.audio_valid)
    window = network.config.window
    starts = list(range(0, max(1, inputs.steps - window // 2), max(1, window // 2)))
    starts[-1] = max(0, inputs.steps - window)
    length = min(window, inputs.steps)
    weight = 1.0 - np.abs(np.linspace(-1.0, 1.0, length + 2)[1:-1])
    total, mass = np.zeros(inputs.steps), np.zeros(inputs.steps)
    dtype = next(network.parameters()).dtype
    for first in range(0, len(starts), BATCH):
        part = starts[first : first + BATCH]
        rows = torch.from_numpy(np.stack([features[s : s + length] for s in part])).to(device, dtype)
        mask = torch.from_numpy(np.stack([valid[s : s + length] for s in part])).to(device)
        activation = network(stream, rows, mask).activation.float().cpu().numpy()
        for start, values in zip(part, activation, strict=True):
            total[start : start + length] += weight * values
            mass[start : start + length] += weight
    scores = total / np.maximum(mass, 1e-12)
    if not valid.all():  # where there is no sound there is nothing to like about it
        scores[~valid] = scores[valid].min() if valid.any() else 0.0
    return scores


def clip_times(duration_s: float, clip_s: float) -> np.ndarray:
    """Start and end [n, 2] of the clips; the last one is shorter, or up to a half longer, to end with the video."""
    count = max(1, int(duration_s / clip_s + 0.5))
    edges = np.append(clip_s * np.arange(count), max(duration_s, 1e-3))
    return np.stack([edges[:-1], edges[1:]], axis=1)


def robust(values: np.ndarray) -> np.ndarray:
    """Values [T] minus their median, over their median deviation; where that is 0, over the standard deviation."""
    off = values - np.median(values)
    scale = 1.4826 * float(np.median(np.abs(off))) or float(np.std(off))
    return off / scale if scale > 1e-12 else np.zeros_like(off)


def normalised(values: np.ndarray) -> np.ndarray:
    """Values [n] brought to [0, 1] by their 1st and 99th percentile; 0.5 throughout when they are all the same."""
    low, high = np.percentile(values, [1.0, 99.0])
    if high - low <= 1e-9:
        low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9:
        return np.full(len(values), 0.5)
    return ((values - low) / (high - low)).clip(0.0, 1.0)


def _clip_means(steps: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Mean over each clip of the scores [T] of the steps, each counting as long as it lasts in the clip."""
    edges = STEP_S * np.arange(len(steps) + 1)
    area = np.concatenate([[0.0], np.cumsum(steps * STEP_S)])
    at = np.interp(times, edges, area)  # the integral of the score up to each border
    lengths = np.minimum(times[:, 1], edges[-1]) - np.minimum(times[:, 0], edges[-1])
    return np.where(lengths > 1e-9, (at[:, 1] - at[:, 0]) / np.maximum(lengths, 1e-9), steps[-1])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Values [n] under the Hann kernel; at the ends it is cut and rescaled, so that padding raises nothing."""
    if len(values) < 3:
        return values
    mass = np.convolve(np.ones(len(values)), SMOOTHING, mode="same")
    return np.convolve(values, SMOOTHING, mode="same") / mass
