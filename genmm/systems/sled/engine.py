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

from genmm.nn.cache import KeyValueCache
from genmm.nn.packed import PackedLinear, Packing, check_packing
from genmm.nn.rotary import rotary_angles, rotate
from genmm.systems.sled.head import modulate
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
        """Pack a network. With "live" the engine follows later changes of the weights, else it is a copy.

        Raises: UsageError when the packing cannot run on the device and dtype of the network.
        """
        weight = network.z_proj.weight
        check_packing(packing, weight.device, weight.dtype)
        self.network, self.config, self.packing = network, network.config, packing
        self.device, self.dtype = weight.device, weight.dtype
        self._layers = [self._pack_layer(layer) for layer in network.model.layers]
        self._head = PackedHead(network, packing)
        # The streaming layout bounds text and frames apart, so positions reach twice the limit.
        steps = torch.arange(2 * self.config.max_position_embeddings, device=self.device)
        cosine, sine = rotary_angles(steps, self.config.width_of_head, self.config.rope_theta)
        self._angles = torch.stack((cosine, sine)).to(self.dtype)  # [2, positions, d / 2]

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
        return PackedLinear([linear.weight for linear in linears], None, self.packing)

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

        Shapes: joint [R, L, H] after the joint norm, real [R, L] bool with at least one True in a row. Returns: [R, H].
        """
        positions, bias = cache.open_block(real)
        hidden = self._run(cache, joint, positions, bias)
        cache.close_block(real)
        steps = torch.arange(real.shape[1], device=real.device)
        last = torch.where(real, steps, -1).amax(1)
        return hidden[torch.arange(len(last), device=last.device), last]

    def step(self, cache: KeyValueCache, joint: Tensor) -> Tensor:
        """Feed one position of every row: joint [R, H] -> hidden state [R, H]."""
        positions = cache.open_step()
        hidden = self._run(cache, joint.unsqueeze(1), positions, cache.step_bias())
        cache.close_step()
        return hidden.squeeze(1)

    def _run(self, cache: KeyValueCache, x: Tensor, positions: Tensor, bias: Tensor | None) -> Tensor:
        """Decoder layers and final norm: x [R, L, H], positions [R, L], bias as SDPA takes it -> [R, L, H]."""
        rows, new, width = x.shape
        cosine, sine = self._angles[:, positions].unsqueeze(3).unbind(0)  # [R, L, 1, d / 2]
        x = x.reshape(rows * new, width)
        for index, layer in enumerate(self._layers):
            x = x + layer.out(self._attend(cache, index, layer.qkv(layer.first_norm(x)), cosine, sine, bias))
            gate, up = layer.gate_up(layer.second_norm(x)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate) * up)
        return self.network.model.norm(x).view(rows, new, width)

    def _attend(
        self, cache: KeyValueCache, index: int, qkv: Tensor, cosine: Tensor, sine: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Rotate, store and attend: qkv [R L, (h + 2 k) d] -> [R L, h d]."""
        heads, groups, width = self.config.num_attention_heads, self.config.kv_heads, self.config.width_of_head
        rows, new = cosine.shape[:2]
        split = qkv.view(rows, new, heads + 2 * groups, width)
        turned = rotate(split[:, :, : heads + groups], cosine, sine).transpose(1, 2)  # [R, h + k, L, d]
        query, key = turned[:, :heads], turned[:, heads:]
        keys, values = cache.write(index, key, split[:, :, heads + groups :].transpose(1, 2))
        if new == 1:  # the query heads of a group become the queries of one key-value head
            query = query.reshape(rows, groups, heads // groups, width)
            mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        else:
            grouped = heads != groups
            mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, enable_gqa=grouped)
            mixed = mixed.transpose(1, 2)
        return mixed.reshape(rows * new, heads * width)

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
        """Shift, scale and gate of every block, then shift and scale of the final layer: [N, (3 depth + 2) W]."""
        modulation = self._net.input_proj(noise)
        parts = [block.modulation(modulation) for block in self._net.res_blocks]
        parts.append(self._net.final_layer.modulation(modulation))
        if shift_scale != 1.0:
            width = modulation.shape[1]
            parts = [torch.cat((part[:, :width] * shift_scale, part[:, width:]), dim=1) for part in parts]
        return torch.cat(parts, dim=1)

    def draw(self, z: Tensor, modulation: Tensor) -> Tensor:
        """Run the stream of the head: z [N, H], modulation [N, (3 depth + 2) W] -> [N, D]."""
        stream = self._condition(z)
        parts = modulation.split(stream.shape[1], dim=1)
        for index, (inner, outer) in enumerate(self._blocks):
            shift, scale, gate = parts[3 * index : 3 * index + 3]
            stream = stream + gate * outer(F.silu(inner(modulate(stream, shift, scale))))
        shift, scale = parts[-2:]
        return self._last(modulate(stream, shift, scale))
