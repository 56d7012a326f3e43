"""Attention and its neighbours: fast forms against plain ones, masks that leak nothing."""

import pytest
import torch
import torch.nn.functional as F

from genmm.nn.attention import GroupedAttention, RMSNorm, SwiGLU, attend, attend_plain, causal_bias, repeat_heads
from genmm.nn.rotary import rotary_angles


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_fused_and_the_written_out_attention_agree():
    query, key, value = (normal(2, 4, 6, 8, seed=seed) for seed in range(3))
    bias = causal_bias(torch.tensor([[True] * 6, [False, False, True, True, True, False]]))
    with torch.no_grad():
        fused = attend(query, key, value, bias)
    torch.testing.assert_close(fused, attend_plain(query, key, value, bias), atol=1e-5, rtol=1e-5)


def test_bias_allows_the_past_and_oneself_only():
    allowed = causal_bias(torch.tensor([[False, True, True]]))[0, 0] == 0
    expected = torch.tensor([[True, False, False], [False, True, False], [False, True, True]])
    assert torch.equal(allowed, expected)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_attention_equals_a_loop_over_heads(kv_heads):
    torch.manual_seed(0)
    layer, x = GroupedAttention(12, 4, kv_heads, 6), normal(2, 5, 12)
    cosine, sine = rotary_angles(torch.arange(5), 6)
    bias = causal_bias(torch.ones(2, 5, dtype=torch.bool))
    from genmm.nn.rotary import rotate

    rows = []
    for batch in range(2):
        heads = []
        for head in range(4):
            group = head // (4 // kv_heads)
            pick, pick_group = slice(6 * head, 6 * head + 6), slice(6 * group, 6 * group + 6)
            query = rotate((x[batch] @ layer.q_proj.weight[pick].T)[None, None], cosine, sine)[0, 0]
            key = rotate((x[batch] @ layer.k_proj.weight[pick_group].T)[None, None], cosine, sine)[0, 0]
            value = x[batch] @ layer.v_proj.weight[pick_group].T
            scores = (query @ key.T) / 6**0.5
            scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
            heads.append(scores.softmax(-1) @ value)
        rows.append(torch.cat(heads, dim=-1) @ layer.o_proj.weight.T)
    torch.testing.assert_close(layer(x, cosine, sine, bias), torch.stack(rows), atol=1e-5, rtol=1e-5)


def test_later_positions_and_padding_change_nothing_earlier():
    torch.manual_seed(0)
    layer, x = GroupedAttention(8, 2, 1, 4), normal(1, 6, 8)
    mask = torch.tensor([[False, True, True, True, True, True]])
    angles = rotary_angles(torch.arange(6), 4)
    before = layer(x, *angles, causal_bias(mask))
    changed = x.clone()
    changed[:, 0] = 9.0
    changed[:, 4:] = -9.0
    after = layer(changed, *angles, causal_bias(mask))
    torch.testing.assert_close(after[:, 1:4], before[:, 1:4])
    assert after.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_and_its_written_out_gradient_equal_torch(dtype):
    norm = RMSNorm(16, 1e-6).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(normal(16, seed=3))
    x = normal(3, 5, 16).to(dtype).requires_grad_()
    grad = normal(3, 5, 16, seed=1).to(dtype)
    norm(x).backward(grad)
    ours = x.grad.clone(), norm.weight.grad.clone()
    x.grad, norm.weight.grad = None, None
    F.rms_norm(x, (16,), norm.weight, 1e-6).backward(grad)
    torch.testing.assert_close(ours, (x.grad, norm.weight.grad))


def test_rms_norm_gradient_equals_finite_differences():
    from genmm.nn.attention import _RMSNormFunction

    x, weight = normal(2, 4).double().requires_grad_(), normal(4, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: _RMSNormFunction.apply(a, b, 1e-6), (x, weight))


def test_swiglu_is_its_formula():
    torch.manual_seed(0)
    layer, x = SwiGLU(6, 10), normal(2, 6)
    gate, up = x @ layer.gate_proj.weight.T, x @ layer.up_proj.weight.T
    torch.testing.assert_close(layer(x), (gate * gate.sigmoid() * up) @ layer.down_proj.weight.T)


def test_repeat_heads_keeps_groups_together():
    grouped = torch.arange(2.0).view(1, 2, 1, 1)
    assert repeat_heads(grouped, 6).flatten().tolist() == [0, 0, 0, 1, 1, 1]
