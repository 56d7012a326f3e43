"""Contrastive losses against closed forms and loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from genmm.core.errors import ShapeError
from genmm.losses.contrastive import k_point_loss, k_points, picked_embedding, symmetric_contrast


def units(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def test_symmetric_contrast_equals_its_definition():
    u, v, t = units(5, 3), units(5, 3, seed=1), 0.2
    total = 0.0
    for a, b in ((u, v), (v, u)):
        for i in range(5):
            terms = [math.exp(float(a[i] @ b[j]) / t) for j in range(5)]
            total -= math.log(terms[i] / sum(terms)) / 5
    assert float(symmetric_contrast(u, v, t)) == pytest.approx(total / 2, rel=1e-5)


def test_ignored_pairs_are_no_negatives_but_the_pair_itself_stays():
    u = units(4, 6)
    everything = torch.ones(4, 4, dtype=torch.bool)
    assert float(symmetric_contrast(u, u, 0.1, everything)) == pytest.approx(0.0, abs=1e-6)
    none = torch.zeros(4, 4, dtype=torch.bool)
    assert float(symmetric_contrast(u, u, 0.1, none)) == pytest.approx(float(symmetric_contrast(u, u, 0.1)))
    assert float(symmetric_contrast(u[:0], u[:0], 0.1)) == 0.0
    with pytest.raises(ShapeError):
        symmetric_contrast(u, u[:3], 0.1)


def test_k_points_are_the_highest_with_a_gap():
    scores = torch.tensor([[1.0, 9.0, 8.0, 2.0, 7.0, 0.0], [5.0, 5.0, 5.0, 5.0, 5.0, 5.0]])
    mask = torch.ones(2, 6, dtype=torch.bool)
    indices, real = k_points(scores, mask, 3)
    assert indices[0, :2].tolist() == [1, 4]
    assert real[0].tolist() == [True, True, False]  # what is left lies beside a picked step
    assert indices[1].tolist() == [0, 2, 4]  # ties go to the earlier step
    assert real[1].all()
    close, _ = k_points(scores, mask, 3, gap=0)
    assert close[0].tolist() == [1, 2, 4]


def test_k_points_keep_to_the_mask():
    mask = torch.tensor([[False, True, False, False]])
    indices, real = k_points(torch.tensor([[9.0, 1.0, 8.0, 7.0]]), mask, 2)
    assert indices[0, 0] == 1
    assert real.tolist() == [[True, False]]


def test_the_gradient_raises_the_score_of_the_moment_that_agrees():
    scores = torch.zeros(1, 4, requires_grad=True)
    embeddings = torch.eye(4)[None]
    indices, real = torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool)
    wanted = torch.tensor([0.0, 1.0, 0.0, 0.0])
    (picked_embedding(scores, embeddings, indices, real, 0.5)[0] @ wanted).backward()
    assert scores.grad[0, 1] > 0 > scores.grad[0, 0]
    assert scores.grad[0, 2:].abs().sum() == 0


def test_k_point_loss_equals_its_definition():
    high, dull = (units(3, 4), units(3, 4, seed=1)), (units(3, 2, 4, seed=2), units(3, 2, 4, seed=3))
    real = (torch.ones(3, 2, dtype=torch.bool), torch.tensor([[True, False], [True, True], [False, False]]))
    total = 0.0
    for here, there in ((0, 1), (1, 0)):
        for b in range(3):
            positive = math.exp(float(high[here][b] @ high[there][b]) / 0.1)
            negative = sum(math.exp(float(high[here][b] @ high[there][c]) / 0.1) for c in range(3) if c != b)
            negative += sum(
                math.exp(float(high[here][b] @ dull[there][b, j]) / 0.1) for j in range(2) if real[there][b, j]
            )
            total -= math.log(positive / (positive + negative)) / 6
    assert float(k_point_loss(high, dull, real, 0.1)) == pytest.approx(total, rel=1e-5)
