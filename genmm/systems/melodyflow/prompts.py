"""From descriptions to what the network reads: T5 states for the released model, caption fields for those trained here.

Letters: B prompts, T latent frames.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from genmm.core.errors import UsageError
from genmm.core.seeds import derive_seed
from genmm.systems.melodyflow.captions import PROGRESSIONS, TONICS, Caption
from genmm.systems.melodyflow.network import FlowNetwork, TextCondition
from genmm.systems.melodyflow.reading import Reading, merged, read_caption
from genmm.systems.melodyflow.score import score_features
from genmm.systems.melodyflow.t5 import T5Text
from genmm.systems.melodyflow.text import CaptionText

TEMPI = {"calm": (65, 95), "dark": (65, 105), "bright": (95, 135), "energetic": (115, 155)}
"""Range from which an open tempo is chosen, by mood."""


@dataclass(frozen=True)
class Prompt:
    """One description as a model reads it."""

    text: str
    """The text itself, with tempo and key in it."""
    caption: Caption | None
    """The fields, for models that read captions."""
    sentence: str
    """What was understood, for people."""
    notes: tuple[str, ...] = ()
    """What else the person should know."""


@dataclass(frozen=True)
class Section:
    """The piece of music, or part of it, that frames belong to."""

    frames: int
    """Latent frames."""
    frame_rate: float
    """Frames a second."""
    start_s: float = 0.0
    """Where the first frame lies in the whole."""
    total_s: float | None = None
    """Length of the whole; None when it has neither start nor end that should be heard."""
    circular: bool = False
    """Whether the end joins the start."""


class TextReader(Protocol):
    """Turns descriptions into prompts and prompts into conditions."""

    kind: str

    def prompt(self, text: str, bpm: float | None, key: str | None, seed: int, plan: bool) -> Prompt:
        """Read one description."""

    def condition(self, network: FlowNetwork, prompts: Sequence[Prompt], section: Section) -> TextCondition | None:
        """What the network gets for one prompt per row; None when there is no text at all."""


def parse_key(key: str | None) -> tuple[str | None, str | None]:
    """Tonic and mode of "A minor", "Eb", "minor" or None. Raises: UsageError for anything else."""
    if key is None or not key.strip():
        return None, None
    found = read_caption(f"in {key}" if " " not in key.strip() else key).caption
    if re.fullmatch("(?i)major|minor", key.strip()):
        return None, key.strip().lower()
    if found.tonic is None or set(found.known()) - {"tonic", "mode"}:
        raise UsageError(f'a key is written like "A minor", "Eb major" or "F#", got {key!r}')
    return found.tonic, found.mode


class T5Reader:
    """Free text for the released model."""

    kind = "t5"

    def __init__(self, encoder: T5Text) -> None:
        self.encoder = encoder

    def prompt(self, text: str, bpm: float | None, key: str | None, seed: int, plan: bool) -> Prompt:
        """The text with key and tempo behind it, as catalogue descriptions have them."""
        tonic, mode = parse_key(key)
        named = " ".join(part for part in (tonic, mode) if part)
        parts = [text, named, f"{bpm:g} bpm" if bpm else ""]
        whole = ", ".join(part for part in parts if part)
        return Prompt(whole, None, f"told to the model: {whole}" if whole else "no description; the model chooses")

    def condition(self, network: FlowNetwork, prompts: Sequence[Prompt], section: Section) -> TextCondition | None:
        """States of the texts; rows without a text have none."""
        if not any(prompt.text for prompt in prompts):
            return None
        states, mask = self.encoder.states([prompt.text for prompt in prompts])
        device = network.in_proj.weight.device
        with torch.inference_mode():
            return network.condition(states.to(device), mask.to(device))


class CaptionReader:
    """Caption fields, and the score of tempo and chords, for models trained here."""

    kind = "captions"

    def __init__(self, encoder: CaptionText) -> None:
        self.encoder = encoder

    def prompt(self, text: str, bpm: float | None, key: str | None, seed: int, plan: bool) -> Prompt:
        """Read the fields; with `plan`, tempo, key and chords that are left open are chosen by the seed."""
        tonic, mode = parse_key(key)
        reading = merged(read_caption(text), tempo_bpm=bpm, tonic=tonic, mode=mode)
        chosen = planned(reading.caption, seed) if plan else reading.caption
        return Prompt(text, chosen, sentence_of(reading, chosen), reading.notes)

    def condition(self, network: FlowNetwork, prompts: Sequence[Prompt], section: Section) -> TextCondition | None:
        """States of the captions, with the features of the frames where the network takes them."""
        captions = [prompt.caption or Caption() for prompt in prompts]
        device = network.in_proj.weight.device
        states, mask = self.encoder.states(captions)
        score = self._score(captions, section).to(device) if network.score_proj is not None else None
        if score is None and not any(caption.known() for caption in captions):
            return None
        with torch.inference_mode():
            return network.condition(states, mask, score)

    def _score(self, captions: Sequence[Caption], section: Section) -> Tensor:
        rows = [
            score_features(
                caption,
                section.frames,
                section.frame_rate,
                start_s=section.start_s,
                total_s=section.total_s,
                circular=section.circular,
            )
            for caption in captions
        ]
        return torch.from_numpy(np.stack(rows))


def planned(caption: Caption, seed: int) -> Caption:
    """The caption with tempo, metre, key and chords chosen where they are open; the same seed chooses the same."""
    rng = np.random.default_rng(derive_seed(seed, "plan"))
    low, high = TEMPI.get(caption.mood or "", (80, 130))
    tempo, tonic = float(rng.integers(low, high + 1)), str(rng.choice(TONICS))
    mode = (
        "minor"
        if caption.mood == "dark"
        else "major"
        if caption.mood == "bright"
        else str(rng.choice(["major", "minor"]))
    )
    if caption.progression is not None:
        mode = PROGRESSIONS[caption.progression][0]
    mode = caption.mode or mode
    fitting = [name for name, (of, _) in PROGRESSIONS.items() if of == mode]
    below = Caption(tempo_bpm=tempo, tonic=tonic, mode=mode, metre="4/4", progression=str(rng.choice(fitting)))
    return caption.over(below)


def sentence_of(reading: Reading, chosen: Caption) -> str:
    """What was understood, what was chosen, and what means nothing to the model."""
    before, after = reading.caption.known(), chosen.known()
    added = replace(Caption(), **{name: value for name, value in after.items() if name not in before})
    tail = f"; chosen for you: {added.text()}" if added.known() else ""
    return f"{reading.sentence()}{tail}"
