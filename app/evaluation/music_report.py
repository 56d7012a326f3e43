"""The figures of a music model as the tables of its card."""

from __future__ import annotations

from typing import Any

GOALS = {"tempo": 0.8, "key signature": 0.8, "instrument of a solo": 0.8}
"""Attribute -> share of what the judge hears in rendered truth that a model should reach."""
EDIT_GOAL = 0.7


def report_markdown(figures: dict[str, Any], level: int = 2) -> str:
    """All parts that were measured, one section each."""
    head, lines = "#" * level, []
    if "adherence" in figures or "instruments" in figures:
        lines += [f"{head} Does it follow the description?", "", *_adherence(figures), ""]
    if "edits" in figures:
        lines += [f"{head} Do edits change what they should, and nothing else?", "", *_edits(figures), ""]
    if "codec" in figures:
        lines += [f"{head} What the codec keeps", "", *_codec(figures["codec"]), ""]
    if "distance" in figures:
        lines += [f"{head} Distance to real music", "", *_distance(figures["distance"]), ""]
    return "\n".join(lines)


def percent(share: dict[str, float]) -> str:
    """A share with its interval."""
    return f"{100 * share['value']:.0f} % ({100 * share['low']:.0f} to {100 * share['high']:.0f})"


def _adherence(figures: dict[str, Any]) -> list[str]:
    rows: dict[str, dict[str, Any]] = {}
    for who, shares in figures.get("adherence", {}).items():
        for name, share in shares.items():
            rows.setdefault(name, {})[who] = share
    if "instruments" in figures:
        rows["instrument of a solo"] = figures["instruments"]
    lines = [
        f"Held-out combinations, the model's own defaults, {figures['seconds']:g} s each. The judge's figure on "
        "rendered truth is what can be reached; truth through the codec is what a flow on this codec can reach; chance "
        "is the model's music judged by another description.",
        "",
        "| attribute | model | rendered truth | truth through the codec | chance | goal |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        goal = "-"
        if name in GOALS:
            least = GOALS[name] * row["truth"]["value"]
            goal = f"at least {100 * least:.0f} %: {'reached' if row['model']['value'] >= least else 'missed'}"
        cells = " | ".join(percent(row[who]) for who in ("model", "truth", "codec", "chance"))
        lines.append(f"| {name} | {cells} | {goal} |")
    return lines


def _edits(figures: dict[str, Any]) -> list[str]:
    table, count = figures["edits"]["table"], figures["options"]["edits"]
    lines = [
        f"{count} rendered sources for each kind of edit, strength {figures['options']['strength']:g}, the same "
        "sources, descriptions and seeds for both inversions. Stayed: every other judged attribute (tempo with octaves "
        "allowed, key signature, instrument of a solo) is heard as it was.",
        "",
        "| edit | inversion | network calls | changed | all others stayed |",
        "|---|---|---|---|---|",
    ]
    kinds = list(next(iter(table.values())))
    for kind in kinds:
        for who, rows in table.items():
            row = rows[kind]
            calls = f"{row['calls']:.0f}" if "calls" in row else ""
            lines.append(f"| {kind} | {who} | {calls} | {percent(row['changed'])} | {percent(row['stayed'])} |")
    lines += ["", f"Goal: {100 * EDIT_GOAL:.0f} % changed and {100 * EDIT_GOAL:.0f} % stayed, over all kinds."]
    for who, rows in table.items():
        if "calls" in rows["all"]:
            reached = min(rows["all"]["changed"]["value"], rows["all"]["stayed"]["value"]) >= EDIT_GOAL
            lines[-1] += f" {who.capitalize()} inversion: {'reached' if reached else 'missed'}."
    lines += ["", "| change of the instrument | harmony like the source | rhythm like the source |", "|---|---|---|"]
    for who, rows in table.items():
        if who != "source as it is":
            lines.append(f"| {who} | {rows['instrument']['harmony']:.2f} | {rows['instrument']['rhythm']:.2f} |")
    other = figures["edits"]["unrelated"]
    lines.append(f"| unrelated pieces | {other['harmony']:.2f} | {other['rhythm']:.2f} |")
    return lines


def _codec(codec: dict[str, Any]) -> list[str]:
    lines = ["| codec on | pieces | SI-SDR | log-mel distance | error of stereo width | of balance |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, row in codec.items():
        lines.append(
            f"| {name} | {row['count']:.0f} | {row['si_sdr_db']:.1f} dB | {row['mel']:.2f} "
            f"| {row['width_error']:.3f} | {row['balance_error_db']:.2f} dB |"
        )
    return lines


def _distance(distance: dict[str, Any]) -> list[str]:
    lines = [
        "Frechet distance on the mean codec latent of every second, all sounds at one loudness. It compares only with "
        "figures of the same codec; two halves of one set show what is usual.",
        "",
        "| from, to | distance | seconds of sound |",
        "|---|---|---|",
    ]
    for pair, value in distance["frechet"].items():
        seconds = " and ".join(str(distance["seconds"][name]) for name in pair.split(" to "))
        lines.append(f"| {pair} | {value:.2f} | {seconds} |")
    return lines
