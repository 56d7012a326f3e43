"""Every stored VQToken reference case, at its own tolerance; new cases are found by their system and kind alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from genmm.quantizers.kmeans_official import (
    official_adaptive,
    official_codebook,
    official_kmeans,
    official_silhouette,
    pick_elbow,
    pick_silhouette,
)
from genmm.systems.vqtoken.convert import official_block
from genmm.systems.vqtoken.official_baselines import (
    official_pool,
    official_prune,
    official_tome,
    official_tome_video,
)

DISTORTION_TOLERANCE = 1e-3


class Case:
    """One stored case: its description, its tensors and its tolerance."""

    def __init__(self, path: Path) -> None:
        self.path, self.about = path, json.loads(path.read_text(encoding="utf-8"))
        self.tensors = load_file(path.with_suffix(".safetensors"))
        self.config: dict[str, Any] = self.about["config"]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def check(self, name: str, actual: Tensor, scale: float = 1.0) -> None:
        expected, tolerance = self[name], self.about["tolerance"]
        torch.testing.assert_close(
            actual.detach().to(expected.dtype).reshape(expected.shape),
            expected,
            atol=scale * tolerance["atol"],
            rtol=tolerance["rtol"],
            msg=lambda text: f"{self.path.stem}: {name}: {text}",
        )

    def block(self):
        weights = {name: t for name, t in self.tensors.items() if "to_q_proj" in name or "transformer_decoder" in name}
        weights = {name: t for name, t in weights.items() if not name.startswith("grad.")}
        block = official_block(weights, heads=self.config["num_heads"]).eval()
        return block.to(next(iter(weights.values())).dtype)


def check_attention(case: Case) -> None:
    block = case.block()
    with torch.no_grad():
        tokens = block.one(case["in.codebook"], case["in.index_map"])
    assert len(tokens) == max(case.config["T"], case.config["K"])
    case.check("out.tokens", tokens)


def check_fit(case: Case, number: int, unit: Tensor) -> None:
    run = case.about["kmeans_runs"][number]
    fit = official_kmeans(unit, run["init_rows"], max_iterations=run["max_iteration"], tolerance=run["tol"])
    name = f"mid.run{number:02d}"
    if f"{name}.labels" in case.tensors:
        assert torch.equal(fit.labels, case[f"{name}.labels"].long()), f"{case.path.stem}: {name}.labels"
    assert (fit.updates, fit.converged) == (run["n_updates"], run["converged"])
    assert abs(fit.distortion - run["distortion"]) < DISTORTION_TOLERANCE
    if f"{name}.centroids" in case.tensors:
        case.check(f"{name}.centroids", fit.centroids)


def check_end_to_end(case: Case) -> None:
    tokens = case["in.tokens"]
    flat = tokens.reshape(-1, tokens.shape[-1])
    unit = F.normalize(flat, dim=-1)
    case.check("mid.unit_tokens", unit)
    runs = case.about["kmeans_runs"]
    for number in range(len(runs)):
        check_fit(case, number, case["mid.unit_tokens"])
    last, limit = runs[-1], runs[-1]["max_iteration"]
    fit = official_kmeans(case["mid.unit_tokens"], last["init_rows"], max_iterations=limit, tolerance=last["tol"])
    index_map = fit.labels.view(tokens.shape[:2])
    assert torch.equal(index_map, case["mid.index_map"])
    sizes = torch.bincount(fit.labels, minlength=case.about["chosen_K"]).tolist()
    assert sizes == case.about["cluster_sizes"]
    codebook = official_codebook(flat.detach(), fit.labels, len(sizes))
    case.check("mid.codebook", codebook)
    with torch.no_grad():
        case.check("out.tokens", case.block().one(codebook, index_map))
    check_gradients(case, fit.labels, len(sizes))


def check_gradients(case: Case, labels: Tensor, clusters: int) -> None:
    """Gradients sum over large ids; their rounding grows with the largest of them, so the absolute tolerance does."""
    tokens = case["in.tokens"].clone().requires_grad_()
    flat, block = tokens.reshape(-1, tokens.shape[-1]), case.block()
    out = block.one(official_codebook(flat, labels, clusters), labels.view(tokens.shape[:2]))
    (out * case["grad.probe"]).sum().backward()
    gradients = {
        "grad.tokens": tokens.grad,
        "grad.to_q_proj.weight": block.to_q_proj.weight.grad,
        "grad.multihead_attn.in_proj_weight": block.transformer_decoder.layers[0].multihead_attn.in_proj_weight.grad,
    }
    checked = [name for name in gradients if name in case.tensors]
    for name in checked:
        case.check(name, gradients[name], scale=max(1.0, float(case[name].abs().max())))
    assert checked


def check_adaptive(case: Case) -> None:
    check_end_to_end(case)
    rule, runs = case.config["method"], case.about["kmeans_runs"]
    if rule == "elbow":
        assert pick_elbow([run["distortion"] for run in runs[:-1]]) == case.about["chosen_K"]
    else:
        score = official_silhouette(case["mid.unit_tokens"])
        assert pick_silhouette([score] * (len(runs) - 1)) == case.about["chosen_K"]
    starts = iter(torch.tensor(run["init_rows"]) for run in runs)
    final, fits = official_adaptive(
        case["mid.unit_tokens"], most=case.config["max_K"], rule=rule, seed_rows=lambda unit, k: next(starts)
    )
    assert len(final.centroids) == case.about["chosen_K"] and len(fits) == len(runs) - 1


def check_empty(case: Case) -> None:
    flat = case["in.tokens"].reshape(-1, case["in.tokens"].shape[-1])
    unit = F.normalize(flat, dim=-1)
    case.check("mid.unit_tokens", unit)
    for run in case.about["kmeans_runs"]:
        fit = official_kmeans(
            case["mid.unit_tokens"], run["init_rows"], max_iterations=run["max_iteration"], tolerance=run["tol"]
        )
        assert (fit.updates, fit.converged) == (run["n_updates"], run["converged"])
        assert abs(fit.distortion - run["distortion"]) < DISTORTION_TOLERANCE
        case.check("mid.centroids", fit.centroids)
    labels = case["mid.index_map"].reshape(-1).long()
    codebook = official_codebook(flat, labels, case.config["K"])
    case.check("mid.codebook", codebook)
    sizes = torch.bincount(labels, minlength=case.config["K"])
    assert sizes.tolist() == case.about["cluster_sizes"]
    assert (codebook[sizes == 0] == 0).all()
    nearest = (case["mid.unit_tokens"] @ F.normalize(fit.centroids, dim=-1).T).max(1).values
    chosen = (case["mid.unit_tokens"] * F.normalize(fit.centroids, dim=-1)[fit.labels]).sum(1)
    torch.testing.assert_close(chosen, nearest, atol=1e-6, rtol=1e-6)  # ties may fall either way by rounding


def as_set(rows: Tensor) -> Tensor:
    """Rows of each frame in an order of their own, so that sets can be compared."""
    return torch.stack([torch.stack(sorted(frame, key=lambda row: row.tolist())) for frame in rows])


def check_baselines(case: Case) -> None:
    tokens, sizes = case["in.tokens"], case.config
    kept = sizes["keep_per_frame"]
    made = {
        "prune": official_prune(tokens, kept),
        "tome": official_tome(tokens, kept),
        "tome_vid": official_tome_video(tokens, kept),
    }
    for name, rows in made.items():
        expected = as_set(case[f"out.{name}"])
        torch.testing.assert_close(
            as_set(rows), expected, **case.about["tolerance"], msg=lambda text, name=name: f"{name}: {text}"
        )
    grid = tokens.unflatten(1, (sizes["H"], sizes["W"]))
    for mode in ("bilinear", "average", "max"):
        case.check(f"out.pool{sizes['pool_stride']}_{mode}", official_pool(grid, mode, sizes["pool_stride"]))


CHECKS = {
    "vq_attention": check_attention,
    "vq_attention_bf16": check_attention,
    "end_to_end_fixed": check_end_to_end,
    "end_to_end_adaptive_elbow": check_adaptive,
    "end_to_end_adaptive_silhouette": check_adaptive,
    "empty_clusters": check_empty,
    "baselines": check_baselines,
}


@pytest.mark.parity("vqtoken")
def test_vqtoken_reference_case(parity_case: Path) -> None:
    case = Case(parity_case)
    kind = case.about["kind"]
    assert kind in CHECKS, f"{parity_case} has the kind {kind!r}, this suite knows {sorted(CHECKS)}"
    CHECKS[kind](case)
