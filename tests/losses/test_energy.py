"""The energy score: against a slow loop, its known minimum, and finite gradients where norms vanish."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm.core.errors import ShapeError, UsageError
from genmm.losses.energy import (
    calibration_ratio,
    distance,
    energy_loss,
    energy_score,
    energy_terms,
    kernel_score,
    masked_mean,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_score(draws: torch.Tensor, target: torch.Tensor, beta: float) -> float:
    """Textbook form for one row, with Python sums."""
    count = len(draws)

    def power(left: torch.Tensor, right: torch.Tensor) -> float:
        return math.dist(left.tolist(), right.tolist()) ** beta

    near = 2 / count * sum(power(draw, target) for draw in draws)
    pairs = sum(power(draws[i], draws[j]) for i in range(count) for j in range(i))
    return near - 2 / (count * (count - 1)) * pairs


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_many_draw_score_is_the_textbook_sum(count, beta):
    draws, target = normal(count, 5, 3), normal(5, 3, seed=1)
    expected = [slow_score(draws[:, row].double(), target[row].double(), beta) for row in range(5)]
    torch.testing.assert_close(energy_score(draws, target, beta), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def pairwise_score(draws: torch.Tensor, target: torch.Tensor, beta: float) -> torch.Tensor:
    """The score from the tensor of all differences, for automatic derivatives."""
    count = len(draws)
    left, right = torch.triu_indices(count, count, 1)
    pairs = distance(draws[left], draws[right], beta).sum(0)
    return 2.0 * distance(draws, target, beta).mean(0) - pairs * (2.0 / (count * (count - 1)))


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_many_draw_gradient_is_that_of_all_pairs(count, beta):
    draws, target = normal(count, 5, 3).requires_grad_(), normal(5, 3, seed=1).requires_grad_()
    weights = normal(5, seed=2)
    expected = torch.autograd.grad((pairwise_score(draws, target, beta) * weights).sum(), (draws, target))
    found = torch.autograd.grad((energy_score(draws, target, beta) * weights).sum(), (draws, target))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5, 2.0])
def test_many_draw_gradient_is_finite_where_draws_coincide(beta):
    draws = normal(2, 5, 3).repeat(2, 1, 1).requires_grad_()
    energy_score(draws, draws[0].detach(), beta).sum().backward()
    assert draws.grad.isfinite().all()


def test_many_draws_keep_only_themselves_for_the_gradient():
    count, rows, channels = 16, 3, 5
    kept = []
    draws, target = normal(count, rows, channels).requires_grad_(), normal(rows, channels, seed=1)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        energy_score(draws, target)
    assert sum(kept) <= 4 * draws.numel()  # all pairs would be count / 2 times the draws


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.floats(0.2, 2.0))
def test_two_draws_give_the_training_loss(rows, channels, beta):
    first, second, target = normal(rows, channels), normal(rows, channels, seed=1), normal(rows, channels, seed=2)
    both = energy_score(torch.stack((first, second)), target, beta)
    torch.testing.assert_close(both, energy_terms(first, second, target, beta), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5, 2.0])
def test_gradients_are_finite_where_draws_or_target_coincide(beta):
    first = torch.zeros(3, 4, requires_grad=True)
    second = torch.zeros(3, 4, requires_grad=True)
    target = torch.stack((torch.zeros(4), torch.ones(4), normal(4)))
    energy_loss(first, second, target, beta=beta).backward()
    assert first.grad.isfinite().all() and second.grad.isfinite().all()
    assert first.grad[1].abs().sum() > 0  # a fresh head still learns: the target terms pull


def test_the_true_spread_scores_better_than_less_or_more():
    """Strictly proper: for N(0, 1) data the score over a family of scales is lowest at 1."""
    target, first, second = normal(40000, 2), normal(40000, 2, seed=1), normal(40000, 2, seed=2)
    scores = {scale: energy_loss(scale * first, scale * second, target).item() for scale in (0.0, 0.6, 1.0, 1.4)}
    assert min(scores, key=scores.get) == 1.0


def test_calibration_is_one_for_the_data_itself_and_zero_for_one_answer():
    target, first, second = normal(20000, 3), normal(20000, 3, seed=1), normal(20000, 3, seed=2)
    assert calibration_ratio(first, second, target).item() == pytest.approx(1.0, abs=0.02)
    assert calibration_ratio(0 * first, 0 * second, target).item() == 0.0
    assert calibration_ratio(3 * first, 3 * second, target).item() > 1.2


def test_masked_rows_count_for_nothing():
    first, second, target = normal(6, 3), normal(6, 3, seed=1), normal(6, 3, seed=2)
    mask = torch.tensor([1, 0, 1, 1, 0, 0])
    kept = mask.bool()
    torch.testing.assert_close(
        energy_loss(first, second, target, mask), energy_loss(first[kept], second[kept], target[kept])
    )
    assert masked_mean(torch.ones(3), torch.zeros(3)).item() == 0.0


def test_distances_are_taken_in_float32():
    left, right = torch.full((1, 300), 1.0).bfloat16(), torch.zeros(1, 300).bfloat16()
    assert distance(left, right).dtype == torch.float32
    assert distance(left, right).item() == pytest.approx(math.sqrt(300), rel=1e-6)


def test_kernel_score_of_three_equal_points_is_one():
    point = normal(4, 3)
    torch.testing.assert_close(kernel_score(point, point, point), torch.ones(4))


def test_wrong_arguments_are_named():
    with pytest.raises(UsageError, match="beta"):
        distance(torch.zeros(1, 2), torch.zeros(1, 2), beta=0.0)
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):
        energy_terms(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ShapeError, match="M >= 2"):
        energy_score(torch.zeros(1, 2, 3), torch.zeros(2, 3))


def test_rows_outside_the_mask_may_hold_anything():
    draws = [normal(3, 4, seed=n).requires_grad_() for n in range(2)]
    target, mask = normal(3, 4, seed=2), torch.tensor([True, False, True])
    plain = energy_loss(*draws, target, mask)
    spoiled = [draw.detach().clone() for draw in draws]
    for draw in spoiled:
        draw[1] = float("nan")
    spoiled = [draw.requires_grad_() for draw in spoiled]
    loss = energy_loss(*spoiled, target, mask)
    torch.testing.assert_close(loss, plain)
    loss.backward()
    assert all(bool(draw.grad.isfinite().all()) and not bool(draw.grad[1].any()) for draw in spoiled)
