"""`genmm doctor`: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.checkup import Finding

DESCRIPTION = """\
Look at this installation and this machine: versions, device, memory, disk,
checkpoints, data, optional extras. For everything that is missing it says what it is
needed for and how to get it. Reads only; uses no network."""
EPILOG = """\
examples:
  genmm doctor
  genmm doctor --json > report.json      for a bug report or a script

exit codes: 0 everything that is needed is there, 3 something needed is missing (optional things do not count)."""
MARKS = {"ok": ("ok", "green"), "optional": ("--", "yellow"), "missing": ("MISSING", "bold red")}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "doctor", help="what is installed, what is missing, how to get it", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the findings; the exit code says whether something needed is missing."""
    from app.checkup import examine

    findings = examine()
    missing = [finding for finding in findings if finding.state == "missing"]
    if args.json:
        print(json.dumps({"ok": not missing, "findings": [finding.to_dict() for finding in findings]}, indent=2))
    else:
        _print(findings)
        short = "1 needed part is" if len(missing) == 1 else f"{len(missing)} needed parts are"
        print(f"\n{short} missing" if missing else "\neverything that is needed is there")
    return 3 if missing else 0


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.text import Text

    console, group = Console(highlight=False, soft_wrap=True), ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            console.print(Text(f"\n{group}", style="bold"))
        mark, style = MARKS[finding.state]
        console.print(Text.assemble((f"  {mark:<8}", style), f"{finding.name:<24} {finding.detail}"))
        if finding.remedy:
            console.print(Text(f"  {'':<8}{'':<24} {finding.remedy}"))
