"""Recorded steps: a function over fixed shapes that a CUDA graph plays back without the cost of launching it.

The plain twin of a recorded step is the function itself; a test compares both on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UP = 3
"""Plain runs before recording, so that libraries have chosen their kernels and workspaces."""


class RecordedStep:
    """A function of tensors, recorded once and played back with new values."""

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        examples: Sequence[Tensor],
        state: Sequence[Tensor] = (),
    ) -> None:
        """Record `function(*examples)` on the current CUDA device.

        state: tensors that the function changes in place; they are as before when recording is done. Whatever else
        the function writes during the warm-up must be harmless.
        """
        self._inputs = tuple(example.clone() for example in examples)
        before = [tensor.clone() for tensor in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function(*self._inputs)
                for tensor, saved in zip(state, before, strict=True):
                    tensor.copy_(saved)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = function(*self._inputs)

    def __call__(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Play back with these values; the answers are overwritten by the next call."""
        for place, value in zip(self._inputs, values, strict=True):
            if place.data_ptr() != value.data_ptr():
                place.copy_(value)
        self._graph.replay()
        return self._outputs
