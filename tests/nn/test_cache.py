"""The key-value cache: what is written is read, rows may leave, memory grows only when it must."""

import pytest
import torch

from genmm.core.errors import LimitError
from genmm.nn.cache import KeyValueCache, Opening


def fill(cache: KeyValueCache, real: torch.Tensor, seed: int = 0) -> Opening:
    """Write one block of random keys (values are their negatives) into every layer."""
    keys = torch.randn(cache.rows, real.shape[1], 2, 4, generator=torch.Generator().manual_seed(seed))
    opening = cache.open_block(real)
    for layer in range(len(cache.memory)):
        cache.write(opening, layer, torch.cat((keys, -keys), dim=2))
    cache.close_block(real)
    return opening


def test_positions_count_real_tokens_of_each_row():
    cache = KeyValueCache(1, 2, 2, 4, 10)
    real = torch.tensor([[False, True, True], [True, True, True]])
    opening = cache.open_block(real)
    assert opening.positions.tolist() == [[0, 0, 1], [0, 1, 2]]
    assert (opening.bias == 0).int().tolist()[0][0] == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    cache.close_block(real)
    opening = cache.open_step()
    assert opening.positions.tolist() == [[2], [3]]
    assert (opening.bias == 0).int().tolist() == [[[[0, 1, 1, 1]]], [[[1, 1, 1, 1]]]]


def test_no_bias_is_needed_without_gaps():
    cache = KeyValueCache(1, 1, 2, 4, 10)
    fill(cache, torch.ones(1, 3, dtype=torch.bool))
    assert cache.open_step().bias is None


def test_what_is_written_is_read():
    cache = KeyValueCache(2, 1, 2, 4, 10)
    opening = fill(cache, torch.ones(1, 3, dtype=torch.bool))
    for keys, values in zip(opening.keys, opening.values, strict=True):
        assert keys.shape == (1, 2, 3, 4) and keys.abs().sum() > 0
        torch.testing.assert_close(values, -keys)


def test_rows_may_sit_a_block_out():
    cache = KeyValueCache(1, 3, 2, 4, 8)
    opening = cache.open_block(torch.tensor([[True, True]]))
    cache.write(opening, 0, torch.full((1, 2, 4, 4), 5.0))
    cache.close_block(torch.tensor([[True, True]]))
    assert cache.positions.flatten().tolist() == [2, 0, 0]
    opening = cache.open_step()
    assert (opening.bias == 0).flatten(1).tolist() == [[True] * 3, [False, False, True], [False, False, True]]
    assert cache.memory[0, 1:].abs().sum() == 0


def test_static_and_growing_cache_hold_the_same():
    real = torch.tensor([[True, False, True]])
    grown, static = KeyValueCache(2, 1, 2, 4, 1), KeyValueCache(2, 1, 2, 4, 8, static=True)
    openings = []
    for cache in (grown, static):
        fill(cache, real)
        opening = cache.open_step()
        for layer in range(2):
            cache.write(opening, layer, torch.full((1, 1, 4, 4), 7.0))
        cache.close_step()
        openings.append(opening)
    assert [opening.keys[0].shape[2] for opening in openings] == [4, 8]
    torch.testing.assert_close(grown.memory[:, :, :, :4], static.memory[:, :, :, :4])
    torch.testing.assert_close(openings[0].bias, openings[1].bias[..., :4])
    assert bool((openings[1].bias[..., 4:] < 0).all())


def test_a_full_static_cache_says_so():
    cache = KeyValueCache(1, 1, 2, 4, 2, static=True)
    with pytest.raises(LimitError, match="holds 2 positions"):
        cache.open_block(torch.ones(1, 3, dtype=torch.bool))


def test_keep_takes_rows_out_everywhere():
    cache = KeyValueCache(1, 3, 2, 4, 4)
    fill(cache, torch.tensor([[True, True], [False, True], [True, True]]))
    third = cache.memory[0, 2].clone()
    cache.keep(torch.tensor([2]))
    assert cache.rows == 1
    torch.testing.assert_close(cache.memory[0, 0], third)
    assert cache.positions.tolist() == [[2]]


def test_reset_empties_in_place():
    cache = KeyValueCache(1, 1, 2, 4, 4, static=True)
    memory = cache.memory.data_ptr()
    fill(cache, torch.ones(1, 2, dtype=torch.bool))
    cache.reset()
    assert (cache.length, cache.positions.item(), cache.slot.item()) == (0, 0, 0)
    assert cache.memory.data_ptr() == memory and bool((cache.bias < 0).all())
