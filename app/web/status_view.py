"""HTML of the Status tab; every value is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.web.markup import chip_html, table_html
from app.web.messages import escape
from app.web.tab import Server
from genmm.hub.recipes import BY_HAND, RECIPES

__all__ = ["cards_html", "count_text", "models_html", "more_html", "size_text"]


def size_text(count: float) -> str:
    """Bytes in words, with three figures."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB" if count < 1000 else f"{count:.0f} GB"


def count_text(count: float) -> str:
    """Parameters in words."""
    if count >= 1e9:
        return f"{count / 1e9:.2g} B"
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count / 1e3:.3g} k"


def cards_html(facts: Mapping[str, Any], server: Server, waiting: int) -> str:
    """Five small boxes about the machine and the work; `waiting` jobs stand in line."""
    running = len(server.runs.active())
    used, total = facts["used_memory_bytes"], facts["device_memory_bytes"]
    disk_limit = size_text(facts["disk_limit_bytes"])
    cards = [
        _card("Device", facts["device"], facts["device_name"]),
        _card("Memory in use", size_text(used) if used else "unknown", f"of {size_text(total)}" if total else ""),
        _card(
            "At work",
            f"{running} running" if running else "idle",
            f"{waiting} waiting, room for {server.settings.queue_max}",
        ),
        _card("Results on disk", size_text(facts["disk_bytes"]), f"of {disk_limit}, the oldest go first"),
        _card("Version", f"genmm {facts['genmm']}", f"torch {facts['torch']}"),
    ]
    return f'<div class="gm-cards">{"".join(cards)}</div>'


def models_html(facts: Mapping[str, Any]) -> str:
    """The models on this machine."""
    if not facts["models"]:
        return '<div class="gm-note gm-note-problem">There is no model on this machine yet; see below.</div>'
    names = ("Model", "System", "Source", "Parameters", "On disk", "In memory", "Licence", "State")
    total = facts["device_memory_bytes"]
    rows = [_model_cells(model, model["name"] in facts["loaded"], total) for model in facts["models"]]
    return f'<h3 class="gm-h">Models on this machine</h3>{table_html(names, rows)}'


def more_html() -> str:
    """Commands that fetch published models."""
    rows = []
    for recipe in RECIPES:
        variant = f" --{recipe.variant}" if recipe.variant else ""
        rows.append((recipe.model, recipe.title, f"genmm pull {recipe.system}{variant}"))
    rows += [(system, "published where no program may fetch it", f"genmm pull {system}") for system in BY_HAND]
    cells = [(escape(name), escape(what), f"<code>{escape(command)}</code>") for name, what, command in rows]
    advice = (
        "Run one of these on the server. It shows size and licence first, or says what to fetch by hand; then reload "
        "this page."
    )
    table = table_html(("Model", "What it does", "Command"), cells)
    return f'<h3 class="gm-h">More models</h3><p class="gm-dim gm-above">{advice}</p>{table}'


def _model_cells(model: Mapping[str, Any], is_loaded: bool, total: int) -> list[str]:
    kind, state = ("good", "in memory") if is_loaded else ("plain", "ready")
    if total and model["memory_bytes"] > total:
        kind, state = "bad", "too large for this device"
    if model["problem"]:
        kind, state = "bad", "damaged"
    name = f'{escape(model["name"])}<div class="gm-dim gm-wrap">{escape(model.get("description", ""))}</div>'
    texts = (
        model["system"],
        model["source"],
        count_text(model["parameters"]),
        size_text(model["size_bytes"]),
        f"about {size_text(model['memory_bytes'])}",
        model["licence"] or "not stated",
    )
    return [name, *(escape(text) for text in texts), chip_html(state, kind)]


def _card(name: str, value: str, below: str) -> str:
    return (
        f'<div class="gm-card"><div class="gm-card-name">{escape(name)}</div>'
        f'<div class="gm-card-value">{escape(value)}</div><div class="gm-dim">{escape(below)}</div></div>'
    )
