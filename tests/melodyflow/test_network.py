"""The flow network: the zero key, the null branch, prepared prompts, joint batches."""

import pytest
import torch

from genmm.core.errors import CheckpointError, ConfigError, ShapeError, UsageError
from genmm.samplers.guidance import Guidance
from genmm.systems.melodyflow.config import FlowConfig
from genmm.systems.melodyflow.network import FlowNetwork, from_official_names, joined
from genmm.systems.melodyflow.velocity import PromptedFlow
from genmm.systems.melodyflow.zero_key import (
    attend_with_explicit_zero,
    attend_with_zero,
    attend_with_zero_plain,
    mask_bias,
)

SIZES = {"dim": 32, "latent_dim": 8, "num_heads": 4, "num_layers": 6, "hidden_scale": 2, "cond_dim": 12}


def network(**more) -> FlowNetwork:
    torch.manual_seed(1)
    return FlowNetwork(FlowConfig(**SIZES, **more)).eval().requires_grad_(False)


def heads(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("masked", [False, True])
def test_the_identity_equals_an_explicit_zero_key(masked):
    query, key, value = heads(2, 3, 7, 8) * 3, heads(2, 3, 5, 8), heads(2, 3, 5, 8)
    bias = mask_bias(torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])) if masked else None
    expected = attend_with_explicit_zero(query, key, value, bias)
    torch.testing.assert_close(attend_with_zero_plain(query, key, value, bias), expected, atol=2e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(attend_with_zero(query, key, value, bias), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("number", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernels_of_a_gpu_agree_with_the_written_out_form(number, masked):
    parts = [heads(2, 3, 70, 16), heads(2, 3, 37, 16), heads(2, 3, 37, 16)]
    bias = mask_bias(torch.cat((torch.ones(2, 20), torch.zeros(2, 17)), 1)).cuda() if masked else None
    expected = attend_with_zero_plain(*(part.cuda() for part in parts), bias)
    with torch.no_grad():
        ours = attend_with_zero(*(part.cuda().to(number) for part in parts), bias)
    torch.testing.assert_close(ours.float(), expected, atol=3e-2 if number == torch.bfloat16 else 1e-4, rtol=1e-2)


def test_rows_without_any_key_give_exactly_zero_on_both_paths():
    query, key, value = heads(1, 2, 4, 8), heads(1, 2, 3, 8), heads(1, 2, 3, 8)
    bias = mask_bias(torch.zeros(1, 3))
    with torch.no_grad():
        assert not attend_with_zero(query, key, value, bias).any()
    assert not attend_with_zero_plain(query, key, value, bias).any()


def test_the_plain_twin_has_the_gradient_of_the_explicit_key():
    parts = [heads(1, 2, 5, 8), heads(1, 2, 6, 8), heads(1, 2, 6, 8)]
    ours, theirs = ([part.clone().requires_grad_() for part in parts] for _ in range(2))
    attend_with_zero(*ours).square().sum().backward()
    attend_with_explicit_zero(*theirs).square().sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)


def test_without_text_the_text_states_do_not_matter():
    net, x, t = network(), heads(2, 8, 9), torch.tensor([0.3, 0.3])
    empty = torch.zeros(2, 4)
    a = net(x, t, net.condition(heads(2, 4, 12), empty))
    b = net(x, t, net.condition(heads(2, 4, 12) * 5, empty))
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(net(x, t), a)


def test_rows_do_not_touch_each_other_and_padding_changes_nothing():
    net, states, mask = network(), heads(2, 5, 12), torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    x, t = heads(2, 8, 9), torch.tensor([0.4])
    both = net(x, t, net.condition(states, mask))
    alone = net(x[:1], t, net.condition(states[:1, :2], mask[:1, :2]))
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.fbgemm
@pytest.mark.parametrize(("packing", "error"), [("split", 1e-5), ("float16", 2e-3), ("int8", 0.05)])
def test_packed_weights_cost_little_and_can_be_undone(packing, error):
    net, x, t = network(), heads(2, 8, 9), torch.tensor([0.4])
    condition = net.condition(heads(2, 4, 12), torch.ones(2, 4))
    names, exact = list(net.state_dict()), net(x, t, condition)
    net.pack(packing)
    gap = (net(x, t, condition) - exact).norm() / exact.norm()
    assert net.packing == packing and 0 < gap < error
    assert list(net.state_dict()) == names
    net.pack("live")
    assert torch.equal(net(x, t, condition), exact)
    with pytest.raises(UsageError, match="float32 network"):
        net.bfloat16().pack("int8")


def test_guidance_takes_one_call_of_both_branches_and_equals_two():
    net = network()
    condition = net.condition(heads(2, 4, 12), torch.ones(2, 4))
    flow, x = PromptedFlow(net, condition), heads(2, 8, 9)
    both = flow.guided(Guidance(weight=3.0))(x, 0.5)
    assert flow.calls == 1 and flow.rows == 4
    with torch.no_grad():
        apart = 4.0 * net(x, torch.tensor([0.5]), condition) - 3.0 * net(x, torch.tensor([0.5]))
    torch.testing.assert_close(both, apart, atol=1e-4, rtol=1e-4)


def test_negative_text_takes_the_place_of_no_text():
    net = network()
    good, bad = net.condition(heads(1, 4, 12), torch.ones(1, 4)), net.condition(heads(1, 6, 12), torch.ones(1, 6))
    x = heads(1, 8, 9)
    mixed = PromptedFlow(net, good, negative=bad).guided(Guidance(weight=2.0))(x, 0.2)
    with torch.no_grad():
        apart = 3.0 * net(x, torch.tensor([0.2]), good) - 2.0 * net(x, torch.tensor([0.2]), bad)
    torch.testing.assert_close(mixed, apart, atol=1e-4, rtol=1e-4)
    assert joined(good, bad).bias.shape == (2, 1, 1, 6)


def test_copies_of_the_batch_get_the_same_prompts():
    net = network()
    flow = PromptedFlow(net, net.condition(heads(2, 4, 12), torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])))
    x, y = heads(2, 8, 9), heads(2, 8, 9) * 2
    both = flow.conditional(torch.cat((x, y)), 0.6)
    torch.testing.assert_close(both[:2], flow.conditional(x, 0.6), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[2:], flow.conditional(y, 0.6), atol=1e-5, rtol=1e-5)
    with pytest.raises(ShapeError, match="multiple"):
        flow.conditional(torch.cat((x, y))[:3], 0.6)


def test_score_features_reach_their_frames_and_turn_with_the_state():
    net = network(score_features=3, global_text=True)
    score = torch.zeros(1, 9, 3)
    score[0, 2] = 1.0
    condition = net.condition(heads(1, 4, 12), torch.ones(1, 4), score)
    plain = net.condition(heads(1, 4, 12), torch.ones(1, 4), torch.zeros(1, 9, 3))
    changed = (condition.frames - plain.frames).abs().sum(-1)[0]
    assert changed.nonzero().flatten().tolist() == [2]
    turned = PromptedFlow(net, condition).turned(3)
    assert ((turned.prompt.frames - plain.frames).abs().sum(-1)[0]).nonzero().flatten().tolist() == [5]


def test_official_names_drop_the_repeated_rotary_table_only_when_it_is_the_same():
    shared = torch.tensor([1.0, 0.5])
    names = {"transformer.rope.frequencies": shared, "transformer.layers.0.self_attn.rope.frequencies": shared.clone()}
    assert list(from_official_names(names)) == ["transformer.rope.frequencies"]
    names["transformer.layers.0.self_attn.rope.frequencies"] = shared * 2
    with pytest.raises(CheckpointError, match="rotary"):
        from_official_names(names)


@pytest.mark.parametrize("bad", [{"num_heads": 5}, {"dim": 0}, {"num_layers": 1.5}, {"dim": 12, "num_heads": 4}])
def test_impossible_sizes_are_refused(bad):
    with pytest.raises(ConfigError):
        FlowConfig(**{**SIZES, **bad})


def test_other_networks_are_refused_by_name():
    with pytest.raises(ConfigError, match="causal"):
        FlowConfig.from_official({"transformer_lm": {"dim": 32, "causal": True}})


def test_the_released_sizes_have_the_published_number_of_parameters():
    config = FlowConfig()
    dim, layers = config.dim, config.num_layers
    per_layer = 16 * dim * dim + 6 * dim  # attentions 4 + 4, feed-forward 8; three norms
    expected = layers * per_layer + config.skips * 2 * dim * dim + 2 * 128 * dim + 256 * dim + dim * dim + 2 * dim
    expected += 768 * dim + dim + 32 + 2 * 128  # text projection, rotary table, latent statistics
    assert expected == 962_425_632
    tiny = network()
    assert sum(p.numel() for p in tiny.parameters()) == (
        6 * (12 * 32 * 32 + 6 * 32) + 2 * 2 * 32 * 32 + 2 * 8 * 32 + 256 * 32 + 32 * 32 + 2 * 32 + 12 * 32 + 32
    )
