"""Rotary positions: relative, norm preserving, and in LLaMA's half-split order."""

import math

import pytest
import torch

from genmm.core.errors import ShapeError
from genmm.nn.rotary import rotary_angles, rotate, turn, whole_angles


def heads(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(seed))


def test_products_depend_on_the_distance_alone():
    query, key = heads(), heads(1)
    scores = []
    for shift in (0, 37):
        cosine, sine = rotary_angles(torch.arange(5) + shift, 8)
        scores.append(rotate(query, cosine, sine) @ rotate(key, cosine, sine).transpose(-1, -2))
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)


def test_norms_stay_and_position_zero_is_left_alone():
    cosine, sine = rotary_angles(torch.arange(5), 8)
    turned = rotate(heads(), cosine, sine)
    torch.testing.assert_close(turned.norm(dim=-1), heads().norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], heads()[:, :, 0])


def test_the_first_half_pairs_with_the_second():
    x = torch.zeros(1, 1, 1, 4)
    x[..., 0] = 1.0  # pairs with channel 2
    turned = rotate(x, *rotary_angles(torch.tensor([1]), 4))
    torch.testing.assert_close(turned.flatten(), torch.tensor([math.cos(1), 0.0, math.sin(1), 0.0]))


def test_complex_multiplication_is_the_same():
    """Oracle: multiply (first + i second) by exp(i position theta^(-2j/d))."""
    x, positions = heads(), torch.arange(5)
    frequencies = 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    factor = torch.polar(torch.ones(5, 4), positions[:, None] * frequencies)
    product = torch.complex(x[..., :4], x[..., 4:]) * factor
    expected = torch.cat((product.real, product.imag), dim=-1)
    torch.testing.assert_close(rotate(x, *rotary_angles(positions, 8)), expected, atol=1e-5, rtol=1e-5)


def test_the_short_form_turns_the_same():
    angles = rotary_angles(torch.arange(5), 8)
    torch.testing.assert_close(turn(heads(), *whole_angles(*angles)), rotate(heads(), *angles))


def test_an_odd_width_is_refused():
    with pytest.raises(ShapeError, match="even"):
        rotary_angles(torch.arange(2), 7)
