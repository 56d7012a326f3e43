"""Examples of speech training and how they become a batch.

Letters: B batch, Tt text tokens, T latent frames, D latent channels, V voice statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from genmm.systems.sled.tokenizer import PAD


@dataclass(frozen=True)
class SpeechExample:
    """Token ids with <s> and </s>, latents [T, D] float32, and voice statistics [V] or None."""

    ids: Sequence[int]
    latents: Tensor
    voice: Tensor | None = None


def collate_speech(items: Sequence[SpeechExample], *, padding: Literal["left", "right"]) -> dict[str, Tensor]:
    """One batch: ids [B, Tt] int64, text_mask, latents [B, T, D], frame_mask, and voice [B, V] when there are voices.

    Texts are padded on the given side (left for the offline model, right for the streaming one), frames on the right.
    """
    width = max(len(item.ids) for item in items)
    ids, text_mask = torch.full((len(items), width), PAD), torch.zeros(len(items), width, dtype=torch.bool)
    for row, item in enumerate(items):
        place = slice(width - len(item.ids), None) if padding == "left" else slice(len(item.ids))
        ids[row, place], text_mask[row, place] = torch.tensor(item.ids), True
    lengths = torch.tensor([len(item.latents) for item in items])
    latents = pad_sequence([item.latents for item in items], batch_first=True)
    frame_mask = torch.arange(latents.shape[1]) < lengths[:, None]
    batch = {"ids": ids, "text_mask": text_mask, "latents": latents, "frame_mask": frame_mask}
    if items[0].voice is not None:
        batch["voice"] = torch.stack([item.voice for item in items])
    return batch
