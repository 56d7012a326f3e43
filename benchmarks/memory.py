"""Peak memory of a process, and processes of their own to measure it in; light, since what is imported counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from genmm.core.errors import GenerationError

try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["peak_memory_bytes", "run_alone"]

ROOT = Path(__file__).resolve().parents[1]
LONGEST_S = 1800.0
"""A measuring process that still runs then is ended."""


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system does not tell.

    VmHWM where there is one: ru_maxrss of a new process begins with the peak of the process that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    except (OSError, StopIteration):
        pass
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def run_alone(*line: str) -> str:
    """The last line that `python LINE` prints (-c TEXT or -m MODULE, and arguments) as a fresh process.

    It finds this folder and has the working folder of this process. Raises: GenerationError when it fails.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, *line], env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired as error:
        raise GenerationError(f"the measuring process was ended: it took more than {LONGEST_S:g} s") from error
    if done.returncode or not done.stdout.strip():
        raise GenerationError(f"the measuring process failed: {done.stderr.strip()[-200:]}")
    return done.stdout.strip().splitlines()[-1]
