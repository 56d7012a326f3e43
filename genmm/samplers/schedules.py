"""At which flow steps a solver calls its velocity: 0 is noise, 1 is data.

Letters: N network calls, k index of a grid point.
"""

from __future__ import annotations

import math

from genmm.core.errors import UsageError

SWAY_LOWEST, SWAY_HIGHEST = -1.0, 2.0 / (math.pi - 2.0)
"""Outside of these the swayed points would no longer ascend."""
OFFICIAL_SWAY = -0.8
"""The value of MelodyFlow's code; it spends more steps near noise than near data."""


def flow_grid(steps: int, *, start: float = 0.0, end: float = 1.0, sway: float = 0.0) -> tuple[float, ...]:
    """Flow steps s_0 = start ... s_N = end, one more than there are network calls.

    The points k / N are moved by s + sway (cos(pi s / 2) - 1 + s) and then stretched to [start, end]. A grid that
    descends (inversion, 1 -> a) is the ascending one (a -> 1) read backwards. sway 0 is uniform.
    Raises: UsageError when steps is below 1, a flow step is outside [0, 1], or sway outside [-1, 1.75].
    Source: F5-TTS (arXiv 2410.06885), sway sampling; MelodyFlow (arXiv 2407.03648) uses -0.8 in its code.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise UsageError(f"steps must be a whole number of at least 1, got {steps!r}; 64 is the published value")
    if not (0.0 <= start <= 1.0 and 0.0 <= end <= 1.0):
        raise UsageError(f"flow steps lie in [0, 1] (0 noise, 1 data), got a grid from {start} to {end}")
    if not SWAY_LOWEST <= sway <= SWAY_HIGHEST:
        raise UsageError(f"sway must be in [{SWAY_LOWEST:g}, {SWAY_HIGHEST:.2f}], got {sway}; 0 is uniform")
    if end < start:
        return flow_grid(steps, start=end, end=start, sway=sway)[::-1]
    points = (swayed(k / steps, sway) for k in range(steps + 1))
    inner = [start + (end - start) * point for point in points]
    return (start, *inner[1:-1], end)


def swayed(point: float, sway: float) -> float:
    """One point of [0, 1] moved along the sway curve; 0 and 1 stay where they are."""
    return point + sway * (math.cos(math.pi * point / 2.0) - 1.0 + point)
