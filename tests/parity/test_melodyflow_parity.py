"""Every stored MelodyFlow reference case, at its own tolerance; new cases are found by their system and kind alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genmm.core.checkpoint import load_into
from genmm.samplers.guidance import Guidance
from genmm.samplers.inversion import Regularisation, invert_regularised, patch_divergence, regularise
from genmm.samplers.ode import integrate
from genmm.samplers.schedules import OFFICIAL_SWAY, flow_grid
from genmm.systems.melodyflow.config import FlowConfig
from genmm.systems.melodyflow.network import FlowNetwork, TextCondition, from_official_names
from genmm.systems.melodyflow.vae import SeanetCodec
from genmm.systems.melodyflow.velocity import PromptedFlow


class Case:
    """One stored case: its description, its tensors and its tolerance."""

    def __init__(self, path: Path) -> None:
        self.path, self.about = path, json.loads(path.read_text(encoding="utf-8"))
        self.tensors = load_file(path.with_suffix(".safetensors"))
        self.args: dict[str, Any] = self.about.get("args", {})

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def check(self, name: str, actual: Tensor) -> None:
        """Compare with the stored tensor of that name, when the case has it."""
        if name in self.tensors:
            expected = self[name]
            torch.testing.assert_close(
                actual.detach().to(expected.dtype).reshape(expected.shape),
                expected,
                **self.about["tolerance"],
                msg=lambda text: f"{self.path.stem}: {name}: {text}",
            )

    def weights(self, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of the model that the case names under `key`."""
        stored = self.path.parent / self.about[key]
        return json.loads(stored.with_suffix(".json").read_text(encoding="utf-8"))["config"], load_file(stored)

    def codec(self, key: str = "weights") -> SeanetCodec:
        return SeanetCodec.from_official(*self.weights(key))

    def network(self, key: str = "weights") -> FlowNetwork:
        blocks, tensors = self.weights(key)
        network = FlowNetwork(FlowConfig.from_official(blocks)).eval().requires_grad_(False)
        load_into(network, from_official_names(tensors))
        return network

    def condition(self, network: FlowNetwork, name: str = "") -> TextCondition:
        return network.condition(self[f"input.{name}text_states"], self[f"input.{name}text_mask"])


def check_codec(case: Case) -> None:
    codec = case.codec()
    waveform = case["input.waveform"]
    case.check("debug.encoder_model_0", codec.encoder.model[0](waveform))
    for piece in (10_000, 5):  # in one go, and in pieces with a halo
        output = codec.encoder_output(waveform, piece)
        case.check("out.encoder", output)
        posterior = codec.encode(waveform)
        case.check("out.mean", output.chunk(2, 1)[0])
        case.check("out.scale", output.chunk(2, 1)[1])
        latents = posterior.sample(case["noise.vae"])
        case.check("out.z", latents)
        case.check("out.decoded", codec.decode(latents, piece))
        case.check("out.decoded_from_mean", codec.decode(posterior.mean, piece))


def check_velocity(case: Case) -> None:
    network = case.network()
    states, mask = case["input.text_states"], case["input.text_mask"]
    case.check("mid.condition_src", network.project_text(states, mask))
    condition = network.condition(states, mask)
    if "mid.attn_bias" in case:
        assert torch.equal(case["mid.attn_bias"].reshape(mask.shape) == 0, condition.bias.reshape(mask.shape) == 0)
    time = case["input.t"]
    case.check("mid.timestep_embedding", network.timestep_embedder(time.reshape(-1)))
    seen: dict[str, Tensor] = {}
    for index, layer in enumerate(network.transformer.layers):
        layer.register_forward_hook(lambda _, __, out, name=f"debug.layer{index}": seen.__setitem__(name, out))
    for plain_autograd in (False, True):  # the fused kernel, and the written-out twin used in training
        with torch.set_grad_enabled(plain_autograd):
            velocity = network(case["input.z"], time, condition)
        for name, value in seen.items():
            case.check(name, value)
        case.check("out.velocity", velocity)


def check_sample(case: Case) -> None:
    network, args = case.network(), case.args
    sway = args.get("sway_coefficient", args.get("sway", OFFICIAL_SWAY))
    if "mid.schedule" in case and abs(float(case["mid.schedule"][1]) - 1 / args["steps"]) < 1e-6:
        sway = 0.0
    grid = flow_grid(args["steps"], sway=sway)
    case.check("mid.schedule", torch.tensor(grid))
    flow = PromptedFlow(network, case.condition(network))
    latent = integrate(flow.guided(Guidance(weight=args["cfg_coef"])), case["noise.init"], grid, args["solver"])
    assert flow.calls == args["steps"]
    case.check("out.latent", latent)
    case.check("out.latent_denormalised", network.denormalise(latent))


def check_noise_regularisation(case: Case) -> None:
    values, reference, args = case["input.velocity"], case["input.reference_velocity"], case.args
    divergence, gradient = patch_divergence(values, reference)
    expected = case["mid.kl"]
    torch.testing.assert_close(divergence.sum().reshape(expected.shape), expected, rtol=1e-4, atol=1e-3)
    case.check("mid.grad", gradient)
    case.check("out.regularised", regularise(values, reference, args["lambda_kl"], args["num_reg_steps"]))


def inverted(case: Case, flow: PromptedFlow, source: Tensor, args: dict[str, Any], sway: float) -> Tensor:
    """The source latent walked back to the target flow step, with the stored noise."""
    grid = flow_grid(args["steps"], start=1.0, end=args["target_flowstep"], sway=sway)
    case.check("mid.inversion_schedule", torch.tensor(grid))
    if not args["regularize"]:
        return integrate(flow.conditional, source, grid, args["solver"])
    draws: Iterator[Tensor] = iter(case["noise.regularisation"])
    settings = Regularisation(
        iterations=args["regularize_iters"],
        keep=args["keep_last_k_iters"],
        strength=args["lambda_kl"],
        gradient_steps=args.get("num_reg_steps", 4),
    )
    state = source
    for move in invert_regularised(flow.conditional, source, grid, lambda: next(draws), settings):
        state = move.state
    assert next(draws, None) is None
    return state


def check_invert_edit(case: Case) -> None:
    network, args = case.network(), case.args
    sway = args.get("sway_coefficient", OFFICIAL_SWAY)
    source, target = (PromptedFlow(network, case.condition(network, name)) for name in ("src_", "tgt_"))
    latent = inverted(case, source, case["input.prompt_latent"], args, sway)
    case.check("out.inverted", latent)
    grid = flow_grid(args["steps"], start=args["target_flowstep"], sway=sway)
    case.check("mid.generation_schedule", torch.tensor(grid))
    guidance = Guidance(weight=args["cfg_coef_generation"])
    case.check("out.reconstructed", integrate(source.guided(guidance), latent, grid, args["solver"]))
    case.check("out.edited", integrate(target.guided(guidance), latent, grid, args["solver"]))


def check_end_to_end(case: Case) -> None:
    codec, network = case.codec("weights_codec"), case.network("weights_flow")
    edit, generate = case.args["edit"], case.args["generate"]
    output = codec.encoder_output(case["input.waveform"])
    case.check("mid.encoder_output", output)
    source = network.normalise(codec.encode(case["input.waveform"]).sample(case["noise.vae"]))
    latent = inverted(case, PromptedFlow(network, None), source, edit, OFFICIAL_SWAY)
    target = PromptedFlow(network, case.condition(network, "tgt_"))
    grid = flow_grid(edit["steps"], start=edit["target_flowstep"], sway=OFFICIAL_SWAY)
    edited = integrate(target.guided(Guidance(weight=edit["cfg_coef"])), latent, grid, edit["solver"])
    case.check("out.edited_latent", edited)
    case.check("out.edited_audio", codec.decode(network.denormalise(edited)))
    made = integrate(
        target.guided(Guidance(weight=generate["cfg_coef"])),
        case["noise.generate_init"],
        flow_grid(generate["steps"], sway=OFFICIAL_SWAY),
        generate["solver"],
    )
    case.check("out.generated_latent", made)
    case.check("out.generated_audio", codec.decode(network.denormalise(made)))


CHECKS = {
    "codec": check_codec,
    "velocity": check_velocity,
    "sample": check_sample,
    "noise_regularisation": check_noise_regularisation,
    "invert_edit": check_invert_edit,
    "end_to_end": check_end_to_end,
}


@pytest.mark.parity("melodyflow")
def test_melodyflow_reference_case(parity_case: Path) -> None:
    case = Case(parity_case)
    kind = case.about["kind"]
    assert kind in CHECKS, f"{parity_case} has the kind {kind!r}, this suite knows {sorted(CHECKS)}"
    CHECKS[kind](case)
