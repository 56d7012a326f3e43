"""ResidualVQ against the package it stands in for."""

import pytest
import torch
import vector_quantize_pytorch as package
from torch import nn

from genmm.core.errors import ConfigError, ShapeError, UsageError
from genmm.quantizers import ResidualVQ, VectorQuantize

OPTIONS = {
    "plain": {},
    "cosine": {"use_cosine_sim": True},
    "projected": {"codebook_dim": 4},
    "shared": {"shared_codebook": True},
    "dropout": {"quantize_dropout": True},
    "dropout from": {"quantize_dropout": True, "quantize_dropout_cutoff_index": 2},
    "dropout by two": {"quantize_dropout": True, "quantize_dropout_multiple_of": 2},
    "straight through": {"rotation_trick": False},
    "gradients": {"quant_grad_frac": 0.5},
    "dead codes": {"threshold_ema_dead_code": 1},
    "learnable": {"learnable_codebook": True, "ema_update": False},
    "sizes": {"codebook_size": (5, 12, 24)},
    "drawn": {"stochastic_sample_codes": True},
    "neural": {"implicit_neural_codebook": True, "mlp_kwargs": {"depth": 1}},
    "beam": {"beam_size": 2},
    "diveq": {"diveq": True},
}
MASK = torch.randn(3, 40, generator=torch.Generator().manual_seed(5)) > -0.5


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(cls, options):
    return cls(
        **{"dim": 16, "codebook_size": 24, **({} if "codebook_size" in options else {"num_quantizers": 4}), **options}
    )


def seeded_run(cls, options, x, *, train, steps, **call):
    torch.manual_seed(0)
    module = built(cls, options).train(train)
    torch.manual_seed(1)
    found = []
    for step in range(steps):
        source = (x + 0.1 * step).requires_grad_()
        results = module(source, **call)
        found += results
        if train:
            wanted = [source, *module.parameters()]
            found += torch.autograd.grad(results[0].square().sum() + results[2].sum(), wanted, allow_unused=True)
    return [*found, *module.state_dict().values(), torch.rand(())]


def assert_same_run(options, x, *, train=True, steps=2, **call):
    theirs, ours = (
        seeded_run(cls, options, x, train=train, steps=steps, **call) for cls in (package.ResidualVQ, ResidualVQ)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_steps_of_training_are_those_of_the_package(options):
    assert_same_run(options, vectors(3, 40, 16), steps=1 if options.get("threshold_ema_dead_code") else 2)


@pytest.mark.parametrize("call", [{}, {"mask": MASK}, {"return_all_codes": True}], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_eval_gives_what_the_package_gives(options, call):
    assert_same_run(options, vectors(3, 40, 16), train=False, steps=1, **call)


@pytest.mark.parametrize(
    "name", ["plain", "projected", "straight through", "dropout", "shared", "learnable", "sizes", "gradients"]
)
@pytest.mark.parametrize("zeros", [True, False])
def test_masked_training_is_that_of_the_package(name, zeros):
    options = {**OPTIONS[name], "return_zeros_for_masked_padding": zeros}
    if name == "projected" and not zeros:
        return  # the package puts 16-wide padding between 4-wide codes there
    assert_same_run(options, vectors(3, 40, 16), steps=1, mask=MASK)


def test_k_means_start_is_that_of_the_package():
    assert_same_run({"kmeans_init": True, "codebook_size": (6, 6)}, vectors(3, 200, 16), steps=1)


def test_frozen_call_and_fixed_dropout_are_those_of_the_package():
    assert_same_run(OPTIONS["dropout"], vectors(2, 9, 16), freeze_codebook=True, rand_quantize_dropout_fixed_seed=3)


def test_dead_codes_of_a_shared_codebook_come_from_all_that_counts():
    torch.manual_seed(0)
    quantizer = built(ResidualVQ, {"shared_codebook": True, "threshold_ema_dead_code": 1000, "num_quantizers": 1})
    x, mask = vectors(3, 40, 16), MASK
    quantizer(torch.where(mask.unsqueeze(-1), x, torch.full_like(x, 9.0)), mask=mask)
    distance = torch.cdist(quantizer.codebooks[0], x[mask], compute_mode="donot_use_mm_for_euclid_dist")
    found = distance.min(-1)
    assert found.values.max() < 1e-5
    assert len(set(MASK.nonzero()[found.indices][:, 0].tolist())) == 3  # of every item, not of the first alone


def test_state_dicts_go_both_ways():
    x = vectors(3, 40, 16)
    theirs, ours = (built(cls, OPTIONS["projected"]) for cls in (package.ResidualVQ, ResidualVQ))
    theirs(x)
    ours.load_state_dict(theirs.state_dict())
    ours(x)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours.eval()(x)[1], theirs.eval()(x)[1])


@pytest.mark.parametrize("name", ["plain", "projected", "cosine", "sizes", "shared"])
def test_ids_lead_back_to_the_result(name):
    quantizer = built(ResidualVQ, OPTIONS[name]).eval()
    quantised, ids, losses, codes = quantizer(vectors(3, 40, 16), return_all_codes=True)
    torch.testing.assert_close(quantizer.get_output_from_indices(ids), quantised)
    torch.testing.assert_close(quantizer.project_out(codes.sum(0)), quantised)
    assert not losses.any() and losses.shape == (quantizer.num_quantizers,)


def test_one_search_gives_what_level_by_level_gives():
    quantizer = built(ResidualVQ, {}).eval()
    x = vectors(3, 40, 16)
    at_once = quantizer(x)
    levels = quantizer(x, mask=torch.ones(3, 40, dtype=torch.bool))
    assert torch.equal(at_once[1], levels[1])
    torch.testing.assert_close(at_once[0], levels[0])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("options", "shape"), [({"accept_image_fmap": True}, (2, 16, 5, 4)), ({"channel_last": False}, (2, 16, 20))]
)
def test_maps_and_channels_first_are_the_same_vectors(options, shape, train):
    torch.manual_seed(0)
    flat = built(ResidualVQ, {}).train(train)
    other = built(ResidualVQ, options).train(train)
    other.load_state_dict(flat.state_dict())
    x = vectors(*shape)
    expected, expected_ids, _ = flat(x.flatten(2).transpose(1, 2))
    found, ids, _ = other(x)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected)
    assert torch.equal(ids.flatten(1, -2), expected_ids) and ids.shape[:-1] == (shape[0], *shape[2:])


def test_all_levels_are_ours():
    assert all(type(level) is VectorQuantize for level in built(ResidualVQ, {}).layers)


def test_a_model_with_it_learns():
    torch.manual_seed(0)
    inward, outward, x = nn.Linear(6, 16), nn.Linear(16, 6), vectors(4, 64, 6)
    quantizer = built(ResidualVQ, {"kmeans_init": True})
    optimizer = torch.optim.Adam([*inward.parameters(), *outward.parameters()], 3e-3)
    losses = []
    for _ in range(60):
        quantised, _, commitment = quantizer(inward(x))
        loss = (outward(quantised) - x).square().mean() + 0.1 * commitment.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"heads": 2}, "heads"),
        ({"num_quantizers": 0}, "num_quantizers"),
        ({"num_quantizers": None}, "num_quantizers"),
        ({"codebook_size": (8, 8, 8)}, "num_quantizers=2"),
        ({"codebook_size": (8, 9), "shared_codebook": True}, "shared_codebook"),
        ({"eval_beam_size": 2}, "beam_size"),
        ({"decay": 2.0}, "decay"),
        ({"learnable_codebook": True}, "ema_update"),
    ],
)
def test_arguments_that_cannot_be_are_refused_by_name(options, word):
    with pytest.raises(ConfigError, match=word):
        ResidualVQ(**{"dim": 4, "num_quantizers": 2, "codebook_size": 8, **options})


@pytest.mark.parametrize("train", [True, False])
def test_bad_vectors_are_refused_and_none_are_allowed(train):
    quantizer = ResidualVQ(dim=4, num_quantizers=2, codebook_size=8).train(train)
    with pytest.raises(UsageError, match="finite"):
        quantizer(torch.full((2, 5, 4), torch.nan))
    with pytest.raises(ShapeError, match="width 4"):
        quantizer(torch.zeros(2, 5, 3))
    with pytest.raises(UsageError, match="level"):
        quantizer(torch.zeros(2, 5, 4), indices=torch.zeros(2, 5, 2, dtype=torch.int64))
    quantised, ids, losses = quantizer(torch.zeros(2, 0, 4))
    assert quantised.shape == (2, 0, 4) and ids.shape == (2, 0, 2) and not losses.any()


def test_half_types_choose_the_same_codes_with_and_without_a_mask():
    torch.manual_seed(0)
    ours = ResidualVQ(dim=16, num_quantizers=8, codebook_size=32).eval().bfloat16()
    x = torch.randn(2, 200, 16, dtype=torch.bfloat16)
    everything = torch.ones(2, 200, dtype=torch.bool)
    assert torch.equal(ours(x)[1], ours(x, mask=everything)[1])


def test_codes_that_learn_by_gradient_get_one_in_eval_mode_too():
    ours = ResidualVQ(dim=8, num_quantizers=2, codebook_size=16, learnable_codebook=True, ema_update=False).eval()
    assert ours(torch.randn(1, 20, 8))[0].requires_grad
    with torch.no_grad():
        assert not ours(torch.randn(1, 20, 8))[0].requires_grad
