"""Clips with questions and answers from a manifest, for fine-tuning a video language model.

Every line of the manifest is an object with video (path from the manifest's folder), question and answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.base import GenerativeData
from datamodules.sampler import Pick
from genmm.core.errors import DataError
from genmm.core.limits import clean_text
from genmm.registry import find_model
from genmm.systems.vqtoken.llava import END, load_tokenizer, prompt_parts
from genmm.systems.vqtoken.sampling import sample_frames

__all__ = ["VideoInstructions"]


class Instructions:
    """Items: frames [T, H, W, 3] uint8 and the three pieces of the prompt as token ids."""

    def __init__(self, rows: list[dict[str, Any]], tokenizer: Any, frames: int, side: int) -> None:
        self.rows, self.tokenizer, self.frames, self.side = rows, tokenizer, frames, side
        self.lengths = [len(row["answer"]) + 1 for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, pick: Pick) -> dict[str, Tensor]:
        row = self.rows[pick.index]
        before, behind = prompt_parts(row["question"])
        texts = {"before": before, "behind": behind, "answer": row["answer"] + END}
        ids = {n: torch.tensor(self.tokenizer(t, add_special_tokens=False)["input_ids"]) for n, t in texts.items()}
        frames = sample_frames(row["video"], self.frames, max_side=2 * self.side)
        return {"frames": torch.from_numpy(frames), **ids}


class VideoInstructions(GenerativeData):
    """Batches for models.vqtoken_llava.VideoLanguageTask."""

    def __init__(
        self,
        manifest: str,
        model: str,
        val_manifest: str | None = None,
        test_manifest: str | None = None,
        frames: int = 32,
        side: int = 384,
        batch_size: int = 1,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            manifest: JSON lines with video, question and answer.
            model: Name or folder of the model that is trained, for its tokenizer.
            val_manifest: The same for validation; null for none.
            test_manifest: The same for `genmm test`; null for none.
            frames: Frames of a clip, spread evenly.
            side: Side of the vision tower's pictures.
            batch_size: Clips in a batch.
            workers: Processes that read data.
            seed: Seed of the order.
        """
        super().__init__(batch_size=batch_size, workers=workers, seed=seed)
        self.manifests = {"train": manifest, "val": val_manifest, "test": test_manifest}
        self.model, self.frames, self.side = model, frames, side

    def dataset(self, split: str) -> Instructions | None:
        """The rows of a manifest. Raises: DataError naming the first line that cannot be used."""
        path = self.manifests[split]
        if path is None:
            return None
        tokenizer = load_tokenizer(find_model(self.model).path / "tokenizer")
        return Instructions(_read(Path(path)), tokenizer, self.frames, self.side)

    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
        return {name: [item[name] for item in items] for name in items[0]}


def _read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"the manifest {path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            video = (path.parent / row["video"]).resolve()
            question, answer = clean_text(row["question"]), clean_text(row["answer"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: needs video, question and answer as texts ({error})") from error
        if not video.is_file():
            raise DataError(f"{path}, line {number}: there is no file {row['video']!r}")
        rows.append({"video": video, "question": question, "answer": answer})
    if not rows:
        raise DataError(f"the manifest {path} holds no rows")
    return rows
