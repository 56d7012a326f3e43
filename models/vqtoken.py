"""Training of the reducer's block together with the small answerer, on questions about rendered videos.

Letters: B clips, Q questions, M tokens, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from genmm.core.checkpoint import load_into, load_tensors, read_config
from genmm.core.errors import ConfigError
from genmm.systems.vqtoken.answerer import Answerer, PlacedTokens
from genmm.systems.vqtoken.blocks import make_block
from genmm.systems.vqtoken.config import AnswererConfig, BlockConfig, VqTokenConfig
from genmm.systems.vqtoken.pipeline import VqTokenPipeline
from models.base import BadStepPolicy, GenerativeModule, Stage
from models.optim import OptimConfig

__all__ = ["VideoAnswerTask"]


class VideoAnswerTask(GenerativeModule):
    """Trains block and answerer on reduced clips with questions; the encoder stays as it is.

    Batches: codebook [B, M, D], mask [B, M], places [B, M, 7], index_map [B, T, h, w], words [B, Q, L], answers [B, Q].
    """

    system = "vqtoken"

    def __init__(
        self,
        width: int = 96,
        answerer: AnswererConfig = AnswererConfig(),  # noqa: B008 - frozen
        block: BlockConfig = BlockConfig(),  # noqa: B008 - frozen
        kinds: tuple[str, ...] = (),
        encoder: str | None = None,
        card: str | None = None,
        export_dtype: Literal["float32", "float16"] = "float32",
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
    ) -> None:
        """
        Args:
            width: Width D of the tokens, that of the encoder.
            answerer: Sizes of the answerer, with its words and answers in the order of the data's ids.
            block: The block; kind none adds the place of each token instead (for baselines).
            kinds: Names of the questions of a clip, for the log.
            encoder: Folder of the encoder that made the tokens, for the exported folder; null asks the data module.
            card: File that becomes README.md of the exported folder.
            export_dtype: Type of the exported weights.
            optimizer: AdamW, schedule and decay settings.
            bad_steps: What to do when a gradient is NaN or infinite.
        """
        super().__init__(optimizer=optimizer, bad_steps=bad_steps)
        if not answerer.words or not answerer.answers:
            raise ConfigError("the answerer needs its words and answers; see configs/vqtoken/demo.yaml")
        self.block_config, self.kinds, self.encoder_folder = block, tuple(kinds), encoder
        self.card, self.export_dtype = card, export_dtype
        self.answerer = Answerer(answerer, width)
        self.placed = block.kind == "none"
        self.block = (
            PlacedTokens(width)
            if self.placed
            else make_block(block.kind, width, block.heads, block.cells, bins=block.bins, grid=block.grid)
        )

    def scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Scores [B, Q, A] of the answers."""
        if self.placed:
            tokens, mask = self.block(batch["codebook"], batch["places"]), batch["mask"]
        else:
            tokens, mask = self.block(batch["codebook"], batch["index_map"], batch["mask"])
        return self.answerer(tokens, mask, batch["words"])

    def losses(self, batch: Any, batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        """Terms: loss (cross-entropy) and the accuracy of each kind of question."""
        scores, answers = self.scores(batch), batch["answers"]
        right = (scores.argmax(-1) == answers).float()
        terms = {"loss": F.cross_entropy(scores.flatten(0, 1), answers.flatten()), "accuracy": right.mean()}
        return terms | {f"accuracy_{kind}": right[:, number].mean() for number, kind in enumerate(self.kinds)}

    def on_fit_start(self) -> None:
        """Take the encoder from the data where it was not given.

        Raises: ConfigError when the data is clustered in another way than the block is for.
        """
        super().on_fit_start()
        data = self.trainer.datamodule
        if self.encoder_folder is None:
            self.encoder_folder = getattr(data, "encoder_folder", None)
        given, own = getattr(data, "clustering", None), self.block_config.clustering
        if not self.placed and given not in (None, own):
            raise ConfigError(
                f"the data is clustered by {given} and the block is for {own}; "
                "give data.clustering and model.block.clustering the same value"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["genmm.vqtoken.encoder"] = self.encoder_folder

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.encoder_folder = self.encoder_folder or checkpoint.get("genmm.vqtoken.encoder")

    def export(self, folder: str | Path) -> Path:
        """Write a VQToken folder: the encoder as it was, block and answerer as trained.

        Raises: ConfigError for a task without a block of the pipeline, or when the encoder is unknown.
        """
        if self.placed or self.encoder_folder is None:
            raise ConfigError("only a task with a block and a known encoder (model.encoder) writes a VQToken folder")
        stored = VqTokenConfig.from_dict(read_config(self.encoder_folder)["network"])
        config = VqTokenConfig(
            vision=stored.vision, frames=stored.frames, block=self.block_config, answerer=self.answerer.config
        )
        pipeline = VqTokenPipeline.fresh(config, about={"description": "tokens and answers for videos"})
        vision = {n: t for n, t in load_tensors(self.encoder_folder).items() if n.startswith("vision.")}
        load_into(pipeline.vision, {name.removeprefix("vision."): tensor for name, tensor in vision.items()})
        pipeline.block.load_state_dict(self.block.state_dict())
        pipeline.answerer.load_state_dict(self.answerer.state_dict())
        if self.card is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / "README.md").write_text(Path(self.card).read_text(encoding="utf-8"), encoding="utf-8")
        return pipeline.save(folder, dtype=getattr(torch, self.export_dtype))
