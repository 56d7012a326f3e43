"""A reduced video: tokens, the codebook and the index map, back to the grid, into bytes, into an LLM's prompt.

Letters: B clips, T frames, H W grid, K largest number of tokens, D width, S positions of a prompt.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genmm.core.errors import DataError, ShapeError, UsageError
from genmm.metrics.video_tokens import code_bits, id_bits
from genmm.quantizers.kmeans_seeding import take_rows

__all__ = ["ReducedVideo", "splice"]

MAGIC = b"GMVQ1\n"
MOST_BYTES = 1 << 31
"""Most memory that `from_bytes` takes for a code."""
CELL_BYTES = 48
"""Memory of a cell while a code is unpacked; in the code it may take a single bit."""
PIECE = 1 << 16
"""Ids that are packed or unpacked at a time, a multiple of 8: every piece begins with a byte."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReducedVideo:
    """What is left of B clips. Rows outside `token_mask` are padding; clusters in use come first."""

    tokens: Tensor
    """[B, M, D] what an answerer or a language model reads; M = K except after the official block."""
    token_mask: Tensor
    """[B, M] bool."""
    codebook: Tensor
    """[B, K, D] one mean token per cluster, before the block; zero where there is none."""
    index_map: Tensor
    """[B, T, H, W] int64 in [0, K), -1 where the clip is padded or the token was not usable."""
    counts: Tensor
    """[B, K] int64 cells of each cluster."""
    positions: Tensor
    """[B, K, 3] mean time, height, width in [0, 1]."""
    spread: Tensor
    """[B, K, 3] standard deviations of the same."""
    curve: Tensor | None = None
    """[B, Kmax] distortion for 1, 2, ... tokens, from k_center and adaptive k-means."""
    stats: Mapping[str, Any] = field(default_factory=dict)
    """Distortion; of a clip in one piece also iterations and milliseconds for each stage."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def mask(self) -> Tensor:
        """[B, K] bool, clusters in use."""
        return self.counts > 0

    @property
    def num_tokens(self) -> Tensor:
        """[B] int64 tokens of each clip."""
        return self.token_mask.sum(1)

    def decode(self) -> Tensor:
        """The grid again, [B, T, H, W, D]: every cell gets the codebook row of its cluster, 0 where it has none."""
        shape = self.index_map.shape
        if not self.codebook.shape[1]:  # the code of a clip without any usable token
            return self.codebook.new_zeros(*shape, self.codebook.shape[-1])
        flat = self.index_map.flatten(1)
        rows = self.codebook.gather(1, flat.clamp_min(0).unsqueeze(-1).expand(-1, -1, self.codebook.shape[-1]))
        return (rows * (flat >= 0).unsqueeze(-1)).unflatten(1, shape[1:])

    def clip(self, number: int, frames: int | None = None) -> ReducedVideo:
        """One clip of the batch, without the padding of its tokens and frames.

        Args: `frames` of the clip; without it, those up to the last one in which any cell has a cluster.
        """
        from genmm.systems.vqtoken.geometry import frame_counts

        used = max(1, int(self.mask[number].sum()))
        tokens = max(1, int(self.token_mask[number].sum()))
        frames = int(frame_counts(self.index_map[number : number + 1])) if frames is None else frames
        part = slice(number, number + 1)
        own = {name: x[part] if isinstance(x, Tensor) and x.ndim else x for name, x in self.stats.items()}
        return ReducedVideo(
            tokens=self.tokens[part, :tokens],
            token_mask=self.token_mask[part, :tokens],
            codebook=self.codebook[part, :used],
            index_map=self.index_map[part, :frames],
            counts=self.counts[part, :used],
            positions=self.positions[part, :used],
            spread=self.spread[part, :used],
            curve=None if self.curve is None else self.curve[part],
            stats=own,
        )

    @property
    def code_bits(self) -> int:
        """Bits of the codes of all clips: K rows of D 16-bit numbers and one id a cell."""
        used, cells = self.mask.sum(1).tolist(), (self.index_map >= 0).flatten(1).sum(1).tolist()
        return sum(code_bits(k, self.codebook.shape[-1], n) for k, n in zip(used, cells, strict=True))

    # ------------------------------------------------------------ bytes

    def to_bytes(self) -> bytes:
        """Pack one clip: codebook as float16, the map at ceil(log2 K) bits a cell (one id more where cells are empty).

        Tokens of a block are not stored; `VqTokenPipeline.unpack` lets the block make them again from codebook and map.
        Raises: UsageError for several clips or an overflow of float16.
        """
        if len(self) != 1:
            raise UsageError(f"one clip goes into one code, this holds {len(self)}; take clip(i).to_bytes()")
        used = int(self.mask[0].sum())
        book = self.codebook[0, :used].detach().float().cpu().numpy().astype("<f2")
        if not np.isfinite(book).all():
            raise UsageError("the codebook does not fit float16; scale the features down")
        ids = self.index_map[0].cpu().numpy().reshape(-1)
        gaps = bool((ids < 0).any())
        bits = id_bits(used + gaps)
        header = {"shape": list(self.index_map.shape[1:]), "tokens": used, "width": book.shape[1], "bits": bits}
        text = json.dumps({**header, "gaps": gaps}).encode()
        return MAGIC + struct.pack("<I", len(text)) + text + book.tobytes() + _pack(np.where(ids < 0, used, ids), bits)

    @classmethod
    def from_bytes(cls, data: bytes) -> ReducedVideo:
        """Unpack one clip; its tokens are the codebook. Raises: DataError when the code is damaged."""
        header, offset = _read_header(data)
        shape, used, width, bits = header["shape"], header["tokens"], header["width"], header["bits"]
        cells = math.prod(shape)
        end = offset + 2 * used * width
        if len(data) != end + -(-cells * bits // 8):
            raise DataError("the code is cut off or damaged: its length does not fit its header")
        book = np.frombuffer(data[offset:end], "<f2").reshape(used, width).astype(np.float32)
        ids = _unpack(data[end:], bits, cells)
        if header["gaps"]:
            ids[ids == used] = -1
        if not np.isfinite(book).all() or (ids >= used).any():
            raise DataError("the code is damaged: it holds values that no code has")
        return from_map(torch.from_numpy(book)[None], torch.from_numpy(ids.reshape(1, *shape)))


def from_map(codebook: Tensor, index_map: Tensor, **more: Any) -> ReducedVideo:
    """A ReducedVideo without a block from codebook [B, K, D] and index_map [B, T, H, W]; the rest follows.

    Clusters that no cell belongs to go behind the others, which keep their order; `more` are further fields.
    """
    from genmm.systems.vqtoken.geometry import Geometry, geometry_of

    place = geometry_of(index_map, codebook.shape[1])
    unused = place.counts == 0
    if bool((unused[:, :-1] & ~unused[:, 1:]).any()):
        order = unused.to(torch.uint8).argsort(dim=1, stable=True)
        codebook = take_rows(codebook, order)
        place = Geometry(
            place.counts.gather(1, order), take_rows(place.positions, order), take_rows(place.spread, order)
        )
        renamed = order.argsort(1).gather(1, index_map.flatten(1).clamp_min(0)).view_as(index_map)
        index_map = torch.where(index_map >= 0, renamed, index_map)
    codebook = codebook * (place.counts > 0).unsqueeze(-1)
    return ReducedVideo(
        **{"tokens": codebook, "token_mask": place.counts > 0, **more},
        codebook=codebook,
        index_map=index_map,
        counts=place.counts,
        positions=place.positions,
        spread=place.spread,
    )


def _read_header(data: bytes) -> tuple[dict[str, Any], int]:
    start = len(MAGIC) + 4
    if not data.startswith(MAGIC) or len(data) < start:
        raise DataError("these bytes are no code of a video (they begin with another mark)")
    (length,) = struct.unpack("<I", data[len(MAGIC) : start])
    try:
        header = json.loads(data[start : start + min(length, 10_000)])
        numbers = [*header["shape"], header["tokens"], header["width"], header["bits"]]
        good = len(header["shape"]) == 3 and all(type(n) is int and n >= 0 for n in numbers)
        good = good and min(*header["shape"], header["width"]) > 0 and isinstance(header["gaps"], bool)
        good = good and header["bits"] == id_bits(header["tokens"] + header["gaps"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError("the code is damaged: its header cannot be read") from error
    if not good or math.prod(header["shape"]) * CELL_BYTES + header["tokens"] * header["width"] * 2 > MOST_BYTES:
        raise DataError("the code is damaged: its header names sizes that no code has")
    return header, start + length


def _pack(values: np.ndarray, bits: int) -> bytes:
    places = np.arange(bits, dtype=np.uint32)
    parts = (values[start : start + PIECE].astype(np.uint32) for start in range(0, len(values), PIECE))
    return b"".join(np.packbits((part[:, None] >> places) & 1, bitorder="little").tobytes() for part in parts)


def _unpack(data: bytes, bits: int, count: int) -> np.ndarray:
    """[count] int64."""
    out, places = np.empty(count, np.int64), np.arange(bits, dtype=np.uint32)
    packed = np.frombuffer(data, np.uint8)
    for start in range(0, count, PIECE):
        size, begin = min(PIECE, count - start), start * bits // 8
        flat = np.unpackbits(packed[begin : begin + -(-size * bits // 8)], count=size * bits, bitorder="little")
        out[start : start + size] = (flat.reshape(size, bits).astype(np.uint32) << places).sum(1)
    return out


# ---------------------------------------------------------------- into a prompt


def splice(
    inputs_embeds: Tensor, at: int, reduced: ReducedVideo, *, newline: Tensor | None = None, replaced: int = 1
) -> tuple[Tensor, Tensor]:
    """Put the tokens of clip b into prompt b: (embeddings [B, S', D], attention mask [B, S'] int64).

    Shapes: inputs_embeds [B, S, D]; newline [D] follows the tokens when given, as in the published model, so a clip of
    K tokens adds K + 1 positions. Args: `at` is the position of the placeholder, `replaced` how many positions it
    takes. Shorter prompts of the batch are padded on the left, so that generation continues at the end.
    Raises: ShapeError when clips and prompts do not fit, UsageError for a placeholder outside the prompt.
    """
    batch, length, width = inputs_embeds.shape
    if len(reduced) != batch or reduced.tokens.shape[-1] != width:
        raise ShapeError(
            f"{len(reduced)} clips of width {reduced.tokens.shape[-1]} do not fit {batch} prompts of width {width}"
        )
    if not 0 <= at <= at + replaced <= length:
        raise UsageError(f"the placeholder [{at}, {at + replaced}) lies outside a prompt of {length} positions")
    rows = []
    for prompt, tokens, mask in zip(inputs_embeds, reduced.tokens, reduced.token_mask, strict=True):
        parts = [prompt[:at], tokens[mask].to(prompt)]
        parts += [newline.to(prompt).unsqueeze(0)] if newline is not None else []
        rows.append(torch.cat([*parts, prompt[at + replaced :]]))
    longest = max(len(row) for row in rows)
    out = inputs_embeds.new_zeros(batch, longest, width)
    mask = torch.zeros(batch, longest, dtype=torch.int64, device=out.device)
    for number, row in enumerate(rows):
        out[number, longest - len(row) :], mask[number, longest - len(row) :] = row, 1
    return out, mask
