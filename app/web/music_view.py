"""Sentences and HTML about finished music, and recipes put back into the form; outside text is escaped here."""

from __future__ import annotations

import dataclasses
from typing import Any

import gradio as gr

from app.web.history import Entry
from app.web.messages import escape
from app.web.music_work import KINDS, MAX_TAKES, SYSTEM, WITH_SOURCE, Composed, MusicTake, model_settings
from app.web.pool import ModelPool
from genmm.core.errors import UsageError
from genmm.core.limits import Limits
from genmm.systems.melodyflow.request import MusicSettings

__all__ = ["TEXT_INFO", "entries", "facts_html", "fitting", "recipe_values", "summary", "understood_html"]

ON_THE_PAGE = ("guidance", "steps")
"""Settings that have a control of their own."""
TEXT_INFO = "Instruments, mood, tempo, key, drums or none. Shift+Enter starts. Empty lets the model choose."
EDIT_INFO = (
    "What it should become: one description a line makes one edit each, up to 8, all from one inversion. "
    "Shift+Enter starts."
)


def understood_html(*sentences: str) -> str:
    """The line under the text; one for each of several descriptions."""
    lines = "<br>".join(escape(sentence[:1].upper() + sentence[1:]) for sentence in sentences)
    return f'<p class="gm-dim gm-understood" role="status">{lines}</p>'


def summary(made: Composed, elapsed_s: float) -> str:
    """One line: how much music, how fast."""
    seconds = sum(take.seconds for take in made.takes)
    takes = f" in {len(made.takes)} takes" if len(made.takes) > 1 else ""
    if made.is_many_edits:
        takes = f" in {len(made.takes)} edits from one inversion"
    return f"Done: {seconds:.1f} s of music{takes}, made in {elapsed_s:.1f} s with {made.calls} network calls."


def facts_html(made: Composed, take: MusicTake) -> str:
    """A small table about one take."""
    rows = [
        ("What", KINDS[made.kind]),
        ("Asked for", take.text or "nothing"),
        ("Told to the model", take.sentence),
        ("Model", made.model),
    ]
    rows += [("Length", f"{take.seconds:.2f} s"), ("Seed", str(take.seed))]
    rows += [("Note", note) for note in made.notes]
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f'<dl class="gm-list">{cells}</dl>'


def recipe_values(recipe: dict[str, Any], pool: ModelPool, limits: Limits) -> list[Any]:
    """Values for kind, text, negative text, bpm, key, seconds, bars, what the recording is, strength, method, model,
    guidance, steps, takes, seeds and further settings; what this machine does not have stays as it is, with a notice.

    Raises: UsageError when the recipe holds no texts or settings that are not allowed.
    """
    settings, seeds = recipe["settings"], recipe["seeds"][:MAX_TAKES]
    texts = settings.get("texts")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise UsageError("this recipe holds no description")
    kind = settings.get("kind") if settings.get("kind") in KINDS else "generate"
    text, takes = texts[0][: limits.text_chars], max(1, len(seeds))
    if kind == "edit":  # one description a line, all from one seed
        lines = (" ".join(one[: limits.text_chars].split()) for one in texts)
        text, takes = "\n".join(lines), takes if len(texts) == 1 else 1
        seeds = seeds[:takes]
    model = recipe["model"].get("name")
    if model not in pool.choices(SYSTEM):
        gr.Warning("The model of this recipe is not on this machine, so the result will differ.")
        model = None
    start = model_settings(pool, model)
    names = {entry.name for entry in dataclasses.fields(MusicSettings)} - set(ON_THE_PAGE)
    more = {name: settings[name] for name in names if name in settings and settings[name] != getattr(start, name)}
    start.changed(more)
    return [
        kind,
        text,
        str(settings.get("negative_text", "")),
        "" if _number(settings.get("bpm")) is None else f"{settings['bpm']:g}",
        str(settings.get("key") or ""),
        _number(settings.get("duration_s", settings.get("extra_s"))) or gr.skip(),
        _number(settings.get("bars")) or gr.skip(),
        str(settings.get("source_text", ""))[: limits.text_chars],
        gr.skip() if _number(settings.get("strength")) is None else settings["strength"],
        settings["method"] if settings.get("method") in ("regularised", "plain") else gr.skip(),
        gr.update(value=model) if model else gr.skip(),
        _number(settings.get("guidance")) if _number(settings.get("guidance")) is not None else gr.skip(),
        _number(settings.get("steps")) or gr.skip(),
        takes,
        ", ".join(str(seed) for seed in seeds),
        more,
    ]


def _number(value: Any) -> float | int | None:
    return None if isinstance(value, bool) or not isinstance(value, int | float) else value


def fitting(kind: str) -> list[Any]:
    """What is shown for a kind of work: recording, region, edit controls, seconds, bars; what the text box says."""
    shown = (kind in WITH_SOURCE, kind == "inpaint", kind == "edit", kind in ("generate", "extend"), kind == "loop")
    said = {"label": "Descriptions, one a line", "info": EDIT_INFO} if kind == "edit" else {}
    text = gr.update(**{"label": "Description", "info": TEXT_INFO, **said})
    return [*(gr.update(visible=value) for value in shown), text]


def entries(made: Composed) -> list[Entry]:
    """The takes for the history of this visit."""
    word = ("edit" if made.is_many_edits else "take") if len(made.takes) > 1 else ""
    return [
        Entry(
            task="music",
            media="audio",
            title=take.text or KINDS[made.kind],
            path=take.path,
            recipe=take.recipe,
            thumbnail=take.thumbnail,
            facts=", ".join([*([f"{word} {n}"] if word else []), f"{take.seconds:.1f} s", f"seed {take.seed}"]),
        )
        for n, take in enumerate(made.takes, 1)
    ]
