"""The flow network: latent frames at a flow step, with text -> the velocity that leads to data.

There is no modulation: time enters by addition to the normed input of both attentions. Module names are those of the
official checkpoint, so its tensors load without renaming.

Letters: B rows, T frames, D latent channels, L text tokens, h heads, d width of one head.
Source: MelodyFlow (arXiv 2407.03648) and its published code; details that only the code shows are named where they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from genmm.core.errors import CheckpointError, ShapeError
from genmm.nn.packed import PackableLinear, PackedLinear, Packing, check_packing, rowwise
from genmm.systems.melodyflow.config import FlowConfig
from genmm.systems.melodyflow.zero_key import attend_with_zero, mask_bias

TIME_FEATURES = 256
"""Sinusoids of the flow step: 128 cosines, then 128 sines."""
STD_FLOOR = 1e-5
"""Added to the stored standard deviation of the latents."""


@dataclass(frozen=True, eq=False)
class TextCondition:
    """What the layers read of a text, made once for a prompt; it does not depend on time."""

    keys: tuple[Tensor, ...]
    """Per layer [B, h, L, d]."""
    values: tuple[Tensor, ...]
    """Per layer [B, h, L, d]."""
    bias: Tensor
    """[B, 1, 1, L] float32: 0 at tokens, very negative at padding."""
    frames: Tensor | None = None
    """What is added to every frame, [B, 1 or T, dim]; None = nothing."""

    def repeated(self, times: int) -> TextCondition:
        """The same for `times` copies of the batch, one after the other."""

        def again(tensor: Tensor) -> Tensor:
            return tensor.repeat(times, *[1] * (tensor.ndim - 1))

        frames = None if self.frames is None else again(self.frames)
        return TextCondition(tuple(map(again, self.keys)), tuple(map(again, self.values)), again(self.bias), frames)

    def at(self, places: Tensor) -> TextCondition:
        """The same for some of the frames, [w] int64; what does not change along the frames stays."""
        if self.frames is None or self.frames.shape[1] == 1:
            return self
        return replace(self, frames=self.frames[:, places.to(self.frames.device)])


def joined(first: TextCondition, second: TextCondition) -> TextCondition:
    """Two conditions as one batch; the shorter text is padded."""
    length = max(first.bias.shape[-1], second.bias.shape[-1])
    first, second = (_padded(part, length) for part in (first, second))
    frames = None
    if first.frames is not None and second.frames is not None:
        count = max(first.frames.shape[1], second.frames.shape[1])
        frames = torch.cat([part.frames.expand(-1, count, -1) for part in (first, second)])
    return TextCondition(
        tuple(torch.cat(pair) for pair in zip(first.keys, second.keys, strict=True)),
        tuple(torch.cat(pair) for pair in zip(first.values, second.values, strict=True)),
        torch.cat((first.bias, second.bias)),
        frames,
    )


def _padded(condition: TextCondition, length: int) -> TextCondition:
    missing = length - condition.bias.shape[-1]
    if missing == 0:
        return condition
    keys, values = (
        tuple(functional.pad(part, (0, 0, 0, missing)) for part in parts)
        for parts in (condition.keys, condition.values)
    )
    return TextCondition(keys, values, functional.pad(condition.bias, (0, missing), value=-1e30), condition.frames)


class TimestepEmbedding(nn.Module):
    """The flow step, raw in [0, 1], as a vector: [B] -> [B, 1, dim]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, dim, bias=False), nn.SiLU(), nn.Linear(dim, dim, bias=False))

    def forward(self, t: Tensor) -> Tensor:
        """Cosines before sines, in float32 until the first layer."""
        half = TIME_FEATURES // 2
        frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000.0) / half))
        angles = t.float().view(-1, 1, 1) * frequencies
        return self.mlp(torch.cat((angles.cos(), angles.sin()), -1).to(self.mlp[0].weight.dtype))


class Attention(nn.Module):
    """Packed projections without biases, and attention with an extra zero key."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.out_proj = PackableLinear(dim, dim, bias=False)
        self.packed: PackedLinear | None = None

    def pack(self, packing: Packing, rows: int) -> None:
        """Read the output projection and the first rows of the input projection packed; "live" undoes it."""
        self.out_proj.pack(packing)
        self.packed = None if packing == "live" else PackedLinear([self.in_proj_weight[:rows]], None, packing)

    def project(self, x: Tensor, rows: int) -> Tensor:
        """The first rows of the input projection: [B, T, dim] -> [B, T, rows]."""
        if self.packed is not None:
            return rowwise(self.packed, x)
        return functional.linear(x, self.in_proj_weight[:rows])

    def split(self, x: Tensor) -> Tensor:
        """[B, N, dim] -> [B, h, N, d]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def finish(self, mixed: Tensor) -> Tensor:
        """[B, h, T, d] -> [B, T, dim]."""
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class SelfAttention(Attention):
    """Frames look at frames, with rotary positions."""

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Shapes: x [B, T, dim]; rotation as from `rotation_table`. Returns: [B, T, dim]."""
        joint = self.project(x, len(self.in_proj_weight)).unflatten(2, (3, self.heads, -1))
        query, key, value = joint.permute(2, 0, 3, 1, 4)  # [B, h, T, d] each
        return self.finish(attend_with_zero(turn_pairs(query, *rotation), turn_pairs(key, *rotation), value))


class CrossAttention(Attention):
    """Frames look at text; its keys and values are made once."""

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, h, L, d] of projected text states [B, L, dim]."""
        dim = states.shape[-1]
        packed = functional.linear(states, self.in_proj_weight[dim:]).unflatten(2, (2, self.heads, -1))
        key, value = packed.permute(2, 0, 3, 1, 4)
        return key, value

    def forward(self, x: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Shapes: x [B, T, dim]; key, value [B, h, L, d]; bias [B, 1, 1, L]. Returns: [B, T, dim]."""
        query = self.split(self.project(x, x.shape[-1]))
        return self.finish(attend_with_zero(query, key, value, bias))


class FlowLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; each with its own layer norm before it."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        dim = config.dim
        self.self_attn = SelfAttention(dim, config.num_heads)
        self.cross_attention = CrossAttention(dim, config.num_heads)
        self.linear1 = PackableLinear(dim, config.hidden, bias=False)
        self.linear2 = PackableLinear(config.hidden, dim, bias=False)
        self.norm1, self.norm_cross, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, time: Tensor, rotation: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor, Tensor] | None
    ) -> Tensor:
        """Shapes: x [B, T, dim]; time [1 or B, 1, dim]; text keys, values and bias of the first rows, None = no text.

        Rows without text get nothing from the cross-attention: its zero key is all they would see.
        """
        x = x + self.self_attn(self.norm1(x) + time, rotation)
        if text is not None:
            rows = text[0].shape[0]
            told = self.cross_attention(self.norm_cross(x[:rows]) + time[:rows], *text)
            x = x + told if rows == len(x) else torch.cat((x[:rows] + told, x[rows:]))
        return x + self.linear2(functional.gelu(self.linear1(self.norm2(x))))


class RotaryTable(nn.Module):
    """The stored frequencies [d / 2]; official ones are rounded to bfloat16, so they are loaded, never recomputed."""

    def __init__(self, head_dim: int, max_period: float) -> None:
        super().__init__()
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        self.register_buffer("frequencies", max_period**-exponents)

    def forward(self, frames: int) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine [T, d] of positions 0 ... T - 1, for `turn_pairs`; float32."""
        positions = torch.arange(frames, device=self.frequencies.device, dtype=torch.float32)
        angles = torch.outer(positions, self.frequencies.float()).repeat_interleave(2, -1)
        sign = torch.tensor([-1.0, 1.0], device=angles.device).repeat(angles.shape[-1] // 2)
        return angles.cos(), angles.sin() * sign


def turn_pairs(heads: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """Rotate neighbouring channels (2j, 2j + 1) by the angle of their position: [B, h, T, d] -> same, same dtype."""
    swapped = heads.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(heads * cosine, swapped, signed_sine).to(heads.dtype)


class FlowTransformer(nn.Module):
    """Layers whose second half reads the outputs of the first half, last in, first out."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.rope = RotaryTable(config.dim // config.num_heads, config.max_period)
        self.layers = nn.ModuleList(FlowLayer(config) for _ in range(config.num_layers))
        self.skip_projections = nn.ModuleList(
            PackableLinear(2 * config.dim, config.dim, bias=False) for _ in range(config.skips)
        )

    def forward(
        self, x: Tensor, time: Tensor, condition: TextCondition | None, rotation: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Shapes: x [B, T, dim], time [1 or B, 1, dim]. Returns: [B, T, dim]."""
        count, waiting = len(self.layers), []
        for index, layer in enumerate(self.layers):
            if index > count / 2:
                # The official code counts projections by layer, which does not line up with the pairs; they were
                # trained that way.
                project = self.skip_projections[index % len(self.skip_projections)]
                x = project(torch.cat((x, waiting.pop()), -1))
            text = None if condition is None else (condition.keys[index], condition.values[index], condition.bias)
            x = layer(x, time, rotation, text)
            if index < count / 2 - 1:
                waiting.append(x)
        return x


class FlowNetwork(nn.Module):
    """The whole network with the statistics of its latents."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.register_buffer("latent_mean", torch.zeros(1, config.latent_dim, 1))
        self.register_buffer("latent_std", torch.ones(1, config.latent_dim, 1))
        self.timestep_embedder = TimestepEmbedding(dim)
        self.in_proj = nn.Linear(config.latent_dim, dim, bias=False)
        self.transformer = FlowTransformer(config)
        self.out_norm = nn.LayerNorm(dim)
        self.out_proj = nn.Linear(dim, config.latent_dim, bias=False)
        self.text_proj = nn.Linear(config.cond_dim, dim)
        self.score_proj = nn.Linear(config.score_features, dim, bias=False) if config.score_features else None
        self.global_proj = nn.Linear(config.cond_dim, dim, bias=False) if config.global_text else None
        self.packing: Packing = "live"
        self.start_weights()

    def start_weights(self) -> None:
        """Truncated normal weights of deviation 1 / sqrt(inputs), those of the layers narrower by sqrt(2 depth).

        Source: the initialisation helper of the official code.
        """
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                depth = 2 * self.config.num_layers if ".layers." in name else 1
                deviation = (weight.shape[1] * depth) ** -0.5
                nn.init.trunc_normal_(weight, std=deviation, a=-3 * deviation, b=3 * deviation)
        nn.init.zeros_(self.text_proj.bias)

    def pack(self, packing: Packing) -> None:
        """Read the weights of all products over frames packed, on a CPU in float32; "live" undoes it.

        Raises: UsageError when this machine cannot run the packing.
        """
        check_packing(packing, self.in_proj.weight.device, self.in_proj.weight.dtype)
        self.packing = packing
        for layer in self.transformer.layers:
            layer.self_attn.pack(packing, 3 * self.config.dim)
            layer.cross_attention.pack(packing, self.config.dim)
            layer.linear1.pack(packing)
            layer.linear2.pack(packing)
        for projection in self.transformer.skip_projections:
            projection.pack(packing)

    # ------------------------------------------------------------ conditions

    def condition(self, states: Tensor, mask: Tensor, score: Tensor | None = None) -> TextCondition:
        """Prepare a text for all layers and steps.

        Shapes: states [B, L, cond_dim] of a text encoder; mask [B, L], 1 = token, a row of zeros = no text;
        score [B, T, F] for networks with score features, None = none.
        Raises: ShapeError when the shapes do not fit the network.
        """
        if states.ndim != 3 or states.shape[2] != self.config.cond_dim or mask.shape != states.shape[:2]:
            raise ShapeError(
                f"text states must be [B, L, {self.config.cond_dim}] with a mask [B, L], "
                f"got {tuple(states.shape)} and {tuple(mask.shape)}"
            )
        projected = self.project_text(states, mask)
        pairs = [layer.cross_attention.keys_values(projected) for layer in self.transformer.layers]
        return TextCondition(
            tuple(key for key, _ in pairs), tuple(value for _, value in pairs), mask_bias(mask),
            self._frames(states, mask, score),
        )  # fmt: skip

    def project_text(self, states: Tensor, mask: Tensor) -> Tensor:
        """Text states [B, L, cond_dim] -> what the cross-attention reads, [B, L, dim]; 0 at padding."""
        projected = self.text_proj(states.to(self.text_proj.weight.dtype))
        return projected * mask.unsqueeze(-1).to(projected.dtype)

    def _frames(self, states: Tensor, mask: Tensor, score: Tensor | None) -> Tensor | None:
        """What the condition adds to the frames, [B, 1 or T, dim], or None."""
        total = None
        if self.global_proj is not None:
            summed = (states * mask.unsqueeze(-1)).sum(1, keepdim=True)
            total = self.global_proj(summed.to(self.global_proj.weight.dtype))
        if self.score_proj is not None and score is not None:
            added = self.score_proj(score.to(self.score_proj.weight.dtype))
            total = added if total is None else total + added
        return total

    # ------------------------------------------------------------ velocity

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: TextCondition | None = None,
        *,
        time: Tensor | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Velocity [B, D, T] of latents x [B, D, T] at flow steps t [B] or [1].

        `condition` belongs to the first rows; further rows have no text. `time` [B or 1, 1, dim] and `rotation` may be
        given when they are known already.
        Raises: ShapeError when x is not [B, D, T].
        """
        if x.ndim != 3 or x.shape[1] != self.config.latent_dim:
            raise ShapeError(f"latents must be [B, {self.config.latent_dim}, T], got {tuple(x.shape)}")
        t = t.reshape(-1).float()
        time = self.timestep_embedder(t) if time is None else time
        time = time.expand(x.shape[0], -1, -1)
        rotation = self.transformer.rope(x.shape[2]) if rotation is None else rotation
        # Keeps unit variance along the path from noise to data.
        scale = torch.rsqrt(t.square() + (1.0 - t).square()).view(-1, 1, 1)
        hidden = self.in_proj((x * scale).transpose(1, 2).to(self.in_proj.weight.dtype))
        if condition is not None and condition.frames is not None:
            rows = condition.frames.shape[0]
            hidden = torch.cat((hidden[:rows] + condition.frames, hidden[rows:]))
        hidden = self.transformer(hidden, time, condition, rotation)
        return self.out_proj(self.out_norm(hidden)).transpose(1, 2) * math.sqrt(2.0)

    # ------------------------------------------------------------ latents

    def normalise(self, latents: Tensor) -> Tensor:
        """Latents of the codec [B, D, T] -> those that the flow knows, about zero mean and unit scale."""
        return (latents - self.latent_mean) / (self.latent_std + STD_FLOOR)

    def denormalise(self, latents: Tensor) -> Tensor:
        """The way back of `normalise`."""
        return latents * (self.latent_std + STD_FLOOR) + self.latent_mean


TEXT_PROJECTION = "condition_provider.conditioners.description.output_proj."
"""Where the official checkpoint keeps `text_proj`."""


def from_official_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an official flow checkpoint under our names; the repeated rotary buffers are dropped.

    Raises: CheckpointError when layers carry rotary frequencies of their own.
    """
    ours: dict[str, Tensor] = {}
    shared = tensors.get("transformer.rope.frequencies")
    for name, tensor in tensors.items():
        if name.endswith(".self_attn.rope.frequencies"):
            if shared is None or not torch.equal(tensor, shared):
                raise CheckpointError(f"{name} differs from the shared rotary table; this is not a MelodyFlow model")
        elif name.startswith(TEXT_PROJECTION):
            ours["text_proj." + name.removeprefix(TEXT_PROJECTION)] = tensor
        else:
            ours[name] = tensor
    return ours


def stack_states(states: Sequence[Tensor], width: int) -> tuple[Tensor, Tensor]:
    """Text states of different lengths [L_i, width] as one batch [B, L, width] with its mask [B, L]; L >= 1."""
    length = max([1, *(len(part) for part in states)])
    batch, mask = torch.zeros(len(states), length, width), torch.zeros(len(states), length)
    for row, part in enumerate(states):
        batch[row, : len(part)], mask[row, : len(part)] = part, 1.0
    return batch, mask
