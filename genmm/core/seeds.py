"""Seeds: one per sample, so that item 3 of a batch can be made again alone, on any device."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from genmm.core.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["check_seed", "derive_seed", "fresh_seed", "generators", "noise_for"]

_SEED_END = 2**63


def check_seed(seed: int) -> int:
    """Give back the seed as an int in [0, 2**63). Raises: UsageError when it is anything else."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise UsageError(f"a seed is a whole number from 0 to 2**63 - 1, got {seed!r}")
    number = int(seed.__index__())
    if not 0 <= number < _SEED_END:
        raise UsageError(f"a seed is a whole number from 0 to 2**63 - 1, got {number}")
    return number


def fresh_seed() -> int:
    """Draw a seed from the operating system, in [0, 2**31) so that it is short enough to read and type."""
    return secrets.randbelow(2**31)


def derive_seed(run_seed: int, *names: str | int) -> int:
    """Mix a run seed with names (an id, a take, a purpose) into a new seed in [0, 2**63).

    The same arguments give the same seed on every platform and release (SHA-256 of a length-prefixed text), and
    ("a", "bc") differs from ("ab", "c"), 1 from "1".
    """
    parts = [f"i:{check_seed(run_seed)}"]
    for name in names:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise UsageError(f"a seed name is a string or a whole number, got {name!r}")
        parts.append(f"{'s' if isinstance(name, str) else 'i'}:{name}")
    text = "".join(f"{len(part)}:{part}," for part in parts)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % _SEED_END


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per row, each started from its own seed; the global generator is not touched."""
    import torch  # late, because commands check seeds before anything heavy is imported

    return [torch.Generator("cpu").manual_seed(check_seed(seed)) for seed in seeds]


def noise_for(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise [B, *shape] float32 on the CPU; row i depends on seeds[i] alone."""
    import torch

    rows = [torch.randn(tuple(shape), generator=generator) for generator in generators(seeds)]
    return torch.stack(rows) if rows else torch.empty((0, *shape))
