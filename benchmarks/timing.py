"""Timing that can be believed: alternating runs, median and spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Measured:
    """A figure from several runs."""

    median: float
    """The middle run."""
    low: float
    """The smallest."""
    high: float
    """The largest."""
    runs: int
    """How many runs there were."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        """Summary of the runs; at least one."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    def per(self, amount: float) -> Measured:
        """The rate of an amount for each run, when the figure is a time: amount / time, slowest run lowest."""
        return Measured(amount / self.median, amount / self.high, amount / self.low, self.runs)

    def per_unit(self, unit: float) -> Measured:
        """The same figure in a larger unit: divided by it."""
        return Measured(self.median / unit, self.low / unit, self.high / unit, self.runs)


def alternate(
    actions: Mapping[str, Callable[[], object]], *, runs: int, warm_up: int = 1, device: str | torch.device = "cpu"
) -> dict[str, Measured]:
    """Seconds of each action, in rounds that run every action once, so that a drifting machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(warm_up + runs):
        for name, action in actions.items():
            elapsed = time_once(action, device)
            if turn >= warm_up:
                seconds[name].append(elapsed)
    return {name: Measured.of(values) for name, values in seconds.items()}


def time_once(action: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """Seconds of one call, work queued on the device included."""
    synchronise(device)
    start = time.perf_counter()
    action()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: str | torch.device) -> None:
    """Wait until the device has finished what was queued; nothing on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
