"""The embedded model as a listener meets it: first sound, speed, memory over length, batches."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from typing import Any

from benchmarks.memory import peak_memory_bytes, run_alone
from benchmarks.tables import Row, Section
from benchmarks.timing import Measured, time_once
from genmm.core.errors import GenerationError
from genmm.metrics.streaming import StreamTiming, time_stream
from genmm.systems.sled.request import SpeechRequest

TEXTS = (
    "Seven four one.",
    "Please enter your password, followed by the pound key.",
    "Five five five, oh one two three.",
    "You have three new messages.",
)
LONG_TEXT = "Please hold the line while we connect your call to extension four seven two. "
SEED = 7
FIRST_AUDIO_S, TIMES_REAL_TIME = 0.2, 6.0
"""What Pocket TTS, a small speech model for CPUs with 100 M parameters, reports for itself on two cores."""
PEER = "Pocket TTS, as reported by its authors"
LENGTHS = (4, 16, 64)
"""Sentences in the texts of the memory measurement."""


def streaming_section(pipeline: Any, *, runs: int) -> Section:
    """Time to the first sound and speed of live speech, batch 1, with the checkpoint's own settings."""
    timings: list[StreamTiming] = []
    for turn in range(runs + 1):
        for place, text in enumerate(TEXTS):
            timing, _ = time_stream(pipeline.events(text, seed=SEED + place))
            if turn:  # the first round warms up
                timings.append(timing)
    if any(timing.first_audio_s is None for timing in timings):
        raise GenerationError("the model gave no sound for a text of the measurement; nothing can be timed")
    rows = (
        Row(
            item="first sound after",
            unit="s",
            ours=Measured.of([timing.first_audio_s for timing in timings]),
            peer=FIRST_AUDIO_S,
            peer_name=PEER,
            better="lower",
            bound=FIRST_AUDIO_S,
        ),
        Row(
            item="speed of live speech",
            unit="x real time",
            ours=Measured.of([timing.times_real_time for timing in timings]),
            peer=TIMES_REAL_TIME,
            peer_name=PEER,
            bound=TIMES_REAL_TIME,
        ),
        Row(
            item="silence inside, for a listener who starts at the first piece",
            unit="s",
            ours=Measured.of([timing.gaps_s for timing in timings]),
            better="lower",
            bound=0.0,
        ),
    )
    info = pipeline.info
    method = (
        f"{pipeline.name}: {info['parameters'] / 1e6:.1f} M parameters, {info['frame_rate']:g} latent frames a second, "
        f"{len(TEXTS)} texts, {runs} runs of each, text front end and codec included. The peer's figures are quoted, "
        "not measured here."
    )
    return Section("Live speech from the embedded model", method, rows)


def batch_section(pipeline: Any, *, runs: int, batch: int) -> Section:
    """One batch against as many single runs, in alternation; no new attempts, so both do the same work."""
    requests = [
        SpeechRequest(text=TEXTS[row % len(TEXTS)], seed=SEED + row, settings={"retries": 0}) for row in range(batch)
    ]
    made: dict[str, list[Any]] = {}

    def together() -> None:
        made["batch"] = pipeline.generate_batch(requests, batch_size=batch)

    def one_by_one() -> None:
        made["single"] = [pipeline.generate_batch([request])[0] for request in requests]

    speeds: dict[str, list[float]] = {"batch": [], "single": []}
    for turn in range(runs + 1):
        for name, action in (("batch", together), ("single", one_by_one)):
            elapsed = time_once(action, pipeline.device)
            if turn:
                speeds[name].append(sum(sum(result.seconds) for result in made[name]) / elapsed)
    row = Row(
        item=f"batch of {batch}",
        unit="x real time",
        ours=Measured.of(speeds["batch"]),
        peer=Measured.of(speeds["single"]),
        peer_name=f"{batch} single runs",
    )
    method = f"Seconds of speech made in a second; {runs} alternating runs, the same texts and seeds."
    return Section("Batched speech", method, (row,))


def memory_section(model: str, device: str, *, lengths: tuple[int, ...] = LENGTHS) -> Section:
    """Peak memory of fresh processes that speak longer and longer texts and let the sound go piece by piece."""
    probes = {count: probe_memory(model, device, count) for count in lengths}
    first, last = probes[lengths[0]], probes[lengths[-1]]
    rows = [
        Row(
            item=f"{count} sentences, {probe['audio_s']:.0f} s of speech",
            unit="MiB",
            ours=probe["peak_bytes"] / 2**20,
            better="lower",
        )
        for count, probe in probes.items()
    ]
    growth = (last["peak_bytes"] - first["peak_bytes"]) / max(last["audio_s"] - first["audio_s"], 1e-9)
    rows.append(
        Row(
            item="growth for each second of speech",
            unit="KiB",
            ours=growth / 1024,
            limit=None,
            better="lower",
            bound=150.0,
            note="The result holds every sample it spoke, 62.5 KiB a second at 16 kHz float32, and joins them once.",
        )
    )
    return Section("Memory over the length of the output", "Peak resident memory, a fresh process each.", tuple(rows))


def probe_memory(model: str, device: str, sentences: int) -> dict[str, float]:
    """Run `python -m benchmarks.speaking` in a fresh process and read its answer."""
    return json.loads(run_alone("-m", "benchmarks.speaking", model, device, str(sentences)))


def speak_long(model: str, device: str, sentences: int) -> dict[str, float]:
    """Speak so many sentences as a stream; gives back peak memory of this process and seconds of speech."""
    import genmm

    pipeline = genmm.load(model, device=device)
    for _ in pipeline.events(TEXTS[0], seed=SEED):
        pass
    before, start = peak_memory_bytes(), time.perf_counter()
    text = LONG_TEXT * sentences
    pipeline.limits = replace(pipeline.limits, text_chars=max(pipeline.limits.text_chars, len(text)))
    timing, _ = time_stream(pipeline.events(text, seed=SEED))
    return {
        "sentences": sentences,
        "audio_s": timing.audio_s,
        "seconds": time.perf_counter() - start,
        "loaded_bytes": before or 0,
        "peak_bytes": peak_memory_bytes() or 0,
    }


if __name__ == "__main__":
    print(json.dumps(speak_long(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
