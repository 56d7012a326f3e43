"""Guided alignment: the path it follows and what it costs to leave it."""

import torch

from genmm.losses.alignment import guided_alignment_loss, piecewise_path


def test_the_path_runs_through_every_part_at_its_own_speed():
    path = piecewise_path([2, 4], [4, 4], first_token=1)
    torch.testing.assert_close(path, torch.tensor([0.75, 1.25, 1.75, 2.25, 3.0, 4.0, 5.0, 6.0]))


def test_attention_on_the_path_costs_little_and_far_from_it_nearly_all():
    path = torch.arange(6.0)[None]
    masks = torch.ones(1, 6, dtype=torch.bool)
    on_path = 50.0 * torch.eye(6)[None, None]
    assert guided_alignment_loss(on_path, path, masks, masks) < 1e-3
    assert guided_alignment_loss(on_path.flip(-1), path, masks, masks, width_tokens=0.3) > 0.95


def test_padding_and_rows_without_text_count_for_nothing():
    torch.manual_seed(0)
    scores, path = torch.randn(2, 3, 5, 4), torch.rand(2, 5) * 3
    text_mask = torch.tensor([[True] * 4, [False] * 4])
    frame_mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    loss = guided_alignment_loss(scores, path, text_mask, frame_mask)
    alone = guided_alignment_loss(scores[:1, :, :3], path[:1, :3], text_mask[:1], frame_mask[:1, :3])
    torch.testing.assert_close(loss, alone)


def test_its_gradient_moves_attention_towards_the_path():
    scores = torch.zeros(1, 1, 4, 4, requires_grad=True)
    masks = torch.ones(1, 4, dtype=torch.bool)
    guided_alignment_loss(scores, torch.arange(4.0)[None], masks, masks, 0.5).backward()
    assert (scores.grad[0, 0].diagonal() < 0).all() and scores.grad.sum().abs() < 1e-6
