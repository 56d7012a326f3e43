"""`genmm bench quantizers`: nearest-code search, sums of codes and k-means beside peers and beside the bare product."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.quantizers_instructions import instructions_section
from benchmarks.quantizers_kmeans import kmeans_section
from benchmarks.quantizers_search import gpu_section, residual_section, search_section, sums_section
from benchmarks.tables import Report, Section, measure_sections
from genmm.core.devices import choose_device, describe_machine

DESCRIPTION = """\
Measure nearest-code search against the bare matrix product, cdist + argmin,
vector-quantize-pytorch and faiss (where it is installed); residual levels; sums and
counts of codes; k-means against faiss and, on a GPU, flash-kmeans; instructions of the
CPU paths against stored counts (where valgrind is installed). About ten minutes on two
cores; keep the machine idle meanwhile."""
SECTIONS = ("search", "gpu", "residual", "sums", "kmeans", "instructions")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (auto)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run (all)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each measurement (5)")


def measure(args: argparse.Namespace) -> Report:
    """Run the chosen sections."""
    device = choose_device(args.device)
    runs, quick = (1 if args.quick else args.runs), bool(args.quick)
    settings = {"device": str(device), "runs": runs, "quick": quick}
    report = Report("quantizers", describe_machine(), settings)
    actions: dict[str, tuple[str, Callable[[], Section]]] = {
        "search": ("Nearest-code search on the CPU, float32", lambda: search_section(runs=runs, quick=quick)),
        "gpu": ("Nearest-code search on the GPU", lambda: gpu_section(device, runs=runs, quick=quick)),
        "residual": ("Residual levels", lambda: residual_section(device, runs=runs, quick=quick)),
        "sums": ("Sums and counts of codes", lambda: sums_section(device, runs=runs, quick=quick)),
        "kmeans": ("k-means", lambda: kmeans_section(device, runs=runs, quick=quick)),
        "instructions": ("Instructions of the CPU paths", lambda: instructions_section(quick=quick)),
    }
    report.sections.extend(measure_sections(actions, [name for name in SECTIONS if name in args.only]))
    return report
