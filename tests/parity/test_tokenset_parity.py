"""Every stored TokenSet reference case, at its own tolerance; new cases are found by their system and kind alone."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genmm.core.checkpoint import load_into
from genmm.losses.fixed_sum import clean_count_loss
from genmm.quantizers.multiset import to_counts, to_tokens
from genmm.samplers.fixed_sum_guidance import GuidanceSchedule, guided
from genmm.samplers.fixed_sum_official import (
    choice,
    deficit_fill,
    gaussian_pmf,
    greedy_adjust,
    largest_remainder,
    restricted,
)
from genmm.samplers.fixed_sum_official_loop import (
    OfficialSettings,
    OfficialStep,
    official_loop,
    official_step,
    official_times,
)
from genmm.systems.tokenset.network import Condition, CountNetwork
from genmm.systems.tokenset.official import CLASS_TABLE, from_official, network_config_of, tokenizer_config_of
from genmm.systems.tokenset.tokenizer import SetTokenizer

TIE = 1e-3
"""Two posterior probabilities that differ by less than this share tie."""


class Case:
    """One stored case: its description, its tensors and its tolerance."""

    def __init__(self, path: Path) -> None:
        self.path, self.about = path, json.loads(path.read_text(encoding="utf-8"))
        tensors = load_file(path.with_suffix(".safetensors"))
        self.weights = {n.removeprefix("weights/"): t.float() for n, t in tensors.items() if n.startswith("weights/")}
        self.tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("weights/")}
        self.config: dict[str, Any] = self.about.get("config", {})

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def check(self, name: str, actual: Tensor, where: Tensor | None = None) -> None:
        """Compare with the stored tensor of that name: whole numbers exactly, others within the tolerance."""
        expected = self[name]
        actual = actual.detach().reshape(expected.shape)
        if where is not None:
            actual, expected = actual[where], expected[where]
        if not expected.is_floating_point():
            assert torch.equal(actual.to(expected.dtype), expected), f"{self.path.stem}: {name} differs"
            return
        torch.testing.assert_close(
            actual.to(expected.dtype), expected, rtol=self.about["rtol"], atol=self.about["atol"],
            msg=lambda text: f"{self.path.stem}: {name}: {text}",
        )  # fmt: skip

    def network(self) -> CountNetwork:
        config = network_config_of(self.weights, heads=self.config["num_heads"])
        assert (config.codes, config.tokens) == (self.config["codebook_size"], self.config["set_size"])
        network = CountNetwork(config).eval()
        load_into(network, from_official(self.weights))
        return network


def for_classes(labels: Tensor) -> Condition:
    return Condition({"class": labels})


def check_tokenizer(case: Case) -> None:
    config = tokenizer_config_of(case.weights, heads=case.config["vit_heads"])
    assert config.image_size == case.config["image_size"]
    tokenizer = SetTokenizer(config).eval()
    load_into(tokenizer, case.weights)
    images = case["image"]
    latents = tokenizer.encoder.latents(images * 0.5 + 0.5, tokenizer.latent_tokens)
    case.check("enc_ln_post", latents)
    vectors = tokenizer.vectors(images)  # [B, M, D]
    case.check("z_e", vectors.transpose(1, 2))
    found = tokenizer.quantize(vectors)
    case.check("indices", found.ids)
    assert torch.equal(found.ids, tokenizer.encode(images))
    case.check("z_q_ste", found.codes.transpose(1, 2))
    codes = tokenizer.quantize.lookup(case["indices"][:, 0])
    case.check("codes_normalised", codes.transpose(1, 2))
    case.check("dec_feature", tokenizer.decoder(codes))
    case.check("image_rec", tokenizer.decode_codes(codes))
    for name in ("set_permuted", "set_ascending", "set_descending"):
        case.check("image_rec", tokenizer.decode(case[name]))


def check_dual(case: Case) -> None:
    for name in [name for name in case.tensors if name.startswith("dual") and name.endswith("_tokens")]:
        stem = name.removesuffix("_tokens")
        counts = to_counts(case[name], case[f"{stem}_counts"].shape[1])
        case.check(f"{stem}_counts", counts)
        tokens, keep = to_tokens(counts)
        assert keep.all()
        case.check(f"{stem}_tokens_canonical", tokens)
    for name in [name for name in case.tensors if name.startswith("lrr") and name.endswith("_in")]:
        expected = case[name.replace("_in", "_out")]
        case.check(name.replace("_in", "_out"), largest_remainder(case[name], int(expected[0].sum())))
    if "fill_in" in case:
        case.check("fill_out", deficit_fill(case["fill_in"][..., 0], case["fill_out"].shape[1]))


def check_network(case: Case) -> None:
    network = case.network()
    case.check("t_emb", network.t_embedder(case["t"]))
    logits = network(case["x"], case["t"], for_classes(case["y"]))
    case.check("logits", logits)
    case.check("probs", logits.softmax(-1))
    null = torch.full_like(case["y"], case.config["null_class"])
    for name in [name for name in case.tensors if name.startswith("cfg") and name.endswith("_t")]:
        t = float(case[name])
        times = torch.full((len(null),), t)
        one = network(case["x"], times, for_classes(case["cfg_y"]))
        other = network(case["x"], times, for_classes(null))
        stem = name.removesuffix("_t")
        for kind, schedule in (("const30", "30"), ("sched", "4_50_55")):
            case.check(f"{stem}_{kind}", guided(one, other, GuidanceSchedule.parse(schedule).at(t)).exp())


def check_adjustment(case: Case) -> None:
    total = case.about["target_sum"]
    for name in [name for name in case.tensors if name.startswith("adj") and name.endswith("_z")]:
        stem = name.removesuffix("_z")
        case.check(f"{stem}_out", greedy_adjust(case[name], case[f"{stem}_probs"], total))
    for stem in [name.removesuffix("_raw") for name in case.tensors if name.endswith("_raw")]:
        about, p = case.about["margins"][stem], case[f"{stem}_probs"]
        kept = restricted(p, top_k=about["top_k"], top_p=about["top_p"])
        drawn = choice(kept.flatten(0, 1), case[f"{stem}_noise"]).view(p.shape[:2])
        case.check(f"{stem}_raw", drawn)
        case.check(f"{stem}_out", greedy_adjust(drawn, p, total) if about["step"] >= about["adjust_step"] else drawn)


def check_training_step(case: Case) -> None:
    network, clean = case.network(), case["x0_counts"]
    total = int(clean[0].sum())
    start = largest_remainder(case["noise_u"], total)
    case.check("x1_counts", start)
    t = 1e-5 + (1.0 - 1e-5) * case["t_uniform"]
    case.check("t", t)
    mean = t * clean + (1.0 - t) * start
    sigma = (start - clean).abs() / 4.0 + 1e-6
    case.check("z_t", mean)
    case.check("sigma", sigma)
    pmf = gaussian_pmf(mean, sigma, total)
    case.check("pmf", pmf)
    drawn = choice(pmf.flatten(0, 1), case["exp_noise"]).view(clean.shape)
    case.check("z_raw", drawn)
    noisy = greedy_adjust(drawn, pmf, total)
    case.check("z_noisy", noisy)
    loss = clean_count_loss(network(noisy, t[:, 0], for_classes(case["y"])), clean)
    case.check("loss_per_entry", loss)
    case.check("loss", loss.mean())
    loss.mean().backward()
    theirs, ours = CLASS_TABLE
    parameters = dict(network.named_parameters())
    for name in [name for name in case.tensors if name.startswith("grad/")]:
        own = name.removeprefix("grad/")
        case.check(name, parameters[ours if own == theirs else own].grad)


def settings_of(case: Case) -> OfficialSettings:
    modes = {"multimonial": "multinomial"}  # so spelled in the released script; any other name means the same
    about = case.about
    return OfficialSettings(
        steps=about["steps"],
        draw_clean=modes.get(about["sample_x0"], about["sample_x0"]),
        draw_state=modes.get(about["sample_xt"], about["sample_xt"]),
        top_p=about["top_p"] or 0.0,
        top_k=about["top_k"] or 0,
        adjust_from=about["adjust_step"],
        sigma=about["sigma_schedule"],
    )


def predictor(case: Case):
    """Probabilities of the clean counts as the released loop makes them; guided states come in two halves."""
    network, labels, cfg = case.network(), case["y"], case.about["cfg"]

    def predict(state: Tensor, t: float) -> Tensor:
        rows = len(labels)
        times = torch.full((rows,), t)
        with torch.no_grad():
            one = network(state[:rows], times, for_classes(labels))
            if cfg is None:
                return one.softmax(-1)
            null = for_classes(torch.full_like(labels, case.config["null_class"]))
            scale = cfg.get("cfg_threshold") or cfg.get("cfg", cfg.get("scale"))
            p = guided(one, network(state[:rows], times, null), GuidanceSchedule.parse(scale).at(t)).exp()
        return p.repeat(len(state) // rows, 1, 1)

    return predict


def recorded(case: Case, step: int):
    """The stored noise of a step, in the order in which the loop asks for it."""
    stored = iter([case[f"step{step}_noise_{kind}"] for kind in ("x0", "xt") if f"step{step}_noise_{kind}" in case])
    return lambda shape: next(stored).view(shape)


def tied(pmf: Tensor) -> Tensor:
    """Entries whose second and third most probable values cannot be told apart."""
    best = pmf.topk(min(3, pmf.shape[-1]), dim=-1).values
    return (best[..., 1] - best[..., 2]).abs() <= TIE * best[..., 1].clamp_min(1e-6)


def check_step(case: Case, step: int, made: OfficialStep, probs: Tensor) -> bool:
    """Compare a step; False when the original's state holds arbitrary ties, which a whole run cannot follow."""
    case.check(f"step{step}_probs", probs[: len(case[f"step{step}_probs"])])
    case.check(f"step{step}_x0", made.clean)
    expected = case[f"step{step}_z_out"]
    if made.was_rounded:
        assert case.about["xt_branch"][step] == "round"
        mean = case[f"step{step}_mu_round"] if f"step{step}_mu_round" in case else made.mean
        torch.testing.assert_close(made.mean, mean.view_as(made.mean), rtol=case.about["rtol"], atol=1e-3)
        assert torch.equal(made.state.sum(-1), expected.sum(-1))
        ours, theirs = ((counts - mean).abs().sum(-1) for counts in (made.state, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
        return bool(torch.equal(made.state, expected))
    assert case.about["xt_branch"][step] == "gauss"
    if case.about["sample_xt"] != "topk":
        case.check(f"step{step}_z_out", made.state)
        return True
    case.check(f"step{step}_z_out", made.state, ~tied(made.pmf))
    return bool(torch.equal(made.state, expected))


def check_sampling(case: Case) -> None:
    settings, predict, total = settings_of(case), predictor(case), case.config["set_size"]
    case.check("z_init", largest_remainder(case["noise_u"], total))
    follows = True
    for step, (t, s) in enumerate(pairwise(official_times(settings.steps))):
        state = case[f"step{step}_z_in"]
        probs = predict(state, t)
        follows &= check_step(
            case, step, official_step(probs, state, t, s, total, settings, recorded(case, step)), probs
        )
    final = case[f"step{settings.steps - 1}_z_out"][: len(case["final_sum"])]
    case.check("final_sum", final.sum(-1))
    case.check("tokens", deficit_fill(final.float(), total))
    if follows:  # no step of the original hung on a tie, so a whole run must arrive at the same state
        check_whole_run(case, settings, predict, total)


def check_whole_run(case: Case, settings: OfficialSettings, predict: Any, total: int) -> None:
    steps = iter(range(settings.steps))
    now: dict[str, Any] = {}

    def seen(state: Tensor, t: float) -> Tensor:
        now["noise"] = recorded(case, next(steps))
        return predict(state, t)

    start = largest_remainder(case["noise_u"], total)
    start = start.repeat(len(case["step0_z_in"]) // len(start), 1)
    made = official_loop(seen, start, settings, lambda shape: now["noise"](shape))
    assert torch.equal(made, case[f"step{settings.steps - 1}_z_out"])


CHECKS = {
    "tokenizer": check_tokenizer,
    "dual_transform": check_dual,
    "network": check_network,
    "sum_adjustment": check_adjustment,
    "forward_noise": check_training_step,
    "sample": check_sampling,
}


@pytest.mark.parity("tokenset")
def test_tokenset_reference_case(parity_case: Path) -> None:
    case = Case(parity_case)
    kind = case.about["kind"]
    assert kind in CHECKS, f"{parity_case} has the kind {kind!r}, this suite knows {sorted(CHECKS)}"
    CHECKS[kind](case)
