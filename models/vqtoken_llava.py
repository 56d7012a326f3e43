"""Fine-tuning of LLaVA-OneVision with the reducer in place of its pooling: next-token loss on the answers.

Letters: T frames, K tokens, S positions, D width.
Source: VQToken (arXiv 2503.16980), section 4.1.3 and the published training script: no term for reconstruction or
vector quantisation, the loss of the language model alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmm.core.errors import ConfigError
from genmm.quantizers.adaptive import AdaptiveK
from genmm.registry import find_model
from genmm.systems.vqtoken.llava import LlavaPipeline
from genmm.systems.vqtoken.methods import BlockName, Clustering
from genmm.systems.vqtoken.reducer import Fixed, reduce
from models.base import BadStepPolicy, GenerativeModule, Stage
from models.optim import OptimConfig

__all__ = ["VideoLanguageTask"]

IGNORED = -100
Part = Literal["vision", "projector", "block", "language"]


class VideoLanguageTask(GenerativeModule):
    """Trains parts of a converted model on clips with questions and answers.

    Batches: {"frames": list of [T, H, W, 3] uint8, "before", "behind", "answer": lists of token ids [S] int64}.
    """

    system = "vqtoken"

    def __init__(
        self,
        start_from: str,
        tokens: int = 32,
        adaptive: bool = False,
        block: BlockName = "official",
        clustering: Clustering | None = None,
        trained: tuple[Part, ...] = ("vision", "projector", "block", "language"),
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
    ) -> None:
        """
        Args:
            start_from: Model of `genmm pull vqtoken` by name, or the folder of a converted or trained one.
            tokens: Tokens of a clip, or the most of them.
            adaptive: As many as the clip needs, from 12 on.
            block: Attention block between clustering and language model: official (published, max(T, K) tokens),
                occupancy (ours; adds nothing before it has learned), paper (equations 6 and 7) or none. It goes on from
                the weights in start_from where those have this kind, else it starts new in their place.
            clustering: kmeans or k_center; by default k_center with the block occupancy, kmeans with others.
            trained: Which parts move.
            optimizer: AdamW, schedule, decay and the rates of the parts (network, block).
            bad_steps: What to do when a gradient is NaN or infinite.
        """
        super().__init__(optimizer=optimizer, bad_steps=bad_steps)
        self.pipeline = [
            LlavaPipeline.from_folder(find_model(start_from).path, device="cpu", dtype="float32")
        ]  # a list hides it from torch
        own = self.pipeline[0]
        self.network = own.network
        self.budget = AdaptiveK(least=min(12, tokens), most=tokens) if adaptive else Fixed(tokens=tokens)
        own.prepare(block, clustering or ("k_center" if block == "occupancy" else "kmeans"), self.budget)
        self.block = own.block
        self._choose(trained)
        self.train()  # loaded for answering; the published block trains with dropout

    def _choose(self, trained: tuple[Part, ...]) -> None:
        model = self.network.model
        parts: dict[str, list[Any]] = {
            "vision": [model.vision_tower],
            "projector": [model.multi_modal_projector],
            "block": [self.block],
            "language": [model.language_model, self.network.lm_head],
        }
        unknown = set(trained) - set(parts)
        if unknown or not trained:
            raise ConfigError(f"model.trained names parts of {', '.join(parts)}, got {trained}")
        self.requires_grad_(False)
        for name in trained:
            for part in parts[name]:
                part.requires_grad_(True)
        model.image_newline.requires_grad_("projector" in trained)
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise ConfigError(f"nothing would be trained: model.trained is {trained}, and there is no attention block")

    def losses(self, batch: Any, batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        """Terms: loss (cross-entropy of the answers' tokens), tokens (mean number of visual tokens)."""
        rows, labels, counts = [], [], []
        if stage == "train":
            self.pipeline[0].frames = max(map(len, batch["frames"]))  # what it will be shown when it answers
        own = self.pipeline[0].config.block
        how = {"block": self.block, "scale": own.codebook_scale, "clustering": own.clustering}
        embed, newline = self.network.get_input_embeddings(), self.network.model.image_newline
        for frames, before, behind, answer in zip(
            *(batch[n] for n in ("frames", "before", "behind", "answer")), strict=True
        ):
            features = self.pipeline[0].encoder.features(frames).unsqueeze(0)
            reduced = reduce(features, self.budget, **how)
            seen = reduced.tokens[0][reduced.token_mask[0]].to(newline.dtype)
            words = [embed(ids.to(newline.device)) for ids in (before, behind, answer)]
            rows.append(torch.cat([words[0], seen, newline.unsqueeze(0), words[1], words[2]]))
            silent = torch.full((len(rows[-1]) - len(answer),), IGNORED)
            labels.append(torch.cat([silent, answer.cpu()]).to(newline.device))
            counts.append(len(seen))
        embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        targets = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        lengths = torch.tensor([len(row) for row in rows], device=embeds.device)
        mask = torch.arange(embeds.shape[1], device=embeds.device) < lengths.unsqueeze(1)
        out = self.network.model.language_model(inputs_embeds=embeds, attention_mask=mask.long(), use_cache=False)
        scores = self.network.lm_head(out.last_hidden_state[:, :-1]).float()
        loss = F.cross_entropy(scores.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED)
        return {"loss": loss, "tokens": loss.new_tensor(sum(counts) / len(counts))}

    def batch_items(self, batch: Any) -> int | None:
        """Clips of a batch."""
        return len(batch["frames"])

    def export(self, folder: str | Path) -> Path:
        """Write a folder that `genmm ask --model` takes."""
        return self.pipeline[0].save(folder)
