from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from code_blocks import code_blocks
from hypothesis import given, settings
from hypothesis import strategies as st

from genmm.core.errors import UsageError
from genmm.quantizers import nearest, nearest_cpu
from genmm.quantizers.nearest import nearest_codes, residual_codes


def load_cases():
    path = Path(__file__).with_name("nearest_cases.py")
    if "nearest_cases" not in sys.modules:
        spec = importlib.util.spec_from_file_location("nearest_cases", path)
        sys.modules["nearest_cases"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["nearest_cases"])
    return sys.modules["nearest_cases"]


cases = load_cases()


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that every search takes several, in rows and in codes."""
    monkeypatch.setattr(nearest_cpu, "TILE_CODES", 16)
    monkeypatch.setattr(nearest_cpu, "TILE_ROWS", 8)
    monkeypatch.setattr(nearest_cpu, "MOST_ROWS", 8)


@pytest.mark.parametrize("engine", ["plain", "blocked"])
@pytest.mark.parametrize("name", cases.CASES)
def test_an_engine_of_the_cpu_keeps_the_promise(name, engine):
    cases.CASES[name](engine, "cpu")


@pytest.mark.parametrize("name", cases.CASES)
def test_many_tiles_change_nothing(name, small_tiles):
    cases.CASES[name]("blocked", "cpu")


def test_several_threads_change_nothing(monkeypatch, small_tiles):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for name in ("odd_sizes", "lowest_of_equals", "batches", "masks"):
        cases.CASES[name]("blocked", "cpu")


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3), rows=st.integers(0, 40), codes=st.integers(1, 60), width=st.integers(1, 9),
    metric=st.sampled_from(["euclidean", "dot"]), own=st.booleans(), masked=st.booleans(), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_engines_agree_with_a_search_of_whole_numbers(batch, rows, codes, width, metric, own, masked, seed):
    x = cases.whole_numbers(batch, rows, width, seed=seed, device="cpu")
    c = cases.whole_numbers(*([batch] if own else []), codes, width, seed=seed + 1, device="cpu")
    mask = torch.rand(codes, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[seed % codes] = True
    books = c if own else c.expand(batch, -1, -1)
    exact = torch.stack([cases.scores64(x[i], books[i], metric).reshape(rows, codes) for i in range(batch)])
    if masked:
        exact = exact.masked_fill(~mask, torch.inf)
    before = nearest_cpu.TILE_CODES, nearest_cpu.TILE_ROWS, nearest_cpu.MOST_ROWS
    try:
        nearest_cpu.TILE_CODES, nearest_cpu.TILE_ROWS, nearest_cpu.MOST_ROWS = 16, 8, 8
        for engine in ("plain", "blocked", "auto"):
            got = nearest_codes(x, c, metric=metric, mask=mask if masked else None, engine=engine)
            assert torch.equal(got.indices, exact.argmin(-1)), engine
    finally:
        nearest_cpu.TILE_CODES, nearest_cpu.TILE_ROWS, nearest_cpu.MOST_ROWS = before


@settings(max_examples=20, deadline=None)
@given(
    power=st.integers(-12, 12), offset=st.integers(-3, 4), width=st.integers(1, 70), seed=st.integers(0, 10**6),
    metric=st.sampled_from(["euclidean", "cosine", "dot"]), engine=st.sampled_from(["plain", "blocked"]),
)  # fmt: skip
def test_the_bound_holds_wherever_the_numbers_lie(power, offset, width, seed, metric, engine):
    x, c = cases.drawn(40, width, seed=seed), cases.drawn(50, width, seed=seed + 1)
    shift = 0.0 if offset == -3 else 10.0**offset
    cases.check_against_float64(10.0**power * (x + shift), 10.0**power * (c + shift), metric, engine)


def test_the_bound_is_not_generous_for_nothing():
    """Without moving the codes to their mean, an offset would break the bound: the test above can fail."""
    x, c = cases.drawn(200, 24) + 1000.0, cases.drawn(100, 24, seed=1) + 1000.0
    exact = cases.scores64(x, c, "euclidean")
    best = exact.argmin(-1)
    careless = (c.square().sum(-1) - 2.0 * x @ c.T).argmin(-1)
    excess = exact.gather(1, careless[:, None]).squeeze(1) - exact.min(-1).values
    bound = nearest.rounding_bound(x, c, careless, best, metric="euclidean")
    assert (excess > bound).any()


def test_products_are_float32_whatever_is_allowed_outside():
    x, c = cases.drawn(300, 64), cases.drawn(500, 64, seed=1)
    plain = {engine: nearest_codes(x, c, engine=engine, return_distances=True) for engine in ("plain", "blocked")}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        for engine, expected in plain.items():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                got = nearest_codes(x, c, engine=engine, return_distances=True)
            assert torch.equal(got.indices, expected.indices) and torch.equal(got.distances, expected.distances)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_gradient_flows_and_nothing_is_changed():
    x, c = cases.drawn(40, 8).requires_grad_(), cases.drawn(300, 8, seed=1).requires_grad_()
    kept = x.detach().clone(), c.detach().clone()
    found = nearest_codes(x, c, engine="blocked", return_distances=True)
    index, total = residual_codes(x, c.view(3, 100, 8))
    assert not any(tensor.requires_grad for tensor in (found.distances, total, index))
    assert torch.equal(x, kept[0]) and torch.equal(c, kept[1])


def test_auto_takes_tiles_for_large_searches_only():
    small, large = torch.zeros(1, 8, 4), torch.zeros(1, 4096, 4)
    codes = torch.zeros(1, 64, 4)
    assert nearest._choose("auto", small, codes) == "plain"
    assert nearest._choose("auto", large, codes) == "blocked"


@pytest.mark.parametrize(
    ("named", "said"),
    [({"engine": "fast"}, "engine must be"), ({"metric": "manhattan"}, "metric must be"),
     ({"engine": "triton"}, "runs on CUDA tensors")],
)  # fmt: skip
def test_what_is_not_there_is_refused(named, said):
    with pytest.raises(UsageError, match=said):
        nearest_codes(torch.zeros(3, 2), torch.zeros(4, 2), **named)


def test_the_examples_of_the_guide_run():
    blocks = code_blocks(Path(__file__).parents[2] / "docs" / "quantizers.md", "python")
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, "docs/quantizers.md", "exec"), {})  # noqa: S102 - our own page, run on purpose


def test_cosines_do_not_depend_on_lengths_that_float32_can_hold():
    codes = torch.tensor([[1.0, 0.0], [0.1, 1.0]])
    for length in (1e-30, 1e-19, 1.0, 1e19, 1e30):
        found = nearest_codes(torch.tensor([[1.0, 0.0]]), codes * torch.tensor([[length], [1.0]]), metric="cosine")
        assert found.indices.tolist() == [0]
        found = nearest_codes(torch.tensor([[length, 0.0]]), codes, metric="cosine", return_distances=True)
        assert found.indices.tolist() == [0] and found.distances.tolist() == [1.0]
