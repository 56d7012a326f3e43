"""One long state from a network that only knows short ones: all windows are sampled together.

The velocities of overlapping windows are averaged at every call, so neighbours agree from noise to data and nothing is
decoded and encoded in between. Letters: B batch, C channels, T frames of the whole, W windows, w frames of a window.
Source: MultiDiffusion (arXiv 2302.08113), joint sampling of windows; the weights that fall towards the edges are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genmm.core.errors import UsageError
from genmm.samplers.ode import Velocity

WindowVelocity = Callable[[Tensor, float, int], Tensor]
"""(frames [B, C, w], flow step, index of the window) -> velocity [B, C, w]."""


@dataclass(frozen=True)
class Windows:
    """Where the windows lie."""

    starts: tuple[int, ...]
    """First frame of each."""
    width: int
    """Frames of each, w."""
    total: int
    """Frames of the whole, T."""
    is_circular: bool = False
    """Whether the end joins the start, so that a window may go on from the last frame to the first."""

    def places(self, index: int, device: torch.device | str = "cpu") -> Tensor:
        """Frames of the whole that window `index` covers, [w] int64."""
        return (self.starts[index] + torch.arange(self.width, device=device)) % self.total

    def weights(self, device: torch.device | str = "cpu") -> Tensor:
        """Share of each window in each frame, [W, w] float32; over the windows of a frame they sum to 1.

        A triangle that is highest in the middle: a window knows least about what lies beyond its edges.
        """
        ramp = torch.arange(1, self.width + 1, dtype=torch.float32)
        triangle = torch.minimum(ramp, ramp.flip(0))
        whole, places = torch.zeros(self.total), [self.places(index) for index in range(len(self.starts))]
        for frames in places:
            whole[frames] += triangle
        return torch.stack([triangle / whole[frames] for frames in places]).to(device)


def cover(total: int, width: int, overlap: int) -> Windows:
    """Windows of one width that cover `total` frames, neighbours sharing at least `overlap` frames.

    The starts are spread evenly. A whole that fits into one window gets one of its own length.
    Raises: UsageError when the overlap is not smaller than the window or a number is not positive.
    """
    if total < 1 or width < 1 or not 0 <= overlap < width:
        raise UsageError(
            f"windows need frames and a width of at least 1 and an overlap below the width, "
            f"got {total}, {width} and {overlap}"
        )
    if total <= width:
        return Windows((0,), total, total)
    count = -(-(total - overlap) // (width - overlap))
    starts = tuple(round(index * (total - width) / (count - 1)) for index in range(count))
    return Windows(starts, width, total)


def cover_circle(total: int, width: int, overlap: int) -> Windows:
    """Windows of one width around a circle of `total` frames, neighbours sharing at least `overlap` frames.

    The last one goes on into the first, so no frame is an edge of the whole.
    Raises: UsageError unless the overlap is below the width and the width below the whole.
    """
    if not 0 <= overlap < width < total:
        raise UsageError(
            f"windows on a circle need a width below its frames and an overlap below the width, "
            f"got {total}, {width} and {overlap}"
        )
    count = -(-total // (width - overlap))
    return Windows(tuple(round(index * total / count) for index in range(count)), width, total, is_circular=True)


def joint(velocity: WindowVelocity, windows: Windows) -> Velocity:
    """The velocity of the whole [B, C, T]: weighted mean of what the windows say. One call per window."""
    kept: dict[torch.device, tuple[Tensor, list[Tensor]]] = {}

    def whole(state: Tensor, t: float) -> Tensor:
        if state.device not in kept:
            places = [windows.places(index, state.device) for index in range(len(windows.starts))]
            kept[state.device] = windows.weights(state.device), places
        total, (shares, places) = torch.zeros_like(state), kept[state.device]
        for index, (share, frames) in enumerate(zip(shares, places, strict=True)):
            part = velocity(state[..., frames], t, index).to(total.dtype) * share.to(total.dtype)
            total.index_add_(-1, frames, part)
        return total

    return whole


TurnedVelocity = Callable[[Tensor, float, int], Tensor]
"""(state turned by so many frames, flow step, that number) -> velocity of the turned state."""


def circular(velocity: TurnedVelocity, shifts: Sequence[int]) -> Velocity:
    """A velocity on a circle: call i sees the state turned by shifts[i mod n], so no place is ever the seam for long.

    The network has positions from 0 to T - 1; turning the state moves the seam between the last and the first frame
    through all of it, and what is learned about neighbours joins end and start. Calls are counted: make one for each
    solution.
    Raises: UsageError without shifts.
    """
    if not shifts:
        raise UsageError("circular sampling needs at least one shift")
    calls = 0

    def turned(state: Tensor, t: float) -> Tensor:
        nonlocal calls
        shift = shifts[calls % len(shifts)]
        calls += 1
        return velocity(state.roll(shift, -1), t, shift).roll(-shift, -1)

    return turned
