"""A recipe put back into the Speech tab, and the lists that its controls choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from app.web.controls import idle_html
from app.web.pool import ModelPool
from app.web.speech_work import (
    GUIDANCE,
    MAX_TAKES,
    SYSTEM,
    TEMPERATURE,
    further_settings,
    model_settings,
    voice_names,
)
from genmm.core.errors import UsageError
from genmm.core.limits import Limits

__all__ = ["OWN", "more_values", "recipe_values", "voice_choices"]

OWN = "(own recording)"
"""Choice of the voice list that stands for the uploaded one; no voice can have this name."""


def recipe_values(recipe: dict[str, Any], pool: ModelPool, limits: Limits) -> list[Any]:
    """Values for text, model, voice, guidance, temperature, takes, seed, and those of `more_values`.

    What this machine does not have (a model, a voice) stays as it is, with a notice.
    Raises: UsageError when the recipe holds no text or settings that are not allowed.
    """
    settings, seeds = recipe["settings"], recipe["seeds"][:MAX_TAKES]
    if not isinstance(settings.get("text"), str):
        raise UsageError("this recipe holds no text")
    model = _known_model(recipe["model"].get("name"), pool)
    return [
        settings["text"][: limits.text_chars],
        gr.update(value=model) if model else gr.skip(),
        _known_voice(settings.get("voice"), voice_names(pool, model)),
        _number(settings.get("guidance"), GUIDANCE),
        _number(settings.get("temperature"), TEMPERATURE),
        max(1, len(seeds)),
        ", ".join(str(seed) for seed in seeds),
        *more_values(further_settings(settings, model_settings(pool, model))),
    ]


def more_values(settings: dict[str, Any]) -> tuple[Any, ...]:
    """Values for the settings that a recipe brought along and the page has no control for: state, note, button."""
    listed = ", ".join(f"{name} = {value}" for name, value in sorted(settings.items()))
    note = gr.update(value=idle_html(f"Also used, from the recipe: {listed}"), visible=bool(settings))
    return settings, note, gr.update(visible=bool(settings))


def voice_choices(names: Sequence[str]) -> list[tuple[str, str]]:
    """(label, value) pairs of the voice list; the last one is the visitor's own."""
    return [*((name.replace("_", " ").replace("-", " ").capitalize(), name) for name in names), ("Own recording", OWN)]


def _known_model(name: Any, pool: ModelPool) -> str | None:
    if name in pool.choices(SYSTEM):
        return name
    gr.Warning("The model of this recipe is not on this machine, so the result will differ.")
    return None


def _known_voice(name: Any, names: Sequence[str]) -> Any:
    choices = voice_choices(names)
    if name in names:
        return gr.update(choices=choices, value=name)
    if name:
        gr.Warning("The voice of this recipe is not in the list; choose one, or give its recording again.")
    return gr.update(choices=choices)


def _number(value: Any, bounds: tuple[float, float]) -> Any:
    """A number of a recipe within the slider's range; skipped when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return gr.skip()
    return min(max(float(value), bounds[0]), bounds[1])
