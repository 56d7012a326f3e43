"""A recipe put back into the Video tab."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.web.pool import ModelPool
from app.web.video_work import MOST, SYSTEM, VideoForm
from genmm.core.checkpoint import read_config
from genmm.core.errors import UsageError
from genmm.quantizers.adaptive import AdaptiveK
from genmm.systems.vqtoken.config import VqTokenConfig
from genmm.systems.vqtoken.methods import METHODS
from genmm.systems.vqtoken.pipeline import budget_of

__all__ = ["lost_settings", "recipe_values"]


def recipe_values(recipe: dict[str, Any], pool: ModelPool) -> list[Any]:
    """Values for tokens, adaptive, method and model; what the page cannot set or has not got is said in a notice.

    Raises: UsageError for settings that are not allowed.
    """
    settings, name = recipe["settings"], recipe["model"].get("name")
    budget, method = budget_of(settings.get("tokens", VideoForm.tokens)), settings.get("method", VideoForm.method)
    if method not in METHODS:
        raise UsageError(f"there is no reducer {str(method)[:40]!r}; choose one of: {', '.join(METHODS)}")
    is_known = name in pool.choices(SYSTEM)
    if not is_known:
        gr.Warning("The model of this recipe is not on this machine, so the result will differ.")
    if lost := lost_settings(recipe, _frames_a_second(name, pool) if is_known else None):
        gr.Warning(
            f"The page has no control for {lost}, which this recipe sets. Make it again with: genmm tokenize --recipe"
        )
    adaptive = isinstance(budget, AdaptiveK)
    tokens = budget.most if adaptive else budget.tokens
    return [min(MOST, tokens), adaptive, method, name if is_known else gr.skip()]


def lost_settings(recipe: dict[str, Any], fps: float | None) -> str:
    """Settings of a recipe that no control shows and that differ from what the page does, as a list in words.

    `fps` is the model's own rate, None when that is not known.
    """
    settings, seeds = recipe["settings"], recipe["seeds"]
    budget = budget_of(settings.get("tokens", VideoForm.tokens))
    lost = {name: settings[name] for name in ("start_s", "end_s") if settings.get(name)}
    if fps is not None and settings.get("fps", fps) != fps:
        lost["fps"] = settings["fps"]
    if seeds and seeds[0] != 0:
        lost["seed"] = seeds[0]
    if isinstance(budget, AdaptiveK):
        page = VideoForm(video="", tokens=min(MOST, budget.most), adaptive=True).budget()
        lost |= {name: value for name, value in vars(budget).items() if value != getattr(page, name)}
    elif budget.tokens > MOST:
        lost["tokens"] = budget.tokens
    return ", ".join(f"{name} {value}" for name, value in lost.items())


def _frames_a_second(name: str, pool: ModelPool) -> float:
    """The rate at which a model looks at videos, without loading it. Raises: CheckpointError for a damaged one."""
    return VqTokenConfig.from_dict(read_config(pool.info(name, SYSTEM).path).get("network")).frames.fps
