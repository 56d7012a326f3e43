"""Peak memory of finding highlights over the length of a video: two minutes against two hours."""

from __future__ import annotations

import tempfile
from pathlib import Path

import av

from benchmarks.memory import run_alone
from benchmarks.tables import Row, Section
from datamodules.rendered_video import render_scene
from datamodules.rendered_video_events import event_scene
from genmm.media.video_write import write_video

__all__ = ["looped", "memory_section"]

LOOP_S = 60.0
"""Length of the scene that is repeated."""
LEAST_S = 20.0
"""Scenes with events are not shorter; of a shorter video only the beginning is copied."""
PROBE = """
import sys
from benchmarks.memory import peak_memory_bytes
from genmm.systems.rasl.pipeline import RaslPipeline
pipeline = RaslPipeline.heuristic()
if len(sys.argv) > 2:
    import genmm
    pipeline = genmm.load(sys.argv[2], device="cpu")
result = pipeline.highlights(sys.argv[1], seconds=30)
print(round(result.duration_s), peak_memory_bytes())
"""
"""Run in a process of its own."""


def memory_section(*, minutes: tuple[float, float], model: str = "heuristic", goal: float = 0.9) -> Section:
    """Peak memory of a whole run on a short and on a long video, each in a process of its own."""
    options = [] if model == "heuristic" else [model]
    found = []
    with tempfile.TemporaryDirectory(prefix="genmm-bench-") as folder:
        piece = _piece(Path(folder) / "piece.mp4", min(LOOP_S, max(LEAST_S, 60.0 * minutes[0])))
        for length in minutes:
            path = looped(Path(folder) / f"{length:g}.mp4", piece, 60.0 * length)
            found.append([int(value) for value in run_alone("-c", PROBE, str(path), *options).split()])
            path.unlink()
    (short_s, short), (long_s, long) = found
    rest = (long - short) / 1000 / max(1, long_s - short_s)
    row = Row(
        item=f"{minutes[1]:g} minutes",
        unit="MiB",
        ours=long / 2**20,
        peer=short / 2**20,
        peer_name=f"{minutes[0]:g} minutes",
        better="lower",
        goal=goal,
        note=f"{long_s} s read; {rest:.1f} kB for each second beyond the shorter one",
    )
    method = (
        "A computed scene with sound, 160 x 96 at 10 frames a second, repeated by copying its packets; reading, "
        "scoring and choosing in a new process for each length; resident set at its largest."
    )
    return Section("", method, (row,))


def _piece(path: Path, seconds: float) -> Path:
    frames, samples, _ = render_scene(event_scene(3, "B", seconds=seconds), fps=10, side=(96, 160))
    return write_video(path, frames, 10.0, audio=(samples, 16_000), preset="ultrafast", crf=30)


def looped(path: Path, piece: Path, seconds: float) -> Path:
    """Repeat a file by copying its packets, without decoding them, until `seconds` are full; gives back `path`."""
    with av.open(str(piece)) as container, av.open(str(path), "w", format="mp4") as out:
        streams = [*container.streams.video[:1], *container.streams.audio[:1]]
        tracks = {stream.index: out.add_stream_from_template(stream) for stream in streams}
        round_s = container.duration / 1e6
        at_s = 0.0
        while at_s < seconds - 1e-6:
            container.seek(0)
            for packet in container.demux(*streams):
                if packet.dts is None:
                    continue
                shift = round(at_s / packet.time_base)
                if float(packet.pts * packet.time_base) + at_s >= seconds:
                    continue
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = tracks[packet.stream.index]
                out.mux(packet)
            at_s += round_s
    return path
