"""Decoding at the released model size: ours against the original loop and against the memory bandwidth.

Letters: T frames, H width, D latent channels, C noise channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.bandwidth import matrix_vector_bandwidth
from benchmarks.tables import Row, Section
from benchmarks.timing import Measured, alternate
from genmm.core.errors import MissingDependencyError
from genmm.nn.packed import Packing
from genmm.samplers.autoregressive import StopRule, guide
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.engine import DecodeEngine
from genmm.systems.sled.generation import SamplingOptions, generate_latents
from genmm.systems.sled.joint import OfflineRun, Utterance
from genmm.systems.sled.network import SledNetwork

RELEASED = SledConfig(diffloss_d=6)
"""The published sizes: 203 M parameters."""
SMALL = SledConfig(
    vocab_size=256, hidden_size=256, intermediate_size=688, num_hidden_layers=3, num_attention_heads=4, diffloss_w=256
)
"""A size for quick runs, where the figures mean nothing."""
GUIDANCE = 2.0
REAL_TIME = 75.0
"""Frames a second of the released model's codec."""
TEXT_TOKENS = 48


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to run our decoder."""

    name: str
    dtype: torch.dtype
    packing: Packing = "live"
    static: bool = False
    weight_bytes: int = 4
    """Bytes of one weight of a matrix."""
    goal: float | None = None
    """Times the original loop that we aim at."""


CPU_VARIANTS = (
    Variant(name="float32", dtype=torch.float32),
    Variant(name="float32, split", dtype=torch.float32, packing="split", goal=1.7),
    Variant(name="bfloat16", dtype=torch.bfloat16, weight_bytes=2, goal=3.0),
    Variant(name="float16 weights", dtype=torch.float32, packing="float16", weight_bytes=2),
    Variant(name="int8 weights", dtype=torch.float32, packing="int8", weight_bytes=1, goal=3.0),
)
CUDA_VARIANTS = (
    Variant(name="float32", dtype=torch.float32),
    Variant(name="bfloat16", dtype=torch.bfloat16, weight_bytes=2),
    Variant(name="bfloat16, CUDA graphs", dtype=torch.bfloat16, static=True, weight_bytes=2, goal=20.0),
)


def random_network(config: SledConfig, *, seed: int = 0) -> SledNetwork:
    """A network whose weights are all random and non-zero, float32 on the CPU.

    The usual start has zeros in the head, with which every frame would be zero.
    """
    with torch.device("meta"):
        network = SledNetwork(config)
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        weight.normal_(std=0.02, generator=generator)
        if weight.ndim == 1 and "norm" in name or name == "z_proj_ln.weight":
            weight.add_(1.0)
    return network


def decode(
    engine: DecodeEngine, ids: Tensor, noise: Tensor, *, static: bool = False, guidance: float = GUIDANCE
) -> Tensor:
    """Latents [T, D] of one utterance by our loop, one frame for each row of noise [T, C], never stopping early."""
    rule = StopRule(threshold=1.0, max_frames=len(noise))
    utterance = Utterance(ids=ids.tolist(), noise=noise, guidance=guidance, stop=rule)
    written = generate_latents(engine, [utterance], SamplingOptions(static=static))
    return torch.cat([part.frames[0] for part in written if part.frames])


@torch.inference_mode()
def forced_frames(engine: DecodeEngine, ids: Tensor, latents: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Guided hidden states [T, H] and draws [T, D] when the given latents [T, D] are fed instead of our own draws."""
    run = OfflineRun(engine, [Utterance(ids=ids.tolist(), noise=noise, guidance=GUIDANCE)])
    hidden, states = run.begin(), []
    for latent in latents:
        states.append(guide(hidden[:1], hidden[1:], GUIDANCE))
        hidden = run.advance(latent[None].to(engine.device))
    states = torch.cat(states)
    return states.float(), engine.draw(states, engine.modulations(noise.to(engine.device))).float()


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Root mean square of the difference over that of the reference."""
    return float((value - reference).square().mean().sqrt() / reference.square().mean().sqrt())


def bytes_per_step(network: SledNetwork, weight_bytes: int) -> int:
    """Bytes of all weights that one frame needs: everything but the text embedding."""
    return weight_bytes * sum(
        weight.numel() for name, weight in network.named_parameters() if name != "model.embed_tokens.weight"
    )


def decoding_section(*, frames: int, runs: int, quick: bool, device: torch.device) -> Section:
    """Frames a second of every variant and of the original loop, in alternating runs."""
    config, on_gpu = (SMALL if quick else RELEASED), device.type == "cuda"
    network = random_network(config)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, config.vocab_size, (TEXT_TOKENS,), generator=generator)
    noise = torch.randn(frames, config.noise_channels, generator=generator)
    variants = CUDA_VARIANTS if on_gpu else CPU_VARIANTS
    engines = {variant.name: make_engine(network, variant, device) for variant in variants}
    actions: dict[str, Callable[[], object]] = {
        variant.name: lambda variant=variant: decode(engines[variant.name], ids, noise, static=variant.static)
        for variant in variants
    }
    peers = _original_actions(network, ids, noise, device)
    seconds = alternate({**actions, **peers}, runs=runs, device=device)
    bandwidth = matrix_vector_bandwidth(total_bytes=1 << (28 if quick else 30), device=device)
    base = seconds["original, float32"].per(frames)
    rows = [
        Row(item="matrix-vector bandwidth, float32", unit="GB/s", ours=bandwidth.per_unit(1e9)),
        Row(item="real time", unit="frames/s", ours=REAL_TIME, note="75 latent frames make one second of speech."),
    ]
    for variant in variants:
        limit = bandwidth.median / bytes_per_step(network, variant.weight_bytes)
        row = _speed_row(variant, seconds[variant.name].per(frames), base, limit)
        rows.append(replace(row, goal=None) if quick else row)  # a small size says nothing about the goals
    for name in peers:
        size = 2 if "bfloat16" in name else 4
        limit = bandwidth.median / bytes_per_step(network, size)
        rows.append(Row(item=name, unit="frames/s", ours=seconds[name].per(frames), limit=limit))
    rows += _cost_rows(engines, ids, noise)
    size = sum(weight.numel() for weight in network.parameters())
    title = "Decoding at a small size (quick run)" if quick else "Decoding at the released model size"
    return Section(title, _method(size, frames, runs), tuple(rows))


def make_engine(network: SledNetwork, variant: Variant, device: torch.device) -> DecodeEngine:
    """Our engine over the same weights in the variant's format."""
    if variant.dtype is torch.float32 and device.type == "cpu":
        return DecodeEngine(network, variant.packing)
    with torch.device("meta"):
        copy = SledNetwork(network.config)
    state = {name: weight.to(device, variant.dtype) for name, weight in network.state_dict().items()}
    copy.load_state_dict(state, assign=True)
    return DecodeEngine(copy.eval().requires_grad_(False), variant.packing)


def _original_actions(
    network: SledNetwork, ids: Tensor, noise: Tensor, device: torch.device
) -> dict[str, Callable[[], object]]:
    """The original loop in float32 and bfloat16."""
    try:
        from benchmarks.original_loop import OriginalLoop
    except ImportError as error:
        raise MissingDependencyError(
            "the original decode loop needs transformers; run: pip install 'genmm[official]'"
        ) from error
    actions: dict[str, Callable[[], object]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        variant = Variant(name=name, dtype=dtype)
        loop = OriginalLoop(make_engine(network, variant, device).network)
        text, given = ids[None].to(device), noise[None].to(device, dtype)
        mask = torch.ones_like(text, dtype=torch.bool)
        actions[f"original, {name}"] = lambda loop=loop, given=given, text=text, mask=mask: loop.generate(
            text, mask, given, GUIDANCE, threshold=2.0
        )
    return actions


def _speed_row(variant: Variant, speed: Measured, base: Measured, limit: float) -> Row:
    return Row(
        item=f"ours, {variant.name}",
        unit="frames/s",
        ours=speed,
        peer=base,
        peer_name="original loop, float32",
        limit=limit,
        goal=variant.goal,
        note="Limit: bytes of all weights but the text embedding, each read once a frame, over the bandwidth above. "
        "Our head reads the weights that see noise alone once in 16 frames.",
    )


def _cost_rows(engines: dict[str, DecodeEngine], ids: Tensor, noise: Tensor) -> list[Row]:
    """What fewer bits do to hidden states and latents, when all variants are fed the frames of the first one."""
    names = list(engines)
    frames = decode(engines[names[0]], ids, noise)
    states, draws = forced_frames(engines[names[0]], ids, frames, noise)
    rows = []
    for name in names[1:]:
        own_states, own_draws = forced_frames(engines[name], ids, frames, noise)
        for what, error in (("hidden states", (own_states, states)), ("latents", (own_draws, draws))):
            rows.append(
                Row(
                    item=f"error of {what}, {name}",
                    unit="% of float32",
                    ours=100 * relative_error(*error),
                    better="lower",
                    note="Root mean square against float32 with the same frames and noise; random weights.",
                )
            )
    return rows


def _method(parameters: int, frames: int, runs: int) -> str:
    return (
        f"{parameters / 1e6:.0f} M parameters with random weights, guidance {GUIDANCE:g}, batch 1, {TEXT_TOKENS} text "
        f"tokens, {frames} frames, median of {runs} alternating runs with lowest and highest. The peer is a loop in "
        "the manner of the original: transformers' LlamaModel with its growing cache, guidance as a doubled batch, "
        "latents, ids and masks concatenated again at every step. Codec and text are left out of both."
    )
