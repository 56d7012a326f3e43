"""What every fast engine of nearest-code search promises against its plain twin and against float64.

`python nearest_cases.py ENGINE [CASE ...]` runs all cases, or those named, and prints {case: "ok" or what went wrong}
as JSON: that is how the Triton kernels run in the interpreter, which TRITON_INTERPRET=1 switches on when Triton is
imported, in a process of their own. A case is a function that takes (engine, device).
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import traceback

import torch
from torch import Tensor

from genmm.core.errors import GenmmError
from genmm.quantizers.nearest import nearest_codes, residual_codes, rounding_bound

METRICS = ("euclidean", "cosine", "dot")


def scores64(x: Tensor, codes: Tensor, metric: str) -> Tensor:
    """Exact scores [N, K], least is nearest, in float64 and without expanding the square."""
    x, c = x.double().cpu(), codes.double().cpu()
    if metric == "euclidean":
        return torch.stack([(x - code).square().sum(-1) for code in c], dim=-1)
    if metric == "cosine":
        norms = c.norm(dim=-1, keepdim=True)
        c = torch.where(norms > 0, c / norms, torch.zeros_like(c))
    return -(x @ c.T)


def check_against_float64(x: Tensor, codes: Tensor, metric: str, engine: str, *, slack: float = 1.0) -> int:
    """The answer is the exact one up to the stated rounding; gives back how many differ from it."""
    got = nearest_codes(x, codes, metric=metric, engine=engine).indices.cpu()
    exact = scores64(x, codes, metric)
    best = exact.argmin(-1)
    excess = exact.gather(1, got[:, None]).squeeze(1) - exact.gather(1, best[:, None]).squeeze(1)
    bound = slack * rounding_bound(x.cpu(), codes.cpu(), got, best, metric=metric)
    assert (excess <= bound).all(), f"{metric}: off by {float((excess / bound).max()):.2f} of the bound"
    return int((got != best).sum())


def drawn(*shape: int, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def same(engine: str, x: Tensor, codes: Tensor, **named) -> None:
    """The engine and the plain twin give the same indices where no two codes are nearly as near."""
    mine = nearest_codes(x, codes, engine=engine, return_distances=True, **named)
    twin = nearest_codes(x, codes, engine="plain", return_distances=True, **named)
    assert mine.indices.shape == twin.indices.shape and mine.indices.dtype == torch.int64
    torch.testing.assert_close(mine.distances, twin.distances, rtol=1e-5, atol=1e-5)
    assert (mine.indices == twin.indices).float().mean() > 0.99 if mine.indices.numel() > 200 else True


def whole_numbers(*shape: int, seed: int, device: str) -> Tensor:
    """Small whole numbers: every sum is exact, so equal means equal, ties included."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float().to(device)


def odd_sizes(engine: str, device: str) -> None:
    for (rows, width, codes), metric in itertools.product(
        [(1, 1, 1), (3, 5, 7), (17, 16, 33), (33, 65, 31), (130, 8, 129), (5, 300, 70), (2, 1, 600)], METRICS
    ):
        x, c = drawn(rows, width, device=device), drawn(codes, width, seed=1, device=device)
        same(engine, x, c, metric=metric)
        check_against_float64(x, c, metric, engine)


def lowest_of_equals(engine: str, device: str) -> None:
    for rows, width, codes in ((40, 2, 50), (35, 3, 1100), (9, 17, 64)):
        x, c = whole_numbers(rows, width, seed=2, device=device), whole_numbers(codes, width, seed=3, device=device)
        for metric in ("euclidean", "dot"):
            got = nearest_codes(x, c, metric=metric, engine=engine).indices.cpu()
            assert torch.equal(got, scores64(x, c, metric).argmin(-1)), (metric, rows, width, codes)
    once, x = drawn(90, 24, device=device), drawn(60, 24, seed=4, device=device)
    if (
        os.environ.get("TRITON_INTERPRET") == "1"
    ):  # NumPy's products depend on the column by a rounding: take exact ones
        once, x = (16 * once).round() / 16, (16 * x).round() / 16
    assert int(nearest_codes(x, once.repeat(3, 1), engine=engine).indices.max()) < 90


def masks(engine: str, device: str) -> None:
    x, c = drawn(2, 21, 6, device=device), drawn(2, 45, 6, seed=1, device=device)
    mask = drawn(2, 45, seed=2, device=device) > 0
    hostile = torch.where(mask.unsqueeze(-1), c, torch.nan)
    for metric in METRICS:
        same(engine, x, hostile, mask=mask, metric=metric)
        got = nearest_codes(x, hostile, mask=mask, metric=metric, engine=engine).indices
        assert bool(mask.gather(1, got).all())
        for batch in range(2):
            kept = mask[batch].nonzero().squeeze(1)
            alone = nearest_codes(x[batch], c[batch][kept], metric=metric, engine="plain").indices
            assert torch.equal(kept[alone], got[batch])
    same(engine, x, c[0], mask=mask[0])
    same(engine, x, c[0], mask=mask)
    only = torch.arange(45, device=device) == 44
    assert bool((nearest_codes(x, c[0], mask=only, engine=engine).indices == 44).all())


def batches(engine: str, device: str) -> None:
    for rows in (1, 19, 70):
        x, c = drawn(2, 3, rows, 9, device=device), drawn(2, 3, 40, 9, seed=1, device=device)
        got = nearest_codes(x, c, engine=engine).indices
        for i, j in itertools.product(range(2), range(3)):
            assert torch.equal(got[i, j], nearest_codes(x[i, j], c[i, j], engine="plain").indices)
        same(engine, x, c[:1, :1])
        same(engine, x, c[0, 0])
        same(engine, x[:, :1], c)


def strides(engine: str, device: str) -> None:
    x, c = drawn(12, 2, 37, device=device).permute(1, 2, 0), drawn(7, 50, device=device)[:6].T.contiguous().T
    c = drawn(12, 100, seed=1, device=device).T[::2]
    assert not x.is_contiguous() and not c.is_contiguous()
    got = nearest_codes(x, c, engine=engine).indices
    assert torch.equal(got, nearest_codes(x.contiguous(), c.contiguous(), engine="plain").indices)
    same(engine, drawn(1, 12, device=device).expand(33, 12), c)


def halves(engine: str, device: str) -> None:
    """Sums are float32: with whole numbers up to 256 a bfloat16 or float16 sum would be wrong."""
    for one, other in (
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.float32),
    ):
        x, c = whole_numbers(50, 40, seed=5, device=device), whole_numbers(70, 40, seed=6, device=device)
        with torch.autocast(device_type=torch.device(device).type, dtype=torch.bfloat16):
            got = nearest_codes(40 * x.to(one), 40 * c.to(other), engine=engine).indices.cpu()
        assert torch.equal(got, scores64(40 * x, 40 * c, "euclidean").argmin(-1))
        x, c = drawn(64, 33, device=device).to(one), drawn(90, 33, seed=1, device=device).to(other)
        for metric in METRICS:
            check_against_float64(x, c, metric, engine, slack=2.0 if device != "cpu" else 1.0)


def rounding(engine: str, device: str) -> None:
    """Huge and tiny norms, a large common offset, one code far out: the stated bound holds."""
    x, c = drawn(200, 24, device=device), drawn(100, 24, seed=1, device=device)
    far = c.clone()
    far[3] = 1e6
    for scale in (1.0, 1e12, 1e-12):
        for metric in METRICS:
            check_against_float64(scale * x, scale * c, metric, engine)
    check_against_float64(x, far, "euclidean", engine)
    for offset in (10.0, 1000.0):
        differing = check_against_float64(x + offset, c + offset, "euclidean", engine)
        assert differing <= 1, f"an offset of {offset} changed {differing} of 200 answers"
    check_against_float64(c + 1e-4 * x[:100], c, "euclidean", engine)


def distances(engine: str, device: str) -> None:
    """Distances are those of the pair, also where the expanded square would have nothing left."""
    c = drawn(30, 16, device=device) + 5000.0
    x = c[[4, 9]] + torch.tensor([[0.0], [0.25]], device=device)
    found = nearest_codes(x, c, engine=engine, return_distances=True)
    assert found.indices.tolist() == [4, 9]
    exact = (x.double() - c[[4, 9]].double()).square().sum(-1).float()
    torch.testing.assert_close(found.distances, exact, rtol=1e-6, atol=0.0)
    cosine = nearest_codes(3.0 * c[:5], c, metric="cosine", engine=engine, return_distances=True).distances
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    assert float(nearest_codes(c[:1] * 0, c, metric="cosine", engine=engine, return_distances=True).distances) == 0.0


def bad_input(engine: str, device: str) -> None:
    x, c = drawn(30, 8, device=device), drawn(20, 8, seed=1, device=device)
    for bad in (float("nan"), float("inf"), -float("inf")):
        for tensor, name in ((x, "vectors"), (c, "codes")):
            for metric in METRICS:
                broken = tensor.clone()
                broken[11, 5] = bad
                given = (broken, c) if name == "vectors" else (x, broken)
                refused(f"{name} must be finite", *given, metric=metric, engine=engine)
    refused("too large", x * 1e25, c * 1e25, engine=engine)
    refused("no code to choose from", x, c, mask=torch.zeros(20, dtype=torch.bool, device=device), engine=engine)
    refused("the codebook is empty", x, c[:0], engine=engine)
    refused("one width D", x, c[:, :7], engine=engine)
    refused("convert with .float()", x.double(), c, engine=engine)
    refused("do not fit", drawn(2, 4, 8, device=device), drawn(3, 20, 8, device=device), engine=engine)
    refused("mask must be bool", x, c, mask=torch.ones(20, device=device), engine=engine)


def refused(said: str, *args: Tensor, **named) -> None:
    try:
        nearest_codes(*args, **named)
    except GenmmError as error:
        assert said in str(error), str(error)
    else:
        raise AssertionError(f"nothing was said; expected: {said}")


def nothing_to_do(engine: str, device: str) -> None:
    c = drawn(20, 8, device=device)
    for shape in ((0, 8), (2, 0, 8), (0, 5, 8)):
        found = nearest_codes(torch.empty(*shape, device=device), c, engine=engine, return_distances=True)
        assert found.indices.shape == shape[:-1] == found.distances.shape and found.indices.dtype == torch.int64
    single = nearest_codes(drawn(40, 8, device=device), c[:1], engine=engine).indices
    assert not single.any()
    unchecked = nearest_codes(drawn(40, 8, device=device) * torch.nan, c, engine=engine, check=False).indices
    assert int(unchecked.min()) >= 0 and int(unchecked.max()) < 20


def residual_levels(engine: str, device: str) -> None:
    for levels, rows, codes, width in ((1, 5, 3, 4), (4, 37, 50, 12), (3, 20, 70, 48), (2, 9, 12, 300)):
        x = drawn(rows, width, device=device)
        books = drawn(levels, codes, width, seed=1, device=device) / (1 + torch.arange(levels, device=device)).view(
            -1, 1, 1
        )
        index, total = residual_codes(x, books, engine=engine)
        twin, twin_total = residual_codes(x, books, engine="plain")
        assert index.shape == (rows, levels) and torch.equal(index, twin)
        torch.testing.assert_close(total, twin_total, rtol=1e-6, atol=1e-6)
    exact = whole_numbers(3, 20, 6, seed=7, device=device)
    index, total = residual_codes(whole_numbers(2, 30, 6, seed=8, device=device), exact, engine=engine)
    assert index.shape == (2, 30, 3)
    assert torch.equal(total, sum(exact[level][index[..., level]] for level in range(3)))
    try:
        residual_codes(x * torch.nan, books, engine=engine)
    except GenmmError as error:
        assert "must be finite" in str(error)
    else:
        raise AssertionError("NaN went through")


CASES = {
    case.__name__: case
    for case in (odd_sizes, lowest_of_equals, masks, batches, strides, halves, rounding, distances, bad_input,
                 nothing_to_do, residual_levels)
}  # fmt: skip


def main(engine: str, names: list[str]) -> None:
    outcome = {}
    for name, case in CASES.items():
        if names and name not in names:
            continue
        try:
            case(engine, "cpu")
            outcome[name] = "ok"
        except Exception:  # noqa: BLE001 - whatever it was belongs to the test of that name
            outcome[name] = traceback.format_exc()
        print(f"{name}: {outcome[name]}", file=sys.stderr, flush=True)
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
