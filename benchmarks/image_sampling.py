"""Sampling steps without a network: our engines beside a direct step in the manner of the published code.

Letters: B rows, C codes, K = M + 1 values, M tokens.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.tables import Row, Section
from benchmarks.timing import alternate
from genmm.samplers.fixed_sum import RowNoise
from genmm.samplers.fixed_sum_diffusion import DiffusionSettings, sampling_steps, start_counts
from genmm.samplers.fixed_sum_guidance import guided
from genmm.samplers.fixed_sum_official_loop import OfficialSettings, exponential_noise, official_loop, official_step
from genmm.systems.tokenset.config import CountNetworkConfig
from genmm.systems.tokenset.network import Condition, CountNetwork

TIMES = (0.2, 0.4, 0.6)
"""Steps that are measured: early, in the middle, late enough for the published code to adjust its sums."""
STEP = 0.04
"""Length of a step; the published sampler takes 25."""


def stub_logits(rows: int, codes: int, tokens: int, t: float, seed: int = 0) -> Tensor:
    """Log-probabilities [B, C, K] as a network gives them: any code may occur, some become ever more likely."""
    generator = torch.Generator().manual_seed(seed)
    k = torch.arange(tokens + 1, dtype=torch.float32)
    rate = torch.full((rows, codes), (1.0 - t) * tokens / codes)
    likely = torch.randint(0, codes, (rows, tokens), generator=generator)
    rate.scatter_(1, likely, t)
    poisson = k * rate.clamp_min(1e-6).log()[..., None] - torch.lgamma(k + 1)
    return poisson.log_softmax(-1)


def one_step(log_p: Tensor, state: Tensor, t: float, settings: DiffusionSettings, seed: int = 0) -> Tensor:
    """One of our steps with given log-probabilities: clean counts, then the state."""
    noise = RowNoise(range(seed, seed + len(state)), state.device)
    steps = DiffusionSettings(steps=round(1 / STEP), engine=settings.engine)
    made = sampling_steps(lambda state, t: log_p, state, steps, noise, from_t=t + 1e-6)
    return next(iter(made)).counts


def step_actions(rows: int, codes: int, tokens: int, t: float, device: torch.device) -> dict[str, Callable[[], object]]:
    """The step at one time by both engines and by the direct way, on the same input."""
    log_p = stub_logits(rows, codes, tokens, t).to(device)
    state = start_counts(codes, tokens, RowNoise(range(rows), device))
    p, noise = log_p.exp(), exponential_noise(torch.Generator().manual_seed(0))
    own = OfficialSettings(draw_clean="topp")

    def direct() -> object:
        return official_step(p, state, t, t + STEP, tokens, own, lambda shape: noise(shape).to(device))

    return {
        "exact": lambda: one_step(log_p, state, t, DiffusionSettings(engine="exact")),
        "repair": lambda: one_step(log_p, state, t, DiffusionSettings(engine="repair")),
        "direct": direct,
    }


def sampler_section(device: torch.device, *, runs: int, quick: bool) -> Section:
    """Seconds of one step at the published size."""
    rows, codes, tokens = (2, 256, 16) if quick else (8, 4096, 128)
    seconds: dict[str, list[float]] = {"exact": [], "repair": [], "direct": []}
    for t in TIMES:
        actions = step_actions(rows, codes, tokens, t, device)
        for name, measured in alternate(actions, runs=runs, device=device).items():
            seconds[name].append(measured.median)
    mean = {name: sum(values) / len(values) for name, values in seconds.items()}
    goal = {} if quick else {"repair": 10.0, "exact": 1.0}
    return Section(
        "One step without the network",
        f"{rows} rows, {codes} codes, {tokens} tokens; clean counts and state; mean over steps at t = "
        f"{', '.join(map(str, TIMES))}. The direct step writes p(k) for every code and count, sorts for its "
        "nucleus and adjusts once.",
        tuple(
            Row(
                item=f"{name} step",
                unit="ms",
                ours=1e3 * mean[name],
                peer=1e3 * mean["direct"],
                peer_name="direct step",
                better="lower",
                goal=goal.get(name),
            )
            for name in ("repair", "exact")
        ),
    )


def guidance_section(device: torch.device, *, runs: int, quick: bool) -> Section:
    """Seconds of one guided step: mixing both predictions, then drawing the half that is used."""
    rows, codes, tokens = (2, 256, 16) if quick else (8, 4096, 128)
    t = TIMES[1]
    both = torch.cat([stub_logits(rows, codes, tokens, t, seed) for seed in (0, 1)]).to(device)
    state = start_counts(codes, tokens, RowNoise(range(rows), device))
    noise, own = exponential_noise(torch.Generator().manual_seed(0)), OfficialSettings(draw_clean="topp")

    def step(engine: str) -> object:
        log_p = guided(*both.chunk(2), 4.0, "log")
        return one_step(log_p, state, t, DiffusionSettings(engine=engine))

    def direct() -> object:
        p = guided(*both.chunk(2), 4.0).exp().repeat(2, 1, 1)
        return official_step(p, state.repeat(2, 1), t, t + STEP, tokens, own, lambda shape: noise(shape).to(device))

    actions = {"repair": lambda: step("repair"), "exact": lambda: step("exact"), "direct": direct}
    seconds = alternate(actions, runs=runs, device=device)
    return Section(
        "One guided step",
        f"{rows} pictures, {codes} codes, {tokens} tokens, t = {t}. Ours mixes the two predictions and draws {rows} "
        f"rows; the direct step carries both halves, {2 * rows} rows, through all draws, as the original does.",
        tuple(
            Row(
                item=f"guided {name} step",
                unit="ms",
                ours=1e3 * seconds[name].median,
                peer=1e3 * seconds["direct"].median,
                peer_name="direct step, both halves",
                better="lower",
            )
            for name in ("repair", "exact")
        ),
    )


def memory_section(device: torch.device, *, quick: bool) -> Section:
    """Peak memory of one step beyond its input."""
    rows, codes, tokens = (4, 256, 16) if quick else (256, 4096, 128)
    log_p = stub_logits(rows, codes, tokens, 0.5).to(device)
    state = start_counts(codes, tokens, RowNoise(range(rows), device))
    noise = exponential_noise(torch.Generator().manual_seed(0))
    own, p = OfficialSettings(draw_clean="topp"), log_p.exp()
    peaks = {
        "exact": peak_bytes(lambda: one_step(log_p, state, 0.5, DiffusionSettings(engine="exact")), device),
        "repair": peak_bytes(lambda: one_step(log_p, state, 0.5, DiffusionSettings(engine="repair")), device),
        "direct": peak_bytes(
            lambda: official_step(p, state, 0.5, 0.54, tokens, own, lambda shape: noise(shape).to(device)), device
        ),
    }
    if any(peak is None for peak in peaks.values()):
        return Section("Memory of one step", "", skipped="this system does not tell the peak memory of a process")
    return Section(
        "Memory of one step",
        f"Peak beyond the network's output at {rows} rows, {codes} codes, {tokens} tokens.",
        tuple(
            Row(
                item=f"{name} step",
                unit="MiB",
                ours=peaks[name] / 2**20,
                peer=peaks["direct"] / 2**20,
                peer_name="direct step",
                better="lower",
                goal=None if quick else 20.0,
            )
            for name in ("repair", "exact")
        ),
    )


def peak_bytes(action: Callable[[], object], device: torch.device) -> float | None:
    """Highest memory during a call beyond that before it; None where it cannot be told."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        torch.cuda.synchronize(device)
        return float(torch.cuda.max_memory_allocated(device) - before)
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # starts the high-water mark anew
        before = _status_bytes("VmRSS")
        action()
        return float(max(4096, _status_bytes("VmHWM") - before))
    except (OSError, KeyError):
        return None


def _status_bytes(name: str) -> int:
    rows = (line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(dict(rows)[name].split()[0]) * 1024


def released_predictor(
    rows: int, device: torch.device, *, quick: bool
) -> tuple[Callable[[Tensor, float], Tensor], CountNetworkConfig]:
    """Guided predictions of the released small size with random weights: (state [B, C], t) -> [B, C, K]."""
    labels = {"class": tuple(map(str, range(10 if quick else 1000)))}
    sizes = {"codes": 64, "tokens": 8, "width": 32, "depth": 1, "heads": 2} if quick else {}
    config = CountNetworkConfig(**sizes, labels=labels)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    network = CountNetwork(config).eval().to(device, dtype).requires_grad_(False)
    given = Condition({"class": torch.zeros(rows, dtype=torch.int64, device=device)})
    both = given.joined(Condition({"class": torch.full((rows,), len(labels["class"]), device=device)}))

    def predict(state: Tensor, t: float) -> Tensor:
        times = torch.full((2 * rows,), t, device=device)
        return guided(*network(state.repeat(2, 1), times, both).chunk(2), 4.0)

    return predict, config


def released_section(device: torch.device, *, runs: int, quick: bool) -> Section:
    """Pictures a second at the released small size, guided, with random weights; needs a GPU to be done in time."""
    title = "The released small size"
    if device.type != "cuda" and not quick:
        return Section(title, "", skipped="25 guided steps of 36 M parameters over 4096 positions need a CUDA device")
    rows, steps = (2, 3) if quick else (16, 25)
    predict, config = released_predictor(rows, device, quick=quick)
    start = start_counts(config.codes, config.tokens, RowNoise(range(rows), device))
    noise = exponential_noise(torch.Generator().manual_seed(0))

    def ours(engine: str) -> None:
        settings = DiffusionSettings(steps=steps, engine=engine)
        for _ in sampling_steps(predict, start, settings, RowNoise(range(rows), device)):
            pass

    def original() -> None:
        doubled = OfficialSettings(steps=steps)
        official_loop(
            lambda state, t: predict(state[:rows], t).exp().repeat(2, 1, 1),
            start.repeat(2, 1),
            doubled,
            lambda shape: noise(shape).to(device),
        )

    with torch.inference_mode():
        actions = {"repair": lambda: ours("repair"), "exact": lambda: ours("exact"), "original": original}
        seconds = alternate(actions, runs=runs, device=device)
    return Section(
        title,
        f"{rows} pictures, {steps} steps, guidance on; the original's loop carries both halves through all draws.",
        tuple(
            Row(
                item=f"{name} loop",
                unit="pictures/s",
                ours=seconds[name].per(rows),
                peer=seconds["original"].per(rows),
                peer_name="original's loop",
                goal=2.0 if name == "repair" and not quick else None,
            )
            for name in ("repair", "exact")
        ),
    )
