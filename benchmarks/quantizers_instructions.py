"""Instructions that the CPU paths of the quantizers execute, counted by callgrind, beside stored counts.

Unlike times, counts hardly depend on what else the machine does, so a path that has become dearer shows. They do depend
on torch and on the maker of the processor, by which its libraries choose their kernels: the stored counts name both.
Write them anew with `python -m benchmarks.quantizers_instructions` after a change that is meant.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from benchmarks.tables import Row, Section
from genmm.core.errors import GenerationError

REFERENCE = Path(__file__).with_name("quantizers_instructions.json")
TOLERANCE = 1.2
"""Largest count that passes, as a multiple of the stored one. Two runs on one machine differ by well under one per
cent; two processors of one maker may choose other kernels."""
SETUP = """\
import torch
from genmm.quantizers.kmeans import assign
from genmm.quantizers.nearest import code_sums, nearest_codes
torch.set_grad_enabled(False)
generator = torch.Generator().manual_seed(0)
x, codes = torch.randn(2048, 16, generator=generator), torch.randn(1024, 16, generator=generator)
few, ids = x[:64], torch.arange(2048) % 1024
allowed = torch.ones(1, 1024, dtype=torch.bool)
"""
PATHS = {
    "search, 2048 x 16, K 1024": "nearest_codes(x, codes)",
    "search of few, 64 x 16, K 1024": "nearest_codes(few, codes)",
    "sums of codes, 2048 x 16, K 1024": "code_sums(x, ids, 1024)",
    "assignment of k-means, 2048 x 16, K 1024": "assign(x[None], codes[None], allowed)",
}
"""Name -> statement."""


def count_instructions(statement: str, *, runs: int = 5) -> float:
    """Instructions of one execution, on one thread, once it is warm."""
    from torch.utils.benchmark import Timer

    timer = Timer(stmt=statement, setup=SETUP, num_threads=1)
    with _own_python(), torch.no_grad():  # the timer tries the setup in this process first, which must not stay
        try:
            return timer.collect_callgrind(number=runs, collect_baseline=False).counts() / runs
        except OSError as error:
            raise GenerationError(f"callgrind did not count: {str(error)[-300:]}") from error


@contextmanager
def _own_python() -> Iterator[None]:
    """The process that is counted is started as `python`: let that be this one, with this project."""
    before = {name: os.environ.get(name) for name in ("PATH", "PYTHONPATH")}
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def missing_tools() -> str:
    """Why nothing can be counted here; empty when it can."""
    absent = [tool for tool in ("valgrind", "callgrind_control", "callgrind_annotate") if not shutil.which(tool)]
    return f"{', '.join(absent)} not installed" if absent else ""


def here() -> dict[str, str]:
    """What counts depend on besides the code: the version of torch, the maker of the processor."""
    maker = ""
    with suppress(OSError):
        found = re.search(r"^vendor_id\s*:\s*(\S+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        maker = found[1] if found else ""
    return {"torch": torch.__version__, "processor": maker}


def stored_counts() -> dict[str, float]:
    """Counts of the stored run by path; empty where they belong to another torch or processor."""
    if not REFERENCE.is_file():
        return {}
    stored = json.loads(REFERENCE.read_text(encoding="utf-8"))
    return stored["instructions"] if all(stored.get(name) == value for name, value in here().items()) else {}


def instructions_section(*, quick: bool) -> Section:
    """Every path beside its stored count."""
    if missing := missing_tools():
        return Section("", "", (), missing)
    stored = stored_counts()
    rows = []
    for name, statement in list(PATHS.items())[: 1 if quick else None]:
        count, before = count_instructions(statement), stored.get(name)
        rows.append(
            Row(item=name, unit="million instructions", ours=count / 1e6, better="lower",
                peer=before / 1e6 if before else None, peer_name="stored count" if before else "",
                bound=TOLERANCE * before / 1e6 if before else None)
        )  # fmt: skip
    known = "" if stored else f" No counts are stored for {' on '.join(here().values())}."
    return Section(
        "", f"Callgrind, one thread, per call; at most {TOLERANCE:g} times the stored count.{known}", tuple(rows)
    )


def main() -> None:
    """Count all paths and store the counts."""
    from genmm.core.files import write_json

    counts = {name: round(count_instructions(statement)) for name, statement in PATHS.items()}
    write_json(REFERENCE, {**here(), "instructions": counts})
    print(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
