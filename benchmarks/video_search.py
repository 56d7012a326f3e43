"""`genmm bench video_search`: does a changed part of a clip find its clip? Token sets against mean tokens."""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.tables import Report, Row, Section
from benchmarks.timing import Measured
from datamodules.rendered_video import render_scene
from datamodules.videos import random_scene
from genmm.core.devices import choose_device, describe_machine
from genmm.core.paths import data_home
from genmm.core.seeds import derive_seed
from genmm.media.video import read_video, write_video
from genmm.systems.vqtoken.pipeline import VqTokenPipeline
from genmm.systems.vqtoken.search import VideoIndex, query_set

DESCRIPTION = """\
Put real clips and rendered scenes into an index and ask for them with changed parts:
cropped, darker or brighter, mirrored, noisy, shrunk, encoded again. Reports recall@1 of
the clip for token sets and for mean tokens of the same index."""
CHANGES = ("plain", "crop", "light", "mirror", "noise", "small", "all")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--model", default="vqtoken", metavar="NAME", help="model (vqtoken)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (auto)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with video_clips ($GENMM_DATA)")
    parser.add_argument("--scenes", type=int, default=40, help="rendered scenes beside the real clips (40)")


def measure(args: argparse.Namespace) -> Report:
    """Index, change, ask."""
    import genmm

    pipeline = genmm.load(args.model, device=choose_device(args.device))
    scenes = 3 if args.quick else args.scenes
    folder = (args.data or data_home()) / "video_clips"
    with tempfile.TemporaryDirectory() as place:
        clips = [] if args.quick else sorted(p for p in folder.glob("*") if p.suffix in (".mp4", ".webm"))
        clips = [clip for clip in clips if not clip.name.startswith("reel")]  # a cut of the others
        clips += [_scene(Path(place), number) for number in range(scenes)]
        index = VideoIndex.open(Path(place) / "index", pipeline.encoder_fingerprint, create=True)
        for clip in clips:
            print(f"indexing {clip.name}", file=sys.stderr, flush=True)
            index.add(pipeline, clip, moment_s=2.0)
        rows = [_row(pipeline, index, clips, change, Path(place)) for change in CHANGES]
    settings = {"model": args.model, "clips": len(clips), "moments": sum(e.moments for e in index.entries)}
    method = "A part of two seconds of each clip is changed and asked for; the clip of the best moment counts."
    return Report("video_search", describe_machine(), settings, [Section("Recall@1 of the clip", method, tuple(rows))])


def _scene(folder: Path, number: int) -> Path:
    rng = np.random.default_rng(derive_seed(7, "search", number))
    frames, _, _ = render_scene(random_scene(rng, seconds=4.0), fps=8, side=(96, 128))
    path = folder / f"scene-{number:03d}.mp4"
    return write_video(path, frames, 8, preset="ultrafast")


def _row(pipeline: VqTokenPipeline, index: VideoIndex, clips: list[Path], change: str, place: Path) -> Row:
    hits, pooled = [], []
    for number, clip in enumerate(clips):
        query = place / f"query-{change}.mp4"
        write_video(query, changed(clip, change, number), 8, preset="ultrafast", crf=28)
        asked = query_set(pipeline, query)
        hits.append(Path(index.search(asked, top=1)[0].video) == clip.resolve())
        pooled.append(Path(index.search(asked, top=1, pooled=True)[0].video) == clip.resolve())
    return Row(
        item=change,
        unit="% found",
        ours=Measured.of([100 * float(np.mean(hits))]),
        peer=100 * float(np.mean(pooled)),
        peer_name="mean tokens",
    )


@functools.lru_cache(maxsize=128)
def _frames(clip: Path) -> np.ndarray:
    """All pictures of a clip, small, read once for all changes."""
    return read_video(clip, fps=8, max_side=240, sound=False).frames


def changed(clip: Path, change: str, seed: int) -> np.ndarray:
    """Two seconds of a clip at 8 frames a second, changed, [T, H, W, 3] uint8."""
    rng = np.random.default_rng(derive_seed(3, change, seed))
    frames = _frames(clip)
    start = int(rng.integers(max(1, len(frames) - 16)))
    x = frames[start : start + 16].astype(np.float32)
    height, width = x.shape[1:3]
    if change in ("crop", "all"):
        top, left = (int(rng.integers(n // 5 + 1)) for n in (height, width))
        x = x[:, top : top + height * 4 // 5, left : left + width * 4 // 5]
    if change in ("light", "all"):
        x = x * rng.uniform(0.7, 1.25) + rng.uniform(-20, 20)
    if change in ("mirror", "all"):
        x = x[:, :, ::-1]
    if change in ("noise", "all"):
        x = x + rng.normal(0, 10, x.shape)
    if change in ("small", "all"):
        x = x[:, ::2, ::2]
    return x.clip(0, 255).astype(np.uint8)
