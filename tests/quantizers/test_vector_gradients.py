"""Gradients through a quantizer: against the rotation written out, automatic derivatives, and the package."""

import pytest
import torch
from torch.nn.functional import normalize
from vector_quantize_pytorch import vector_quantize_pytorch as package

from genmm.core.errors import ShapeError
from genmm.quantizers.vector_gradients import rotate_to, straight_through


def pair(*shape: int, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    return drawn[0].requires_grad_(), drawn[1].requires_grad_()


def rotation(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The D x D matrix that takes the direction of one vector to that of the other and leaves the rest alone."""
    s, t = normalize(source, dim=0), normalize(target, dim=0)
    along, across = torch.outer(s, s), normalize(t - (s @ t) * s, dim=0)
    plane = torch.outer(across, across)
    cosine, sine = s @ t, across @ t
    turn = cosine * (along + plane) + sine * (torch.outer(across, s) - torch.outer(s, across))
    return torch.eye(len(s), dtype=s.dtype) - along - plane + turn


@pytest.mark.parametrize("carry", [straight_through, rotate_to])
def test_the_value_is_the_code_bit_for_bit_and_the_code_gets_no_gradient(carry):
    source, target = pair(7, 5, dtype=torch.float32)
    out = carry(source, target)
    out.sum().backward()
    assert torch.equal(out, target) and target.grad is None and source.grad is not None


def test_straight_through_hands_the_gradient_on():
    source, target = pair(7, 5)
    gradient = torch.randn(7, 5, dtype=torch.float64)
    straight_through(source, target).backward(gradient)
    assert torch.equal(source.grad, gradient)


def test_rotation_is_the_derivative_of_the_turn_written_out():
    source, target = pair(5)
    gradient = torch.arange(5, dtype=torch.float64)
    turn = rotation(source.detach(), target.detach()) * target.norm().detach() / source.norm().detach()
    torch.testing.assert_close(turn @ source, target)  # the oracle turns as it should
    expected = torch.autograd.grad(turn @ source, source, gradient)[0]
    rotate_to(source, target).backward(gradient)
    torch.testing.assert_close(source.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotation_is_that_of_the_package(dtype):
    source, target = pair(4, 9, 6, dtype=dtype)
    gradient = torch.randn(4, 9, 6, dtype=dtype)
    (expected,) = torch.autograd.grad(package.rotate_to(source, target), source, gradient)
    (found,) = torch.autograd.grad(rotate_to(source, target), source, gradient)
    torch.testing.assert_close(found, expected)


def test_opposite_vectors_are_mirrored_as_in_the_package():
    source = torch.eye(3)[:1].clone().requires_grad_()
    target, gradient = -2.0 * torch.eye(3)[:1], torch.tensor([[1.0, 2.0, 3.0]])
    (expected,) = torch.autograd.grad(package.rotate_to(source, target), source, gradient)
    (found,) = torch.autograd.grad(rotate_to(source, target), source, gradient)
    torch.testing.assert_close(found, expected)


def test_vectors_without_a_direction_get_finite_gradients():
    source = torch.zeros(2, 3, requires_grad=True)
    gradient = torch.tensor([[1.0, 2.0, 3.0]] * 2)
    rotate_to(source, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])).backward(gradient)
    assert torch.equal(source.grad, gradient)


def test_low_precision_is_turned_in_float32():
    source, target = pair(50, 64, dtype=torch.float32)
    gradient = torch.randn(50, 64)
    half, code = source.detach().bfloat16().requires_grad_(), target.detach().bfloat16()
    rotate_to(half, code).backward(gradient.bfloat16())
    wide = half.detach().float().requires_grad_()
    rotate_to(wide, code.float()).backward(gradient.bfloat16().float())
    torch.testing.assert_close(half.grad, wide.grad.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("carry", [straight_through, rotate_to])
def test_different_shapes_are_refused(carry):
    with pytest.raises(ShapeError, match="one shape"):
        carry(torch.zeros(2, 3), torch.zeros(3))
