"""The SLED network: text and speech latents in one causal decoder, a generator head and a stop head.

Letters: B batch, Tt text tokens, T speech frames, S = Tt + T joint positions, H width, D latent channels,
C noise channels, V voice statistics. Parameter names are those of the official checkpoints.
Source: SLED (arXiv 2505.13181).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genmm.core.errors import ShapeError
from genmm.nn.attention import GroupedAttention, RMSNorm, SwiGLU, causal_bias
from genmm.nn.rotary import rotary_angles
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.head import GeneratorHead
from genmm.systems.sled.interleave import JointLayout, offline_layout, streaming_layout


@dataclass(frozen=True)
class TeacherForced:
    """What one pass over text and true latents gives."""

    z: Tensor
    """[B, T, H] hidden state that predicts each frame."""
    stop_logits: Tensor
    """[B, T + 1] logit before each frame, and after the last slot."""
    hidden: Tensor
    """[B, S, H] decoder output at every joint position."""
    inputs: Tensor
    """[B, S, H] joint sequence after the input norm."""
    layout: JointLayout
    """Where text and speech lie in the joint sequence, and its mask."""

    @property
    def joint_mask(self) -> Tensor:
        """[B, S] bool, True where the joint sequence is real."""
        return self.layout.mask


class DecoderLayer(nn.Module):
    """Pre-norm attention and feed-forward with dropout on both outputs."""

    def __init__(self, config: SledConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = GroupedAttention(
            config.hidden_size,
            config.num_attention_heads,
            config.kv_heads,
            config.width_of_head,
            config.attention_dropout,
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size, config.activation_dropout)
        self.dropout = config.dropout

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, bias: Tensor) -> Tensor:
        """Shapes: x [B, S, H], angles and bias as in GroupedAttention -> [B, S, H]."""
        mixed = self.self_attn(self.input_layernorm(x), cosine, sine, bias)
        x = x + F.dropout(mixed, self.dropout, self.training)
        fed = self.mlp(self.post_attention_layernorm(x))
        return x + F.dropout(fed, self.dropout, self.training)


class Decoder(nn.Module):
    """Text embedding, decoder layers and final norm."""

    def __init__(self, config: SledConfig) -> None:
        super().__init__()
        self.head_dim, self.theta = config.width_of_head, config.rope_theta
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, key_mask: Tensor, positions: Tensor | None = None) -> Tensor:
        """Run every layer over a whole sequence.

        Shapes: x [B, S, H]; key_mask [B, S] bool; positions [B, S] int64, None = 0 .. S-1. Returns: [B, S, H].
        """
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)
        cosine, sine = rotary_angles(positions, self.head_dim, self.theta)
        if cosine.ndim == 3:  # [B, S, d / 2] -> [B, 1, S, d / 2]
            cosine, sine = cosine.unsqueeze(1), sine.unsqueeze(1)
        bias = causal_bias(key_mask)
        for layer in self.layers:
            x = layer(x, cosine, sine, bias)
        return self.norm(x)


class ScoreLoss(nn.Module):
    """Holder of the generator head; it exists so that keys read `scoreloss.net.*` as in the official files."""

    def __init__(self, config: SledConfig) -> None:
        super().__init__()
        self.net = GeneratorHead(
            config.hidden_size, config.diffloss_w, config.diffloss_d, config.vae_embed_dim, config.noise_channels
        )


class SledNetwork(nn.Module):
    """Speech language model over continuous latents."""

    def __init__(self, config: SledConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.z_proj = nn.Linear(config.vae_embed_dim, config.hidden_size)
        self.z_proj_ln = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.eos_head = nn.Linear(config.hidden_size, 1, bias=False)
        self.scoreloss = ScoreLoss(config)
        self.voice_proj = nn.Linear(config.voice_channels, config.hidden_size) if config.voice_channels else None
        self._initialise()
        self.register_load_state_dict_pre_hook(_drop_loss_buffer)

    def _initialise(self) -> None:
        """Official start: N(0, 0.02) in the decoder, Xavier in the projections; the head initialises itself."""
        for module in self.model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.xavier_uniform_(self.z_proj.weight)
        nn.init.zeros_(self.z_proj.bias)
        nn.init.xavier_uniform_(self.eos_head.weight)
        if self.voice_proj is not None:
            # The joint norm rescales text + voice together: a voice of the size of the official 0.02 embeddings or more
            # would hide the words. So with voices the text starts at the size of projected speech, the voice below it.
            nn.init.normal_(self.model.embed_tokens.weight, std=0.5)
            nn.init.normal_(self.voice_proj.weight, std=0.02)
            nn.init.zeros_(self.voice_proj.bias)

    def embed_text(self, ids: Tensor) -> Tensor:
        """Text embedding without the joint norm: ids [B, Tt] int64 -> [B, Tt, H]."""
        return self.model.embed_tokens(ids)

    def embed_speech(self, latents: Tensor) -> Tensor:
        """Projected latents without the joint norm: [B, T, D] -> [B, T, H]."""
        return self.z_proj(latents)

    def voice_shift(self, voice: Tensor | None, batch: int) -> Tensor | None:
        """What is added to every embedded position: voice [B, V] -> [B, 1, H]; None for a network without voices.

        A missing voice counts as an all-zero vector, which training uses for rows whose voice was dropped.
        Raises: ShapeError when the vector does not fit the network.
        """
        channels = self.config.voice_channels
        if self.voice_proj is None:
            if voice is not None:
                raise ShapeError("this network takes no voice vector (voice_channels is 0); pass voice=None")
            return None
        if voice is None:
            voice = self.voice_proj.weight.new_zeros(batch, channels)
        if voice.shape != (batch, channels):
            raise ShapeError(f"the voice vector must be [{batch}, {channels}], got {tuple(voice.shape)}")
        return self.voice_proj(voice).unsqueeze(1)

    def join(self, embedded: Tensor, shift: Tensor | None) -> Tensor:
        """Voice shift and the joint norm over embedded positions of both kinds: [B, S, H] -> [B, S, H]."""
        return self.z_proj_ln(embedded if shift is None else embedded + shift)

    def forward(self, joint: Tensor, mask: Tensor, positions: Tensor | None = None) -> Tensor:
        """Decoder over a joined sequence: joint [B, S, H], mask [B, S] bool -> hidden [B, S, H]."""
        return self.model(joint, mask, positions)

    def head(self, z: Tensor, noise: Tensor, shift_scale: float = 1.0) -> Tensor:
        """One latent for each hidden state: z [N, H], noise [N, C] -> [N, D]."""
        return self.scoreloss.net(z, noise, shift_scale)

    def stop_logits(self, hidden: Tensor) -> Tensor:
        """Stop logit of each hidden state: [..., H] -> [...]."""
        return self.eos_head(hidden).squeeze(-1)

    def teacher_forcing(
        self,
        ids: Tensor,
        text_mask: Tensor,
        latents: Tensor,
        frame_mask: Tensor,
        *,
        voice: Tensor | None = None,
        drop_text: Tensor | None = None,
        input_noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> TeacherForced:
        """Hidden states that predict every frame, given the true frames before it.

        Shapes: ids [B, Tt] int64 and text_mask [B, Tt] bool (padded on the left offline, on the right streaming);
        latents [B, T, D] and frame_mask [B, T] bool, padded on the right; voice [B, V]; drop_text [B] bool, True rows
        see no text but </s>; input_noise [B, T, D] is added to the latents that are fed.
        Without drop_text, rows are drawn with probability training_cfg in training mode, and none are in eval mode.
        Raises: ShapeError when shapes disagree.
        """
        self._check_shapes(ids, text_mask, latents, frame_mask)
        if drop_text is None and self.training and self.config.training_cfg > 0:
            drop_text = draw_text_drop(ids.shape[0], self.config.training_cfg, generator).to(ids.device)
        build = streaming_layout if self.config.is_streaming else offline_layout
        ids, layout = build(self.config, ids, text_mask.bool(), frame_mask.bool(), drop_text)
        fed = latents if input_noise is None else latents + input_noise.to(latents.dtype)
        parts = torch.cat((self.embed_text(ids), self.embed_speech(fed)), dim=1)
        embedded = parts if layout.order is None else parts[:, layout.order]
        inputs = self.join(embedded, self.voice_shift(voice, ids.shape[0]))
        hidden = self(inputs, layout.mask, layout.positions)
        before = layout.gather_before(hidden)  # [B, T + 1, H]
        return TeacherForced(before[:, :-1], self.stop_logits(before), hidden, inputs, layout)

    def _check_shapes(self, ids: Tensor, text_mask: Tensor, latents: Tensor, frame_mask: Tensor) -> None:
        batch, channels = ids.shape[0], self.config.vae_embed_dim
        fits = text_mask.shape == ids.shape and frame_mask.shape == latents.shape[:2]
        if not fits or latents.ndim != 3 or latents.shape[0] != batch or latents.shape[2] != channels:
            raise ShapeError(
                f"need ids and text_mask [B, Tt], latents [B, T, {channels}], frame_mask [B, T]; got "
                f"{tuple(ids.shape)}, {tuple(text_mask.shape)}, {tuple(latents.shape)}, {tuple(frame_mask.shape)}"
            )


def draw_text_drop(batch: int, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """Which rows lose their text: [B] bool on the CPU, each True with the given probability."""
    return torch.rand(batch, generator=generator) < probability


def _drop_loss_buffer(module: nn.Module, state: dict, prefix: str, *_: object) -> None:
    """Official files carry the stop-loss weight, a constant of the loss and not of the network."""
    state.pop(prefix + "bceloss.pos_weight", None)
