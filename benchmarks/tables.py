"""Rows of measurements as JSON and Markdown."""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from benchmarks.timing import Measured
from genmm.core.errors import Cancelled, GenmmError


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: ours beside a peer and beside a limit."""

    item: str
    """What was measured."""
    unit: str
    """Unit of all three figures."""
    ours: Measured | float
    """Our figure."""
    peer: Measured | float | None = None
    """The same by the alternative, None where there is none."""
    peer_name: str = ""
    """What the alternative is."""
    limit: float | None = None
    """What the machine allows at best, None where nothing simple bounds it."""
    better: Literal["higher", "lower"] = "higher"
    """Which direction is good."""
    goal: float | None = None
    """Least ratio to the peer (how many times better) that we aim at."""
    bound: float | None = None
    """Value that our figure should reach, instead of a ratio."""
    note: str = ""
    """What a reader must know."""

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer we are."""
        if self.peer is None:
            return None
        ours, peer = middle(self.ours), middle(self.peer)
        top, bottom = (ours, peer) if self.better == "higher" else (peer, ours)
        return top / bottom if bottom else None

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is not None and self.ratio is not None:
            return self.ratio >= self.goal
        if self.bound is not None:
            ours = middle(self.ours)
            return ours >= self.bound if self.better == "higher" else ours <= self.bound
        return None


@dataclass(frozen=True)
class Section:
    """A table with a title and what it says about the way of measuring."""

    title: str
    method: str
    rows: tuple[Row, ...] = ()
    skipped: str = ""
    """Why nothing was measured; empty when it was."""


@dataclass(frozen=True)
class Report:
    """All sections of one run."""

    name: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    sections: list[Section] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON holds it, with ratios and goals worked out."""
        sections = []
        for section in self.sections:
            rows = [dataclasses.asdict(row) | {"ratio": row.ratio, "is_met": row.is_met} for row in section.rows]
            sections.append(dataclasses.asdict(section) | {"rows": rows})
        return {"name": self.name, "machine": self.machine, "settings": self.settings, "sections": sections}

    def to_markdown(self) -> str:
        """The tables for people."""
        lines = [f"# genmm bench {self.name}", "", describe(self.machine), ""]
        lines += [", ".join(f"{key} {value}" for key, value in self.settings.items()), ""]
        for section in self.sections:
            lines += section_lines(section)
        return "\n".join(lines)


HEADER = "| what | ours | peer | ratio | limit | share of limit | goal |\n|---|---|---|---|---|---|---|"


def section_lines(section: Section) -> list[str]:
    """One section in Markdown."""
    lines = [f"## {section.title}", "", section.method, ""]
    if section.skipped:
        return [*lines, f"Not measured: {section.skipped}", ""]
    notes = [row.note for row in section.rows if row.note]
    numbers = {note: place for place, note in enumerate(dict.fromkeys(notes), 1)}
    lines.append(HEADER)
    for row in section.rows:
        mark = f" ({numbers[row.note]})" if row.note else ""
        lines.append(f"| {row.item}{mark} | " + " | ".join(cells(row)) + " |")
    return [*lines, "", *(f"({place}) {note}" for note, place in numbers.items()), ""]


def cells(row: Row) -> list[str]:
    """The cells behind the name of a row."""
    peer = "" if row.peer is None else f"{show(row.peer)} {row.unit}, {row.peer_name}"
    share = "" if row.limit is None else f"{100 * _share(row):.0f} %"
    return [
        f"{show(row.ours)} {row.unit}",
        peer,
        "" if row.ratio is None else f"{row.ratio:.2f}x",
        "" if row.limit is None else f"{number(row.limit)} {row.unit}",
        share,
        goal_text(row),
    ]


def _share(row: Row) -> float:
    ours = middle(row.ours)
    return ours / row.limit if row.better == "higher" else row.limit / ours


def goal_text(row: Row) -> str:
    """The goal and whether it was met."""
    if row.is_met is None:
        return ""
    wanted = f"{row.goal:g}x" if row.goal is not None else f"{row.bound:g} {row.unit}"
    return f"{wanted}: {'met' if row.is_met else 'not met'}"


def show(value: Measured | float) -> str:
    """A figure, with its spread when there were several runs."""
    if isinstance(value, Measured):
        spread = f" ({number(value.low)} to {number(value.high)})" if value.runs > 1 else ""
        return number(value.median) + spread
    return number(value)


def number(value: float) -> str:
    """Three significant digits without an exponent for ordinary sizes."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 3 - len(str(int(abs(value)))) if abs(value) >= 1 else 3
        return f"{value:.{max(0, digits)}f}"
    return f"{value:.2e}"


def middle(value: Measured | float) -> float:
    """The median, or the figure itself."""
    return value.median if isinstance(value, Measured) else value


def describe(machine: dict[str, Any]) -> str:
    """One sentence about the machine."""
    gpus = ", ".join(gpu["name"] for gpu in machine.get("gpus", [])) or "no CUDA device"
    return (
        f"Machine: {machine.get('cpu') or platform.machine()}, {machine.get('cpu_cores')} cores, "
        f"{machine.get('torch_threads')} torch threads, {machine.get('memory_bytes', 0) / 2**30:.0f} GiB, {gpus}; "
        f"Python {machine.get('python')}, torch {machine.get('torch')}."
    )


def medians(rows: Sequence[Row]) -> dict[str, float]:
    """Our figure of each row by its name."""
    return {row.item: middle(row.ours) for row in rows}


def measure_sections(actions: Mapping[str, tuple[str, Callable[[], Section]]], names: Iterable[str]) -> list[Section]:
    """Measure the named sections one after another; one that cannot be measured says why in its place.

    `actions` maps a name to the section's title and what measures it. Raises: Cancelled.
    """
    sections = []
    for name in names:
        title, action = actions[name]
        print(f"measuring: {title}", file=sys.stderr, flush=True)
        try:
            section = action()
        except Cancelled:
            raise
        except (GenmmError, torch.OutOfMemoryError) as error:
            section = Section(title, "", (), str(error))
        sections.append(Section(title, section.method, section.rows, section.skipped))
    return sections
