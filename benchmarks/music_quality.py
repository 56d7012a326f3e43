"""How well a music model follows what it is told: python -m benchmarks.music_quality --model NAME --out FOLDER.

Every figure stands beside the same judge's figure on rendered truth of held-out combinations, because judges err too.
Shares come with 95 % intervals (Wilson).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.music_store import real_tracks
from datamodules.rendered_music import MusicRenderer, RenderedPiece
from datamodules.rendered_music_score import random_caption, solo
from datamodules.rendered_music_synthesis import RATE
from genmm.core.errors import DataError
from genmm.core.files import write_json, write_text
from genmm.core.paths import data_home
from genmm.media.audio import Audio, read_audio
from genmm.metrics.music_distance import (
    frechet_distance,
    harmony_similarity,
    mel_distance,
    rhythm_similarity,
    si_sdr_db,
    stereo_image,
)
from genmm.metrics.music_instruments import InstrumentJudge, timbre_features
from genmm.metrics.music_key import estimate_key
from genmm.metrics.music_tempo import estimate_tempo, tempo_matches
from genmm.systems.melodyflow.captions import LEADS, TONICS, Caption

SLOWEST, FASTEST = 75.0, 150.0
"""Tempi that are asked for: one octave, which the judge tells apart."""
FIRST_SEED = 70_000_000


def wilson(hits: int, count: int) -> tuple[float, float, float]:
    """Share and its 95 % interval."""
    if count == 0:
        return 0.0, 0.0, 1.0
    share, z = hits / count, 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return share, max(0.0, middle - half), min(1.0, middle + half)


def wanted(number: int) -> Caption:
    """A complete caption of a held-out combination with a tempo between the two bounds."""
    rng = np.random.default_rng((FIRST_SEED, number))
    while True:
        caption = random_caption(rng, split="test")
        if SLOWEST <= (caption.tempo_bpm or 0) <= FASTEST:
            return caption


def judged(samples: np.ndarray, rate: int, caption: Caption) -> dict[str, bool]:
    """What the judges hear, against what was wanted."""
    tempo, key = estimate_tempo(samples, rate), estimate_key(samples, rate)
    return {
        "tempo": tempo_matches(tempo, caption.tempo_bpm or 0),
        "tempo, octaves allowed": tempo_matches(tempo, caption.tempo_bpm or 0, octaves=True),
        "key signature": key.signature == caption.signature,
        "key": key.tonic == TONICS.index(caption.tonic or "C") and key.mode == caption.mode,
    }


def train_judge(renderer: MusicRenderer, count: int) -> InstrumentJudge:
    """A judge of instruments, trained on rendered solos of training combinations."""
    features, labels = [], []
    for number in range(count):
        lead = LEADS[1:][number % (len(LEADS) - 1)]
        caption = solo(random_caption(np.random.default_rng((1, number))), "lead", lead)
        features.append(timbre_features(renderer.piece(FIRST_SEED + 1000 + number, caption=caption).samples, RATE))
        labels.append(lead)
    return InstrumentJudge.train(np.array(features), labels)


def adherence(pipeline: Any, renderer: MusicRenderer, pieces: int, seconds: float) -> dict[str, Any]:
    """Shares of attributes that are heard as asked for, of the model and of the truth; distance of timbre features."""
    counts: dict[str, dict[str, int]] = {"model": {}, "truth": {}}
    features: dict[str, list[np.ndarray]] = {"model": [], "truth": [], "other truth": []}
    for number in range(pieces):
        caption = wanted(number)
        truth = renderer.piece(FIRST_SEED + number, caption=caption).samples
        made = pipeline.generate(caption.text(), duration_s=seconds, seed=number).samples[0]
        other = renderer.piece(FIRST_SEED + 5000 + number, caption=wanted(number + 5000)).samples
        for name, samples, rate in (("model", made, pipeline.sample_rate), ("truth", truth, RATE)):
            for what, is_right in judged(samples, rate, caption).items():
                counts[name][what] = counts[name].get(what, 0) + is_right
        for name, samples, rate in (
            ("model", made, pipeline.sample_rate),
            ("truth", truth, RATE),
            ("other truth", other, RATE),
        ):
            features[name].append(timbre_features(samples, rate))
        _say(f"adherence {number + 1} of {pieces}: {counts['model']}")
    stacked = {name: np.array(rows)[:, :64] for name, rows in features.items()}
    return {
        "pieces": pieces,
        "shares": {
            name: {what: wilson(hits, pieces) for what, hits in found.items()} for name, found in counts.items()
        },
        "frechet": {
            "model to truth": frechet_distance(stacked["model"], stacked["truth"]),
            "truth to other truth": frechet_distance(stacked["truth"], stacked["other truth"]),
        },
    }


def instruments(
    pipeline: Any, renderer: MusicRenderer, judge: InstrumentJudge, each: int, seconds: float
) -> dict[str, Any]:
    """Shares of solos that the judge hears as the instrument asked for."""
    hits = {"model": 0, "truth": 0}
    names = [name for name in LEADS[1:] for _ in range(each)]
    for number, name in enumerate(names):
        caption = solo(wanted(9000 + number), "lead", name)
        truth = renderer.piece(FIRST_SEED + 9000 + number, caption=caption).samples
        made = pipeline.generate(caption.text(), duration_s=seconds, seed=number).samples[0]
        hits["model"] += judge.predict(timbre_features(made, pipeline.sample_rate))[0] == name
        hits["truth"] += judge.predict(timbre_features(truth, RATE))[0] == name
        _say(f"instruments {number + 1} of {len(names)}: {hits}")
    return {"pieces": len(names), "shares": {name: wilson(count, len(names)) for name, count in hits.items()}}


def edits(
    pipeline: Any, renderer: MusicRenderer, judge: InstrumentJudge, count: int, strength: float
) -> dict[str, dict[str, Any]]:
    """Changes of the lead instrument in rendered solos, by both inversions: what changed and what stayed."""
    table: dict[str, dict[str, Any]] = {}
    for method in ("regularised", "plain"):
        changed, kept, harmony, rhythm = 0, 0, [], []
        for number in range(count):
            rng = np.random.default_rng((3, number))
            first, second = rng.choice(LEADS[1:], 2, replace=False)
            caption = solo(wanted(12_000 + number), "lead", str(first))
            source = renderer.piece(FIRST_SEED + 12_000 + number, caption=caption)
            target = replace(caption, lead=str(second))
            made = pipeline.edit(
                Audio(source.samples, RATE), target.text(), strength=strength, method=method,
                source_text=caption.text(), seed=number,
            ).samples[0]  # fmt: skip
            changed += judge.predict(timbre_features(made, pipeline.sample_rate))[0] == second
            heard = judged(made, pipeline.sample_rate, caption)
            kept += heard["tempo, octaves allowed"] and heard["key signature"]
            harmony.append(harmony_similarity(made, source.samples, RATE))
            rhythm.append(rhythm_similarity(made, source.samples, RATE))
            _say(f"edits, {method} {number + 1} of {count}: {changed} changed, {kept} kept")
        table[method] = {"count": count, "changed": wilson(changed, count), "kept": wilson(kept, count),
                         "harmony": float(np.mean(harmony)), "rhythm": float(np.mean(rhythm))}  # fmt: skip
    return table


def unrelated(pieces: Sequence[RenderedPiece]) -> dict[str, float]:
    """Harmony and rhythm similarity of pieces that have nothing to do with each other."""
    pairs = list(zip(pieces, pieces[1:], strict=False))
    return {"harmony": float(np.mean([harmony_similarity(a.samples, b.samples, RATE) for a, b in pairs])),
            "rhythm": float(np.mean([rhythm_similarity(a.samples, b.samples, RATE) for a, b in pairs]))}  # fmt: skip


def reconstruction(pipeline: Any, renderer: MusicRenderer, count: int) -> dict[str, dict[str, float]]:
    """What the codec alone keeps, of held-out rendered music and of real tracks."""
    import torch

    sets = {"rendered, held out": [renderer.piece(FIRST_SEED + n, caption=wanted(n)).samples for n in range(count)]}
    try:
        rows = [row for number, row in enumerate(real_tracks()) if number % 5 == 4]
        sets["real, held out"] = [
            read_audio(data_home() / "music_tracks" / row["file"], sample_rate=RATE).stereo().samples[:, : 8 * RATE]
            for row in rows
        ]
    except DataError as error:
        _say(str(error))
    table: dict[str, dict[str, float]] = {}
    for name, sounds in sets.items():
        rows_of = []
        for sound in sounds:
            with torch.inference_mode():
                latents = pipeline.codec.encode(torch.from_numpy(np.ascontiguousarray(sound))[None]).mean
                back = pipeline.codec.decode(latents)[0, :, : sound.shape[1]].numpy()
            width, balance = np.subtract(stereo_image(back), stereo_image(sound))
            rows_of.append((si_sdr_db(back, sound), mel_distance(back, sound, RATE), abs(width), abs(balance)))
        means = np.mean(rows_of, axis=0)
        table[name] = dict(zip(("si_sdr_db", "mel", "width_error", "balance_error_db"), map(float, means), strict=True))
    return table


def report_text(report: dict[str, Any]) -> str:
    """The tables of a model card."""
    lines = ["| attribute | model | same judge on rendered truth |", "|---|---|---|"]
    shares = report["adherence"]["shares"]
    for what in shares["model"]:
        lines.append(f"| {what} | {_share(shares['model'][what])} | {_share(shares['truth'][what])} |")
    found = report["instruments"]["shares"]
    lines.append(f"| instrument of a solo | {_share(found['model'])} | {_share(found['truth'])} |")
    distance = report["adherence"]["frechet"]
    lines += ["", f"Frechet distance of timbre features: {distance['model to truth']:.2f} to held-out truth, "
              f"{distance['truth to other truth']:.2f} between two sets of truth.", ""]  # fmt: skip
    lines += ["| inversion | instrument changed | tempo and key stayed | harmony | rhythm |", "|---|---|---|---|---|"]
    for method, row in report["edits"].items():
        lines.append(
            f"| {method} | {_share(row['changed'])} | {_share(row['kept'])} "
            f"| {row['harmony']:.2f} | {row['rhythm']:.2f} |"
        )
    lines.append(
        f"| unrelated pieces | | | {report['unrelated']['harmony']:.2f} | {report['unrelated']['rhythm']:.2f} |"
    )
    lines += [
        "",
        "| codec on | SI-SDR | log-mel distance | error of stereo width | of balance |",
        "|---|---|---|---|---|",
    ]
    for name, row in report["codec"].items():
        lines.append(
            f"| {name} | {row['si_sdr_db']:.1f} dB | {row['mel']:.2f} "
            f"| {row['width_error']:.3f} | {row['balance_error_db']:.2f} dB |"
        )
    return "\n".join(lines)


def _share(share: Sequence[float]) -> str:
    return f"{100 * share[0]:.0f} % ({100 * share[1]:.0f} to {100 * share[2]:.0f})"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure a model and write quality.json and quality.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="melodyflow", help="name or folder (melodyflow)")
    parser.add_argument("--pieces", type=int, default=40, help="pieces whose tempo and key are judged (40)")
    parser.add_argument("--each", type=int, default=4, help="solos of every instrument (4)")
    parser.add_argument("--edits", type=int, default=24, help="edits by each inversion (24)")
    parser.add_argument(
        "--training", type=int, default=160, help="solos that the judge of instruments learns from (160)"
    )
    parser.add_argument("--strength", type=float, default=0.9, help="strength of the edits (0.9)")
    parser.add_argument("--out", type=Path, required=True, help="folder for quality.json and quality.md")
    args = parser.parse_args()
    import genmm

    pipeline = genmm.load(args.model)
    seconds = min(10.0, pipeline.window_s)
    renderer = MusicRenderer(seconds=seconds)
    judge = train_judge(renderer, args.training)
    report: dict[str, Any] = {
        "model": pipeline.model,
        "adherence": adherence(pipeline, renderer, args.pieces, seconds),
        "instruments": instruments(pipeline, renderer, judge, args.each, seconds),
        "edits": edits(pipeline, renderer, judge, args.edits, args.strength),
        "unrelated": unrelated([renderer.piece(FIRST_SEED + n, caption=wanted(n)) for n in range(9)]),
        "codec": reconstruction(pipeline, renderer, 8),
    }
    write_json(args.out / "quality.json", report)
    write_text(args.out / "quality.md", report_text(report) + "\n")
    print(report_text(report))


if __name__ == "__main__":
    main()
