"""The flow network as a velocity that the samplers call: prompts prepared once, time embeddings kept, one call a step.

Letters: B rows of the state, D latent channels, T frames.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from genmm.core.errors import ShapeError
from genmm.samplers.guidance import Guidance, guided
from genmm.samplers.ode import Velocity
from genmm.systems.melodyflow.network import FlowNetwork, TextCondition, joined


class PromptedFlow:
    """Velocities of a network for fixed prompts.

    The state may hold several copies of the prompt batch one after the other (the regularised inversion does that).
    """

    def __init__(
        self, network: FlowNetwork, prompt: TextCondition | None, *, negative: TextCondition | None = None
    ) -> None:
        """prompt None = no text (guidance then leads away from the negative one); negative None = away from no text."""
        self.network, self.prompt, self.negative = network, prompt, negative
        # The network's first rows have text; what is guided away from may be the only text there is.
        self.both = joined(prompt, negative) if prompt and negative else prompt or negative
        self._counts = [0, 0]
        self._turned: dict[int, PromptedFlow] = {}
        self._times: dict[float, Tensor] = {}
        self._rotation: tuple[int, tuple[Tensor, Tensor]] | None = None
        self._copies: dict[int, TextCondition] = {}

    def conditional(self, state: Tensor, t: float) -> Tensor:
        """Velocity [B, D, T] float32 with the prompt."""
        return self._run(state, t, self._for_rows(len(state)))

    def pair(self, state: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Velocities with the prompt and without it (or with the negative one), in one call of 2 B rows."""
        told = self.prompt or self.negative
        if told is not None and len(state) != len(told.bias):
            raise ShapeError(f"guidance needs the {len(told.bias)} rows of the prompts, got {len(state)}")
        first, second = self._run(torch.cat((state, state)), t, self.both).chunk(2)
        return (second, first) if self.prompt is None else (first, second)

    def guided(self, guidance: Guidance) -> Velocity:
        """A velocity with guidance; without any prompt guidance has nothing to do and one row per item is enough."""
        if self.prompt is None and self.negative is None:
            return self.conditional
        return guided(self.conditional, self.pair, guidance)

    def turned(self, shift: int) -> PromptedFlow:
        """The same prompts when the state is turned by so many frames, for circular sampling; calls count here."""
        if shift not in self._turned:
            other = PromptedFlow(self.network, _turned(self.prompt, shift), negative=_turned(self.negative, shift))
            other._times, other._counts = self._times, self._counts
            self._turned[shift] = other
        return self._turned[shift]

    @property
    def calls(self) -> int:
        """Calls of the network so far."""
        return self._counts[0]

    @property
    def rows(self) -> int:
        """Rows that went through the network so far."""
        return self._counts[1]

    def prepare(self, grid: tuple[float, ...]) -> None:
        """Embed all flow steps of a grid in one go."""
        weight = self.network.in_proj.weight
        missing = [t for t in dict.fromkeys(grid) if t not in self._times]
        if missing:
            steps = torch.tensor(missing, dtype=torch.float32, device=weight.device)
            with torch.inference_mode():
                self._times |= dict(zip(missing, self.network.timestep_embedder(steps).split(1), strict=True))

    def _for_rows(self, rows: int) -> TextCondition | None:
        if self.prompt is None:
            return None
        count = len(self.prompt.bias)
        if rows % count:
            raise ShapeError(f"the state has {rows} rows, which is no multiple of the {count} prompts")
        if rows == count:
            return self.prompt
        if rows not in self._copies:
            self._copies[rows] = self.prompt.repeated(rows // count)
        return self._copies[rows]

    @torch.inference_mode()
    def _run(self, state: Tensor, t: float, condition: TextCondition | None) -> Tensor:
        if self._rotation is None or self._rotation[0] != state.shape[2]:
            self._rotation = (state.shape[2], self.network.transformer.rope(state.shape[2]))
        self.prepare((t,))
        self._counts[0] += 1
        self._counts[1] += len(state)
        step = torch.full((1,), t, device=state.device)
        time = self._times[t]
        return self.network(state, step, condition, time=time, rotation=self._rotation[1]).float()


def _turned(condition: TextCondition | None, shift: int) -> TextCondition | None:
    """A condition whose frames are turned; what does not change along the frames stays."""
    if condition is None or condition.frames is None or condition.frames.shape[1] == 1:
        return condition
    return replace(condition, frames=condition.frames.roll(shift, 1))
