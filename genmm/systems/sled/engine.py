"""Step-by-step evaluation of a SLED network: one position after another over a preallocated cache.

Letters: B utterances, R = B or 2 B rows (with guidance the unconditional rows follow the conditional ones), L new
positions, H width, D latent channels, C noise channels, h query heads, k key-value heads, d width of one head.
The module-by-module twin is `SledNetwork.forward`; tests compare both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genmm.nn.cache import KeyValueCache, Opening
from genmm.nn.packed import PackedLinear, Packing, check_packing, join_storage, joined_view
from genmm.nn.rotary import rotary_angles, turn, whole_angles
from genmm.systems.sled.head import EPS
from genmm.systems.sled.network import DecoderLayer, SledNetwork


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer, packed."""

    first_norm: torch.nn.Module
    qkv: PackedLinear
    out: PackedLinear
    second_norm: torch.nn.Module
    gate_up: PackedLinear
    down: PackedLinear


class DecodeEngine:
    """Packed weights of one network and the operations of a generation step; holds no state of a run."""

    def __init__(self, network: SledNetwork, packing: Packing = "live") -> None:
        """Pack a network. With "live" the engine follows later changes of the weights in place, else it is a copy.

        Weights that share an input are laid side by side in memory (values and names stay) when none of them is in
        training, so that one product serves them.
        Raises: UsageError when the packing cannot run on the device and dtype of the network.
        """
        weight = network.z_proj.weight
        check_packing(packing, weight.device, weight.dtype)
        self.network, self.config, self.packing = network, network.config, packing
        self.device, self.dtype = weight.device, weight.dtype
        self._layers = [self._pack_layer(layer) for layer in network.model.layers]
        self._head = PackedHead(network, packing)
        self._angles = self._make_angles()
        counts = torch.tensor([self.config.num_attention_heads, self.config.kv_heads, self.config.kv_heads])
        self._kinds = torch.arange(3).repeat_interleave(counts).to(self.device)  # [h + 2 k]: query, key or value

    def _make_angles(self) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine [positions, 3, d] for queries, keys and values; values are not turned."""
        # The streaming layout bounds text and frames apart, so positions reach twice the limit.
        steps = torch.arange(2 * self.config.max_position_embeddings, device=self.device)
        angles = rotary_angles(steps, self.config.width_of_head, self.config.rope_theta)
        cosine, sine = (angle.to(self.dtype) for angle in whole_angles(*angles))
        none = torch.zeros_like(sine)
        return torch.stack((cosine, cosine, none + 1), 1), torch.stack((sine, sine, none), 1)

    def _angles_at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Angles of every head: positions [R, L] -> two [R, L, h + 2 k, d]."""
        cosine, sine = (table[positions].index_select(2, self._kinds) for table in self._angles)
        return cosine, sine

    def _pack_layer(self, layer: DecoderLayer) -> LayerWeights:
        attention, fed = layer.self_attn, layer.mlp
        return LayerWeights(
            layer.input_layernorm,
            self._pack(attention.q_proj, attention.k_proj, attention.v_proj),
            self._pack(attention.o_proj),
            layer.post_attention_layernorm,
            self._pack(fed.gate_proj, fed.up_proj),
            self._pack(fed.down_proj),
        )

    def _pack(self, *linears: torch.nn.Linear) -> PackedLinear:
        weights = [linear.weight for linear in linears]
        is_idle = self.packing in ("live", "split") and not any(weight.requires_grad for weight in weights)
        if len(weights) > 1 and is_idle and joined_view(weights) is None:
            join_storage(weights)
        return PackedLinear(weights, None, self.packing)

    def new_cache(self, rows: int, capacity: int, *, static: bool = False) -> KeyValueCache:
        """An empty cache for R rows and so many positions."""
        config = self.config
        return KeyValueCache(
            config.num_hidden_layers,
            rows,
            config.kv_heads,
            config.width_of_head,
            capacity,
            dtype=self.dtype,
            device=self.device,
            static=static,
        )

    def extend(self, cache: KeyValueCache, joint: Tensor, real: Tensor) -> Tensor:
        """Feed L positions and give back the hidden state at the last real one of each row.

        Shapes: joint [n, L, H] after the joint norm, real [n, L] bool for the first n rows of the cache; the others sit
        the block out. Returns: [n, H], without meaning for a row that has nothing real in the block.
        """
        hidden = self._run(cache, joint, cache.open_block(real))
        cache.close_block(real)
        steps = torch.arange(real.shape[1], device=real.device)
        last = torch.where(real, steps, 0).amax(1)
        return hidden[torch.arange(len(last), device=last.device), last]

    def step(self, cache: KeyValueCache, joint: Tensor) -> Tensor:
        """Feed one position of every row: joint [R, H] -> hidden state [R, H]."""
        return self.run_step(cache, joint, cache.open_step())

    def run_step(self, cache: KeyValueCache, joint: Tensor, opening: Opening) -> Tensor:
        """The part of `step` that a CUDA graph records."""
        hidden = self._run(cache, joint.unsqueeze(1), opening)
        cache.close_step()
        return hidden.squeeze(1)

    def _run(self, cache: KeyValueCache, joint: Tensor, opening: Opening) -> Tensor:
        """Decoder layers and final norm: joint [R, L, H] -> [R, L, H]."""
        rows, new, width = joint.shape
        angles = self._angles_at(opening.positions)
        x = joint.reshape(rows * new, width).clone()  # the residual stream, added to in place
        for index, layer in enumerate(self._layers):
            x += layer.out(self._attend(cache, index, layer.qkv(layer.first_norm(x)), angles, opening))
            gate, up = layer.gate_up(layer.second_norm(x)).chunk(2, dim=-1)
            x += layer.down(F.silu(gate) * up)
        return self.network.model.norm(x).view(rows, new, width)

    def _attend(
        self, cache: KeyValueCache, index: int, qkv: Tensor, angles: tuple[Tensor, Tensor], opening: Opening
    ) -> Tensor:
        """Rotate, store and attend: qkv [R L, (h + 2 k) d] -> [R L, h d]."""
        heads, groups, width = self.config.num_attention_heads, self.config.kv_heads, self.config.width_of_head
        rows, new = opening.positions.shape
        turned = turn(qkv.view(rows, new, heads + 2 * groups, width), *angles)
        cache.write(opening, index, turned[:, :, heads:])
        keys, values, bias = opening.keys[index], opening.values[index], opening.bias
        if new == 1:  # the query heads of a group become the queries of one key-value head
            query = turned[:, :, :heads].reshape(rows, groups, heads // groups, width)
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias).reshape(rows, heads * width)
        query, grouped = turned[:, :, :heads].transpose(1, 2), heads != groups
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, enable_gqa=grouped)
        return mixed.transpose(1, 2).reshape(rows * new, heads * width)

    def embed_frame(self, latents: Tensor, shift: Tensor | None) -> Tensor:
        """Joint input of new frames: latents [B, D], voice shift [B, 1, H] or None -> [B, H]."""
        embedded = self.network.embed_speech(latents.to(self.dtype)).unsqueeze(1)
        return self.network.join(embedded, shift).squeeze(1)

    def modulations(self, noise: Tensor, shift_scale: float = 1.0) -> Tensor:
        """All that the head computes from noise alone: noise [N, C] -> [N, (3 depth + 2) W]."""
        return self._head.modulations(noise.to(self.dtype), shift_scale)

    def draw(self, z: Tensor, modulation: Tensor) -> Tensor:
        """The latents of hidden states z [N, H] under modulations [N, (3 depth + 2) W] -> [N, D]."""
        return self._head.draw(z, modulation)

    def stop_probability(self, hidden: Tensor) -> Tensor:
        """Probability that the utterance is over, from the conditional hidden state: [B, H] -> [B] float32."""
        return torch.sigmoid(self.network.stop_logits(hidden).float())


class PackedHead:
    """The generator head in two parts: what depends on the noise alone (for many steps at once), and the rest.

    The modulations hold more than half of the weights of the head. Computed for a block of steps in one product they
    are read once a block and not once a step.
    """

    def __init__(self, network: SledNetwork, packing: Packing) -> None:
        self._net = network.scoreloss.net

        def pack(linear: torch.nn.Linear) -> PackedLinear:
            return PackedLinear([linear.weight], linear.bias, packing)

        self._condition = pack(self._net.cond_embed)
        self._blocks = [(pack(block.mlp[0]), pack(block.mlp[2])) for block in self._net.res_blocks]
        self._last = pack(self._net.final_layer.linear)

    def modulations(self, noise: Tensor, shift_scale: float) -> Tensor:
        """Shift, 1 + scale and gate of every block, then shift and 1 + scale of the final layer."""
        modulation = self._net.input_proj(noise)
        parts = [block.modulation(modulation) for block in self._net.res_blocks]
        table = torch.cat([*parts, self._net.final_layer.modulation(modulation)], dim=1)
        thirds = table.view(len(table), -1, modulation.shape[1])  # [N, 3 depth + 2, W], every third a shift
        thirds[:, 1::3] += 1.0
        if shift_scale != 1.0:
            thirds[:, ::3] *= shift_scale
        return table

    def draw(self, z: Tensor, modulation: Tensor) -> Tensor:
        """Run the stream of the head: z [N, H], modulation [N, (3 depth + 2) W] -> [N, D]."""
        stream = self._condition(z)
        width = stream.shape[1:]
        parts = modulation.view(len(modulation), -1, *width).unbind(1)
        for index, (inner, outer) in enumerate(self._blocks):
            shift, scale, gate = parts[3 * index : 3 * index + 3]
            inside = torch.addcmul(shift, F.layer_norm(stream, width, eps=EPS), scale)
            stream = torch.addcmul(stream, gate, outer(F.silu(inner(inside))))
        return self._last(torch.addcmul(parts[-2], F.layer_norm(stream, width, eps=EPS), parts[-1]))
