"""Reduction: exact budgets, clips that do not depend on each other, gradients, and every baseline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from genmm.core.errors import DataError, ShapeError, UsageError
from genmm.metrics.video_tokens import id_bits
from genmm.quantizers.adaptive import AdaptiveK
from genmm.systems.vqtoken.baselines import BASELINES, TokenLearner, pool_grid, tome_merge
from genmm.systems.vqtoken.blocks import OccupancyBlock, OfficialBlock, PaperBlock
from genmm.systems.vqtoken.geometry import (
    describe_occupancy,
    description_width,
    geometry_of,
    one_hot,
    shares,
)
from genmm.systems.vqtoken.methods import CLUSTERING_METHODS, METHODS
from genmm.systems.vqtoken.reduced import ReducedVideo, splice
from genmm.systems.vqtoken.reducer import reduce, reduce_clips


def grid(batch: int = 2, frames: int = 5, height: int = 6, width: int = 4, channels: int = 16, seed: int = 0):
    """Tokens around a few directions, with noise, [B, T, H, W, D]."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(9, channels, generator=generator)
    which = torch.randint(9, (batch, frames, height, width), generator=generator)
    return centres[which] + 0.3 * torch.randn(batch, frames, height, width, channels, generator=generator)


def some_block(kind: str, channels: int = 16) -> torch.nn.Module:
    torch.manual_seed(1)
    made = {
        "official": lambda: OfficialBlock(24, channels, 4),
        "paper": lambda: PaperBlock(channels, 4),
        "occupancy": lambda: OccupancyBlock(channels, 4, bins=3, grid=2),
    }[kind]()
    return made.eval()


def test_every_name_is_a_reducer():
    assert METHODS == (*CLUSTERING_METHODS, *BASELINES)


@pytest.mark.parametrize("method", METHODS)
def test_the_budget_is_exact_and_the_map_names_every_cell(method):
    reduced = reduce(grid(), 12, method=method)
    assert reduced.tokens.shape == (2, 12, 16) and reduced.num_tokens.tolist() == [12, 12]
    assert reduced.index_map.min() == 0 and reduced.index_map.max() == 11
    assert reduced.counts.sum(1).tolist() == [120, 120]
    assert reduced.decode().shape == grid().shape


def learner_with_twins() -> TokenLearner:
    """Two of its maps are the same, so that no cell looks at the second of them most."""
    torch.manual_seed(2)
    learner = TokenLearner(16, 12)
    with torch.no_grad():
        for layer in (learner.score[-1], learner.place):
            layer.weight[3], layer.bias[3] = layer.weight[1], layer.bias[1]
    return learner


@pytest.mark.parametrize("method", ["pool", learner_with_twins()], ids=["pool", "learner"])
def test_clusters_without_a_cell_go_behind_and_codes_stay_whole(method):
    tokens = grid(1)
    tokens[:, :3, :2, :2] = float("nan")  # the first block of pooling
    reduced = reduce(tokens, 12, method=method)
    used = int(reduced.mask[0].sum())
    assert used < 12 and reduced.mask[0, :used].all() and int(reduced.index_map.max()) == used - 1
    assert reduced.num_tokens.tolist() == [used if method == "pool" else 12]
    back = ReducedVideo.from_bytes(reduced.to_bytes())
    assert torch.equal(back.index_map, reduced.index_map)
    torch.testing.assert_close(back.decode(), reduced.decode(), atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(reduced.clip(0).decode(), reduced.decode())


@pytest.mark.parametrize("method", METHODS)
def test_an_unusable_frame_takes_no_other_with_it(method):
    tokens = grid(1)
    tokens[:, 0] = float("nan")
    reduced = reduce(tokens, 12, method=method)
    assert (reduced.index_map[0] >= 0).flatten(1).sum(1).tolist() == [0, 24, 24, 24, 24]


def test_the_code_of_a_clip_without_tokens_decodes_to_nothing():
    reduced = reduce(torch.full((1, 2, 3, 3, 4), float("nan")), 5)
    back = ReducedVideo.from_bytes(reduced.to_bytes())
    assert back.decode().shape == (1, 2, 3, 3, 4) and not back.decode().any()


def test_geometry_is_that_of_the_indicator_maps():
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(-1, 5, (2, 4, 3, 6), generator=generator)
    hot, place = one_hot(ids, 6).double(), geometry_of(ids, 6)
    assert torch.equal(place.counts, hot.sum((2, 3, 4)).long()) and not place.counts[:, 5].any()
    safe = place.counts.clamp_min(1)
    for axis, (length, others) in enumerate([(4, (3, 4)), (3, (2, 4)), (6, (2, 3))]):
        along, where = hot.sum(others), (torch.arange(length) + 0.5) / length
        mean = (along * where).sum(-1) / safe
        torch.testing.assert_close(place.positions[..., axis].double(), mean, atol=1e-6, rtol=0)
        spread = ((along * (where - mean.unsqueeze(-1)).square()).sum(-1) / safe).sqrt()
        torch.testing.assert_close(place.spread[..., axis].double(), spread, atol=1e-6, rtol=0)
    assert not place.positions[:, 5].any() and not place.spread[:, 5].any()
    with pytest.raises(ShapeError):
        geometry_of(ids[0], 5)


def test_the_codebook_is_the_mean_of_the_raw_tokens():
    tokens = grid()
    reduced = reduce(tokens, 6)
    for clip in range(2):
        for k in range(6):
            mean = tokens[clip][reduced.index_map[clip] == k].mean(0)
            torch.testing.assert_close(reduced.codebook[clip, k], mean, atol=1e-5, rtol=1e-5)
            assert reduced.counts[clip, k] == (reduced.index_map[clip] == k).sum()


def test_scales_of_the_codebook():
    tokens = grid() * torch.linspace(0.5, 3.0, 5).view(1, 5, 1, 1, 1)
    unit, norm = reduce(tokens, 6, scale="unit"), reduce(tokens, 6, scale="norm")
    members = F.normalize(tokens[0], dim=-1)[unit.index_map[0] == 2]
    torch.testing.assert_close(unit.codebook[0, 2], members.mean(0), atol=1e-5, rtol=1e-5)
    length = tokens[0].norm(dim=-1).mean()
    torch.testing.assert_close(norm.codebook[0].norm(dim=-1), length.expand(6), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", ["raw", "unit", "norm"])
@pytest.mark.parametrize("method", ["kmeans", "k_center", "pool", "tome"])
def test_every_number_format_gives_a_finite_codebook(dtype, scale, method):
    tokens = grid().to(dtype)
    tokens[0, 1, 2, 3] = 0.0
    mask = torch.tensor([[True] * 4 + [False], [True] * 5])
    reduced = reduce(tokens, 6, method=method, scale=scale, frame_mask=mask, block=some_block("occupancy"))
    wide = reduce(tokens.float(), 6, method=method, scale=scale, frame_mask=mask)
    assert torch.isfinite(reduced.codebook).all() and torch.isfinite(reduced.tokens).all()
    torch.testing.assert_close(reduced.codebook.float(), wide.codebook, atol=0.05, rtol=0.02)


def test_half_precision_holds_long_tokens_and_many_merges():
    tokens = grid(1).half()
    tokens[:] = 1000.0 * F.normalize(tokens.float(), dim=-1).half() * 16
    assert (tokens.float().norm(dim=-1) > 15_000).all()
    for method in ("kmeans", "k_center"):
        unit = reduce(tokens, 4, method=method, scale="unit").codebook.float()
        assert (unit.norm(dim=-1) > 0.5).all() and (unit.norm(dim=-1) < 1.01).all()
    for method in ("tome", "pool"):
        made = reduce(10 * torch.ones(1, 16, 32, 32, 4, dtype=torch.float16), 1, method=method)
        torch.testing.assert_close(made.tokens, torch.full_like(made.tokens, 10.0))


def test_autocast_does_not_reach_the_codebook():
    tokens = grid(channels=32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = reduce(tokens, 6)
    assert torch.equal(inside.codebook, reduce(tokens, 6).codebook)


@pytest.mark.parametrize("kind", ["paper", "occupancy", "official"])
def test_a_clip_is_the_same_alone_and_among_others(kind):
    block = some_block(kind)
    short, long = grid(1, frames=3, seed=1), grid(1, frames=5, seed=2)
    both = torch.cat([F.pad(short, (0, 0, 0, 0, 0, 0, 0, 2), value=9.0), long])
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    with torch.no_grad():
        together = reduce(both, 7, block=block, frame_mask=mask)
        alone = reduce(short, 7, block=block)
    assert torch.equal(together.index_map[0, :3], alone.index_map[0])
    assert (together.index_map[0, 3:] == -1).all()
    assert torch.equal(together.token_mask[0], F.pad(alone.token_mask[0], (0, together.tokens.shape[1] - 7)))
    torch.testing.assert_close(together.tokens[0, :7], alone.tokens[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.positions[0], alone.positions[0])


def renamed(index_map: torch.Tensor, codebook: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    order = torch.randperm(codebook.shape[1], generator=torch.Generator().manual_seed(4))
    return order[index_map], codebook[:, order.argsort()], order


@pytest.mark.parametrize("kind", ["paper", "occupancy"])
def test_names_of_clusters_do_not_matter(kind):
    block, reduced = some_block(kind), reduce(grid(), 8)
    index_map, codebook, order = renamed(reduced.index_map, reduced.codebook)
    with torch.no_grad():
        plain, _ = block(reduced.codebook, reduced.index_map, reduced.mask)
        other, _ = block(codebook, index_map, reduced.mask)
    torch.testing.assert_close(other[:, order], plain, atol=1e-5, rtol=1e-4)


def test_the_official_block_depends_on_names_and_gives_a_row_a_frame():
    block, reduced = some_block("official"), reduce(grid(frames=9), 4)
    for name, gain in block.named_parameters():  # they start at about 0, as published, and hide everything
        if "norm" in name and name.endswith("weight"):
            gain.data.fill_(1.0)
    index_map, codebook, order = renamed(reduced.index_map, reduced.codebook)
    with torch.no_grad():
        plain, mask = block(reduced.codebook, reduced.index_map, reduced.mask)
        other, _ = block(codebook, index_map, reduced.mask)
    assert plain.shape == (2, 9, 16) and mask.all()  # max(T, K), not the budget
    assert (plain - other).abs().max() > 0.05 * plain.abs().max()
    with pytest.raises(ShapeError, match="24 cells"):
        block(reduced.codebook, torch.zeros(2, 3, 5, 5, dtype=torch.int64), reduced.mask)


def test_the_official_block_takes_clips_of_different_numbers_together():
    block = some_block("official")
    for name, gain in block.named_parameters():
        if "norm" in name and name.endswith("weight"):
            gain.data.fill_(1.0)
    many, few = reduce(grid(1, frames=3), 8), reduce(grid(1, frames=3, seed=4), 5)
    books = torch.cat([many.codebook, F.pad(few.codebook, (0, 0, 0, 3), value=9.0)])
    with torch.no_grad():
        made, mask = block(
            books, torch.cat([many.index_map, few.index_map]), torch.arange(8) < torch.tensor([[8], [5]])
        )
        alone = [block.one(one.codebook[0], one.index_map[0]) for one in (many, few)]
    assert mask.sum(1).tolist() == [8, 5] and (made[1, 5:] == 0).all()
    torch.testing.assert_close(made[0], alone[0])
    torch.testing.assert_close(made[1, :5], alone[1])


def test_the_occupancy_block_can_start_as_the_identity():
    block, reduced = OccupancyBlock(16, 4, zero_start=True), reduce(grid(), 8)
    with torch.no_grad():
        tokens, _ = block(reduced.codebook, reduced.index_map, reduced.mask)
    torch.testing.assert_close(tokens, reduced.codebook)


def test_gradients_reach_the_tokens_and_the_block():
    tokens, block = grid().requires_grad_(), some_block("occupancy")
    reduce(tokens, 8, block=block).tokens.square().sum().backward()
    assert tokens.grad.abs().sum() > 0
    assert all(p.grad is not None for p in block.parameters())


def test_zero_and_broken_tokens_and_too_few_distinct_ones():
    tokens = grid(1)
    tokens[0, 0, 0, 0], tokens[0, 0, 0, 1] = 0.0, float("nan")
    reduced = reduce(tokens, 5)
    assert (reduced.index_map[0, 0, 0, :2] == -1).all() and reduced.codebook.isfinite().all()
    few = torch.randn(3, 16)[torch.arange(24) % 3].view(1, 1, 4, 6, 16)
    reduced = reduce(few, 12, block=some_block("occupancy"))
    assert reduced.num_tokens.tolist() == [3] and reduced.tokens.shape[1] == 12
    assert (reduced.tokens[0, 3:] == 0).all()


def test_a_clip_without_any_usable_token_has_none():
    assert reduce(torch.zeros(1, 2, 3, 3, 4), 4).num_tokens.tolist() == [0]


def test_adaptive_budgets_differ_between_clips_and_bring_the_curve():
    one = torch.randn(2, 16)[torch.randint(2, (1, 5, 6, 4))] + 0.01 * torch.randn(1, 5, 6, 4, 16)
    reduced = reduce(torch.cat([one, grid(1)]), AdaptiveK(most=16))
    assert reduced.num_tokens.tolist() == [2, 9]
    assert reduced.curve.shape == (2, 16)
    assert reduced.clip(0).tokens.shape == (1, 2, 16)
    with pytest.raises(UsageError, match="fixed number"):
        reduce(one, AdaptiveK(), method="pool")


def test_clips_of_any_size_come_back_in_order():
    clips = [grid(1, frames=t, height=h)[0] for t, h in ((3, 6), (4, 5), (5, 6))]
    made = reduce_clips(clips, 6)
    assert [one.index_map.shape[1:] for one in made] == [(3, 6, 4), (4, 5, 4), (5, 6, 4)]
    torch.testing.assert_close(made[2].codebook, reduce(clips[2][None], 6).codebook, atol=1e-5, rtol=1e-5)


def test_a_clip_of_a_batch_has_its_own_figures_and_all_its_frames():
    first, second = grid(1, frames=4, seed=1)[0], grid(1, frames=5, seed=2)[0]
    first[3] = 0.0  # a black frame whose features are nothing
    made = reduce_clips([first, second], 3)
    for clip, one in zip((first, second), made, strict=True):
        assert one.index_map.shape[1:] == clip.shape[:3] == one.decode().shape[1:4]
        assert float(one.stats["distortion"]) == pytest.approx(
            float(reduce(clip[None], 3).stats["distortion"]), abs=1e-4
        )
    assert (made[0].index_map[0, 3] == -1).all()


def test_whole_numbers_of_numpy_are_budgets_and_seeds():
    tokens = grid()
    assert torch.equal(reduce(tokens, np.int64(4)).index_map, reduce(tokens, 4).index_map)
    drawn = reduce(tokens, 4, method="random", seeds=np.array([1, 2]))
    assert torch.equal(drawn.index_map, reduce(tokens, 4, method="random", seeds=[1, 2]).index_map)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budget": "adaptive"}, "a number of tokens, Fixed or AdaptiveK, got 'adaptive'"),
        ({"budget": 2.5}, "got '2.5'"),
        ({"scale": "banana"}, "no scale 'banana'; choose one of: raw, unit, norm"),
        ({"seeds": [1]}, "1 seeds for 2 clips"),
        ({"frame_mask": torch.ones(2, 5)}, "must be bool"),
        ({"frame_mask": torch.tensor([[False] + [True] * 4] * 2)}, "True at the first frames"),
    ],
)
def test_arguments_of_a_reduction_say_what_is_wanted(change, said):
    with pytest.raises(UsageError, match=said):
        reduce(grid(), **{"budget": 4, **change})


def test_wrong_arguments_are_named():
    with pytest.raises(UsageError, match="no reducer 'magic'"):
        reduce(grid(), 4, method="magic")
    with pytest.raises(ShapeError, match=r"\[B, T, H, W, D\]"):
        reduce(torch.zeros(2, 3, 4), 4)
    with pytest.raises(UsageError, match="at least 1 token"):
        reduce(grid(), 0)


# ---------------------------------------------------------------- geometry


def test_the_description_follows_a_moving_cluster():
    index_map = torch.zeros(1, 8, 4, 8, dtype=torch.int64)
    for t in range(8):
        index_map[0, t, 1, t] = 1
    seen = describe_occupancy(index_map, 2, bins=8, grid=2)[0, 1]
    across = seen[16:24]  # after masses and heights of the eight spans
    torch.testing.assert_close(across, 2 * ((torch.arange(8) + 0.5) / 8 - 0.5), atol=1e-5, rtol=1e-5)
    place = geometry_of(index_map, 2)
    torch.testing.assert_close(place.positions[0, 1], torch.tensor([0.5, 0.375, 0.5]))
    assert len(seen) == description_width(8, 2)


def test_the_description_hardly_changes_with_rate_and_resolution():
    coarse = (torch.arange(4)[:, None] < torch.arange(4)[None]).long().expand(1, 4, 4, 4)
    fine = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    a, b = (describe_occupancy(m, 2, bins=2, grid=2) for m in (coarse, fine))
    assert (a - b).abs().max() < 0.15


def test_shares_average_over_equal_spans():
    weights = shares(3, 6, torch.tensor([6, 4]))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
    torch.testing.assert_close(weights[0, 1], torch.tensor([0, 0, 0.5, 0.5, 0, 0]))
    assert (weights[1, :, 4:] == 0).all()


# ---------------------------------------------------------------- codes and prompts


def test_codes_come_back_bit_by_bit():
    reduced = reduce(grid(1, height=5, width=7), 13).clip(0)
    data = reduced.to_bytes()
    again = ReducedVideo.from_bytes(data)
    assert torch.equal(again.index_map, reduced.index_map)
    torch.testing.assert_close(again.codebook, reduced.codebook.half().float())
    assert len(data) * 8 - reduced.code_bits < 8 * 150  # the header
    assert reduced.code_bits == 13 * 16 * 16 + 5 * 5 * 7 * 4
    assert [id_bits(k) for k in (1, 2, 3, 32, 33)] == [1, 1, 2, 5, 6]


def test_codes_hold_empty_cells_and_refuse_damage():
    tokens = grid(1)
    tokens[0, 2, 1, 1] = 0.0
    data = reduce(tokens, 8).clip(0).to_bytes()
    again = ReducedVideo.from_bytes(data)
    assert again.index_map[0, 2, 1, 1] == -1 and (again.index_map >= 0).sum() == 119
    for bad in (data[:-1], data + b"x", b"hello", data[:20], b"GMVQ1\n\xff\xff\xff\xff{", b""):
        with pytest.raises(DataError):
            ReducedVideo.from_bytes(bad)


def test_tokens_and_a_newline_replace_the_placeholder():
    reduced = reduce(grid(), AdaptiveK(most=12))
    prompt, newline = torch.randn(2, 7, 16), torch.full((16,), 5.0)
    embeds, mask = splice(prompt, 3, reduced, newline=newline)
    for clip in range(2):
        count = int(reduced.num_tokens[clip])
        row = embeds[clip][mask[clip].bool()]
        assert len(row) == 7 - 1 + count + 1
        torch.testing.assert_close(row[:3], prompt[clip, :3])
        torch.testing.assert_close(row[3 : 3 + count], reduced.tokens[clip, :count])
        assert (row[3 + count] == 5).all()
        torch.testing.assert_close(row[4 + count :], prompt[clip, 4:])
    with pytest.raises(UsageError, match="outside"):
        splice(prompt, 9, reduced)


# ---------------------------------------------------------------- baselines


def test_tome_merges_the_most_similar_and_keeps_the_weighted_mean():
    tokens = torch.tensor([[1.0, 0.0], [0.99, 0.01], [0.0, 1.0], [-1.0, 0.0]])
    merged, sizes, place = tome_merge(tokens, torch.tensor([3.0, 1.0, 1.0, 1.0]), 3)
    assert place.tolist()[0] == place.tolist()[1] and sizes.tolist() == [4.0, 1.0, 1.0]
    torch.testing.assert_close(merged[0], (3 * tokens[0] + tokens[1]) / 4)


def test_tome_over_rounds_keeps_the_total():
    tokens = grid(1)
    reduced = reduce(tokens, 5, method="tome")
    total = (reduced.codebook[0] * reduced.counts[0].unsqueeze(1)).sum(0)
    torch.testing.assert_close(total, tokens[0].flatten(0, 2).sum(0), atol=1e-3, rtol=1e-3)


def test_tome_of_frames_stays_within_frames():
    reduced = reduce(grid(1, frames=3), 7, method="tome_frames")
    assert [reduced.index_map[0, t].unique().tolist() for t in range(3)] == [[0, 1, 2], [3, 4], [5, 6]]
    with pytest.raises(UsageError, match="at least one token a frame"):
        reduce(grid(1, frames=5), 4, method="tome_frames")


def test_kept_tokens_are_tokens_of_the_clip():
    tokens = grid(1)
    flat = tokens[0].flatten(0, 2)
    longest = flat.norm(dim=1).topk(6).indices.sort().values
    torch.testing.assert_close(reduce(tokens, 6, method="norm").codebook[0], flat[longest])
    for method in ("uniform", "random", "k_center"):
        reduced = reduce(tokens, 6, method=method)
        assert all(bool((flat == row).all(1).any()) for row in reduced.codebook[0])
    a, b = (reduce(tokens, 6, method="random", seeds=[s]).codebook for s in (1, 2))
    assert not torch.equal(a, b)


def test_pooling_cells_follow_the_shape():
    assert pool_grid((16, 12, 12), 12) in {(3, 2, 2), (2, 2, 3), (2, 3, 2)}
    assert pool_grid((64, 4, 4), 8) == (8, 1, 1)
    with pytest.raises(UsageError, match="do not fit"):
        pool_grid((2, 3, 3), 11)


def test_token_learner_weights_are_shares_of_the_valid_cells():
    learner, tokens = TokenLearner(16, 5), torch.randn(2, 30, 16)
    valid = torch.arange(30).expand(2, 30) < torch.tensor([[30], [20]])
    made, weights = learner(tokens, valid)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5))
    assert (weights[1, :, 20:] == 0).all() and made.shape == (2, 5, 16)


def test_clusters_lose_less_than_pooling_at_every_budget():
    tokens = grid(3)
    for count in (4, 8, 12):
        losses = {
            method: float((reduce(tokens, count, method=method).decode() - tokens).square().mean())
            for method in ("vqtoken", "pool", "norm", "tome")
        }
        assert losses["vqtoken"] == min(losses.values())


def test_a_token_learner_reduces_through_the_same_call():
    torch.manual_seed(0)
    learner = TokenLearner(16, 7)
    tokens, mask = grid(), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    reduced = reduce(tokens, method=learner, frame_mask=mask)
    assert reduced.tokens.shape == (2, 7, 16) and reduced.token_mask.all()
    assert (reduced.index_map[1, 3:] == -1).all() and reduced.index_map.max() < 7
    alone = reduce(tokens[1:, :3], method=learner)
    torch.testing.assert_close(alone.tokens[0], reduced.tokens[1], atol=1e-5, rtol=1e-5)
    reduced.tokens.sum().backward()
    assert all(p.grad is not None for p in learner.parameters())


def test_k_center_keeps_tokens_of_the_clip_and_lets_gradients_through():
    tokens = grid().requires_grad_()
    reduced = reduce(tokens, 7, clustering="k_center")
    for clip in range(2):
        every = tokens[clip].flatten(0, 2).detach()
        for k in range(7):
            own = every[(reduced.index_map[clip] == k).flatten()]
            assert (own == reduced.codebook[clip, k].detach()).all(1).any()  # a member of its own cluster
    reduced.codebook.square().sum().backward()
    assert (tokens.grad.flatten(1, 3).abs().sum(-1) > 0).sum(1).tolist() == [7, 7]
    by_name = reduce(tokens.detach(), 7, method="k_center")
    assert torch.equal(by_name.index_map, reduced.index_map)


def test_k_center_takes_scales_masks_and_rules():
    tokens = grid() * torch.linspace(0.5, 3.0, 5).view(1, 5, 1, 1, 1)
    raw, unit, norm = (reduce(tokens, 6, method="k_center", scale=scale) for scale in ("raw", "unit", "norm"))
    torch.testing.assert_close(unit.codebook, F.normalize(raw.codebook, dim=-1))
    torch.testing.assert_close(norm.codebook[0].norm(dim=-1), tokens[0].norm(dim=-1).mean().expand(6))
    assert raw.num_tokens.tolist() == [6, 6]
    assert raw.curve.shape == (2, 6)  # comes for free
    torch.testing.assert_close(raw.curve[:, -1], raw.stats["distortion"], rtol=1e-4, atol=1e-3)
    chosen = reduce(grid(), AdaptiveK(rule="explained", explained=0.6, most=20), method="k_center")
    assert chosen.curve.shape == (2, 20) and (chosen.curve.diff() <= 0).all()
    assert (chosen.num_tokens < 20).all()
    with pytest.raises(UsageError, match="k_center"):
        reduce(grid(), 3, clustering="ward")


def test_padding_does_not_reach_k_center():
    short = grid(1, frames=3, seed=1)
    padded = F.pad(short, (0, 0, 0, 0, 0, 0, 0, 2), value=9.0)
    mask = torch.tensor([[True] * 3 + [False] * 2])
    together, alone = reduce(padded, 7, method="k_center", frame_mask=mask), reduce(short, 7, method="k_center")
    assert torch.equal(together.index_map[:, :3], alone.index_map)
    assert torch.equal(together.codebook, alone.codebook)
