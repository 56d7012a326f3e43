"""`genmm bench highlight`: reading and scoring against plain decoding, memory over the length, training steps."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from benchmarks.highlight_memory import memory_section
from benchmarks.tables import Report, Row, Section, measure_sections
from benchmarks.timing import Measured
from datamodules.highlight_tables import describe_scene
from datamodules.rendered_video import render_scene
from datamodules.rendered_video_events import event_scene
from genmm.core.devices import describe_machine
from genmm.media.video_write import write_video
from genmm.systems.rasl.config import RaslConfig
from genmm.systems.rasl.extraction import extract_features
from genmm.systems.rasl.fitting import Fit, FitConfig
from genmm.systems.rasl.inputs import network_inputs
from genmm.systems.rasl.network import RaslNetwork
from genmm.systems.rasl.pipeline import RaslPipeline
from genmm.systems.rasl.windows import fit_statistics

DESCRIPTION = """\
Measure highlight detection on this machine: how fast a video is read and scored beside
the time of decoding alone, memory for two minutes and for two hours, training steps.
Processor time is counted, so that a busy machine changes little. Takes some minutes."""
SECTIONS = ("reading", "memory", "training")
GOAL = 1 / 1.5
"""The whole run should take at most one and a half times as long as decoding alone."""
SIZES = {"480p": (480, 854), "1080p": (1080, 1920)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--model", default="heuristic", metavar="NAME", help="rasl, a folder, or heuristic (heuristic)")
    parser.add_argument("--video", type=Path, metavar="FILE", help="measure on this file instead of computed ones")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run (all)")
    parser.add_argument(
        "--minutes", nargs=2, type=float, default=(2, 120), metavar="M", help="lengths for memory (2 120)"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each measurement (3)")


def measure(args: argparse.Namespace) -> Report:
    """Run the chosen sections."""
    settings = {"model": args.model, "runs": args.runs, "quick": bool(args.quick), "video": str(args.video or "")}
    report = Report("highlight", describe_machine(), settings)
    runs, minutes = (1, (0.1, 0.4)) if args.quick else (args.runs, tuple(args.minutes))
    actions: dict[str, tuple[str, Callable[[], Section]]] = {
        "reading": (
            "Reading and scoring",
            lambda: reading_section(args.model, args.video, runs=runs, quick=args.quick),
        ),
        "memory": ("Peak memory over the length", lambda: memory_section(minutes=minutes, model=args.model)),
        "training": ("Training on cached features", lambda: training_section(quick=args.quick)),
    }
    report.sections.extend(measure_sections(actions, args.only))
    return report


# ---------------------------------------------------------------- reading


def reading_section(model: str, video: Path | None, *, runs: int, quick: bool) -> Section:
    """Decoding alone, the features on top of it, and the whole run, in multiples of real time."""
    pipeline = pipeline_of(model)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="genmm-bench-") as folder:
        files = {"given file": video} if video else _computed(Path(folder), quick)
        for title, path in files.items():
            rows += _reading_rows(title, path, pipeline, runs)
    method = (
        "One thread, processor time, runs in turns. Decoding alone: every frame and every sound packet with PyAV. "
        "The limit of the whole run is decoding alone; the goal is to stay within one and a half times of it."
    )
    return Section("", method, tuple(rows))


def pipeline_of(model: str) -> RaslPipeline:
    """The named model, or the heuristic."""
    if model == "heuristic":
        return RaslPipeline.heuristic()
    import genmm

    return genmm.load(model, device="cpu")


def _computed(folder: Path, quick: bool) -> dict[str, Path]:
    """Videos with sound at the sizes that are measured."""
    seconds = 20.0
    frames, samples, _ = render_scene(event_scene(1, "A", seconds=seconds), fps=4 if quick else 25, side=(96, 160))
    files = {}
    for name, (height, width) in ({"tiny": (96, 160)} if quick else SIZES).items():
        rows, columns = np.arange(height) * 96 // height, np.arange(width) * 160 // width
        large = (frame[rows][:, columns] for frame in frames)
        path = folder / f"{name}.mp4"
        files[name] = write_video(
            path, large, 4.0 if quick else 25.0, audio=(samples, 16_000), preset="veryfast", crf=23
        )
    return files


def _reading_rows(title: str, path: Path, pipeline: RaslPipeline, runs: int) -> list[Row]:
    seconds = decoded_seconds(path)
    table = extract_features(path, extractor=pipeline.extractor)
    actions = {
        "decode": lambda: decoded_seconds(path),
        "features": lambda: extract_features(path, extractor=pipeline.extractor),
        "score": lambda: pipeline.score(table),
        "whole": lambda: pipeline.highlights(path),
    }
    spent = {name: processor_seconds(action, runs) for name, action in actions.items()}
    speed = {name: value.per(seconds) for name, value in spent.items()}
    unit = "x real time"
    return [
        Row(item=f"{title}: decoding alone", unit=unit, ours=speed["decode"]),
        Row(item=f"{title}: decoding and features", unit=unit, ours=speed["features"], limit=speed["decode"].median),
        Row(item=f"{title}: scoring of ready features", unit=unit, ours=speed["score"]),
        Row(
            item=f"{title}: whole run",
            unit=unit,
            ours=speed["whole"],
            peer=speed["decode"],
            peer_name="decoding alone",
            limit=speed["decode"].median,
            goal=GOAL,
        ),
    ]


def processor_seconds(action: Callable[[], Any], runs: int) -> Measured:
    """Processor time of an action, several runs."""
    values = []
    for _ in range(runs):
        start = time.process_time()
        action()
        values.append(max(1e-6, time.process_time() - start))
    return Measured.of(values)


def decoded_seconds(path: Path) -> float:
    """Decode every frame and sound packet of a file with one thread; gives back its length in seconds."""
    end_s = 0.0
    with av.open(str(path)) as container:
        streams = [*container.streams.video[:1], *container.streams.audio[:1]]
        for stream in streams:
            stream.codec_context.thread_count = 1
        for packet in container.demux(*streams):
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame) and frame.time is not None:
                    end_s = max(end_s, frame.time)
    return max(end_s, 0.1)


# ---------------------------------------------------------------- training


def training_section(*, quick: bool) -> Section:
    """Optimizer steps a second on features in memory, at the size of the embedded model."""
    videos = [network_inputs(describe_scene(event_scene(i, "A", seconds=20.0 if quick else 60.0))) for i in range(4)]
    torch.manual_seed(0)
    small = RaslConfig(width=16, heads=2, projection=8, layers=1) if quick else RaslConfig(width=96, projection=64)
    network = RaslNetwork(small)
    fit_statistics(network, videos)
    steps = 3 if quick else 20
    fit = Fit(network, videos, FitConfig(steps=steps + 2, batch_size=8 if quick else 24, window=16 if quick else 48))
    running = fit.run()
    next(running), next(running)
    start = time.process_time()
    for _ in running:
        pass
    rate = steps / (time.process_time() - start)
    parameters = sum(p.numel() for p in network.parameters())
    row = Row(
        item="training", unit="steps/s", ours=rate, note=f"{parameters / 1e6:.2f} M parameters, 24 windows of 48 s"
    )
    return Section("", "One thread, processor time.", (row,))
