"""The key-value cache: what is written is read, rows may leave, memory grows only when it must."""

import pytest
import torch

from genmm.core.errors import LimitError
from genmm.nn.cache import KeyValueCache


def fill(cache: KeyValueCache, real: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Write one block of random keys (values are their negatives) into every layer."""
    keys = torch.randn(cache.rows, 2, real.shape[1], 4, generator=torch.Generator().manual_seed(seed))
    cache.open_block(real)
    seen = [cache.write(layer, keys, -keys) for layer in range(len(cache.keys))]
    cache.close_block(real)
    return seen[-1]


def test_positions_count_real_tokens_of_each_row():
    cache = KeyValueCache(1, 2, 2, 4, 10)
    real = torch.tensor([[False, True, True], [True, True, True]])
    positions, bias = cache.open_block(real)
    assert positions.tolist() == [[0, 0, 1], [0, 1, 2]]
    assert (bias == 0).int().tolist()[0][0] == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    cache.close_block(real)
    assert cache.open_step().tolist() == [[2], [3]]
    cache.close_step()
    assert (cache.step_bias() == 0).int().tolist() == [[[[0, 1, 1, 1]]], [[[1, 1, 1, 1]]]]


def test_no_bias_is_needed_without_gaps():
    cache = KeyValueCache(1, 1, 2, 4, 10)
    fill(cache, torch.ones(1, 3, dtype=torch.bool))
    cache.open_step()
    assert cache.step_bias() is None


def test_static_and_growing_cache_hold_the_same():
    real = torch.tensor([[True, False, True]])
    grown, static = KeyValueCache(2, 1, 2, 4, 1), KeyValueCache(2, 1, 2, 4, 8, static=True)
    fill(grown, real)
    fill(static, real)
    for cache in (grown, static):
        cache.open_step()
        for layer in range(2):
            step = torch.full((1, 2, 1, 4), 7.0)
            keys, values = cache.write(layer, step, step)
        cache.close_step()
    assert keys.shape[2] == 8
    torch.testing.assert_close(grown.keys[:, :, :, :4], static.keys[:, :, :, :4])
    torch.testing.assert_close(grown.step_bias(), static.step_bias()[..., :4])
    assert grown.capacity >= 4


def test_a_full_static_cache_says_so():
    cache = KeyValueCache(1, 1, 2, 4, 2, static=True)
    with pytest.raises(LimitError, match="holds 2 positions"):
        cache.open_block(torch.ones(1, 3, dtype=torch.bool))


def test_keep_takes_rows_out_everywhere():
    cache = KeyValueCache(1, 3, 2, 4, 4)
    keys, _ = fill(cache, torch.tensor([[True, True], [False, True], [True, True]]))
    third = keys[2].clone()
    cache.keep(torch.tensor([2]))
    assert cache.rows == 1
    torch.testing.assert_close(cache.keys[0, 0, :, :2], third)
    assert cache.positions.tolist() == [[2]]


def test_reset_empties_in_place():
    cache = KeyValueCache(1, 1, 2, 4, 4, static=True)
    memory = cache.keys.data_ptr()
    fill(cache, torch.ones(1, 2, dtype=torch.bool))
    cache.reset()
    assert (cache.length, cache.positions.item(), cache.slot.item()) == (0, 0, 0)
    assert cache.keys.data_ptr() == memory and bool((cache.bias < 0).all())
