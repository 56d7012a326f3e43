import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genmm.core.errors import UsageError
from genmm.core.seeds import check_seed, derive_seed, fresh_seed, generators, noise_for


def test_derived_seed_is_the_documented_hash():
    digest = hashlib.sha256(b"3:i:7,6:s:item,3:i:2,").digest()
    assert derive_seed(7, "item", 2) == int.from_bytes(digest[:8], "big") % 2**63


def test_derived_seed_never_changes_between_releases():
    assert derive_seed(0, "a") == 8899349879844987452


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, "a", "bc"), (1, "ab", "c")),
        ((1, 1), (1, "1")),
        ((1, "a"), (2, "a")),
        ((1,), (1, "")),
        ((1, "a,1:b"), (1, "a", "b")),
    ],
)
def test_different_names_give_different_seeds(one, other):
    assert derive_seed(*one) != derive_seed(*other)


@given(st.integers(0, 2**63 - 1), st.lists(st.text() | st.integers(), max_size=4))
def test_derived_seed_is_a_seed(seed, names):
    assert check_seed(derive_seed(seed, *names)) == derive_seed(seed, *names)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "1", True, None])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(UsageError, match="whole number from 0"):
        check_seed(seed)
    with pytest.raises(UsageError):
        derive_seed(seed)


def test_names_are_texts_or_numbers():
    with pytest.raises(UsageError, match="seed name"):
        derive_seed(1, 1.5)


def test_fresh_seeds_differ_and_are_short():
    seeds = {fresh_seed() for _ in range(50)}
    assert len(seeds) > 45
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_row_depends_on_its_own_seed_alone():
    batch = noise_for([5, 6, 7], (3, 4))
    assert batch.shape == (3, 3, 4)
    assert batch.dtype == torch.float32
    for row, seed in enumerate([5, 6, 7]):
        assert torch.equal(batch[row], noise_for([seed], (3, 4))[0])
    assert not torch.equal(batch[0], batch[1])


def test_noise_for_nobody_is_empty():
    assert noise_for([], (2, 3)).shape == (0, 2, 3)


def test_noise_is_standard_normal():
    noise = noise_for(range(4), (50_000,))
    assert noise.mean().abs() < 0.01
    assert (noise.var() - 1).abs() < 0.02


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    noise_for([1, 2], (10,))
    generators([3])
    assert torch.equal(before, torch.get_rng_state())
