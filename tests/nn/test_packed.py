"""Packed linear layers against the plain product."""

import pytest
import torch
import torch.nn.functional as F

from genmm.core.errors import UsageError
from genmm.nn.packed import (
    BEYOND_CACHE,
    SPLIT_ROWS,
    PackedLinear,
    check_packing,
    choose_packing,
    join_storage,
    joined_view,
    product,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("packing", "error"),
    [
        ("live", 1e-6),
        pytest.param("split", 2e-6, marks=pytest.mark.fbgemm),
        pytest.param("float16", 1e-3, marks=pytest.mark.fbgemm),
        pytest.param("int8", 2e-2, marks=pytest.mark.fbgemm),
    ],
)
def test_every_packing_is_close_to_the_plain_product(packing, error):
    weight, bias, x = normal(48, 64, seed=1), normal(48, seed=2), normal(3, 64)
    expected = F.linear(x, weight, bias)
    relative = (PackedLinear([weight], bias, packing)(x) - expected).norm() / expected.norm()
    assert relative < error


@pytest.mark.fbgemm
@pytest.mark.parametrize("size", [1.0, 0.02, 1e-3, 300.0])
@pytest.mark.parametrize("rows", [1, 2, SPLIT_ROWS, SPLIT_ROWS + 1])
def test_split_weights_are_as_exact_as_float32(size, rows):
    weight, bias, x = size * normal(96, 256, seed=1), size * normal(96, seed=2), normal(rows, 256)
    exact = F.linear(x.double(), weight.double(), bias.double())
    gap = (PackedLinear([weight], bias, "split")(x).double() - exact).norm() / exact.norm()
    assert gap < 1.5e-6
    assert (PackedLinear([weight], bias, "float16")(x).double() - exact).norm() / exact.norm() > 1e-5


@pytest.mark.fbgemm
def test_auto_loses_nothing():
    weight = normal(8, 8)
    assert choose_packing("auto", [weight.half().float()]) == "float16"
    assert choose_packing("auto", [weight]) == "split"
    assert choose_packing("auto", [1e6 * weight]) == "live"  # beyond float16
    assert choose_packing("auto", [weight.bfloat16()]) == "live"
    assert choose_packing("auto", [torch.nn.Parameter(weight)]) == "live"
    assert choose_packing("int8", [weight]) == "int8"
    with pytest.raises(UsageError, match="float32 network"):
        choose_packing("split", [weight.bfloat16()])
    for packing in ("split", "float16"):
        with pytest.raises(UsageError, match="beyond 65504"):
            PackedLinear([1e6 * weight], None, packing)


@pytest.mark.parametrize("packing", ["live", pytest.param("int8", marks=pytest.mark.fbgemm)])
def test_weights_that_share_an_input_come_side_by_side(packing):
    first, second, x = normal(8, 16), normal(4, 16, seed=1), normal(2, 16, seed=2)
    together = PackedLinear([first, second], None, packing)(x)
    assert together.shape == (2, 12)
    torch.testing.assert_close(together[:, 8:], x @ second.T, atol=0.3, rtol=0.1)


@pytest.mark.parametrize("rows", [1, 4, 30, 60])
@pytest.mark.parametrize("with_bias", [False, True])
def test_large_weights_are_read_in_another_order_with_the_same_result(rows, with_bias):
    weight, x = normal(BEYOND_CACHE // 512, 512), normal(rows, 512, seed=1)
    bias = normal(len(weight), seed=2) if with_bias else None
    found = product(x, weight, bias)
    torch.testing.assert_close(found, F.linear(x, weight, bias), atol=1e-3, rtol=1e-4)
    assert found.is_contiguous()


def test_joined_parameters_are_one_weight_and_keep_their_values():
    parts = [torch.nn.Parameter(normal(rows, 6, seed=rows)) for rows in (4, 2, 3)]
    before = [part.detach().clone() for part in parts]
    assert joined_view(parts) is None
    join_storage(parts)
    assert torch.equal(joined_view(parts), torch.cat(before))
    layer, x = PackedLinear(parts), normal(2, 6)
    torch.testing.assert_close(layer(x), torch.cat([x @ part.T for part in before], dim=1))
    with torch.no_grad():
        parts[1].zero_()
    assert layer(x)[:, 4:6].abs().sum() == 0
    parts[2].data = parts[2].data.clone()
    assert joined_view(parts) is None


def test_live_weights_follow_training():
    weight, x = normal(4, 4), normal(1, 4, seed=1)
    layer = PackedLinear([weight])
    weight.zero_()
    assert layer(x).abs().sum() == 0


@pytest.mark.fbgemm
def test_packing_does_not_change_the_engine_of_others():
    before = torch.backends.quantized.engine
    PackedLinear([normal(4, 4)], None, "int8")
    assert torch.backends.quantized.engine == before


def test_what_cannot_run_is_refused_with_a_way_out():
    with pytest.raises(UsageError, match="float32 network on a CPU"):
        check_packing("int8", torch.device("cpu"), torch.bfloat16)
    with pytest.raises(UsageError, match="live, split, float16, int8"):
        check_packing("int4", torch.device("cpu"), torch.float32)
