"""Packed linear layers against the plain product."""

import pytest
import torch
import torch.nn.functional as F

from genmm.core.errors import UsageError
from genmm.nn.packed import PackedLinear, check_packing

needs_fbgemm = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="needs a torch build with FBGEMM"
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("packing", "error"),
    [
        ("live", 1e-6),
        pytest.param("float16", 1e-3, marks=needs_fbgemm),
        pytest.param("int8", 2e-2, marks=needs_fbgemm),
    ],
)
def test_every_packing_is_close_to_the_plain_product(packing, error):
    weight, bias, x = normal(48, 64, seed=1), normal(48, seed=2), normal(3, 64)
    expected = F.linear(x, weight, bias)
    relative = (PackedLinear([weight], bias, packing)(x) - expected).norm() / expected.norm()
    assert relative < error


@pytest.mark.parametrize("packing", ["live", pytest.param("int8", marks=needs_fbgemm)])
def test_weights_that_share_an_input_come_side_by_side(packing):
    first, second, x = normal(8, 16), normal(4, 16, seed=1), normal(2, 16, seed=2)
    together = PackedLinear([first, second], None, packing)(x)
    assert together.shape == (2, 12)
    torch.testing.assert_close(together[:, 8:], x @ second.T, atol=0.3, rtol=0.1)


def test_live_weights_follow_training():
    weight, x = normal(4, 4), normal(1, 4, seed=1)
    layer = PackedLinear([weight])
    weight.zero_()
    assert layer(x).abs().sum() == 0


@needs_fbgemm
def test_packing_does_not_change_the_engine_of_others():
    before = torch.backends.quantized.engine
    PackedLinear([normal(4, 4)], None, "int8")
    assert torch.backends.quantized.engine == before


def test_what_cannot_run_is_refused_with_a_way_out():
    with pytest.raises(UsageError, match="float32 network on a CPU"):
        check_packing("int8", torch.device("cpu"), torch.bfloat16)
    with pytest.raises(UsageError, match="live, float16, int8"):
        check_packing("int4", torch.device("cpu"), torch.float32)
