"""Figures of reduced videos against those that the paper prints and against counting by hand."""

import pytest
import torch

from genmm.core.errors import UsageError
from genmm.metrics.video_tokens import (
    LanguageModel,
    code_bits,
    gain_density,
    prefill_flops,
    tok_dense,
    token_shares,
    wilson_interval,
)
from genmm.systems.vqtoken.reducer import reduce


def test_token_density_is_that_of_the_paper():
    assert tok_dense(57.72, 13.08) == pytest.approx(4.413, abs=1e-3)
    assert tok_dense(57.46, 32) == pytest.approx(1.796, abs=1e-3)
    assert tok_dense(20.0, 1) > tok_dense(57.72, 13.08)  # a blind guess on five choices
    assert gain_density(20.0, 20.0, 1) == 0
    with pytest.raises(UsageError, match="at least one token"):
        tok_dense(50.0, 0)


def test_shares_name_their_original():
    shares = token_shares(32)
    assert shares["16 frames"] == pytest.approx(0.0027, abs=1e-4)
    assert shares["32 frames"] == pytest.approx(0.0014, abs=1e-4)


def test_intervals_hold_the_share_and_shrink():
    low, high = wilson_interval(80, 100)
    assert low == pytest.approx(0.7112, abs=2e-3) and high == pytest.approx(0.8666, abs=2e-3)
    wide, narrow = wilson_interval(8, 10), wilson_interval(800, 1000)
    assert wide[1] - wide[0] > narrow[1] - narrow[0]
    assert wilson_interval(0, 5)[0] == 0.0 and wilson_interval(5, 5)[1] == 1.0
    with pytest.raises(UsageError):
        wilson_interval(6, 5)


def test_prefill_counts_every_product():
    model = LanguageModel(layers=2, width=8, heads=2, kv_heads=1, inner=12)
    n, d, kv, f = 5, 8, 4, 12
    by_hand = n * (d * d + 2 * d * kv + d * d + 3 * d * f) + 2 * n * n * d
    assert prefill_flops(n, model) == 2 * 2 * by_hand
    assert prefill_flops(32) / 1e12 == pytest.approx(0.0229 + 0.00009, rel=0.03)
    assert prefill_flops(11_664) / 1e12 == pytest.approx(8.35 + 11.7, rel=0.03)


def test_bits_are_those_of_the_code():
    reduced = reduce(torch.randn(1, 2, 4, 4, 8), 6).clip(0)
    assert reduced.code_bits == code_bits(6, 8, 32)
