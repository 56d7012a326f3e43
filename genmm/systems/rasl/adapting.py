"""Fitting a model to somebody's own footage, without labels: minutes on a CPU, resumable, and judged afterwards."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from genmm.core.errors import CheckpointError, DataError, GenmmError, UsageError
from genmm.core.events import CancelToken, Event, Finished, Progress
from genmm.core.files import write_json
from genmm.core.wording import counted
from genmm.systems.rasl.feature_table import FeatureTable
from genmm.systems.rasl.fitting import Fit, FitConfig, held_out_losses
from genmm.systems.rasl.footage import cached_table, find_footage
from genmm.systems.rasl.inputs import Inputs, network_inputs
from genmm.systems.rasl.pipeline import RaslPipeline
from genmm.systems.rasl.scoring import model_scores

__all__ = ["AdaptReport", "adapt_events"]

STATE = "adapt.safetensors"
"""Where an unfinished run keeps its place, inside the new checkpoint folder."""
SAVE_EVERY = 25
"""Steps after which the place is kept."""
LEAST_S = 60.0
"""Footage below this is too little to learn from."""
LEAST_GAIN = 0.01
"""The held-out objective must fall by this share for the fit to count as a help."""
LEAST_AGREEMENT = 0.2
"""Mean rank correlation with the base model below this means that the new scores are about something else."""


@dataclass(frozen=True)
class AdaptReport:
    """What a fit has done."""

    folder: str
    """The new checkpoint folder."""
    videos: int
    """Videos that were learned from."""
    held_out: int
    """Videos, or parts of videos, that were kept for judging."""
    minutes: float
    """Footage learned from."""
    steps: int
    """Optimizer steps."""
    objective_before: float
    """The objective of the base model on what was held out."""
    objective_after: float
    """The same after the fit; lower is better."""
    agreement: float
    """Mean Spearman correlation between base and new scores on what was held out, -1 to 1."""
    helped: bool
    """Whether the objective fell and the scores still agree with those of the base model."""
    verdict: str
    """One sentence."""
    left_out: tuple[str, ...] = ()
    """Files that could not be read, each with the reason."""


def adapt_events(
    base: RaslPipeline,
    footage: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str],
    steps: int = 150,
    seed: int = 0,
    cancel: CancelToken | None = None,
) -> Iterator[Event]:
    """Read all videos below `footage`, fit a copy of the base model to them, judge it, write it to `folder`.

    Features are kept in `cache` and the fit keeps its place in `folder`, so the same call goes on after an
    interruption. Yields Progress, at last Finished with an AdaptReport, which also stands in adapt.json.
    Raises: UsageError for a pipeline without a model or a folder that holds a finished model; DataError for too little
    footage; Cancelled.
    """
    folder = Path(folder)
    files = find_footage(footage)
    if base.network is None:
        raise UsageError("the heuristic preset has nothing to fit; adapt a model")
    if (folder / "config.json").exists():
        raise UsageError(f"{folder} holds a model already; give another folder, or remove it first")
    tables: list[FeatureTable] = []
    left_out: list[str] = []
    for number, path in enumerate(files):
        yield Progress(number, len(files), "videos", f"reading {path.name}")
        try:
            tables.append(cached_table(path, cache, extractor=base.extractor, cancel=cancel))
        except GenmmError as error:
            if error.exit_code == 130:
                raise
            left_out.append(f"{path.name}: {error}")
    training, judging = _split([table for table in tables if table.has_picture])
    seconds = sum(video.steps for video in training)
    if seconds < LEAST_S:
        raise DataError(
            f"there are {seconds} s of footage to learn from, at least {LEAST_S:g} s are needed; add videos"
        )
    window = min(48, max(8, int(np.median([video.steps for video in training]))))
    config = FitConfig(steps=steps, window=window, batch_size=16, learning_rate=3e-4, warmup_steps=10, seed=seed)
    network = copy.deepcopy(base.network).requires_grad_(True)
    fit = Fit(network, training, config)
    place = folder / STATE
    if place.is_file():
        _go_on(fit, place)
    for _ in fit.run(cancel):
        if fit.step % SAVE_EVERY == 0:
            fit.save(place)
        yield Progress(fit.step, steps, "steps", "fitting the model to the footage")
    report = _judged(base, network, judging, config, folder, len(training), seconds, tuple(left_out))
    about = {**base.about, "origin": f"fitted to {counted(len(training), 'video')} without labels, from {base.name}"}
    fitted = RaslPipeline(
        network.requires_grad_(False).eval(),
        defaults=base.defaults,
        scorer="model",  # whoever fits a model means its scores, whatever the base prefers
        extractor=base.extractor,
        name=folder.name,
        about=about,
    )
    fitted.save(folder)
    write_json(folder / "adapt.json", asdict(report))
    place.unlink(missing_ok=True)
    yield Finished(report)


def _go_on(fit: Fit, place: Path) -> None:
    try:
        fit.load(place)
    except CheckpointError as error:
        raise UsageError(f"{error}; or give another folder") from error


def _split(tables: Sequence[FeatureTable]) -> tuple[list[Inputs], list[Inputs]]:
    """Videos to learn from and to judge by: every fifth video; with fewer than five, the last fifth of each."""
    videos = [network_inputs(table) for table in tables]
    if len(videos) >= 5:
        return [v for i, v in enumerate(videos) if i % 5 != 4], videos[4::5]
    first, last = [], []
    for video in videos:
        edge = int(0.8 * video.steps)
        if edge < 8 or video.steps - edge < 8:
            first.append(video)
            continue
        first.append(_part(video, slice(0, edge)))
        last.append(_part(video, slice(edge, None)))
    return first, last or first


def _part(video: Inputs, steps: slice) -> Inputs:
    parts = (video.visual, video.audio, video.audio_valid, video.audible)
    return Inputs(*(None if part is None else part[steps] for part in parts))


def _judged(
    base: RaslPipeline,
    network: object,
    judging: Sequence[Inputs],
    config: FitConfig,
    folder: Path,
    videos: int,
    seconds: int,
    left_out: tuple[str, ...],
) -> AdaptReport:
    before = held_out_losses(base.network, judging, config)["loss"]  # type: ignore[arg-type]
    after = held_out_losses(network, judging, config)["loss"]  # type: ignore[arg-type]
    agreement = _agreement(base, network, judging)
    fell = after < (1.0 - LEAST_GAIN) * before
    helped = fell and agreement >= LEAST_AGREEMENT
    if helped:
        verdict = (
            "it helped: the objective fell on footage that was kept back, and the scores agree with the base model"
        )
    elif not fell:
        verdict = "it did not help: the objective did not fall on footage that was kept back; stay with the base model"
    else:
        verdict = "doubtful: the objective fell, but the scores are about something else than before; compare both"
    return AdaptReport(
        folder=os.fspath(folder),
        videos=videos,
        held_out=len(judging),
        minutes=round(seconds / 60.0, 2),
        steps=config.steps,
        objective_before=round(before, 5),
        objective_after=round(after, 5),
        agreement=round(agreement, 4),
        helped=helped,
        verdict=verdict,
        left_out=left_out,
    )


def _agreement(base: RaslPipeline, network: object, judging: Sequence[Inputs]) -> float:
    from scipy.stats import spearmanr

    values = []
    for video in judging:
        table = FeatureTable(
            visual=video.visual,
            audio=None,
            audio_valid=None,
            motion=None,
            loudness_db=None,
            duration_s=float(video.steps),
        )
        first = model_scores(base.network, table, base.device)["v"]  # type: ignore[arg-type]
        second = model_scores(network, table, base.device)["v"]  # type: ignore[arg-type]
        if np.ptp(first) > 0 and np.ptp(second) > 0:
            values.append(float(spearmanr(first, second).statistic))
    return float(np.mean(values)) if values else 0.0
