"""Which device and number format to run on, and a description of the machine for reports."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from genmm.core.errors import UsageError

__all__ = ["choose_device", "choose_dtype", "describe_machine", "memory_bytes", "multiplies_bfloat16", "widest_float"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Turn "auto", "cpu", "cuda", "cuda:1" or "mps" into a device that is really there.

    "auto" takes the first CUDA device, else Apple's MPS, else the CPU.
    Raises: UsageError when the name is unknown or the machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"device must be auto, cpu, cuda, cuda:N or mps, got {device!r}") from error
    if wanted.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device must be auto, cpu, cuda, cuda:N or mps, got {str(device)!r}")
    if wanted.type == "mps" and not _has_mps():
        raise UsageError("device mps was asked for, but this machine or torch build has none; use --device auto")
    return _checked_cuda(wanted) if wanted.type == "cuda" else wanted


def _checked_cuda(wanted: torch.device) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = wanted.index or 0
    if index >= count:
        found = f"it has {count} (cuda:0 to cuda:{count - 1})" if count else "no CUDA device is visible to torch"
        raise UsageError(f"device {wanted} was asked for, but {found}; use --device auto or --device cpu")
    return torch.device("cuda", index)


def _has_mps() -> bool:
    return bool(getattr(torch.backends, "mps", None)) and torch.backends.mps.is_available()


def choose_dtype(dtype: str | torch.dtype = "auto", device: str | torch.device = "cpu") -> torch.dtype:
    """Turn "auto", "float32", "bfloat16" or "float16" into a torch dtype.

    "auto" is bfloat16 on a CUDA device with native support and float32 everywhere else.
    Raises: UsageError for another name, and for float16 on the CPU, where torch is slow and overflows early.
    """
    device = torch.device(device)
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" and multiplies_bfloat16(device) else torch.float32
    chosen = _DTYPES.get(str(dtype).removeprefix("torch."))
    if chosen is None:
        raise UsageError(f"dtype must be auto, float32, bfloat16 or float16, got {str(dtype)!r}")
    if chosen is torch.float16 and device.type == "cpu":
        raise UsageError("float16 does not run well on the CPU; use --dtype float32 or bfloat16")
    return chosen


def multiplies_bfloat16(device: str | torch.device = "cpu") -> bool:
    """Whether products of bfloat16 are at least as fast there as those of float32.

    On processors without AVX-512 or Arm's bfloat16 torch multiplies it element by element, 20 times slower.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def memory_bytes(device: str | torch.device = "cpu") -> int:
    """Total memory of the device in bytes; of the machine for cpu and mps; 0 when it cannot be told."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on MPS, which has no wider one."""
    return torch.float32 if device.type == "mps" else torch.float64


def describe_machine() -> dict[str, Any]:
    """Versions, processor, memory and accelerators as a JSON-able dict; reads, never changes."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cpu": _cpu_name(),
        "cpu_cores": _usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "memory_bytes": memory_bytes("cpu"),
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
        "mps": _has_mps(),
    }


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
