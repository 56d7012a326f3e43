"""`genmm bench` without a name: all measurements one after another, in one report."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from benchmarks.run import MEASUREMENTS
from benchmarks.tables import Report, Section, describe
from genmm.core.devices import describe_machine
from genmm.core.errors import Cancelled, GenmmError

DESCRIPTION = """\
Run all measurements with their own defaults and put them into one report. Takes about an
hour on two cores; keep the machine idle meanwhile. One measurement by name has more
options, and `genmm bench --list` shows the names."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of all measurements together."""
    names = tuple(MEASUREMENTS)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (auto)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help="measurements (all)")


@dataclass(frozen=True)
class Reports:
    """The reports of several measurements on one machine."""

    machine: dict[str, Any]
    reports: list[Report] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """All reports as JSON holds them."""
        reports = [report.to_dict() for report in self.reports]
        for report in reports:
            report.pop("machine")  # once for all
        return {"name": "all", "machine": self.machine, "reports": reports}

    def to_markdown(self) -> str:
        """All tables, a heading for each measurement."""
        lines = ["# genmm bench", "", describe(self.machine), ""]
        for report in self.reports:
            own = report.to_markdown().splitlines()
            lines += [f"#{line}" if line.startswith("#") else line for line in own if line != describe(report.machine)]
            lines.append("")
        return "\n".join(lines)


def measure(args: argparse.Namespace) -> Reports:
    """Run the chosen measurements; one that cannot run says why in its place."""
    together = Reports(describe_machine())
    for name in [name for name in MEASUREMENTS if name in args.only]:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        module = import_module(f"benchmarks.{name}")
        try:
            report = module.measure(_options(module, args))
        except Cancelled:
            raise
        except GenmmError as error:
            report = Report(name, describe_machine(), {}, [Section(MEASUREMENTS[name], "", skipped=str(error))])
        together.reports.append(report)
    return together


def _options(module, args: argparse.Namespace) -> argparse.Namespace:  # noqa: ANN001 - a module of this folder
    """The defaults of a measurement, with what was said for all of them."""
    parser = argparse.ArgumentParser()
    module.add_options(parser)
    own = parser.parse_args([])
    own.quick, own.threads = args.quick, args.threads
    if hasattr(own, "device"):
        own.device = args.device
    return own
