"""`genmm bench image`: fixed-sum sampling against the published step, memory, whole pictures, encoding."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks.image_sampling import guidance_section, memory_section, released_section, sampler_section
from benchmarks.image_whole import encode_section, whole_section
from benchmarks.tables import Report, Section
from genmm.core.devices import choose_device, describe_machine
from genmm.core.errors import Cancelled, GenmmError

DESCRIPTION = """\
Measure images on this machine: one sampling step without the network at the published
size (4096 codes, 128 tokens) against a direct step in the manner of the original, its
memory at 256 pictures, whole pictures against the bare network calls, and tokenising.
Takes some minutes; keep the machine idle meanwhile, and expect 8 GiB of memory."""
SECTIONS = ("sampler", "guidance", "memory", "whole", "encode", "released")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--model", default="tokenset", metavar="NAME", help="model of whole pictures (tokenset)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (auto)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run (all)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each measurement (5)")
    parser.add_argument("--batch", type=int, default=16, help="pictures drawn together (16)")


def measure(args: argparse.Namespace) -> Report:
    """Run the chosen sections."""
    device = choose_device(args.device)
    runs = 2 if args.quick else args.runs
    settings = {"device": str(device), "model": args.model, "runs": runs, "quick": bool(args.quick)}
    report = Report("image", describe_machine(), settings)
    model = args.model, str(device)
    actions: dict[str, tuple[str, Callable[[], Section]]] = {
        "sampler": ("One step without the network", lambda: sampler_section(device, runs=runs, quick=args.quick)),
        "guidance": ("One guided step", lambda: guidance_section(device, runs=runs, quick=args.quick)),
        "memory": ("Memory of one step", lambda: memory_section(device, quick=args.quick)),
        "whole": (
            "Whole pictures",
            lambda: whole_section(*model, batch=4 if args.quick else args.batch, runs=runs, quick=args.quick),
        ),
        "encode": ("Pictures to counts", lambda: encode_section(*model, runs=runs, quick=args.quick)),
        "released": ("The released small size", lambda: released_section(device, runs=runs, quick=args.quick)),
    }
    for name in [name for name in SECTIONS if name in args.only]:
        title, action = actions[name]
        print(f"measuring: {title} ...", file=sys.stderr, flush=True)
        try:
            report.sections.append(action())
        except Cancelled:
            raise
        except GenmmError as error:
            report.sections.append(Section(title, "", skipped=str(error)))
    return report
