"""Farthest-first clustering: centres against a plain loop, curves against their definition, batches, odd rows."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from genmm.core.errors import ShapeError, UsageError
from genmm.quantizers.adaptive import AdaptiveK
from genmm.quantizers.k_center import farthest_first, k_center


def some_rows(clips: int = 2, rows: int = 200, width: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(clips, rows, width, generator=torch.Generator().manual_seed(seed))


def plain(rows: torch.Tensor, count: int) -> list[int]:
    """The same by the definition, one clip [N, D] in float64."""
    unit = F.normalize(rows.double(), dim=-1)
    chosen = [int((unit @ unit.mean(0)).argmax())]
    while len(chosen) < count:
        chosen.append(int((1 - unit @ unit[chosen].T).amin(1).argmax()))
    return chosen


def gaps(rows: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Squared distances [N, K] of unit rows to unit centres."""
    unit = F.normalize(rows.double(), dim=-1)
    return 2 - 2 * unit @ unit[centres].T


def test_centres_are_those_of_the_plain_loop():
    rows = some_rows()
    found = farthest_first(rows, 9)
    assert [found.rows[clip].tolist() for clip in range(2)] == [plain(rows[clip], 9) for clip in range(2)]


def test_the_first_centres_do_not_depend_on_how_many_are_taken():
    rows = some_rows()
    few, many = farthest_first(rows, 4), farthest_first(rows, 12)
    assert torch.equal(many.rows[:, :4], few.rows)
    assert torch.equal(many.distortion[:, :4], few.distortion)


def test_curves_are_what_they_say():
    rows = some_rows()
    found = farthest_first(rows, 6)
    for clip, k in itertools.product(range(2), range(1, 7)):
        gap = gaps(rows[clip], found.rows[clip, :k]).clamp_min(0)
        near = gap.amin(1)
        assert float(found.distortion[clip, k - 1]) == pytest.approx(float(near.sum()), rel=1e-4)
        assert float(found.reach[clip, k - 1]) == pytest.approx(float(near.max()) / 2, rel=1e-4)
        if k > 1:
            two = gap.topk(2, largest=False).values.sqrt()
            value = float(((two[:, 1] - two[:, 0]) / two[:, 1]).mean())
            assert float(found.silhouette[clip, k - 1]) == pytest.approx(value, rel=1e-3)
    assert (found.silhouette[:, 0] == 0).all()


def test_no_choice_of_centres_halves_the_largest_distance():
    rows = some_rows(1, 12, 3, seed=5)
    reach = float(farthest_first(rows, 3).reach[0, 2] * 2) ** 0.5
    best = min(
        float(gaps(rows[0], torch.tensor(three)).clamp_min(0).amin(1).max()) ** 0.5
        for three in itertools.combinations(range(12), 3)
    )
    assert best <= reach + 1e-6 <= 2 * best


def test_labels_name_the_nearest_centre_in_order_of_the_first_row():
    rows = some_rows()
    found, centres = k_center(rows, 7)
    for clip in range(2):
        owner = gaps(rows[clip], found.centres[clip]).argmin(1)
        assert torch.equal(found.labels[clip], owner)
        assert list(dict.fromkeys(found.labels[clip].tolist())) == list(range(7))
        assert sorted(found.centres[clip].tolist()) == sorted(centres.rows[clip].tolist())
        assert found.counts[clip].tolist() == torch.bincount(owner, minlength=7).tolist()
        assert float(found.distortion[clip]) == pytest.approx(float(centres.distortion[clip, 6]), rel=1e-4)


def test_a_small_odd_group_gets_a_centre():
    """What k-means with as many clusters merges into its neighbours: 3 rows of 1,000."""
    crowd = F.normalize(torch.randn(997, 6, generator=torch.Generator().manual_seed(1)), dim=-1)
    crowd = crowd * torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.05])
    odd = torch.tensor([[0.0, 0, 0, 0, 0, 1.0]]).repeat(3, 1) + 0.01 * torch.randn(3, 6)
    found, _ = k_center(torch.cat([crowd, odd])[None], 6)
    assert len(found.labels[0, 997:].unique()) == 1
    assert int((found.labels[0] == found.labels[0, -1]).sum()) < 30


def test_a_clip_is_the_same_alone_and_among_others():
    rows = some_rows(1, 90)
    alone, _ = k_center(rows, 5)
    mates = torch.cat([F.pad(rows, (0, 0, 0, 60), value=7.0), some_rows(1, 150, seed=3)])
    mask = torch.arange(150) < torch.tensor([[90], [150]])
    together, _ = k_center(mates, [5, 9], mask=mask)
    assert torch.equal(together.labels[0, :90], alone.labels[0])
    assert (together.labels[0, 90:] == -1).all()
    assert together.centres[0].tolist() == alone.centres[0].tolist() + [-1] * 4
    assert together.counts[0].tolist() == alone.counts[0].tolist() + [0] * 4


def test_equally_far_rows_do_not_make_a_clip_depend_on_its_batch():
    for seed in range(40):
        rows = torch.randint(-2, 3, (5, 300, 12), generator=torch.Generator().manual_seed(seed)).float()
        together, _ = k_center(rows, 16)
        for clip in range(5):
            alone, _ = k_center(rows[clip : clip + 1], 16)
            assert torch.equal(together.labels[clip], alone.labels[0])


def test_zero_rows_and_broken_ones_stay_out_and_equal_ones_make_no_second_centre():
    rows = some_rows(1, 3)[0].repeat(5, 1)
    rows[0], rows[1] = 0.0, float("nan")
    found, centres = k_center(rows[None], 6)
    assert found.labels[0, :2].tolist() == [-1, -1] and int(centres.used[0]) == 3
    assert (found.counts[0] > 0).sum() == 3 and found.counts[0].sum() == 13
    assert float(centres.distortion[0, 5]) == pytest.approx(0, abs=1e-5)
    nothing, centres = k_center(torch.zeros(1, 4, 3), 2)
    assert (nothing.labels == -1).all() and int(centres.used[0]) == 0 and nothing.counts.sum() == 0


def test_weights_stand_for_rows():
    rows = some_rows(1, 20)
    times = torch.randint(1, 5, (1, 20), generator=torch.Generator().manual_seed(2))
    repeated = rows[0].repeat_interleave(times[0], 0)[None]
    a, b = farthest_first(rows, 6, weights=times.float()), farthest_first(repeated, 6)
    torch.testing.assert_close(a.distortion, b.distortion, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(a.silhouette, b.silhouette, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["explained", "knee", "silhouette"])
def test_adaptive_numbers_find_the_groups(rule):
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(7, 24, generator=generator), dim=-1)
    rows = centres[torch.arange(210) % 7] + 0.02 * torch.randn(210, 24, generator=generator)
    found, _ = k_center(rows[None], AdaptiveK(rule=rule, least=2, most=16, explained=0.97))
    assert int((found.counts[0] > 0).sum()) == 7


def test_wrong_arguments_are_named():
    with pytest.raises(ShapeError, match="must be floating"):
        farthest_first(torch.zeros(3, 4), 2)
    with pytest.raises(UsageError, match="at least 1"):
        k_center(torch.ones(1, 3, 2), 0)
    with pytest.raises(UsageError, match="one for each of 1 clips"):
        k_center(torch.ones(1, 3, 2), [1, 2])
    with pytest.raises(ShapeError, match="mask"):
        farthest_first(torch.ones(1, 3, 2), 1, mask=torch.ones(1, 2, dtype=torch.bool))


def test_weights_may_be_whole_numbers_and_must_fit():
    torch.manual_seed(0)
    tokens, weights = torch.randn(2, 6, 3), torch.randint(1, 5, (2, 6))
    found = farthest_first(tokens, 3, weights=weights)
    torch.testing.assert_close(found.distortion, farthest_first(tokens, 3, weights=weights.double()).distortion)
    with pytest.raises(ShapeError, match="weights must be"):
        farthest_first(tokens, 3, weights=weights[0])
