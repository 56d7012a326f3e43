"""Every stored SLED reference case, at its own tolerance; new cases are found by their system and kind alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genmm.losses.energy import distance, energy_loss, energy_terms, kernel_score
from genmm.samplers.autoregressive import StopRule, guide
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.encodec import EncodecLatents
from genmm.systems.sled.engine import DecodeEngine
from genmm.systems.sled.generation import SamplingOptions, StepTrace, Utterance, generate_latents
from genmm.systems.sled.head import GeneratorHead
from genmm.systems.sled.network import SledNetwork
from genmm.systems.sled.objective import sled_losses, stop_targets
from genmm.systems.sled.tokenizer import SledTokenizer


class Case:
    """One stored case: its description, its tensors and its tolerance."""

    def __init__(self, path: Path) -> None:
        self.path, self.about = path, json.loads(path.read_text(encoding="utf-8"))
        stored = path.with_suffix(".safetensors")
        tensors = load_file(stored) if stored.is_file() else {}
        self.weights = {name[2:]: tensor for name, tensor in tensors.items() if name.startswith("w.")}
        self.tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("w.")}
        self.config: dict[str, Any] = self.about.get("config", {})

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def check(self, name: str, actual: Tensor, where: Tensor | None = None) -> None:
        """Compare with the stored tensor of that name, at the entries (leading axes) where `where` is set."""
        expected = self[name]
        actual = actual.detach().to(expected.dtype).reshape(expected.shape)
        if where is not None:
            actual, expected = actual[where], expected[where]
        torch.testing.assert_close(
            actual, expected, **self.about["tolerance"], msg=lambda text: f"{self.path.stem}: {name}: {text}"
        )

    def network(self) -> SledNetwork:
        """The network of the case in evaluation mode."""
        network = SledNetwork(SledConfig.from_dict(self.config, strict=False)).eval()
        network.load_state_dict(self.weights)
        return network


def check_energy_loss(case: Case) -> None:
    beta, gamma = case.config["beta"], case.config.get("gamma", 1.0)
    draw_1, draw_2 = (case[name].clone().requires_grad_() for name in ("sample_1", "sample_2"))
    target, mask = case["target"], case["mask"]
    case.check("d_s1_target", distance(draw_1, target, beta))
    case.check("d_s2_target", distance(draw_2, target, beta))
    case.check("d_s1_s2", distance(draw_1, draw_2, beta))
    case.check("score", -energy_terms(draw_1, draw_2, target, beta))
    case.check("loss_unmasked", energy_loss(draw_1, draw_2, target, beta=beta))
    case.check("kernel_score", kernel_score(draw_1, draw_2, target, gamma))
    loss = energy_loss(draw_1, draw_2, target, mask, beta)
    case.check("loss_masked", loss)
    loss.backward()
    assert draw_1.grad.isfinite().all() and draw_2.grad.isfinite().all()
    for name, draw in (("grad_sample_1", draw_1), ("grad_sample_2", draw_2)):
        if name in case.tensors:
            case.check(name, draw.grad)


def check_head(case: Case) -> None:
    sizes = case.config
    shape = (sizes["z_channels"], sizes["width"], sizes["depth"], sizes["target_channels"], sizes["noise_channels"])
    head = GeneratorHead(*shape)
    case.check("out_at_official_init", head(case["z"], case["noise"]))
    head.load_state_dict({name.removeprefix("scoreloss.net."): tensor for name, tensor in case.weights.items()})
    seen: dict[str, Tensor] = {}
    watched = {"input_proj": head.input_proj, "cond_embed": head.cond_embed}
    watched |= {f"res_block_{index}": block for index, block in enumerate(head.res_blocks)}
    for name, module in watched.items():
        module.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output))
    case.check("out", head(case["z"], case["noise"]))
    for name, value in seen.items():
        case.check(name, value)
    guided = guide(case["z"], case["z_uncond"], sizes["cfg_lambda"])
    case.check("z_cfg", guided)
    case.check("out_cfg", head(guided, case["noise"]))


def check_teacher_forcing(case: Case) -> None:
    network = case.network()
    frame_mask, joint_mask = case["speech_mask"].bool(), case["joint_attention_mask"].bool()
    drop = torch.zeros(len(frame_mask), dtype=torch.bool)
    drop[case.about.get("cfg_drop_rows") or []] = True
    forced = network.teacher_forcing(
        case["input_ids"], case["attention_mask"].bool(), case["latents"], frame_mask, drop_text=drop
    )
    case.check("joint_attention_mask", forced.joint_mask)
    case.check("inputs_embeds_after_ln", forced.inputs, joint_mask)
    case.check("hidden", forced.hidden, joint_mask)
    case.check("z", forced.z, frame_mask.flatten())
    labels, counted = stop_targets(frame_mask)
    case.check("eos_labels", labels, counted)
    case.check("eos_logits", forced.stop_logits, counted)
    if "speech_positions" in case.tensors:
        case.check("speech_positions", forced.layout.is_speech.expand_as(joint_mask))
        case.check("prev_nonpad", forced.layout.previous)
    noise = torch.stack((case["noise_1"], case["noise_2"])).view(2, *frame_mask.shape, -1)
    losses = sled_losses(network, forced, case["latents"], frame_mask, noise=noise)
    for name, draw in (("sample_1", losses.draw_1), ("sample_2", losses.draw_2)):
        full = torch.zeros_like(case[name])
        full[frame_mask.flatten()] = draw.detach()
        case.check(name, full, frame_mask.flatten())
    case.check("energy_loss", losses.energy)
    case.check("eos_loss", losses.stop)
    case.check("loss", losses.total)
    losses.total.backward()
    parameters = dict(network.named_parameters())
    for name in case.tensors:
        if name.startswith("grad."):
            case.check(name, parameters[name.removeprefix("grad.")].grad)


def spoken_ids(case: Case) -> list[list[int]]:
    return [ids[mask.bool()].tolist() for ids, mask in zip(case["input_ids"], case["attention_mask"], strict=True)]


def check_generation(case: Case, **options: Any) -> None:
    """Cached, batched generation with the stored noise; rows are compared up to and including their stop step."""
    texts, noise = spoken_ids(case), case["noise"]
    prompts = case.tensors.get("prompt_latents")
    rule = StopRule(threshold=case.about["eos_threshold"], max_frames=case.about["max_steps"])
    utterances = [
        Utterance(
            ids=ids,
            noise=noise[row],
            prompt=None if prompts is None else prompts[row],
            guidance=case.about["cfg_lambda"],
            stop=rule,
        )
        for row, ids in enumerate(texts)
    ]
    traces: list[StepTrace] = []
    frames: list[list[Tensor]] = [[] for _ in texts]
    engine = DecodeEngine(case.network())
    for written in generate_latents(engine, utterances, SamplingOptions(**options), on_step=traces.append):
        for row, latents in written.frames.items():
            frames[row].append(latents)
    kept = [torch.cat(parts) if parts else torch.zeros(0, case["features"].shape[2]) for parts in frames]
    assert [len(latents) for latents in kept] == case["num_frames"].tolist()
    first = 0 if prompts is None else prompts.shape[1]
    for row, latents in enumerate(kept):
        compare = torch.zeros(case["features"].shape[:2], dtype=torch.bool)
        compare[row, first : first + len(latents)] = True
        full = torch.zeros_like(case["features"])
        full[row, first : first + len(latents)] = latents
        case.check("features", full, compare)
    z, stop, ran = torch.zeros_like(case["z_guided"]), torch.zeros_like(case["eos_prob"]), case["eos_prob"] < 0
    for step, trace in enumerate(traces):
        for position, row in enumerate(trace.rows):
            if step <= case["num_frames"][row] and step < ran.shape[1]:
                z[row, step], stop[row, step], ran[row, step] = trace.z[position], trace.stop[position], True
    steps = torch.arange(ran.shape[1])
    assert torch.equal(ran, steps <= case["num_frames"][:, None])
    case.check("z_guided", z, ran)
    stopped = (steps >= case["num_frames"][:, None]).long() * case.config.get("eos_token_id", 2)
    assert torch.equal(stopped, case["sequences"][:, -len(steps) :])
    case.check("eos_prob", stop, ran)


def check_codec(case: Case) -> None:
    waveform, counts = case["input_values"][:, 0], case["padding_mask"].sum(1)
    codec = EncodecLatents.from_tensors(case.config, case.weights, bandwidth=case.config["bandwidth"])
    case.check("encoder_out", codec.encoder_frames(waveform, counts))
    assert torch.equal(codec.codes(waveform, counts), case["audio_codes"])
    case.check("latents", codec.encode(waveform, counts))
    frames = torch.arange(case["latents"].shape[1]) * codec.hop_samples
    assert torch.equal(case["speech_mask"].bool(), frames < counts[:, None])
    for latents, name in ((case["latents"], "decoded"), (case["perturbed_latents"], "decoded_perturbed")):
        case.check(name, codec.decode(latents))
        stream = codec.stream(batch=len(latents))
        parts = [stream.push(latents[:, frame : frame + 1]) for frame in range(latents.shape[1])]
        case.check(name, torch.cat([*parts, stream.flush()], dim=1))


def check_tokenizer(case: Case) -> None:
    tokenizer = SledTokenizer(case.about["vocab"], case.about["merges"])
    assert tokenizer.vocab_size == case.about["vocab_size"]
    texts = case.about["cases"]
    for entry in texts:
        ids = tokenizer.encode(entry["text"])
        assert ids == entry["ids"], entry["text"]
        assert tokenizer.tokens(ids) == entry["tokens"], entry["text"]
    for side in ("left", "right"):
        expected = case.about.get(f"padded_{side}")
        if expected:
            batch = tokenizer.batch([entry["text"] for entry in texts[: len(expected["ids"])]], side)
            assert batch.ids.tolist() == expected["ids"]
            assert batch.mask.int().tolist() == expected["mask"]


CHECKS = {
    "energy_loss": check_energy_loss,
    "head": check_head,
    "teacher_forcing_offline": check_teacher_forcing,
    "teacher_forcing_stream": check_teacher_forcing,
    "generate_offline": check_generation,
    "generate_stream": check_generation,
    "codec": check_codec,
    "tokenizer": check_tokenizer,
}


@pytest.mark.parity("sled")
def test_sled_reference_case(parity_case: Path) -> None:
    case = Case(parity_case)
    kind = case.about["kind"]
    assert kind in CHECKS, f"{parity_case} has the kind {kind!r}, this suite knows {sorted(CHECKS)}"
    CHECKS[kind](case)
