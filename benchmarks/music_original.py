"""A guided step in the manner of the original code: everything that depends on the text alone is done again each step.

Written from the description of the method; the weights are those of our network, so both compute the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from genmm.systems.melodyflow.network import FlowNetwork, turn_pairs
from genmm.systems.melodyflow.zero_key import attend_with_explicit_zero, mask_bias


@torch.inference_mode()
def original_guided_step(
    network: FlowNetwork, x: Tensor, t: float, states: Tensor, mask: Tensor, weight: float
) -> Tensor:
    """Guided velocity [B, D, T] by two passes: cross keys and values, time embedding and rotary table made in each,
    a real zero key in front of every attention.
    """
    told = _pass(network, x, t, states, mask)
    untold = _pass(network, x, t, states, torch.zeros_like(mask))
    return (1.0 + weight) * told - weight * untold


def _pass(network: FlowNetwork, x: Tensor, t: float, states: Tensor, mask: Tensor) -> Tensor:
    step = torch.tensor([t], device=x.device).expand(x.shape[0])
    time = network.timestep_embedder(step)
    rotation = network.transformer.rope(x.shape[2])
    text, bias = network.project_text(states, mask), mask_bias(mask)
    scale = torch.rsqrt(step.square() + (1 - step).square()).view(-1, 1, 1)
    hidden = network.in_proj((x * scale).transpose(1, 2).to(network.in_proj.weight.dtype))
    layers, waiting = network.transformer.layers, []
    for index, layer in enumerate(layers):
        if index > len(layers) / 2:
            project = network.transformer.skip_projections[index % len(network.transformer.skip_projections)]
            hidden = project(torch.cat((hidden, waiting.pop()), -1))
        hidden = hidden + _self(layer.self_attn, layer.norm1(hidden) + time, rotation)
        hidden = hidden + _cross(layer.cross_attention, layer.norm_cross(hidden) + time, text, bias)
        hidden = hidden + layer.linear2(functional.gelu(layer.linear1(layer.norm2(hidden))))
        if index < len(layers) / 2 - 1:
            waiting.append(hidden)
    return (network.out_proj(network.out_norm(hidden)).transpose(1, 2) * 2**0.5).float()


def _self(attention, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:  # noqa: ANN001 - a module of the network
    query, key, value = functional.linear(x, attention.in_proj_weight).chunk(3, -1)
    query, key = (turn_pairs(attention.split(part), *rotation) for part in (query, key))
    return attention.finish(attend_with_explicit_zero(query, key, attention.split(value)))


def _cross(attention, x: Tensor, text: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN001 - a module of the network
    dim = x.shape[-1]
    query = attention.split(functional.linear(x, attention.in_proj_weight[:dim]))
    key, value = (
        attention.split(part) for part in functional.linear(text, attention.in_proj_weight[dim:]).chunk(2, -1)
    )
    return attention.finish(attend_with_explicit_zero(query, key, value, bias))
