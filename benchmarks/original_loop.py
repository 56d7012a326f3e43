"""The peer of our speech decoder: a decode loop in the manner of the authors' published code.

Written from the description of that code: transformers' LlamaModel with its growing cache, guidance as a doubled
batch, and latents, ids and masks that are concatenated again at every step. It shares weights with our network.

Letters: B utterances, Tt text tokens, T frames, D latent channels, C noise channels, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaModel

from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.network import ScoreLoss, SledNetwork


class OriginalLoop(nn.Module):
    """Text ids and noise to latents, offline layout."""

    def __init__(self, network: SledNetwork) -> None:
        """Take the weights of a network without voices; they are shared, not copied."""
        super().__init__()
        config = network.config
        with torch.device("meta"):
            self.model = LlamaModel(llama_config(config))
            self.z_proj = nn.Linear(config.vae_embed_dim, config.hidden_size)
            self.z_proj_ln = nn.LayerNorm(config.hidden_size, eps=1e-6)
            self.eos_head = nn.Linear(config.hidden_size, 1, bias=False)
            self.scoreloss = ScoreLoss(config)
        self.load_state_dict(network.state_dict(), strict=True, assign=True)
        # The rotary frequencies are no weights, so they are still on the meta device.
        self.model.rotary_emb = type(self.model.rotary_emb)(self.model.config).to(network.z_proj.weight.device)
        self.eval()

    @torch.no_grad()
    def generate(
        self, ids: Tensor, text_mask: Tensor, noise: Tensor, guidance: float = 2.0, threshold: float = 0.8
    ) -> Tensor:
        """Speak until every row has stopped or the noise is used up.

        Shapes: ids, text_mask [B, Tt] padded on the left; noise [B, steps, C]. Returns: [B, T, D], the latent of the
        stopping step included, as in the original.
        """
        unconditional = torch.zeros_like(text_mask)
        unconditional[:, -1] = True
        mask = torch.cat((text_mask, unconditional)).long()
        latents = noise.new_zeros(len(ids), 0, self.z_proj.in_features)
        stopped = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        cache = DynamicCache()
        for step in range(noise.shape[1]):
            latent, stop = self._step(ids if step == 0 else None, latents, mask, cache, noise[:, step], guidance)
            stopped = stopped | (stop >= threshold)
            latents = torch.cat((latents, latent[:, None]), dim=1)
            ids = torch.cat((ids, torch.where(stopped, 2, 0)[:, None]), dim=1)
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
            if stopped.all():
                break
        return latents

    def _step(
        self, ids: Tensor | None, latents: Tensor, mask: Tensor, cache: DynamicCache, noise: Tensor, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """One step: the next latent [B, D] and the stop probability [B]."""
        embedded = self.z_proj(latents[:, -1:]) if ids is None else self.model.embed_tokens(ids)
        inputs = self.z_proj_ln(torch.cat((embedded, embedded)))
        positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)[:, -inputs.shape[1] :]
        output = self.model(
            inputs_embeds=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        conditional, unconditional = output.last_hidden_state[:, -1].chunk(2)
        guided = unconditional + guidance * (conditional - unconditional)
        return self.scoreloss.net(guided, noise), torch.sigmoid(self.eos_head(conditional).float()).squeeze(-1)


def llama_config(config: SledConfig) -> LlamaConfig:
    """The decoder's sizes in the words of transformers, with its default attention (fused, where torch has it)."""
    return LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.width_of_head,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        tie_word_embeddings=False,
        use_cache=True,
    )
