"""Carries jobs out: noise, windows, solver, codec. Everything long is a generator of Progress that ends in a value.

Letters: B rows, C audio channels, S samples, D latent channels, T latent frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genmm.core.errors import GenerationError, UsageError
from genmm.core.events import CancelToken, Progress
from genmm.core.seeds import derive_seed, generators, noise_for
from genmm.samplers.guidance import Guidance
from genmm.samplers.inversion import invert_regularised
from genmm.samplers.ode import Move, Projection, Tolerance, Velocity, adaptive_moves, moves
from genmm.samplers.schedules import flow_grid
from genmm.samplers.windows import Windows, circular, cover, cover_circle, joint
from genmm.systems.melodyflow.latents import MusicCodec
from genmm.systems.melodyflow.network import FlowNetwork, TextCondition
from genmm.systems.melodyflow.prompts import Prompt, Section, TextReader
from genmm.systems.melodyflow.request import MusicSettings
from genmm.systems.melodyflow.velocity import PromptedFlow

Work = Generator[Progress, None, Tensor]
"""Events on the way, latents at the end."""
TURNS = 8
"""Different places of the seam in circular sampling."""
GOLDEN = 0.6180339887
"""Multiples of this share of the length lie far from each other."""
ADAPTIVE_CALLS = 512
"""Network calls that the adaptive solver may make at least."""
SHORTEST_WINDOW = 6
"""Latent frames below which a window has nothing to say."""


@dataclass(frozen=True, eq=False)
class Field:
    """The velocities of a whole piece, made of one window or of several sampled together."""

    windows: Windows
    flows: tuple[PromptedFlow, ...]
    """One per window."""
    shifts: tuple[int, ...] = ()
    """Turns of a circular piece, one per call in turn; empty for a piece with two ends."""

    @property
    def conditional(self) -> Velocity:
        """With the prompt, without guidance."""
        return self._over(lambda flow: flow.conditional)

    def guided(self, guidance: Guidance) -> Velocity:
        """With guidance."""
        return self._over(lambda flow: flow.guided(guidance))

    def _over(self, part: Callable[[PromptedFlow], Velocity]) -> Velocity:
        if self.shifts and len(self.flows) == 1:
            return circular(lambda x, t, shift: part(self.flows[0].turned(shift))(x, t), self.shifts)
        if len(self.flows) == 1:
            return part(self.flows[0])
        parts = [part(flow) for flow in self.flows]
        return joint(lambda x, t, index: parts[index](x, t), self.windows)

    @property
    def calls(self) -> int:
        """Calls of the network so far."""
        return sum(flow.calls for flow in self.flows)


@dataclass
class Studio:
    """Network, codec and reader at work on one job."""

    network: FlowNetwork
    codec: MusicCodec
    reader: TextReader
    settings: MusicSettings
    window_frames: int
    """Longest window in latent frames."""
    cancel: CancelToken | None = None
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds per stage."""
    fields: list[Field] = field(default_factory=list)
    """All fields that were used, for counting calls."""

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.network.in_proj.weight.device

    @property
    def frame_rate(self) -> float:
        """Latent frames a second."""
        return self.codec.sample_rate / self.codec.hop_samples

    def field(
        self,
        prompts: Sequence[Sequence[Prompt]],
        frames: int,
        *,
        negative: Sequence[Prompt] = (),
        whole: bool = True,
        is_circular: bool = False,
    ) -> Field:
        """Velocities for prompts[part][row]; several parts follow each other over the length of the piece.

        `whole` says that the piece has a start and an end that should be heard.
        """
        if is_circular:
            made = self._circle(prompts[0], frames, negative)
        else:
            windows = self._windows(frames, len(prompts))
            total_s, flows = frames / self.frame_rate if whole else None, []
            for start in windows.starts:
                middle = (start + windows.width / 2) / frames
                rows = prompts[min(int(middle * len(prompts)), len(prompts) - 1)]
                section = Section(windows.width, self.frame_rate, start / self.frame_rate, total_s)
                told, untold = self._conditions(rows, negative, section)
                flows.append(PromptedFlow(self.network, told, negative=untold))
            made = Field(windows, tuple(flows))
        self.fields.append(made)
        return made

    def _windows(self, frames: int, parts: int) -> Windows:
        """Windows of the model's length; shorter ones where each of several parts would not get one of its own.

        Raises: UsageError when the parts are too short to be told apart.
        """
        share = self.settings.overlap
        width = min(self.window_frames, frames)
        if parts > 1:
            width = min(width, int(frames / (parts * (1.0 - share) + share)))
            if width < SHORTEST_WINDOW:
                seconds = frames / self.frame_rate
                raise UsageError(f"{seconds:g} s are too short for {parts} descriptions; take fewer or a longer piece")
        return cover(frames, width, min(width - 1, max(1, int(width * share))) if frames > width else 0)

    def _circle(self, rows: Sequence[Prompt], frames: int, negative: Sequence[Prompt]) -> Field:
        """A piece whose end joins its start: one window that turns, or a ring of them where one is too short."""
        section = Section(frames, self.frame_rate, circular=True)
        told, untold = self._conditions(rows, negative, section)
        if frames <= self.window_frames:
            # The same turns for every seed, so that each take can be made again alone.
            shifts = tuple(int(frames * (turn * GOLDEN % 1.0)) for turn in range(TURNS))
            return Field(cover(frames, frames, 0), (PromptedFlow(self.network, told, negative=untold),), shifts)
        width = self.window_frames
        windows = cover_circle(frames, width, min(width - 1, max(1, int(width * self.settings.overlap))))
        places = [windows.places(index) for index in range(len(windows.starts))]
        flows = [
            PromptedFlow(self.network, told and told.at(here), negative=untold and untold.at(here)) for here in places
        ]
        return Field(windows, tuple(flows))

    def _conditions(
        self, rows: Sequence[Prompt], negative: Sequence[Prompt], section: Section
    ) -> tuple[TextCondition | None, TextCondition | None]:
        """What a section is told, and what guidance leads away from."""
        told = self.reader.condition(self.network, rows, section)
        return told, self.reader.condition(self.network, negative, section) if negative else None

    # ------------------------------------------------------------ solving

    def run(self, steps: Iterable[Move], what: str) -> Work:
        """Follow a solver, say how far it is, stop when asked. Raises: Cancelled, GenerationError when it diverges."""
        started, state = time.perf_counter(), None
        iterator = iter(steps)
        while True:
            if self.cancel is not None:
                self.cancel.check()
            move = next(iterator, None)
            if move is None:
                break
            state = move.state
            yield Progress(move.calls, move.total, "calls", what)
        self.timings[f"{what}_s"] = self.timings.get(f"{what}_s", 0.0) + time.perf_counter() - started
        if state is None or not bool(torch.isfinite(state).all()):
            raise GenerationError(
                "the model produced values that are not finite; lower the guidance, or take float32 (--dtype float32)"
            )
        return state

    def noise(self, seeds: Sequence[int], frames: int, name: str = "") -> Tensor:
        """Standard normal latents [B, D, T]; row i depends on seeds[i] alone."""
        rows = [derive_seed(seed, name) for seed in seeds] if name else seeds
        return noise_for(rows, (self.network.config.latent_dim, frames)).to(self.device)

    def sample(self, made: Field, seeds: Sequence[int], frames: int, projection: Projection | None = None) -> Work:
        """Latents [B, D, T] from noise."""
        own, state = self.settings, self.noise(seeds, frames)
        velocity = made.guided(own.guide())
        if own.solver == "adaptive":
            self._check_adaptive(made, seeds)
            allowed = Tolerance(
                relative=own.tolerance, absolute=own.tolerance, max_calls=max(ADAPTIVE_CALLS, own.steps)
            )
            steps: Iterable[Move] = adaptive_moves(velocity, state, tolerance=allowed, projection=projection)
        else:
            steps = moves(velocity, state, flow_grid(own.steps, sway=own.sway), own.solver, projection)
        latents = yield from self.run(steps, "making")
        return latents

    @staticmethod
    def _check_adaptive(made: Field, seeds: Sequence[int]) -> None:
        """Raise UsageError where step lengths would depend on other takes, or on how a loop happens to be turned."""
        if len(seeds) > 1:
            raise UsageError(
                "the adaptive solver measures its steps on all takes together, so none could be made again alone; "
                "take one, or the midpoint solver"
            )
        if made.shifts:
            raise UsageError("a loop is turned at every call, which hides its error; take the midpoint solver")

    def invert(self, made: Field, source: Tensor, seeds: Sequence[int], strength: float, regularised: bool) -> Work:
        """The latents [B, D, T] at flow step 1 - strength that lead back to the source."""
        own = self.settings
        grid = flow_grid(own.edit_steps, start=1.0, end=1.0 - strength, sway=own.sway)
        if regularised:
            draws = generators([derive_seed(seed, "inversion") for seed in seeds])

            def noise() -> Tensor:
                shape = source.shape[1:]
                return torch.stack([torch.randn(shape, generator=draw) for draw in draws]).to(source.device)

            steps: Iterable[Move] = invert_regularised(made.conditional, source, grid, noise, own.regularise())
        else:
            steps = moves(made.conditional, source, grid, own.edit_solver)
        inverted = yield from self.run(steps, "inverting")
        return inverted

    def redo(self, made: Field, inverted: Tensor, strength: float) -> Work:
        """Latents [B, D, T] from inverted ones, with guidance."""
        own = self.settings
        grid = flow_grid(own.edit_steps, start=1.0 - strength, end=1.0, sway=own.sway)
        velocity = made.guided(own.guide())
        latents = yield from self.run(moves(velocity, inverted, grid, own.edit_solver), "editing")
        return latents

    # ------------------------------------------------------------ codec

    @torch.inference_mode()
    def encode(self, waveform: Tensor, seeds: Sequence[int]) -> Tensor:
        """Normalised latents [B, D, T], one sample of the posterior for each seed, of a waveform [1, C, S]."""
        started = time.perf_counter()
        posterior = self.codec.encode(waveform)
        noise = self.noise(seeds, posterior.mean.shape[2], "posterior")
        latents = self.network.normalise(posterior.mean + posterior.deviation * noise)
        self.timings["encoding_s"] = time.perf_counter() - started
        return latents

    @torch.inference_mode()
    def decode(self, latents: Tensor, *, is_circular: bool = False) -> list[Tensor]:
        """Waveforms [C, S] of normalised latents [B, D, T], one after the other so that memory stays flat."""
        started, sounds = time.perf_counter(), []
        frames = latents.shape[2]
        for row in self.network.denormalise(latents.float()):
            if self.cancel is not None:
                self.cancel.check()
            around = min(frames, self.window_frames) if is_circular else 0
            if around:  # hear the end before the start and the start after the end, then cut both off
                row = torch.cat((row[:, -around:], row, row[:, :around]), -1)
            samples = self.codec.decode(row[None], cycle=frames if around else None)[0]
            samples = samples[:, around * self.codec.hop_samples :][:, : frames * self.codec.hop_samples]
            sounds.append(samples.float().cpu())
        self.timings["decoding_s"] = self.timings.get("decoding_s", 0.0) + time.perf_counter() - started
        return sounds

    @property
    def calls(self) -> int:
        """Calls of the network in all."""
        return sum(made.calls for made in self.fields)
