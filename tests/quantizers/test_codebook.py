"""The codebook on the sphere by itself: loading, number formats, empty batches, exact codes."""

import pytest
import torch
from torch.nn import functional

from genmm.core.errors import UsageError
from genmm.quantizers.codebook import SphereCodebook


def codes_of(book: SphereCodebook) -> torch.Tensor:
    return functional.normalize(book.embedding.weight.detach().float(), dim=-1)


def test_a_loaded_codebook_goes_on_from_its_codes():
    torch.manual_seed(0)
    book = SphereCodebook(32, 8).train()
    for _ in range(20):
        book(torch.randn(64, 8))
    other = SphereCodebook(32, 8).train()
    other.load_state_dict(book.state_dict())
    other(torch.randn(4, 8))
    assert float((codes_of(other) * codes_of(book)).sum(-1).mean()) > 0.99


def test_averages_that_belong_to_the_codes_stay_when_these_are_loaded():
    torch.manual_seed(0)
    book = SphereCodebook(32, 8).train()
    for _ in range(20):
        book(torch.randn(64, 8))
    other = SphereCodebook(32, 8)
    other.mass.copy_(book.mass)  # as a resumed training does, before the weights are loaded
    other.sums.copy_(book.sums)
    other.load_state_dict(book.state_dict())
    assert torch.equal(other.mass, book.mass) and torch.equal(other.sums, book.sums)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_formats_train(dtype):
    book = SphereCodebook(16, 4).to(dtype).train()
    before = codes_of(book)
    made = book(torch.randn(64, 4, dtype=dtype))
    assert made.codes.isfinite().all() and not torch.equal(codes_of(book), before)
    book.start_from(torch.randn(20, 4))
    assert book.revive(torch.randn(20, 4), least=10.0) == 16


def test_results_are_the_codes_bit_for_bit_and_nothing_costs_nothing():
    torch.manual_seed(0)
    book = SphereCodebook(16, 4).eval()
    vectors = torch.randn(50, 4, requires_grad=True)
    made = book(vectors)
    assert torch.equal(made.codes, book.lookup(made.ids))
    made.codes.sum().backward()
    assert vectors.grad.abs().sum() > 0
    empty = book(torch.zeros(0, 4, requires_grad=True))
    assert empty.ids.shape == (0,) and float(empty.loss.detach()) == 0.0


def test_codes_are_put_on_vectors_and_said_where_there_are_none():
    torch.manual_seed(0)
    book = SphereCodebook(4, 3)
    book.start_from(torch.tensor([[0.0, 0.0, 5.0]]))
    assert (book.lookup(torch.arange(4))[:, 2] > 0.9).all()
    with pytest.raises(UsageError, match="got none"):
        book.start_from(torch.zeros(0, 3))
    book.mass[1] = 0.0
    with pytest.raises(UsageError, match="got none"):
        book.revive(torch.zeros(0, 3), 0.1)
    assert book.revive(torch.tensor([[1.0, 0.0, 0.0]]), 0.1) == 1
    torch.testing.assert_close(book.lookup(torch.tensor(1)), torch.tensor([1.0, 0.0, 0.0]))
