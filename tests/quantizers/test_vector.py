"""VectorQuantize against the package it stands in for: results, gradients, a seeded step of training, state dicts."""

import pytest
import torch
import vector_quantize_pytorch as package

from genmm.core.errors import ConfigError, ShapeError, UsageError
from genmm.quantizers import VectorQuantize
from genmm.quantizers.vector_codebook import Codebook

OPTIONS = {
    "plain": {},
    "cosine": {"use_cosine_sim": True},
    "projected": {"codebook_dim": 4},
    "normed": {"codebook_dim": 4, "layernorm_after_project_in": True},
    "heads": {"heads": 4, "codebook_dim": 4},
    "heads apart": {"heads": 4, "codebook_dim": 4, "separate_codebook_per_head": True},
    "straight through": {"rotation_trick": False},
    "decay and eps": {"decay": 0.95, "eps": 1e-3},
    "dead codes": {"threshold_ema_dead_code": 2},
    "dead codes of heads": {"threshold_ema_dead_code": 2, "heads": 2, "separate_codebook_per_head": True},
    "dead cosine codes": {"threshold_ema_dead_code": 2, "use_cosine_sim": True},
    "k-means": {"kmeans_init": True, "kmeans_iters": 3},
    "cosine k-means": {"kmeans_init": True, "use_cosine_sim": True},
    "frozen": {"freeze_codebook": True},
    "learnable": {"learnable_codebook": True, "ema_update": False},
    "no commitment": {"commitment_weight": 0.0},
    "commitment": {"commitment_weight": 0.25},
    "affine": {"affine_param": True},
    "cross entropy": {"commitment_use_cross_entropy_loss": True},
    "drawn": {"stochastic_sample_codes": True, "sample_codebook_temp": 0.5},
    "gumbel": {"stochastic_sample_codes": True, "straight_through": True, "rotation_trick": False},
    "orthogonal": {"orthogonal_reg_weight": 0.1},
    "diverse": {"codebook_diversity_loss_weight": 0.1},
    "synchronous": {"sync_update_v": 0.3, "learnable_codebook": True, "ema_update": False},
    "directional": {"directional_reparam": True, "threshold_ema_dead_code": 2},
    "in place": {
        "learnable_codebook": True,
        "ema_update": False,
        "in_place_codebook_optimizer": lambda parameters: torch.optim.SGD(parameters, 0.1),
    },
}
LAYOUTS = {
    "sequence": ({}, (3, 20, 16)),
    "vectors": ({}, (50, 16)),
    "channels first": ({"channel_last": False}, (3, 16, 20)),
    "image": ({"accept_image_fmap": True}, (2, 16, 5, 4)),
    "volume": ({"accept_3d_fmap": True}, (2, 16, 3, 2, 4)),
}


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded_run(make, x, *, train=True, steps=2, **call):
    """Everything that a few steps give: results, gradients of input and parameters, state, generator."""
    torch.manual_seed(0)
    module = make().train(train)
    torch.manual_seed(1)
    found = []
    for step in range(steps):
        source = (x + 0.1 * step).requires_grad_()
        quantised, ids, loss, *rest = module(source, **call)
        found += [quantised, ids, loss]
        if train:
            wanted = [source, *module.parameters()]
            found += torch.autograd.grad(quantised.square().sum() + loss.sum(), wanted, allow_unused=True)
    return found, module.state_dict(), torch.rand(())


def assert_same_run(make_theirs, make_ours, x, **call):
    (theirs, their_state, their_draw), (ours, our_state, our_draw) = (
        seeded_run(make, x, **call) for make in (make_theirs, make_ours)
    )
    assert list(their_state) == list(our_state)
    assert their_draw == our_draw  # as many random numbers were used
    for mine, other in zip(ours + list(our_state.values()), theirs + list(their_state.values()), strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, atol=5e-5, rtol=1e-3)


def both(**options):
    return lambda: package.VectorQuantize(**options), lambda: VectorQuantize(**options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_steps_of_training_are_those_of_the_package(options):
    assert_same_run(*both(dim=16, codebook_size=24, **options), vectors(3, 40, 16))


@pytest.mark.parametrize("options", [one for name, one in OPTIONS.items() if name != "affine"])
def test_eval_gives_what_the_package_gives(options):
    assert_same_run(*both(dim=16, codebook_size=24, **options), vectors(3, 40, 16), train=False)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("options", "shape"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_is_that_of_the_package(options, shape, train):
    assert_same_run(*both(dim=16, codebook_size=24, **options), vectors(*shape), train=train)
    many = {**options, "heads": 2, "codebook_dim": 4}
    assert_same_run(*both(dim=16, codebook_size=24, **many), vectors(*shape), train=train)


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("padding", [{"mask": vectors(3, 40, seed=5) > -0.5}, {"lens": torch.tensor([40, 3, 0])}])
@pytest.mark.parametrize("name", ["plain", "dead codes", "k-means", "straight through", "learnable", "drawn"])
def test_masks_are_those_of_the_package(name, padding, zeros):
    options = {**OPTIONS[name], "return_zeros_for_masked_padding": zeros}
    assert_same_run(*both(dim=16, codebook_size=12, **options), vectors(3, 40, 16), **padding)


@pytest.mark.parametrize(
    "call",
    [
        {"freeze_codebook": True},
        {"ema_update": False},
        {"ema_update_weight": 0.5},
        {"ema_update_weight": lambda sums, counts: counts / 100},
        {"accum_ema_update": True},
        {"topk": 3},
        {"sample_codebook_temp": 0.0},
        {"return_loss_breakdown": True},
    ],
)
def test_arguments_of_a_call_do_what_they_do_in_the_package(call):
    assert_same_run(*both(dim=16, codebook_size=24), vectors(3, 40, 16), **call)


def test_breakdown_has_the_parts_of_the_package():
    theirs, ours = (make() for make in both(dim=16, codebook_size=24, commitment_weight=0.5))
    ours.load_state_dict(theirs.state_dict())
    *_, expected = theirs(vectors(2, 9, 16), return_loss_breakdown=True)
    *_, found = ours(vectors(2, 9, 16), return_loss_breakdown=True)
    assert found._fields == expected._fields
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_cross_entropy_on_given_codes_is_that_of_the_package():
    theirs, ours = (make().eval() for make in both(dim=16, codebook_size=24))
    ours.load_state_dict(theirs.state_dict())
    ids = torch.arange(18).view(2, 9)
    _, expected = theirs(vectors(2, 9, 16), indices=ids)
    _, found = ours(vectors(2, 9, 16), indices=ids)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["plain", "cosine", "heads apart", "learnable", "normed"])
def test_state_dicts_go_both_ways(name):
    x = vectors(3, 40, 16)
    theirs, ours = (make() for make in both(dim=16, codebook_size=24, **OPTIONS[name]))
    theirs(x)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x)[0], theirs.eval()(x)[0])
    ours.train()(x)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours.eval()(x)[0], theirs.eval()(x)[0])


@pytest.mark.parametrize("name", ["plain", "projected", "heads", "heads apart"])
def test_ids_lead_back_to_the_result(name):
    quantizer = VectorQuantize(dim=16, codebook_size=24, **OPTIONS[name]).eval()
    quantised, ids, _ = quantizer(vectors(3, 40, 16))
    torch.testing.assert_close(quantizer.get_output_from_indices(ids), quantised)
    assert quantizer.get_codes_from_indices(ids).shape == (3, 40, quantizer.heads * quantizer.codebook.shape[-1])
    assert not quantizer.get_codes_from_indices(torch.full_like(ids, -1)).any()


@pytest.mark.parametrize(("options", "shape"), LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("heads", [{}, {"heads": 2, "separate_codebook_per_head": True}])
def test_codes_of_ids_are_those_of_the_package(options, shape, heads):
    theirs, ours = (make().eval() for make in both(dim=16, codebook_size=24, **options, **heads))
    ours.load_state_dict(theirs.state_dict())
    _, ids, _ = ours(vectors(*shape))
    if ids.ndim > 1 or not heads:
        assert torch.equal(ours.get_codes_from_indices(ids), theirs.get_codes_from_indices(ids))


@pytest.mark.parametrize("trick", [True, False])
def test_training_gives_the_code_itself(trick):
    quantizer = VectorQuantize(dim=16, codebook_size=24, rotation_trick=trick)
    before = quantizer.codebook.clone()
    quantised, ids, _ = quantizer(vectors(3, 40, 16).requires_grad_())
    assert torch.equal(quantised, before[ids])


@pytest.mark.parametrize("name", ["cosine", "projected", "heads", "heads apart", "normed"])
def test_masked_step_is_the_step_of_what_counts(name):
    torch.manual_seed(0)
    masked, packed = (VectorQuantize(dim=16, codebook_size=24, **OPTIONS[name]) for _ in range(2))
    packed.load_state_dict(masked.state_dict())
    x, mask = vectors(3, 40, 16), vectors(3, 40, seed=5) > 0
    padded = torch.where(mask.unsqueeze(-1), x, torch.full_like(x, torch.nan))  # padding may hold anything
    quantised, ids, loss = masked(padded, mask=mask)
    expected, expected_ids, expected_loss = packed(x[mask].unsqueeze(0))
    torch.testing.assert_close(loss, expected_loss)
    torch.testing.assert_close(quantised[mask], expected[0])
    assert torch.equal(ids[mask], expected_ids[0])
    for mine, other in zip(masked.state_dict().values(), packed.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("name", ["plain", "cosine", "projected", "heads", "heads apart"])
def test_averages_can_be_moved_by_ids_afterwards(name):
    torch.manual_seed(0)
    at_once, later = (VectorQuantize(dim=16, codebook_size=24, **OPTIONS[name]) for _ in range(2))
    later.load_state_dict(at_once.state_dict())
    x, mask = vectors(3, 40, 16), vectors(3, 40, seed=5) > 0
    at_once(x, mask=mask)
    _, ids, _ = later(x, mask=mask, freeze_codebook=True)
    later.update_indices(x, ids, mask=mask)
    for mine, other in zip(later.state_dict().values(), at_once.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("options", [{}, {"use_cosine_sim": True}, {"learnable_codebook": True, "ema_update": False}])
def test_training_keeps_nothing_of_the_size_of_all_distances(options):
    rows, codes, kept = 300, 200, []
    for make in both(dim=4, codebook_size=codes, **options):
        quantizer, sizes = make(), [0]
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=sizes: to.append(t.numel()) or t, lambda t: t):
            quantizer(vectors(1, rows, 4).requires_grad_())
        kept.append(max(sizes))
    assert kept[0] >= rows * codes and kept[1] <= max(rows, codes) * 4


# ---------------------------------------------------------------- what is refused, what is allowed


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"codebook_sise": 3}, "codebook_sise"),
        ({"codebook_size": 0}, "codebook_size"),
        ({"codebook_size": "16"}, "codebook_size must be whole"),
        ({"heads": 0}, "heads"),
        ({"decay": 1.5}, "decay"),
        ({"kmeans_init": True, "kmeans_iters": 0}, "kmeans_iters"),
        ({"straight_through": True}, "rotation_trick=False"),
        ({"learnable_codebook": True}, "ema_update=False"),
        ({"use_cosine_sim": True, "affine_param": True}, "affine_param"),
        ({"use_cosine_sim": True, "learnable_codebook": True, "ema_update": False}, "use_cosine_sim"),
        ({"directional_reparam": True}, "threshold_ema_dead_code"),
        ({"sync_update_v": 0.5}, "sync_update_v"),
    ],
)
def test_arguments_that_cannot_be_are_refused_by_name(options, word):
    with pytest.raises(ConfigError, match=word):
        VectorQuantize(**{"dim": 16, "codebook_size": 8, **options})


def test_missing_sizes_are_refused():
    with pytest.raises(ConfigError, match="codebook_size"):
        VectorQuantize(16)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("train", [True, False])
def test_vectors_that_are_not_finite_are_refused_and_change_nothing(bad, train):
    quantizer = VectorQuantize(dim=4, codebook_size=8).train(train)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    x = vectors(2, 5, 4)
    x[1, 2, 3] = bad
    with pytest.raises(UsageError, match="finite"):
        quantizer(x)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_the_look_for_nan_can_be_left_out():
    quantizer = VectorQuantize(dim=4, codebook_size=8).eval()
    quantizer.check_finite = False
    _, ids, _ = quantizer(torch.full((2, 5, 4), torch.nan))
    assert ((ids >= 0) & (ids < 8)).all()


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (2, 5, 3)),
        ({}, (4,)),
        ({}, (2, 4, 5, 5)),
        ({"channel_last": False}, (2, 5, 4)),
        ({"accept_image_fmap": True}, (2, 5, 4)),
    ],
)
def test_wrong_shapes_are_refused(options, shape):
    with pytest.raises(ShapeError, match="width 4"):
        VectorQuantize(dim=4, codebook_size=8, **options)(vectors(*shape))


@pytest.mark.parametrize(
    "call",
    [
        {"mask": torch.ones(2, 5, dtype=torch.bool), "lens": torch.tensor([5, 5])},
        {"mask": torch.ones(2, 4, dtype=torch.bool)},
        {"mask": torch.ones(2, 5)},
    ],
)
def test_wrong_masks_are_refused(call):
    with pytest.raises(UsageError, match="mask"):
        VectorQuantize(dim=4, codebook_size=8)(vectors(2, 5, 4), **call)


@pytest.mark.parametrize(
    "options", [{}, {"heads": 2}, {"use_cosine_sim": True}, {"kmeans_init": True}, {"codebook_dim": 2}]
)
@pytest.mark.parametrize("shape", [(0, 5, 4), (2, 0, 4), (0, 4)])
def test_no_vectors_give_no_codes_and_a_loss_of_zero(options, shape):
    quantizer = VectorQuantize(dim=4, codebook_size=8, threshold_ema_dead_code=1, **options)
    x = vectors(*shape).requires_grad_()
    quantised, ids, loss = quantizer(x)
    assert quantised.shape == x.shape and ids.shape[: x.ndim - 1] == x.shape[:-1] and loss == 0
    (quantised.sum() + loss).backward()
    assert all(value.isfinite().all() for value in quantizer.state_dict().values())


def test_a_batch_masked_throughout_gives_a_loss_of_zero_and_finite_gradients():
    quantizer = VectorQuantize(dim=4, codebook_size=8, threshold_ema_dead_code=1)
    x = vectors(2, 5, 4).requires_grad_()
    quantised, ids, loss = quantizer(x, mask=torch.zeros(2, 5, dtype=torch.bool))
    (quantised.sum() + loss).backward()
    assert loss == 0 and (ids == -1).all() and not quantised.any() and not x.grad.any()


def test_k_means_waits_for_vectors():
    quantizer = VectorQuantize(dim=4, codebook_size=3, kmeans_init=True)
    quantizer(vectors(0, 5, 4))
    assert not quantizer._codebook.initted
    quantizer(vectors(2, 50, 4))
    assert quantizer._codebook.initted and quantizer.codebook.norm(dim=-1).min() > 0
    quantizer.load_state_dict(VectorQuantize(dim=4, codebook_size=3, kmeans_init=True).state_dict())
    quantizer(vectors(2, 50, 4))  # a state that was never started is started again
    assert quantizer._codebook.initted


def test_one_code_takes_everything():
    quantizer = VectorQuantize(dim=4, codebook_size=1, decay=0.0, eps=0.0)
    x = vectors(2, 500, 4)
    _, ids, _ = quantizer(x)
    assert not ids.any()
    torch.testing.assert_close(quantizer.codebook[0], x.flatten(0, 1).mean(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_come_back_as_they_came(dtype):
    quantizer = VectorQuantize(dim=4, codebook_size=8)
    x = vectors(2, 5, 4).to(dtype).requires_grad_()
    quantised, _, loss = quantizer(x)
    (quantised.sum() + loss).backward()
    assert quantised.dtype == dtype and x.grad.dtype == dtype and quantizer.codebook.dtype == torch.float32


def test_autocast_does_not_touch_the_search():
    quantizer = VectorQuantize(dim=16, codebook_size=64).eval()
    x = vectors(4, 100, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(x)[1], quantizer(x)[1])
        ids = quantizer(x)[1]
    assert torch.equal(ids, quantizer(x)[1])


def test_only_our_codebook_is_inside():
    assert type(VectorQuantize(dim=4, codebook_size=8)._codebook) is Codebook
