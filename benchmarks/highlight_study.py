"""What the objective learns: several seeds on computed scenes with known highlights, with and without sound; TVSum.

    python -m benchmarks.highlight_study scenes --seeds 3 --steps 240 --train 140 --test 40 --cache FOLDER
    python -m benchmarks.highlight_study tvsum --seeds 3 --steps 250 [--model rasl]

The last step of every run is what is measured; nothing is chosen by looking at labels.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.highlight_tables import LabelledTable, rendered_tables
from datamodules.rendered_video_events import TEST_FAMILIES, TRAIN_FAMILIES
from datamodules.tvsum import TvSumVideo, read_tvsum
from genmm.core.paths import data_home, genmm_home
from genmm.metrics.bootstrap import bootstrap_mean
from genmm.metrics.highlight import (
    average_precision,
    boundary_error_s,
    hit_at_1,
    mininet_top_map,
    precision_at,
    rank_correlation,
    tvsum_top_map,
)
from genmm.metrics.highlight_floors import floor_scores
from genmm.systems.rasl.config import ObjectiveConfig, RaslConfig
from genmm.systems.rasl.feature_table import FeatureTable
from genmm.systems.rasl.fitting import Fit, FitConfig
from genmm.systems.rasl.inputs import network_inputs
from genmm.systems.rasl.network import RaslNetwork
from genmm.systems.rasl.pipeline import RaslPipeline
from genmm.systems.rasl.scoring import heuristic_scores, model_scores, score_curves
from genmm.systems.rasl.segments import Budget, choose_segments
from genmm.systems.rasl.windows import fit_statistics

SMALL = RaslConfig(width=96, projection=64, layers=2, heads=4, window=64)
"""The size of the embedded model."""
Scorer = Callable[[FeatureTable], dict[str, np.ndarray]]


def trained(
    tables: Sequence[FeatureTable], seed: int, steps: int, *, sound: bool, network: RaslConfig, **weights: float
) -> RaslNetwork:
    """A network fitted to the tables from a random start; with 0 steps the start itself."""
    torch.manual_seed(seed)
    model = RaslNetwork(network)
    videos = [network_inputs(table) for table in tables]
    fit_statistics(model, videos)
    if steps:
        fit = Fit(model, videos, FitConfig(steps=steps, sound=sound, seed=seed), ObjectiveConfig(**weights))
        for _ in fit.run():
            pass
    return model


def scorer_of(model: RaslNetwork) -> Scorer:
    """The activations of a network."""
    return lambda table: model_scores(model.eval(), table, torch.device("cpu"))


def condition(video: LabelledTable, name: str, other: LabelledTable) -> tuple[FeatureTable, str]:
    """A table under a condition, and the modality to score it by."""
    table = video.table
    if name in ("v", "a"):
        return table.only(name), name
    if name == "wrong sound":
        steps = min(table.steps, other.table.steps)
        audio, loud, valid = table.audio.copy(), table.loudness_db.copy(), table.audio_valid.copy()
        audio[:steps], loud[:steps] = other.table.audio[:steps], other.table.loudness_db[:steps]
        audio[steps:], loud[steps:] = other.table.audio[-1], other.table.loudness_db[-1]
        return dataclasses.replace(table, audio=audio, loudness_db=loud, audio_valid=valid), "av"
    if name == "muted halfway":
        valid = table.audio_valid & (np.arange(table.steps) < table.steps // 2)
        loud = np.where(valid, table.loudness_db, -80.0)
        return dataclasses.replace(table, audio_valid=valid, loudness_db=loud), "av"
    return table, "av"


def measured(videos: Sequence[LabelledTable], scorer: Scorer, name: str) -> dict[str, np.ndarray]:
    """AP, HIT@1 and boundary error of every video under a condition: [videos] each."""
    found: dict[str, list[float]] = {"ap": [], "hit": [], "boundary_s": []}
    for i, video in enumerate(videos):
        table, modality = condition(video, name, videos[(i + 1) % len(videos)])
        labels = video.clip_labels()
        curves = score_curves(table, modality, scorer)
        scores = curves.raw[modality if modality in curves.raw else next(iter(curves.raw))]
        count = min(len(labels), len(scores))
        found["ap"].append(average_precision(scores[:count], labels[:count]))
        found["hit"].append(hit_at_1(scores[:count], labels[:count]))
        kept = sum(end - start for start, end in video.highlights)
        segments = choose_segments(curves.times_s, curves.scores, table.cuts_s, Budget(seconds=max(2.0, kept)))
        found["boundary_s"].append(boundary_error_s([(s.start_s, s.end_s) for s in segments], video.highlights))
    return {key: np.asarray(values) for key, values in found.items()}


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean over videos with its 95 % bootstrap interval."""
    kept = values[np.isfinite(values)]
    if not kept.sum():
        return {"value": float(kept.mean()) if len(kept) else float("nan"), "low": 0.0, "high": 0.0}
    found = bootstrap_mean(kept.tolist())
    return {"value": round(found.value, 4), "low": round(found.low, 4), "high": round(found.high, 4)}


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean [videos] over the runs [runs, videos] that have a value; NaN where none has."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(0)
    return np.where(known.any(0), total / np.maximum(1, known.sum(0)), np.nan)


def signed_interval(values: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Mean of differences with its 95 % bootstrap interval over videos."""
    picks = np.random.default_rng(seed).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(values[picks].mean(1), [0.025, 0.975])
    return {"value": round(float(values.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def study_scenes(args: argparse.Namespace) -> dict[str, Any]:
    """Train on families A to D, measure on E and F."""
    cache = Path(args.cache) if args.cache else genmm_home() / "features" / "rendered"
    train = [video.table for video in rendered_tables(cache / "train", args.train, families=TRAIN_FAMILIES, seed=1)]
    test = rendered_tables(cache / "test", args.test, families=TEST_FAMILIES, seed=2)
    conditions = ("av", "v", "a", "wrong sound", "muted halfway")
    report: dict[str, Any] = {
        "train videos": len(train),
        "test videos": len(test),
        "steps": args.steps,
        "share of positive clips": round(float(np.mean([v.clip_labels().mean() for v in test])), 4),
        "heuristic": {n: interval(measured(test, heuristic_scores, n)["ap"]) for n in ("av", "v", "a")},
    }
    runs: dict[str, list[np.ndarray]] = {n: [] for n in conditions}
    alone, hits, borders, seeds = [], [], [], []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        started = time.process_time()
        scorer = scorer_of(trained(train, seed, args.steps, sound=True, network=SMALL))
        values = {n: measured(test, scorer, n) for n in conditions}
        for n in conditions:
            runs[n].append(values[n]["ap"])
        hits.append(values["av"]["hit"])
        borders.append(values["av"]["boundary_s"])
        silent = scorer_of(trained(train, seed, args.steps, sound=False, network=SMALL))
        alone.append(measured(test, silent, "v")["ap"])
        seeds.append({n: round(float(values[n]["ap"].mean()), 4) for n in conditions})
        seeds[-1] |= {"v, trained without sound": round(float(alone[-1].mean()), 4)}
        seeds[-1] |= {"cpu_s": round(time.process_time() - started, 1)}
        sys.stderr.write(f"seed {seed}: {seeds[-1]}\n")
    mean = {n: np.mean(values, axis=0) for n, values in runs.items()}
    report["whole objective"] = {
        "seeds": seeds,
        "mAP": {n: interval(values) for n, values in mean.items()},
        "v, trained without sound": interval(np.mean(alone, axis=0)),
        "transfer": signed_interval(mean["v"] - np.mean(alone, axis=0)),
        "HIT@1, av": interval(np.mean(hits, axis=0)),
        "boundary error in s, av": interval(_mean_of_known(np.array(borders))),
    }
    return report


def tvsum_figures(videos: Sequence[TvSumVideo], scores: Sequence[np.ndarray]) -> dict[str, Any]:
    """All figures of one scorer on TVSum, scores per clip."""
    pairs = list(zip(scores, (video.annotations for video in videos), strict=True))
    return {
        "top-5 mAP": interval(np.array([tvsum_top_map(s, a) for s, a in pairs])),
        "MINI-Net variant": round(float(np.mean([mininet_top_map(s, a) for s, a in pairs])), 4),
        "P@5": round(float(np.mean([precision_at(s, a) for s, a in pairs])), 4),
        **{key: round(float(np.mean([rank_correlation(s, a)[key] for s, a in pairs])), 4) for key in ("rho", "tau")},
    }


def heuristic_on_tvsum(videos: Sequence[TvSumVideo], centre: Sequence[np.ndarray]) -> dict[str, Any]:
    """The default scorer by its raw scores and as the command ranks clips (smoothed), and what position adds to it."""
    pipeline = RaslPipeline.heuristic()
    ranked = [pipeline.score(v.table, {"modality": "v"}).scores[: len(v.annotations)] for v in videos]
    found = {
        "heuristic": [v.per_clip(heuristic_scores(v.table)["v"]) for v in videos],
        "heuristic, smoothed as the command ranks": ranked,
        "heuristic without position": [v.per_clip(heuristic_scores(v.table, 0.0)["v"]) for v in videos],
    }
    report: dict[str, Any] = {name: tvsum_figures(videos, scores) for name, scores in found.items()}
    annotations = [video.annotations for video in videos]
    prior = np.array([tvsum_top_map(s, a) for s, a in zip(centre, annotations, strict=True)])
    for name, scores in found.items():
        own = np.array([tvsum_top_map(s, a) for s, a in zip(scores, annotations, strict=True)])
        report[name]["top-5 mAP above the centre of the video"] = signed_interval(own - prior)
    return report


def study_tvsum(args: argparse.Namespace) -> dict[str, Any]:
    """Every floor, the heuristic, models fitted to the videos without labels, and a ready model, on all videos."""
    videos = read_tvsum(data_home() / "tvsum")
    report: dict[str, Any] = {"videos": len(videos), "steps": args.steps}
    floors: dict[str, list[np.ndarray]] = {}
    for video in videos:
        features = video.per_clip(video.table.visual[:, :296])
        for name, scores in floor_scores(features, video.per_clip(video.table.motion)).items():
            floors.setdefault(name, []).append(scores)
    report |= {name: tvsum_figures(videos, scores) for name, scores in floors.items()}
    report |= heuristic_on_tvsum(videos, floors["centre of the video"])
    for reading in args.readings.split(","):
        config = dataclasses.replace(SMALL, reading=reading)
        runs = []
        for seed in range(args.seeds):
            model = trained([v.table for v in videos], seed, args.steps, sound=False, network=config)
            scores = [v.per_clip(model_scores(model, v.table, torch.device("cpu"))["v"]) for v in videos]
            runs.append(tvsum_figures(videos, scores))
            sys.stderr.write(f"{reading}, seed {seed}: {runs[-1]}\n")
        report[f"fitted here, {reading}"] = runs
    if args.model:
        import genmm

        network = genmm.load(args.model, device="cpu").network
        scores = [v.per_clip(model_scores(network, v.table, torch.device("cpu"))["v"]) for v in videos]
        report[f"model {args.model}"] = tvsum_figures(videos, scores)
    return report


def main(argv: Sequence[str] | None = None) -> None:
    """Run a study and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("scenes", "tvsum"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--train", type=int, default=140)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--cache", default="")
    parser.add_argument("--readings", default="energy")
    parser.add_argument("--model", default="")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    report = study_scenes(args) if args.study == "scenes" else study_tvsum(args)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
