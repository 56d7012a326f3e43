"""Feature tables of computed scenes with known highlights, made once and kept in a folder.

python -m datamodules.highlight_tables FOLDER --count 100 --families A,B,C,D --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.rendered_video import Scene, render_scene
from datamodules.rendered_video_events import FAMILIES, event_scene
from genmm.core.errors import UsageError
from genmm.core.files import read_json, write_json
from genmm.core.seeds import derive_seed
from genmm.media.shots import ShotFinder, thumbnail_of
from genmm.systems.rasl.audio_features import DB_SCALE, LOUDNESS_COLUMN, RATE, SoundDescriber
from genmm.systems.rasl.feature_table import FeatureTable, load_table, save_table
from genmm.systems.rasl.visual_features import GREY, SIDE, STATIC_SIZE, visual_step

__all__ = ["LabelledTable", "describe_scene", "rendered_tables"]

PICTURES_PER_STEP = 3
"""Pictures a second that are rendered and described."""


@dataclass(frozen=True, eq=False)
class LabelledTable:
    """Features of a video whose highlights are known."""

    table: FeatureTable
    highlights: tuple[tuple[float, float], ...]
    """Spans in seconds."""
    family: str
    """Family of its scene."""

    def clip_labels(self, clip_s: float = 2.0, share: float = 0.5) -> np.ndarray:
        """Which clips [n] are highlights; n = floor(duration / clip_s)."""
        starts = clip_s * np.arange(max(1, int(self.table.duration_s / clip_s + 1e-9)))
        covered = sum(
            np.clip(np.minimum(starts + clip_s, end) - np.maximum(starts, start), 0.0, None)
            for start, end in self.highlights
        )
        return np.asarray(covered) >= share * clip_s - 1e-9


def describe_scene(scene: Scene) -> FeatureTable:
    """Render a scene and describe it, without writing a file in between."""
    pictures, samples, _ = render_scene(scene, fps=PICTURES_PER_STEP, side=SIDE, sample_rate=RATE)
    shots = ShotFinder()
    for number, picture in enumerate(pictures):
        shots.push(number / PICTURES_PER_STEP, thumbnail_of((picture @ GREY).astype(np.uint8)))
    visual, before = [], None
    for start in range(0, len(pictures), PICTURES_PER_STEP):
        step = pictures[start : start + PICTURES_PER_STEP]
        visual.append(visual_step(step, before))
        before = step[-1]
    describer = SoundDescriber()
    describer.push(samples)
    audio = describer.finish()[: len(visual)]
    rows = np.stack(visual)[: len(audio)]
    return FeatureTable(
        visual=rows,
        audio=audio,
        audio_valid=np.ones(len(audio), bool),
        motion=rows[:, STATIC_SIZE:],
        loudness_db=audio[:, LOUDNESS_COLUMN] * DB_SCALE,
        duration_s=scene.seconds,
        cuts_s=shots.finish(),
        source="computed scene",
    )


def rendered_tables(
    folder: str | os.PathLike[str],
    count: int,
    *,
    families: Sequence[str] = ("A", "B", "C", "D"),
    seed: int = 0,
    seconds: float | None = None,
) -> list[LabelledTable]:
    """Tables of `count` scenes that take the families in turn; what is in the folder already is read from there.

    `seconds` is the length of all scenes, 40 to 80 at random when it is not given. Scene i of a seed is always the
    same one, however many are made. Raises: UsageError for unknown families.
    """
    unknown = [name for name in families if name not in FAMILIES]
    if unknown or not families:
        raise UsageError(f"families must be among {', '.join(FAMILIES)}, got {list(families)}")
    folder = Path(folder)
    seeds = [derive_seed(seed, "table", i) for i in range(count)]
    return [_table(folder, families[i % len(families)], own, seconds) for i, own in enumerate(seeds)]


def _table(folder: Path, family: str, seed: int, seconds: float | None) -> LabelledTable:
    length = "" if seconds is None else f"-{seconds:g}s"
    path = folder / f"{family}-{seed:019d}{length}.safetensors"
    facts = path.with_suffix(".json")
    if not facts.is_file():
        scene = event_scene(seed, family, seconds=seconds)
        save_table(path, describe_scene(scene))
        write_json(facts, {"highlights": scene.highlights, "family": family})
    known = read_json(facts)
    spans = tuple((float(start), float(end)) for start, end in known["highlights"])
    return LabelledTable(load_table(path), spans, known["family"])


def main(argv: Sequence[str] | None = None) -> None:
    """Make tables ahead of a training."""
    parser = argparse.ArgumentParser(description="Render scenes with known highlights and keep their features.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--families", default="A,B,C,D")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    made = rendered_tables(args.folder, args.count, families=args.families.split(","), seed=args.seed)
    steps = sum(item.table.steps for item in made)
    print(json.dumps({"videos": len(made), "minutes": round(steps / 60, 1), "folder": str(args.folder)}))


if __name__ == "__main__":
    main()
