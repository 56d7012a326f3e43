"""Where text and speech lie in the joint sequence: all text first, or turns of n text tokens and m frames.

Letters: B batch, Tt text tokens, T speech frames, S = Tt + T joint positions.
Source: SLED (arXiv 2505.13181), offline and streaming batch assembly of the official code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genmm.systems.sled.config import SledConfig


@dataclass(frozen=True)
class JointLayout:
    """One batch's joint sequence."""

    mask: Tensor
    """[B, S] bool, True where a position is real (after text was dropped)."""
    order: Tensor | None
    """[S] int64 index into text followed by speech; None when that already is the order."""
    positions: Tensor | None
    """[B, S] rotary positions; None = 0 .. S-1."""
    before: Tensor
    """[B, T + 1] int64 joint position whose hidden state precedes each speech slot, and the last slot itself."""
    is_speech: Tensor
    """[S] bool, True at speech slots."""
    previous: Tensor | None = None
    """[B, S] int64 the last real position before each position, -1 when there is none (streaming only)."""

    def gather_before(self, hidden: Tensor) -> Tensor:
        """Hidden states that precede the frames: [B, S, H] -> [B, T + 1, H]."""
        return hidden.gather(1, self.before.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


def offline_layout(
    config: SledConfig, ids: Tensor, text_mask: Tensor, frame_mask: Tensor, drop_text: Tensor | None
) -> tuple[Tensor, JointLayout]:
    """All text, padded on the left, then all speech; a dropped row keeps its last text position, </s>.

    Shapes: ids [B, Tt], text_mask [B, Tt] bool, frame_mask [B, T] bool, drop_text [B] bool or None.
    Returns: ids as given, and the layout.
    """
    batch, text = ids.shape
    frames = frame_mask.shape[1]
    if drop_text is not None:
        only_end = torch.zeros_like(text_mask)
        only_end[:, -1] = True
        text_mask = torch.where(drop_text[:, None], only_end & text_mask, text_mask)
    steps = torch.arange(text + frames, device=ids.device)
    layout = JointLayout(
        mask=torch.cat((text_mask, frame_mask), dim=1),
        order=None,
        positions=None,
        before=steps[text - 1 :].expand(batch, -1),
        is_speech=steps >= text,
    )
    return ids, layout


def streaming_order(text: int, frames: int, n: int, m: int) -> Tensor:
    """Joint order of a padded batch: full turns of n tokens and m frames, up to n more tokens, the rest.

    Returns: [text + frames] int64 index into text followed by speech, on the CPU.
    """
    tokens, slots = list(range(text)), list(range(text, text + frames))
    turns = min(text // n, frames // m)
    order: list[int] = []
    for turn in range(turns):
        order += tokens[turn * n : (turn + 1) * n] + slots[turn * m : (turn + 1) * m]
    tokens, slots = tokens[turns * n :], slots[turns * m :]
    return torch.tensor(order + tokens[:n] + slots + tokens[n:], dtype=torch.int64)


def streaming_layout(
    config: SledConfig, ids: Tensor, text_mask: Tensor, frame_mask: Tensor, drop_text: Tensor | None
) -> tuple[Tensor, JointLayout]:
    """Turns of text and speech; a dropped row becomes </s> at position 0 followed by its speech.

    Shapes as in offline_layout, text padded on the right. Returns: ids (changed in dropped rows), and the layout.
    """
    if drop_text is not None:
        start = torch.zeros_like(text_mask)
        start[:, 0] = True
        text_mask = torch.where(drop_text[:, None], start, text_mask)
        ids = torch.where(drop_text[:, None] & start, config.eos_token_id, ids)
    order = streaming_order(ids.shape[1], frame_mask.shape[1], config.stream_n, config.stream_m).to(ids.device)
    mask = torch.cat((text_mask, frame_mask), dim=1)[:, order]
    is_speech = order >= ids.shape[1]
    previous = previous_real(mask)
    slots = is_speech.nonzero().squeeze(1)  # [T]
    # A slot with nothing real before it cannot be a real frame, so position 0 stands in for "none".
    before = torch.cat((previous[:, slots].clamp_min(0), slots[-1:].expand(ids.shape[0], -1)), dim=1)
    positions = None
    if config.stream_positions == "real":
        positions = (mask.cumsum(1) - 1).clamp_min(0)
    return ids, JointLayout(mask, order, positions, before, is_speech, previous)


def previous_real(mask: Tensor) -> Tensor:
    """Index of the last real position strictly before each one: mask [B, S] bool -> [B, S] int64, -1 = none."""
    steps = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    latest = torch.where(mask, steps, -1).cummax(dim=1).values
    return torch.cat((latest.new_full((mask.shape[0], 1), -1), latest[:, :-1]), dim=1)
