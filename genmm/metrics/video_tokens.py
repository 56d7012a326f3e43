"""Figures of reduced videos as the field reports them, and those that keep them honest.

Source: VQToken (arXiv 2503.16980), section 3.1.1 and equation 2 (TokDense). TokDense alone can be gamed: a blind guess
with one token has a high one, so gain density stands beside it. Two numbers of original tokens are in use (16 frames x
729 and 32 x 729), so a share always says of which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from genmm.core.errors import UsageError

__all__ = [
    "ORIGINALS",
    "LanguageModel",
    "code_bits",
    "gain_density",
    "id_bits",
    "prefill_flops",
    "tok_dense",
    "token_shares",
    "wilson_interval",
]

ORIGINALS = {"16 frames": 16 * 729, "32 frames": 32 * 729}
"""Tokens before the reduction in the tables of the paper: 11,664 (tables 1 and 7) and 23,328 (tables 4 to 6)."""


def tok_dense(accuracy: float, tokens: float) -> float:
    """Accuracy in per cent for each token. Raises: UsageError without tokens."""
    if tokens <= 0:
        raise UsageError(f"TokDense needs at least one token, got {tokens}; report blind accuracy by itself")
    return accuracy / tokens


def gain_density(accuracy: float, blind_accuracy: float, tokens: float) -> float:
    """What each token adds to the accuracy without any token, in per cent."""
    return tok_dense(accuracy - blind_accuracy, tokens)


def token_shares(tokens: float) -> dict[str, float]:
    """Share of the original tokens for both originals, 0 to 1."""
    return {name: tokens / count for name, count in ORIGINALS.items()}


def wilson_interval(right: float, asked: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of an accuracy from `right` of `asked` answers, 0 to 1 (Wilson's score interval).

    Raises: UsageError for no question, or for more right answers than questions.
    """
    if asked < 1 or not 0 <= right <= asked:
        raise UsageError(f"an accuracy needs questions, at least as many as right answers; got {right} of {asked}")
    share = right / asked
    middle = share + z * z / (2 * asked)
    reach = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    whole = 1 + z * z / asked
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)


def code_bits(clusters: int, width: int, cells: int) -> int:
    """Bits of a code: clusters x width numbers of 16 bits, and one id of ceil(log2 clusters) bits a cell."""
    return 16 * clusters * width + cells * id_bits(clusters)


def id_bits(clusters: int) -> int:
    """Bits of one entry of the index map."""
    return max(1, math.ceil(math.log2(max(2, clusters))))


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """Sizes of a decoder; the defaults are Qwen2 0.5B."""

    layers: int = 24
    width: int = 896
    heads: int = 14
    kv_heads: int = 2
    inner: int = 4864


def prefill_flops(tokens: int, model: LanguageModel | None = None) -> float:
    """Operations of reading `tokens` positions, 2 for each multiply-add, attention included and not halved."""
    m = model or LanguageModel()
    head = m.width // m.heads
    linear = m.width * (m.width + 2 * m.kv_heads * head) + m.width * m.width + 3 * m.width * m.inner
    attention = 2 * tokens * m.width  # scores and weighted sum, for each position
    return 2.0 * m.layers * tokens * (linear + attention)
