"""Byte-level byte-pair encoding in RoBERTa's files (vocab.json, merges.txt): text -> `<s> text </s>` ids and back.

Sources: SLED (arXiv 2505.13181) uses the slow RobertaTokenizer with 16384 entries, no prefix space, no normalisation.
Ids equal that tokenizer's for every text, with one deliberate difference: special tokens spelled out in a text ("</s>")
are encoded as the characters they are, so that a text cannot end or pad its own sequence. `<mask>`, which RoBERTa adds
behind the vocabulary and which has no embedding row, is never produced.

Letters: B batch, T tokens.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from torch import Tensor

from genmm.core.checkpoint import checkpoint_file
from genmm.core.errors import CheckpointError, ConfigError, DataError, UsageError
from genmm.core.files import read_json, write_bytes

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
"""Ids 0 to 3, in this order."""
BOS, PAD, EOS, UNK = range(4)
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256
"""Special tokens and one entry per byte."""
PaddingSide = Literal["left", "right"]


class TokenBatch(NamedTuple):
    """Texts of a batch as one padded tensor."""

    ids: Tensor
    """[B, T] int64; padding has id 1."""
    mask: Tensor
    """[B, T] bool; True where a token is real."""


class SledTokenizer:
    """Text to ids and back; immutable and safe to share between threads."""

    def __init__(self, vocab: Mapping[str, int], merges: Sequence[str | tuple[str, str]]) -> None:
        """Take the vocabulary (token -> id) and the merges, best first, as pairs or as "left right" lines.

        Raises: CheckpointError when ids 0 to 3 are not <s>, <pad>, </s>, <unk>, when ids have gaps, or when a merge
        uses or makes a token that the vocabulary lacks.
        """
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise CheckpointError(f"vocab.json must number its {len(vocab)} tokens from 0 without gaps")
        misplaced = [token for place, token in enumerate(SPECIAL_TOKENS) if vocab.get(token) != place]
        if misplaced:
            raise CheckpointError(f"vocab.json must give ids 0 to 3 to {', '.join(SPECIAL_TOKENS)}; wrong: {misplaced}")
        pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
        self._vocab, self._merges = dict(vocab), _checked_merges(pairs, vocab)
        self._tokens = sorted(vocab, key=vocab.__getitem__)
        self._backend = Tokenizer(models.BPE(vocab=self._vocab, merges=self._merges, unk_token="<unk>"))
        self._backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary, special tokens included."""
        return len(self._vocab)

    def encode(self, text: str) -> list[int]:
        """Ids of `<s> text </s>`; an empty text gives [0, 2]."""
        return [BOS, *self.encode_plain(text), EOS]

    def encode_plain(self, text: str) -> list[int]:
        """Ids of the text alone. Raises: UsageError for half of a surrogate pair, which is no character."""
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise UsageError(f"the text cannot be encoded: {str(text)[:40]!r} is no valid Unicode text") from error

    def batch(self, texts: Sequence[str], padding: PaddingSide) -> TokenBatch:
        """Encode texts together. The offline model needs padding on the left (`</s>` last), the streaming one right."""
        if padding not in ("left", "right"):
            raise UsageError(f"padding must be 'left' or 'right', got {padding!r}")
        if not texts:
            raise UsageError("a batch needs at least one text")
        rows = [self.encode(text) for text in texts]
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), PAD)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for n, row in enumerate(rows):
            place = slice(width - len(row), None) if padding == "left" else slice(len(row))
            ids[n, place], mask[n, place] = torch.tensor(row), True
        return TokenBatch(ids, mask)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary entries of ids, bytes written the GPT-2 way (a blank is "Ġ")."""
        return [self._tokens[i] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens are left out, bytes that are no UTF-8 become the replacement character."""
        return ByteLevelDecoder().decode([self._tokens[i] for i in ids if i >= len(SPECIAL_TOKENS)])

    def feed(self) -> "TextFeed":
        """A reader that turns text into ids while it is still being written."""
        return TextFeed(self)

    def words(self, text: str) -> list[tuple[int, int]]:
        """Spans [start, end) of the pieces that are encoded one by one (words with their blank, numbers, signs)."""
        return [span for _, span in self._backend.pre_tokenizer.pre_tokenize_str(text)]

    @classmethod
    def from_folder(cls, folder: Path | str) -> Self:
        """Read vocab.json and merges.txt of a checkpoint folder. Raises CheckpointError when they are unusable."""
        return cls.from_files(checkpoint_file(folder, "vocab.json"), checkpoint_file(folder, "merges.txt"))

    @classmethod
    def from_files(cls, vocab_path: Path, merges_path: Path) -> Self:
        """Read the two files. Raises CheckpointError when they are unusable."""
        try:
            vocab, lines = read_json(vocab_path), merges_path.read_text(encoding="utf-8").split("\n")
        except (DataError, UnicodeDecodeError) as error:
            raise CheckpointError(f"the tokenizer cannot be read: {error}") from error
        if not isinstance(vocab, dict) or not all(type(value) is int for value in vocab.values()):
            raise CheckpointError(f"{vocab_path} must map tokens to whole numbers")
        start = 1 if lines[0].startswith("#version") else 0
        return cls(vocab, [line for line in lines[start:] if line])

    def files(self) -> dict[str, bytes]:
        """Contents of vocab.json and merges.txt, ready for `save_checkpoint(extra_files=...)`."""
        vocab = json.dumps({token: place for place, token in enumerate(self._tokens)}, ensure_ascii=False)
        merges = "\n".join(["#version: 0.2", *(f"{left} {right}" for left, right in self._merges)])
        return {"vocab.json": vocab.encode(), "merges.txt": f"{merges}\n".encode()}

    def save(self, folder: Path | str) -> None:
        """Write vocab.json and merges.txt, each atomically."""
        for name, content in self.files().items():
            write_bytes(Path(folder) / name, content)


class TextFeed:
    """Ids of a text that arrives in pieces; only ids that no further character can change are released.

    A piece of text is held back until the character after it is known, because a word may go on and a run of blanks is
    split by what follows; an apostrophe waits for two more characters ('l may become 'll). All ids together equal
    `SledTokenizer.encode` of the whole text.
    """

    def __init__(self, tokenizer: SledTokenizer) -> None:
        self._tokenizer = tokenizer
        self._held = ""
        self._started, self._finished = False, False

    def push(self, text: str) -> list[int]:
        """Ids that these further characters complete; the first call begins with `<s>`."""
        if self._finished:
            raise UsageError("this text has been finished; start another feed for another text")
        self._held += text
        cut = len(self._held)
        for start, end in self._tokenizer.words(self._held):
            if end == len(self._held) or (self._held[start] == "'" and start + 3 > len(self._held)):
                cut = start
                break
        ready, self._held = self._held[:cut], self._held[cut:]
        return self._opening() + self._tokenizer.encode_plain(ready)

    def finish(self) -> list[int]:
        """Ids of what was held back, and `</s>`."""
        if self._finished:
            raise UsageError("this text has already been finished")
        self._finished = True
        return [*self._opening(), *self._tokenizer.encode_plain(self._held), EOS]

    def _opening(self) -> list[int]:
        opening, self._started = ([] if self._started else [BOS]), True
        return opening


def train_bpe(texts: Iterable[str], vocab_size: int, *, min_count: int = 2) -> SledTokenizer:
    """Learn a vocabulary of at most `vocab_size` entries from texts; case and punctuation are kept.

    Pairs that occur fewer than `min_count` times are not merged, so few texts give a smaller vocabulary. The same texts
    in the same order give the same vocabulary.
    Raises: ConfigError when `vocab_size` is below 260, which the special tokens and the bytes need.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ConfigError(f"vocab_size must be at least {SMALLEST_VOCABULARY} (4 special, 256 bytes), got {vocab_size}")
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    return SledTokenizer(model["vocab"], [tuple(pair) for pair in model["merges"]])


def _checked_merges(pairs: Sequence[tuple[str, ...]], vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    for pair in pairs:
        if len(pair) != 2 or not all(part in vocab for part in (*pair, "".join(pair))):
            line = " ".join(pair)[:60]
            raise CheckpointError(
                f"merges.txt does not fit vocab.json: the merge {line!r} has a part or result without id"
            )
    return list(pairs)
