"""`genmm bench music`: solver overhead, a guided step, codecs, whole pieces, memory."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks.memory import run_alone
from benchmarks.music_original import original_guided_step
from benchmarks.tables import Report, Row, Section, measure_sections
from benchmarks.timing import Measured, alternate, time_once
from genmm.core.devices import choose_device, describe_machine
from genmm.samplers.guidance import Guidance
from genmm.samplers.ode import integrate
from genmm.samplers.schedules import flow_grid
from genmm.systems.melodyflow.config import FlowConfig, SeanetConfig
from genmm.systems.melodyflow.network import FlowNetwork
from genmm.systems.melodyflow.vae import SeanetCodec
from genmm.systems.melodyflow.velocity import PromptedFlow

DESCRIPTION = """\
Measure music on this machine: the solver over bare network calls and against torchdiffeq;
a guided step against one in the original's manner; codecs in multiples of real time; the
embedded model from words to sound; memory over the length. Keep the machine idle meanwhile."""
SECTIONS = ("solver", "step", "codec", "pipeline", "memory", "released")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument(
        "--model", default="melodyflow", metavar="NAME", help="model of the section pipeline (melodyflow)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (auto)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to run (all)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each measurement (5)")


def measure(args: argparse.Namespace) -> Report:
    """Run the chosen sections."""
    device = choose_device(args.device)
    runs = 2 if args.quick else args.runs
    report = Report("music", describe_machine(), {"device": str(device), "runs": runs, "quick": bool(args.quick)})
    actions: dict[str, tuple[str, Callable[[], Section]]] = {
        "solver": ("The solver over the network", lambda: solver_section(device, runs, args.quick)),
        "step": ("A guided step", lambda: step_section(device, runs, args.quick)),
        "codec": ("Codecs", lambda: codec_section(device, runs, args.quick)),
        "pipeline": ("From words to sound", lambda: pipeline_section(args.model, device, runs, args.quick)),
        "memory": ("Memory of decoding over the length", lambda: memory_section(args.quick)),
        "released": ("The released size on a GPU", lambda: released_section(device, args.quick)),
    }
    report.sections.extend(measure_sections(actions, args.only))
    return report


def random_network(config: FlowConfig, device: torch.device) -> FlowNetwork:
    """A network with random weights, in evaluation mode."""
    torch.manual_seed(0)
    number = torch.bfloat16 if device.type == "cuda" else torch.float32
    return FlowNetwork(config).eval().requires_grad_(False).to(device, number)


SMALL = FlowConfig(dim=192, latent_dim=64, num_heads=4, num_layers=8, hidden_scale=2, cond_dim=96)
RELEASED_LAYERS = FlowConfig(num_layers=4)


def solver_section(device: torch.device, runs: int, quick: bool) -> Section:
    """Our midpoint solver against the same number of bare calls, and against torchdiffeq."""
    from torchdiffeq import odeint

    steps, frames = (8, 16) if quick else (32, 128)
    network = random_network(SMALL, device)
    flow = PromptedFlow(
        network, network.condition(torch.randn(1, 8, 96, device=device), torch.ones(1, 8, device=device))
    )
    velocity = flow.guided(Guidance(weight=2.0))
    state, grid = torch.randn(1, 64, frames, device=device), flow_grid(steps)
    flow.prepare(grid)
    times = torch.linspace(0, 1, steps // 2 + 1, device=device)
    seconds = alternate(
        {
            "bare": lambda: [velocity(state, t) for t in grid[:-1]],
            "ours": lambda: integrate(velocity, state, grid, "midpoint"),
            "torchdiffeq": lambda: odeint(lambda t, x: velocity(x, float(t)), state, times, method="midpoint"),
            "solver alone": lambda: integrate(lambda x, t: x, state, grid, "midpoint"),
        },
        runs=runs,
        device=device,
    )
    # The solver's own work by itself: as the difference of two long runs it would drown in their spread.
    overhead = 100.0 * seconds["solver alone"].median / seconds["bare"].median
    method = (
        f"{steps} guided calls of the small network (4 M parameters) on {frames} frames, midpoint. Overhead: the same "
        "integration of a velocity that costs nothing, as a share of the bare calls."
    )
    rows = (
        Row(item="integrate", unit="s", ours=seconds["ours"], peer=seconds["torchdiffeq"], peer_name="torchdiffeq",
            better="lower", limit=seconds["bare"].median),
        Row(item="overhead over bare calls", unit="%", ours=overhead, better="lower", bound=None if quick else 2.0),
    )  # fmt: skip
    return Section("", method, rows)


def step_section(device: torch.device, runs: int, quick: bool) -> Section:
    """One guided velocity, ours against the original's manner, with the same weights."""
    rows = []
    sizes = [("small, 8 layers of width 192", SMALL, 16 if quick else 128)]
    if not quick:
        sizes.append(("released width, 4 of 24 layers", RELEASED_LAYERS, 750 if device.type == "cuda" else 250))
    for name, config, frames in sizes:
        network = random_network(config, device)
        number = network.in_proj.weight.dtype
        states, mask = torch.randn(1, 24, config.cond_dim, device=device).to(number), torch.ones(1, 24, device=device)
        flow, x = (
            PromptedFlow(network, network.condition(states, mask)),
            torch.randn(1, config.latent_dim, frames, device=device),
        )
        velocity = flow.guided(Guidance(weight=4.0))
        gap = float((velocity(x, 0.5) - original_guided_step(network, x, 0.5, states, mask, 4.0)).abs().max())
        seconds = alternate(
            {
                "ours": lambda v=velocity, x=x: v(x, 0.5),
                "original": lambda n=network, x=x, s=states, m=mask: original_guided_step(n, x, 0.5, s, m, 4.0),
            },
            runs=runs,
            device=device,
        )
        note = f"largest difference of the two results: {gap:.1e}"
        ours, peer = (seconds[key].per_unit(1e-3) for key in ("ours", "original"))
        rows.append(Row(item=f"{name}, {frames} frames", unit="ms", ours=ours, peer=peer, peer_name="original manner",
                        better="lower", note=note))  # fmt: skip
    return Section("", "One guided velocity, text of 24 tokens, one item.", tuple(rows))


def codec_section(device: torch.device, runs: int, quick: bool) -> Section:
    """Encoding and decoding of both codecs with random weights, in multiples of real time."""
    from genmm.systems.melodyflow.spectral_codec import SpectralCodec

    seconds_of_sound = 1.0 if quick or device.type == "cpu" else 30.0
    filters = 4 if quick else 64
    codecs = {
        "released configuration": SeanetCodec(SeanetConfig(n_filters=filters)).eval().requires_grad_(False).to(device),
        "embedded configuration": SpectralCodec().eval().requires_grad_(False).to(device),
    }
    rows = []
    for name, codec in codecs.items():
        wave = torch.randn(1, 2, int(seconds_of_sound * 48_000), device=device) * 0.1
        with torch.inference_mode():
            latents = codec.encode(wave).mean
            timed = alternate(
                {"encode": lambda c=codec, w=wave: c.encode(w), "decode": lambda c=codec, z=latents: c.decode(z)},
                runs=runs,
                device=device,
            )
        rows += [Row(item=f"{name}, {what}", unit="x real time", ours=timed[what].per(seconds_of_sound))
                 for what in ("encode", "decode")]  # fmt: skip
    return Section("", f"{seconds_of_sound:g} s of 48 kHz stereo, float32.", tuple(rows))


def pipeline_section(model: str, device: torch.device, runs: int, quick: bool) -> Section:
    """The whole way with the model's own defaults."""
    import genmm

    pipeline = genmm.load(model, device=str(device))
    duration = 2.0 if quick else min(10.0, pipeline.window_s)
    pipelines = {"live": pipeline}
    if device.type == "cpu" and pipeline.network.in_proj.weight.dtype is torch.float32:
        pipelines["int8"] = genmm.load(model, device=str(device), packing="int8")
    timed = alternate(
        {
            packing: lambda one=one: one.generate("calm piano, 90 bpm", duration_s=duration, seed=1)
            for packing, one in pipelines.items()
        },
        runs=runs,
        device=device,
    )
    steps = pipeline.defaults.steps
    rows = [
        Row(item=f"{duration:g} s at {steps} steps, {packing} weights", unit="x real time",
            ours=measured.per(duration), bound=None if quick else 1.0)
        for packing, measured in timed.items()
    ]  # fmt: skip
    return Section("", f"Model {pipeline.name}, its default settings.", tuple(rows))


def memory_section(quick: bool) -> Section:
    """Growth of the peak while decoding, against the size of the sound itself."""
    rows = []
    for seconds in (2, 8) if quick else (10, 40, 160):
        grown, sound = map(float, run_alone("-m", "benchmarks.music_memory", str(25 * seconds)).split())
        rows.append(
            Row(
                item=f"{seconds} s",
                unit="MiB",
                ours=max(grown, 0.0),
                better="lower",
                note="peak above that of a short piece",
            )
        )
        rows.append(Row(item=f"{seconds} s, the sound itself", unit="MiB", ours=sound, better="lower"))
    return Section("", "Codec of the released kind, a quarter of its width.", tuple(rows))


def released_section(device: torch.device, quick: bool) -> Section:
    """30 s of music by the released network with random weights, bfloat16, and the share of peak arithmetic."""
    if device.type != "cuda":
        return Section("", "", skipped="needs a CUDA device")
    config = FlowConfig(num_layers=2) if quick else FlowConfig()
    steps, frames = (4, 75) if quick else (64, 750)
    network = random_network(config, device)
    mask = torch.ones(1, 24, device=device)
    flow = PromptedFlow(network, network.condition(torch.randn(1, 24, 768, device=device).bfloat16(), mask))
    grid, state = flow_grid(steps, sway=-0.8), torch.randn(1, 128, frames, device=device)
    velocity = flow.guided(Guidance(weight=4.0))
    integrate(velocity, state, grid[:3], "midpoint")
    seconds = [time_once(lambda: integrate(velocity, state, grid, "midpoint"), device) for _ in range(3)]
    parameters = sum(p.numel() for p in network.parameters())
    operations = 2 * steps * 2 * frames * (parameters + 2 * config.num_layers * config.dim * frames)
    rate = operations / Measured.of(seconds).median / 1e12
    rows = (
        Row(item=f"{frames / 25:g} s of music, {steps} calls", unit="s", ours=Measured.of(seconds), better="lower",
            bound=None if quick else 3.0),
        Row(item="arithmetic", unit="TFLOP/s", ours=rate, limit=_peak_tflops(device)),
    )  # fmt: skip
    return Section("", "Random weights, bfloat16, guidance 4, both branches in one call; codec left out.", rows)


def _peak_tflops(device: torch.device) -> float:
    """Rate of one large bfloat16 product on this device, the practical peak."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    started = time.perf_counter()
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(10):
        a @ a
    torch.cuda.synchronize(device)
    return 10 * 2 * 8192**3 / (time.perf_counter() - started) / 1e12
