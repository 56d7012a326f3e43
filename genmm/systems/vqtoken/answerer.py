"""A small network that answers questions about a video from its reduced tokens, whatever reducer they came from.

Letters: B clips, Q questions of a clip, L words, M tokens, D width of the tokens, E width of the answerer, R latents.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genmm.core.errors import UsageError
from genmm.nn.attention import attend
from genmm.systems.vqtoken.config import AnswererConfig
from genmm.systems.vqtoken.reduced import ReducedVideo

__all__ = ["EXAMPLES", "Answerer", "PlacedTokens", "question_words", "token_places"]

PAD = 0
"""Word id of padding; words count from 1."""
MOST_WORDS = 24
EXAMPLES = (
    "where is the red circle at the end",
    "how many squares are there",
    "which way does the blue star move",
    "what shape is the yellow object",
    "which appears first the red circle or the blue star",
)
"""Questions as the embedded answerer knows them."""


def question_words(text: str) -> list[str]:
    """Words of a question, lower case, without signs."""
    return re.findall(r"[a-z]+", text.lower())


def token_places(reduced: ReducedVideo) -> Tensor:
    """What is known of each token besides its content: [B, M, 7] centre, extent, share of the clip."""
    share = reduced.counts / reduced.counts.sum(1, keepdim=True).clamp_min(1)
    return torch.cat([reduced.positions, reduced.spread, share.sqrt().unsqueeze(-1)], -1)


class PlacedTokens(nn.Module):
    """For reducers without a block: tokens [B, M, D] plus what is known of their place [B, M, 7]."""

    def __init__(self, width: int, inner: int = 0) -> None:
        super().__init__()
        inner = inner or 2 * width
        self.place = nn.Sequential(nn.Linear(7, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        """[B, M, D]."""
        return tokens + self.place(places.to(tokens))


class Answerer(nn.Module):
    """Question and tokens -> scores of the answers. Cost grows linearly with the tokens, so all of a clip fit too.

    A few latent vectors, made from the question, read the tokens in several rounds.
    """

    def __init__(self, config: AnswererConfig, token_width: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.word_ids = {word: number for number, word in enumerate(config.words, 1)}
        self.words = nn.Embedding(len(config.words) + 1, width, padding_idx=PAD)
        self.word_places = nn.Parameter(0.2 * torch.randn(MOST_WORDS, width))
        self.ask = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.latents * width))
        self.enter = nn.Sequential(nn.LayerNorm(token_width), nn.Linear(token_width, width))
        self.rounds = nn.ModuleList(_Round(width, config.heads) for _ in range(config.layers))
        self.leave = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, len(config.answers)))

    def encode(self, questions: Sequence[str]) -> Tensor:
        """Word ids [Q, L] int64, padded with 0. Raises: UsageError naming words that were never learned."""
        if not questions:
            raise UsageError("there is no question to answer; ask at least one")
        rows = [question_words(text) for text in questions]
        for text, row in zip(questions, rows, strict=True):
            unknown = sorted({word for word in row if word not in self.word_ids})
            if unknown or not row or len(row) > MOST_WORDS:
                why = f"does not know: {', '.join(unknown)}" if unknown else f"takes 1 to {MOST_WORDS} words"
                raise UsageError(
                    f"the embedded answerer cannot read {text[:80]!r}: it {why}. It was trained on questions about "
                    f'shapes such as "{EXAMPLES[0]}" or "{EXAMPLES[1]}"; for free questions: genmm pull vqtoken'
                )
        ids = [torch.tensor([self.word_ids[word] for word in row]) for row in rows]
        return nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=PAD)

    def forward(self, tokens: Tensor, mask: Tensor, words: Tensor) -> Tensor:
        """Scores [B, Q, A] of the answers.

        Shapes: tokens [B, M, D], mask [B, M] bool, words [B, Q, L] ids. A clip without any token is answered blindly.
        """
        questions, length = words.shape[1:]
        seen = self.enter(tokens) * mask.unsqueeze(-1).to(tokens.dtype)
        present = (words != PAD).unsqueeze(-1)
        said = self.words(words) * (1.0 + self.word_places[:length]) * present  # [B, Q, L, E]
        question = said.sum(2) / present.sum(2).clamp_min(1).sqrt()
        state = self.ask(question).unflatten(-1, (self.config.latents, -1)).flatten(0, 1)  # [B Q, R, E]
        for layer in self.rounds:
            state = layer(state, seen, mask, questions)
        pooled = state.mean(1).unflatten(0, (-1, questions))
        return self.leave(torch.cat([pooled, question], -1))


class _Round(nn.Module):
    """The latents read the tokens, then mix among themselves, then a feed-forward; all pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_read, self.norm_mix, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.read_out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.qkv, self.mix_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, state: Tensor, seen: Tensor, mask: Tensor, questions: int) -> Tensor:
        """state [B Q, R, E], seen [B, M, E], mask [B, M] -> [B Q, R, E]."""
        # All questions of a clip read its tokens in one product: [B, heads, Q R, d] against [B, heads, M, d].
        query = self._split(self.query(self.norm_read(state)).unflatten(0, (-1, questions)).flatten(1, 2))
        key, value = (self._split(x) for x in self.key_value(seen).chunk(2, -1))
        keep = (mask | ~mask.any(1, keepdim=True))[:, None, None, :]
        read = attend(query, key, value, keep).transpose(1, 2).flatten(2)
        state = state + self.read_out(read.unflatten(1, (questions, -1)).flatten(0, 1))
        query, key, value = (self._split(x) for x in self.qkv(self.norm_mix(state)).chunk(3, -1))
        mixed = attend(query, key, value)
        state = state + self.mix_out(mixed.transpose(1, 2).flatten(2))
        return state + self.mlp(self.norm_mlp(state))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
