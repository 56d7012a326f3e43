"""Token sets of pictures, made once by a tokenizer, for training the generator.

Letters: B batch, N pictures, M tokens, C codes, L pieces of a text.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datamodules.base import GenerativeData
from datamodules.image_sources import PictureEntry, PictureSource
from datamodules.images import PictureStore, cache_folder, label_values
from datamodules.sampler import Pick
from genmm.core.checkpoint import fingerprint
from genmm.core.errors import ConfigError
from genmm.core.files import atomic_path
from genmm.quantizers.multiset import to_counts
from genmm.systems.tokenset.checkpoint import load_tokenizer
from genmm.systems.tokenset.text import text_pieces, text_rows

log = logging.getLogger(__name__)
ENCODE_BATCH = 64
"""Pictures that are tokenised together."""
MOVES = ((0, 0), (1, 2), (-2, 1), (2, -1), (-1, -2), (2, 2), (-2, -2), (1, -2), (-1, 2))
"""Pixels down and right by which versions of a picture are moved; tokenizers are trained with as much."""


class TokenStore:
    """Tokens [N, V, M] of N pictures in V versions (as is, moved, and each mirrored), in one file of 2 bytes each."""

    def __init__(self, pictures: PictureStore, tokenizer: str, size: int, *, mirrored: bool, moved: int = 0) -> None:
        self.pictures, self.tokenizer, self.size = pictures, tokenizer, size
        self.mirrored, self.moves = mirrored, MOVES[: 1 + moved]
        self._tokens: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped array, which would be copied into every process that is handed this."""
        return {**self.__dict__, "_tokens": None}

    def build(self) -> np.ndarray:
        """The tokens, mapped from their file; made and stored when they are not there yet."""
        if self._tokens is None:
            versions = f"{int(self.mirrored)}|{len(self.moves)}"
            name = f"{self.pictures.path.stem}|{fingerprint(self.tokenizer)}|{self.size}|{versions}"
            path = cache_folder("tokens") / f"{hashlib.sha256(name.encode()).hexdigest()[:20]}.npy"
            if not path.is_file():
                with atomic_path(path) as temporary:
                    np.save(temporary, self._encoded(), allow_pickle=False)
            self._tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._tokens

    @torch.no_grad()
    def _encoded(self) -> np.ndarray:
        tokenizer = load_tokenizer(self.tokenizer).eval()
        parts = []
        for first in range(0, len(self.pictures.entries), ENCODE_BATCH):
            rows = range(first, min(len(self.pictures.entries), first + ENCODE_BATCH))
            images = torch.from_numpy(np.stack([self.pictures[row] for row in rows])).permute(0, 3, 1, 2)
            images = images.float() / 127.5 - 1.0
            versions = [moved(images, *move) for move in self.moves]
            if self.mirrored:
                versions += [version.flip(-1) for version in versions]
            parts.append(torch.stack([tokenizer.encode(version, self.size) for version in versions], dim=1))
        log.info("%d pictures tokenised", len(self.pictures.entries))
        return torch.cat(parts).numpy().astype(np.uint16)


def moved(images: Tensor, down: int, right: int) -> Tensor:
    """Pictures [B, 3, H, H] moved by some pixels; the border goes on outwards."""
    if not down and not right:
        return images
    edge, side = max(abs(down), abs(right)), images.shape[-1]
    padded = functional.pad(images, (edge, edge, edge, edge), mode="replicate")
    return padded[..., edge - down : edge - down + side, edge - right : edge - right + side]


class TokenisedPictures:
    """Items of one split: tokens, labels and a caption varied by the seed of the pick."""

    def __init__(self, data: CountData, split: str) -> None:
        self.data, self.split = data, split
        self.indices = data.pictures.chosen(split)
        self.lengths = [1] * len(self.indices)
        self.values = label_values(data.pictures.entries)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, pick: Pick) -> dict[str, Any]:
        index = self.indices[pick.index]
        entry, rng = self.data.pictures.entries[index], np.random.default_rng(pick.seed)
        stored = self.data.tokens.build()[index]
        version = int(rng.integers(len(stored))) if self.split == "train" else 0
        text = self.caption(entry, rng) if self.split == "train" else entry.caption
        labels = {
            name: values.index(entry.labels[name]) if name in entry.labels else len(values)
            for name, values in self.values.items()
        }
        pieces = text_pieces(text, self.data.text_rows) if text and self.data.text_rows else []
        return {"tokens": stored[version].astype(np.int64), "labels": labels, "pieces": pieces}

    def caption(self, entry: PictureEntry, rng: np.random.Generator) -> str:
        """The caption, sometimes with tags, sometimes the tags alone."""
        tags = list(rng.permutation(entry.tags)[: int(rng.integers(1, 4))]) if entry.tags else []
        draw = rng.random()
        if not tags or not entry.caption or draw < 0.7:
            return entry.caption
        return ", ".join([entry.caption, *tags] if draw < 0.9 else tags)


class CountData(GenerativeData):
    """Batches {counts [B, C] int64, label_<field> [B], text [B, L]} of pictures that a tokenizer has seen once."""

    def __init__(
        self,
        tokenizer: str,
        tokens: int,
        source: PictureSource = PictureSource(),  # noqa: B008 - frozen
        mirrored: bool = False,
        moved: int = 0,
        text_rows: int = 4096,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            tokenizer: Checkpoint folder of the set tokenizer.
            tokens: Size M of the sets.
            source: Where the pictures come from.
            mirrored: Tokenise every picture mirrored too.
            moved: Further versions of every picture, moved by one or two pixels; few pictures are otherwise learned by
                heart.
            text_rows: Rows of the network's text table; 0 leaves captions out.
            batch_size: Sets in a batch on one device.
            workers: Processes that read data; 0 reads in the training process.
            seed: Seed of order and captions.
        """
        super().__init__(batch_size=batch_size, bucket_batches=1_000_000, workers=workers, seed=seed)
        if tokens < 1 or text_rows < 0:
            raise ConfigError(f"tokens must be at least 1 and text_rows at least 0, got {tokens} and {text_rows}")
        self.text_rows, self.size = text_rows, tokens
        if not 0 <= moved < len(MOVES):
            raise ConfigError(f"moved must be from 0 to {len(MOVES) - 1}, got {moved}")
        self._of = (tokenizer, source, mirrored, moved)
        self._pictures: PictureStore | None = None
        self._tokens: TokenStore | None = None
        self._codes: int | None = None

    @property
    def pictures(self) -> PictureStore:
        """The pictures behind the sets."""
        if self._pictures is None:
            tokenizer, source, *_ = self._of
            config = load_tokenizer(tokenizer).config
            self._codes, self._pictures = config.codes, PictureStore(source, config.image_size)
        return self._pictures

    @property
    def tokens(self) -> TokenStore:
        """The sets."""
        if self._tokens is None:
            tokenizer, _, mirrored, moves = self._of
            self._tokens = TokenStore(self.pictures, tokenizer, self.size, mirrored=mirrored, moved=moves)
        return self._tokens

    def label_values(self) -> dict[str, tuple[str, ...]]:
        """Every label field and its values in the order of their ids."""
        return label_values(self.pictures.entries)

    def prepare_data(self) -> None:
        self.pictures.build()
        self.tokens.build()

    def dataset(self, split: str) -> TokenisedPictures | None:
        items = TokenisedPictures(self, split)
        return items if len(items) else None

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        tokens = torch.from_numpy(np.stack([item["tokens"] for item in items]))
        labels = {
            f"label_{name}": torch.tensor([item["labels"][name] for item in items]) for name in items[0]["labels"]
        }
        text = {"text": text_rows([item["pieces"] for item in items])} if self.text_rows else {}
        return {"counts": to_counts(tokens, self._codes or 0), **labels, **text}
