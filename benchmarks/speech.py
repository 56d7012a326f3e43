"""`genmm bench speech`: decoding at the released size, live speech, memory, batches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch

from benchmarks.decoding import decoding_section
from benchmarks.speaking import batch_section, memory_section, streaming_section
from benchmarks.tables import Report, Section
from genmm.core.devices import choose_device, describe_machine
from genmm.core.errors import Cancelled, CheckpointError, GenmmError
from genmm.nn.packed import PACKING_CHOICES, PackingChoice

DESCRIPTION = """\
Measure speech on this machine: decoding at the size of the released model against a
loop in the manner of the original and against the memory bandwidth; first sound, speed,
memory and batches of the embedded model. Takes about ten minutes on two cores; keep the
machine idle meanwhile, and expect 4 GiB of memory."""
SECTIONS = ("decoding", "live", "memory", "batch")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--model", default="sled", metavar="NAME", help="model of all sections but decoding (sled)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (auto)")
    packing = (
        "bytes of the model's weights on a CPU, in the sections live and batch (auto: float16 if that loses nothing)"
    )
    parser.add_argument("--packing", choices=PACKING_CHOICES, default="auto", help=packing)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run (all)")
    parser.add_argument("--frames", type=int, default=150, help="frames to decode in each run (150)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each measurement (5)")
    parser.add_argument("--batch", type=int, default=16, help="utterances in the batch (16)")


def measure(args: argparse.Namespace) -> Report:
    """Run the chosen sections."""
    device = choose_device(args.device)
    frames, runs = (12, 2) if args.quick else (args.frames, args.runs)
    settings = {"device": str(device), "model": args.model, "frames": frames, "runs": runs, "quick": bool(args.quick)}
    report = Report("speech", describe_machine(), settings)
    settings["packing"] = args.packing
    pipeline = _Lazy(args.model, device, args.packing)
    lengths = (2, 6) if args.quick else (4, 16, 64)
    actions: dict[str, tuple[str, Callable[[], Section]]] = {
        "decoding": (
            "Decoding at the released model size",
            lambda: decoding_section(frames=frames, runs=runs, quick=args.quick, device=device),
        ),
        "live": ("Live speech from the embedded model", lambda: streaming_section(pipeline(), runs=runs)),
        "memory": (
            "Memory over the length of the output",
            lambda: memory_section(pipeline.checked_name(), str(device), lengths=lengths),
        ),
        "batch": (
            "Batched speech",
            lambda: batch_section(pipeline(), runs=1 if args.quick else 3, batch=4 if args.quick else args.batch),
        ),
    }
    for name in [name for name in SECTIONS if name in args.only]:
        title, action = actions[name]
        print(f"measuring: {title} ...", file=sys.stderr, flush=True)
        report.sections.append(_run(title, action))
    return report


def _run(title: str, action: Callable[[], Section]) -> Section:
    """A section, or the reason why it could not be measured, so that the others are not lost."""
    try:
        return action()
    except Cancelled:
        raise
    except GenmmError as error:
        return Section(title, "", skipped=str(error))


class _Lazy:
    """The pipeline, loaded when a section first needs it."""

    def __init__(self, name: str, device: torch.device, packing: PackingChoice) -> None:
        self.name, self.device, self.packing = name, device, packing
        self._pipeline = None

    def __call__(self):  # noqa: ANN204 - a pipeline of any system
        import genmm

        if self._pipeline is None:
            try:
                self._pipeline = genmm.load(self.name, device=str(self.device), packing=self.packing)
            except GenmmError as error:
                raise CheckpointError(f"{self.name} cannot be loaded: {error}") from error
        return self._pipeline

    def checked_name(self) -> str:
        """The name, once it is known that it loads."""
        self()
        return self.name
