"""Edits of rendered music: does what was asked change, and does everything else stay?

Five kinds of edit, the same sources, descriptions and seeds for both inversions. The judges' own errors show in two
rows beside them: the rendered target (what a perfect edit would score) and the source as it is (what no edit scores).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from app.evaluation.music_judges import FASTEST, INSTRUMENTS, SLOWEST, Judges
from datamodules.rendered_music_score import solo
from datamodules.rendered_music_synthesis import RATE
from genmm.media.audio import Audio
from genmm.metrics.music_distance import harmony_similarity, rhythm_similarity
from genmm.systems.melodyflow.captions import PROGRESSIONS, TONICS, Caption

if TYPE_CHECKING:
    from app.evaluation.music import MusicMeasure

TEMPO, KEY, INSTRUMENT = "tempo, octaves allowed", "key signature", "instrument"
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "instrument": (INSTRUMENT, (TEMPO, KEY)),
    "drums": ("drums or none", (TEMPO, KEY)),
    "key": (KEY, (TEMPO, INSTRUMENT)),
    "mode": (KEY, (TEMPO, INSTRUMENT)),
    "tempo": ("tempo", (KEY, INSTRUMENT)),
}
"""Kind of edit -> attribute that should change, attributes that should stay. Drums are edited in whole mixes, where
no single instrument can be judged; everything else in solos."""
METHODS = ("regularised", "plain")
TEMPO_FACTORS = (0.75, 0.8, 1.25, 1.33)
"""Tempo changes that no halving, doubling or triplet feel explains away."""


def case(judges: Judges, kind: str, number: int) -> tuple[Caption, Caption]:
    """What the source is, and what it should become."""
    rng = np.random.default_rng((3, list(KINDS).index(kind), number))
    whole = judges.wanted(12_000 + 1000 * list(KINDS).index(kind) + number)
    if kind == "drums":
        kit = str(rng.choice(["acoustic", "electronic"]))
        with_drums, without = replace(whole, drums=kit), replace(whole, drums="none")
        return (without, with_drums) if number % 2 == 0 else (with_drums, without)
    first, second = (str(name) for name in rng.choice(INSTRUMENTS, 2, replace=False))
    source = solo(whole, "lead", first)
    if kind == "instrument":
        return source, replace(source, lead=second)
    if kind == "key":
        moved = (TONICS.index(source.tonic or "C") + int(rng.integers(1, 12))) % 12
        return source, replace(source, tonic=TONICS[moved])
    if kind == "mode":
        mode = "minor" if source.mode == "major" else "major"
        fitting = [name for name, (of, _) in PROGRESSIONS.items() if of == mode]
        return source, replace(source, mode=mode, progression=str(rng.choice(fitting)))
    tempi = [round((source.tempo_bpm or 0.0) * factor) for factor in TEMPO_FACTORS]
    return source, replace(source, tempo_bpm=float(rng.choice([t for t in tempi if SLOWEST <= t <= FASTEST])))


def edits(measure: MusicMeasure) -> dict[str, Any]:
    """Shares of edits that changed what they should and kept the rest, by kind and for all kinds together."""
    from app.evaluation.music import share

    work = [(kind, number) for kind in KINDS for number in range(measure.options.edits)]
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for kind, number in measure.each("edits", work):
        for who, row in _case_rows(measure, kind, number).items():
            rows.setdefault(who, {}).setdefault(kind, []).append(row)
    table: dict[str, Any] = {}
    for who, kinds in rows.items():
        for kind, found in [*kinds.items(), ("all", [row for part in kinds.values() for row in part])]:
            entry = {"changed": share([row["changed"] for row in found]),
                     "stayed": share([all(row["stayed"].values()) for row in found])}  # fmt: skip
            if kind != "all":
                entry["each"] = {name: share([row["stayed"][name] for row in found]) for name in KINDS[kind][1]}
            if who in METHODS:
                entry["calls"] = float(np.mean([row["calls"] for row in found]))
            if kind == "instrument":
                entry |= {name: float(np.mean([row[name] for row in found])) for name in ("harmony", "rhythm")}
            table.setdefault(who, {})[kind] = entry
    return {"table": table, "unrelated": _unrelated(measure)}


def _case_rows(measure: MusicMeasure, kind: str, number: int) -> dict[str, dict[str, Any]]:
    """What came of one case: by both inversions, of the rendered target and of the source as it is."""
    judges, rate = measure.judges, measure.pipeline.sample_rate
    before, after = case(judges, kind, number)
    notes = 12_000 + 1000 * list(KINDS).index(kind) + number
    made: dict[str, np.ndarray] = {}

    def source() -> np.ndarray:
        return made.setdefault("source", judges.rendered(notes, before))

    def edited(method: str) -> dict[str, Any]:
        result = measure.pipeline.edit(
            Audio(source(), RATE), after.text(), source_text=before.text(), seed=number,
            strength=measure.options.strength, method=method,
        )  # fmt: skip
        return {**verdict(result.samples[0], rate), "calls": result.network_calls}

    def verdict(samples: np.ndarray, at: int) -> dict[str, Any]:
        heard = judges.hear(samples, at)
        now, then = heard.matches(after), heard.matches(before)
        compared = {}
        if kind == "instrument":
            same_rate = source() if at == RATE else Audio(source(), RATE).resampled(at).samples
            compared = {
                "harmony": harmony_similarity(samples, same_rate, at),
                "rhythm": rhythm_similarity(samples, same_rate, at),
            }
        target, untouched = KINDS[kind]
        return {"changed": now[target], "stayed": {name: then[name] for name in untouched}, **compared}

    works: dict[str, Callable[[], dict[str, Any]]] = {
        **{method: lambda m=method: edited(m) for method in METHODS},
        "rendered target": lambda: verdict(judges.rendered(notes, after), RATE),
        "source as it is": lambda: verdict(source(), RATE),
    }
    return {who: measure.journal.kept(f"edit {kind} {number} {who}", work) for who, work in works.items()}


def _unrelated(measure: MusicMeasure, count: int = 8) -> dict[str, float]:
    """Harmony and rhythm similarity of pieces that have nothing to do with each other."""
    pieces = [measure.judges.rendered(number, measure.judges.wanted(number)) for number in range(count + 1)]
    pairs = list(zip(pieces, pieces[1:], strict=False))
    return {"harmony": float(np.mean([harmony_similarity(a, b, RATE) for a, b in pairs])),
            "rhythm": float(np.mean([rhythm_similarity(a, b, RATE) for a, b in pairs]))}  # fmt: skip
