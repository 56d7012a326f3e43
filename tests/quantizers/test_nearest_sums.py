from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm.core.errors import ShapeError
from genmm.quantizers.nearest import code_sums


def by_loop(vectors, indices, codes):
    sums, counts = torch.zeros(codes, vectors.shape[-1], dtype=torch.float64), torch.zeros(codes, dtype=torch.float64)
    for vector, code in zip(vectors.double(), indices.tolist(), strict=True):
        if code >= 0:
            sums[code] += vector
            counts[code] += 1
    return sums.float(), counts.float()


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(0, 60), width=st.integers(1, 7), codes=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_sums_are_those_of_a_loop(rows, width, codes, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    ids = torch.randint(-1, codes, (rows,), generator=generator)
    sums, counts = code_sums(x, ids, codes)
    expected = by_loop(x, ids, codes)
    torch.testing.assert_close(sums, expected[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(counts, expected[1])


def test_every_batch_has_a_codebook_of_its_own():
    x, ids = torch.randn(2, 3, 50, 4), torch.randint(-1, 6, (2, 3, 50))
    sums, counts = code_sums(x, ids, 6)
    assert sums.shape == (2, 3, 6, 4) and counts.shape == (2, 3, 6)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(sums[i, j], by_loop(x[i, j], ids[i, j], 6)[0], rtol=1e-5, atol=1e-5)


def test_halves_are_added_in_float32():
    x = torch.ones(5000, 2, dtype=torch.bfloat16)
    sums, counts = code_sums(x, torch.zeros(5000, dtype=torch.int64), 1)
    assert sums.dtype == torch.float32 and sums.tolist() == [[5000.0, 5000.0]] and counts.tolist() == [5000.0]


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match="indices"):
        code_sums(torch.zeros(4, 2), torch.zeros(5, dtype=torch.int64), 3)
    with pytest.raises(ShapeError, match="at least 1"):
        code_sums(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), 0)


@pytest.mark.gpu
def test_the_fixed_order_repeats_bit_for_bit():
    x, ids = torch.randn(100_000, 32, device="cuda"), torch.randint(-1, 50, (100_000,), device="cuda")
    first, again = (code_sums(x, ids, 50, deterministic=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(first.cpu(), by_loop(x.cpu(), ids.cpu(), 50)[0], rtol=1e-4, atol=1e-3)


def test_ids_outside_the_codebook_stay_out_of_every_codebook():
    vectors = torch.ones(2, 4, 3)
    sums, counts = code_sums(vectors, torch.tensor([[0, 2, 3, -1], [1, 1, 9, 0]]), 2)
    assert counts.tolist() == [[1.0, 0.0], [1.0, 2.0]] and sums[..., 0].tolist() == counts.tolist()
