"""Measurements of videos on tiny sizes: every section runs, figures have the right meaning, cells are kept."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import video, video_answers, video_search
from benchmarks.tables import Report
from datamodules.video_qa import ANSWERS, KINDS, WORDS, QuestionClips, read_features
from genmm.core.files import read_json
from genmm.nn.vit import VisionConfig
from genmm.systems.vqtoken.config import AnswererConfig, BlockConfig, FrameConfig, VqTokenConfig
from genmm.systems.vqtoken.pipeline import VqTokenPipeline
from genmm.systems.vqtoken.reducer import reduce


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    torch.manual_seed(0)
    config = VqTokenConfig(
        vision=VisionConfig(width=16, depth=1, heads=2, inner=24, stem=(6, 8)),
        frames=FrameConfig(fps=4.0, side=48, most_frames=16),
        block=BlockConfig(heads=2, bins=4, grid=3),
        answerer=AnswererConfig(width=16, heads=2, latents=2, layers=1, tokens=4, words=WORDS, answers=ANSWERS),
    )
    return str(VqTokenPipeline.fresh(config).save(tmp_path_factory.mktemp("models") / "tiny"))


def test_clustering_names_peer_limit_and_distortion():
    section = video.clustering_section(1, True, torch.device("cpu"))
    fixed, adaptive = section.rows[:2]
    assert fixed.peer is not None and fixed.limit is not None and "distortion" in fixed.note
    assert adaptive.ratio > 1 and "clusters of 24 themes" in adaptive.note


def test_distortion_is_the_squared_distance_to_the_means():
    unit = F.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    labels = torch.arange(40) % 3
    means = torch.stack([unit[labels == k].mean(0) for k in range(3)])
    assert video.distortion_of(unit, labels) == pytest.approx(float((unit - means[labels]).square().sum()), rel=1e-4)


def test_operations_are_counted_with_attention():
    rows = {row.item: row.ours for row in video.flops_section().rows}
    assert rows["prefill of Qwen2-0.5B with all tokens"] > 500 * rows["prefill of Qwen2-0.5B with 32 tokens"]


def test_a_report_with_speed_and_bytes(model):
    args = argparse.Namespace(model=model, device="cpu", runs=1, quick=True, only=["speed", "bytes", "batch"])
    report = video.measure(args)
    assert isinstance(report, Report) and all(not s.skipped for s in report.sections)
    assert "x real time" in report.to_markdown()


def test_memory_sections_tell_why_they_failed(tmp_path):
    args = argparse.Namespace(model=str(tmp_path), device="cpu", runs=1, quick=True, only=["bytes"])
    assert video.measure(args).sections[0].skipped


@pytest.fixture(scope="module")
def cells(model, tmp_path_factory):
    """All reducers, trained for three steps."""
    cache = tmp_path_factory.mktemp("cache")
    args = argparse.Namespace(
        model=model, reducers=list(video_answers.REDUCERS), budgets=[4], seeds=1, clips=6, test_clips=4, steps=3,
        side=48, cache=cache, quick=False, together=3, compile=False,
    )  # fmt: skip
    return args, video_answers.measure(args)


def test_every_reducer_fills_its_cell(cells):
    _, report = cells
    assert {cell["reducer"] for cell in report.cells.values()} == set(video_answers.REDUCERS)
    for cell in report.cells.values():
        assert set(cell["kinds"]) == set(KINDS) and 0 <= cell["accuracy"] <= 1
        assert np.isclose(np.mean(list(cell["kinds"].values())), cell["accuracy"], atol=1e-6)
    assert report.cells["full/432/0"]["tokens"] == report.settings["cells_per_clip"] == 12 * 36
    text = report.to_markdown()
    assert "## 4 tokens (0.93 % of 432)" in text and "gain density" in text
    ends = {name: ": " if name == "adaptive" else " |" for name in video_answers.LABELS}
    shown = {name: text.count(f"| {label}{ends[name]}") for name, label in video_answers.LABELS.items()}
    assert shown == dict.fromkeys(video_answers.REDUCERS, 1)
    json.dumps(report.to_dict())


def test_the_adaptive_row_counts_the_tokens_that_clips_got(cells):
    args, report = cells
    counts, row = report.cells["adaptive/4/0"]["counts"], report.summary()["adaptive/4"]
    assert 1 <= counts["lowest"] <= counts["mean"] <= counts["highest"] <= 16
    assert row["tok_dense"] == round(row["accuracy"] / counts["mean"], 4)
    (path,) = args.cache.glob("*-train-*.safetensors")
    budget = video_answers.mean_budget(path, 6, 4)
    features = read_features(path, 0, 6)
    found = reduce(features, budget, method="k_center").mask.sum(1).float().mean()
    finer = reduce(features, replace(budget, explained=min(0.999, budget.explained + 0.1)), method="k_center")
    assert abs(float(found) - 4) <= 1 and float(finer.mask.sum(1).float().mean()) > float(found)


def test_larger_pictures_give_more_cells(model, tmp_path):
    args = argparse.Namespace(
        model=model, reducers=["k_center"], budgets=[4], seeds=1, clips=4, test_clips=2, steps=1, side=64,
        cache=tmp_path, quick=False, together=6, compile=False,
    )  # fmt: skip
    assert video_answers.measure(args).settings["cells_per_clip"] == 12 * 64


def test_finished_cells_are_not_trained_again(cells, monkeypatch):
    args, report = cells
    monkeypatch.setattr(video_answers, "train_cells", lambda *a, **k: pytest.fail("trained again"))
    again = video_answers.measure(args)
    assert again.cells == report.cells
    (stored,) = args.cache.glob("answers-*.json")
    assert read_json(stored)["cells"] == report.cells


def _cells(args: argparse.Namespace, rows: list[tuple[str, int]]) -> list[video_answers.Cell]:
    """Cells with 4 tokens of the stored features: (row, seed)."""
    found = []
    for name, seed in rows:
        sets = {}
        for split, count, start in (("train", args.clips, 0), ("test", args.test_clips, 2 * 10**6)):
            targets = QuestionClips(count, start, side=args.side).targets(2)
            (path,) = args.cache.glob(f"*-{split}-*.safetensors")
            choose = video_answers.REDUCERS[name][0]
            sets[split] = video_answers.ReducedSet(path, count, choose, video_answers.Fixed(tokens=4), *targets)
        found.append(video_answers.Cell(name, 4, seed, **sets))
    return found


@pytest.mark.parametrize(
    "rows",
    [
        [("k_center", 0), ("k_center", 1), ("tome", 0), ("random", 2)],
        [("occupancy", 0), ("occupancy_kmeans", 1)],
        [("paper", 0), ("paper_k_center", 1)],
        [("blind", 0), ("blind", 1)],
    ],
)
def test_cells_trained_together_are_those_trained_alone(cells, rows, monkeypatch):
    monkeypatch.setattr(video_answers, "multiplies_bfloat16", lambda: False)
    args, report = cells
    many = _cells(args, rows)
    together = video_answers.train_cells(many, 6, report.settings)
    for cell, result in zip(many, together, strict=True):
        (alone,) = video_answers.train_cells([cell], 6, report.settings)
        assert np.isclose(result["loss"], alone["loss"], rtol=2e-3), (cell.name, cell.seed)
        assert result["kinds"].keys() == alone["kinds"].keys()
    assert len({round(result["loss"], 4) for result in together}) == len(rows)  # each has its own clips and start


def test_each_of_a_team_has_its_own_bound_on_the_gradient():
    torch.manual_seed(0)
    team = video_answers.Team([torch.nn.Linear(3, 2) for _ in range(2)])
    for weight in team.weights.values():
        weight.grad = torch.ones_like(weight) * torch.tensor([0.01, 10.0]).view(2, *[1] * (weight.ndim - 1))
    team.clip(1.0)
    norms = [torch.cat([w.grad[i].flatten() for w in team.weights.values()]).norm() for i in range(2)]
    assert np.allclose(norms, [0.01 * 8**0.5, 1.0], atol=1e-4)


def test_cells_of_other_shapes_are_not_trained_together():
    keys = [(name, 4, seed) for name in video_answers.REDUCERS for seed in range(2)]
    groups = video_answers._groups(keys, 5)
    assert sorted(key for group in groups for key in group) == sorted(keys)
    assert max(len(group) for group in groups) == 5
    alone = {group[0][0] for group in groups if len(group) == 1}
    assert {"official", "tokenlearner", "full"} <= alone
    assert not any({"adaptive", "occupancy"} <= {name for name, _, _ in group} for group in groups)
    assert not any({"blind", "codebook"} <= {name for name, _, _ in group} for group in groups)


def test_questions_of_a_set_are_those_of_its_clips():
    clips = QuestionClips(2, 10, fps=1.0, side=16)
    words, answers = clips.targets()
    first = clips.questions(0)
    assert " ".join(WORDS[i - 1] for i in words[0, 1].tolist() if i) == first[1].text
    assert [ANSWERS[i] for i in answers[0].tolist()] == [q.answer for q in first]


def test_search_reports_both_ways(model):
    args = argparse.Namespace(model=model, device="cpu", data=None, scenes=3, quick=True)
    (section,) = video_search.measure(args).sections
    assert [row.item for row in section.rows] == list(video_search.CHANGES)
    assert all(0 <= row.ours.median <= 100 and row.peer is not None for row in section.rows)
