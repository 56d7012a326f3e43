"""Training of the set tokenizer: reconstruction, perceptual features, a patch judge late in the run, codebook care.

Letters: B batch, M tokens of a set, C codes, H height = width.
Source: the losses of TiTok's single-stage variant (arXiv 2406.07550) without a pretrained teacher; TokenSet
(arXiv 2503.16425) section 4.1. Ours: sets of several sizes from one tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genmm.core.errors import ConfigError, GenmmError
from genmm.losses.adversarial import discriminator_hinge_loss, generator_hinge_loss
from genmm.losses.patches import PatchJudge
from genmm.metrics.image_features import load_features, perceptual_distance
from genmm.quantizers.codebook import Usage
from genmm.systems.tokenset.checkpoint import load_tokenizer, save_tokenizer
from genmm.systems.tokenset.config import SetTokenizerConfig
from genmm.systems.tokenset.tokenizer import SetTokenizer
from models.base import BadStepPolicy, GenerativeModule, Stage
from models.optim import OptimConfig, build_optimizer, build_schedule

CLIP = 1.0
"""Largest norm of the tokenizer's gradient; of the paper."""


class CodebookCollapse(GenmmError):
    """The codebook stayed mostly unused; the run would not get better."""


class SetTokenizerTask(GenerativeModule):
    """Fits a set tokenizer on batches {image [B, 3, H, H] in [-1, 1]}."""

    system = "set-tokenizer"

    def __init__(
        self,
        tokenizer: SetTokenizerConfig,
        size_shares: dict[int, float] | None = None,
        token_dropout: float = 0.1,
        squared_weight: float = 1.0,
        absolute_weight: float = 0.5,
        perceptual: str | None = None,
        perceptual_weight: float = 0.2,
        commitment: float = 0.25,
        continuous_until: float = 0.15,
        adversarial_weight: float = 0.02,
        adversarial_from: float = 0.7,
        revive_every: int = 50,
        revive_below: float = 0.02,
        revive_until: float = 0.7,
        least_usage: float = 0.3,
        patience: int = 5,
        start_from: str | None = None,
        train_encoder: bool = True,
        export_dtype: str = "float32",
        description: str = "",
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
    ) -> None:
        """
        Args:
            tokenizer: Sizes.
            size_shares: Set size -> how often it is trained, in any unit; null trains all sizes alike.
            token_dropout: Probability that a batch loses a random part of its tokens after quantisation, whatever
                their order, so that no picture depends on a single token.
            squared_weight: Weight of the squared pixel difference.
            absolute_weight: Weight of the absolute pixel difference.
            perceptual: Folder of picture features (a user's teacher, or ours); null leaves the term out.
            perceptual_weight: Weight of the distance of features.
            commitment: Weight of the distance between vectors and their codes.
            continuous_until: Share of the run in which the decoder sees the vectors themselves. New queries say nearly
                the same of every picture; quantised at once, they would never learn to say more.
            adversarial_weight: Weight of the patch judge.
            adversarial_from: Share of the run after which the judge joins and encoder and codes stay as they are; 1
                never.
            revive_every: Steps between two looks for unused codes.
            revive_below: A code below this share of the fair use moves onto a vector of the batch.
            revive_until: Share of the run after which codes are left alone.
            least_usage: Share of the codes that an epoch must use, else the run fails after `patience` such epochs.
            patience: Epochs in a row below `least_usage` that are forgiven, counted from the first one on.
            start_from: Tokenizer folder to go on from; its sizes then replace `tokenizer`.
            train_encoder: False fits the decoder alone, as in the paper's second stage.
            export_dtype: Number format of the exported weights, float32 or float16.
            description: One sentence about the data, for the exported folder.
            optimizer: AdamW and its schedule.
            bad_steps: What happens when a gradient is not finite.
        """
        super().__init__(optimizer=optimizer, bad_steps=bad_steps)
        self.automatic_optimization = False
        self.tokenizer = SetTokenizer(tokenizer) if start_from is None else load_tokenizer(start_from)
        self.tokenizer.requires_grad_(True).quantize.requires_grad_(False)
        if not train_encoder:
            self._freeze_encoder()
        self.size_shares = _checked_shares(self.tokenizer.config, size_shares)
        self.weights = (squared_weight, absolute_weight, perceptual_weight, commitment, adversarial_weight)
        self.features = load_features(perceptual) if perceptual else None
        self.judge = PatchJudge()
        self.token_dropout, self.train_encoder, self.adversarial_from = token_dropout, train_encoder, adversarial_from
        self.continuous_until = continuous_until
        self.revival = (revive_every, revive_below, revive_until)
        self.least_usage, self.patience = least_usage, patience
        self.export_dtype, self.description = export_dtype, description
        self.started = start_from is not None
        self.poor_epochs = 0
        self.register_buffer("uses", torch.zeros(self.tokenizer.config.codes), persistent=False)

    def _freeze_encoder(self) -> None:
        self.tokenizer.encoder.requires_grad_(False)
        self.tokenizer.latent_tokens.requires_grad_(False)

    def ema_parameters(self) -> Any:
        return ((f"tokenizer.{name}", p) for name, p in self.tokenizer.named_parameters() if p.requires_grad)

    def configure_optimizers(self) -> Any:
        own = build_optimizer(self.tokenizer, self.optim_config, prefix="tokenizer")
        judge = torch.optim.AdamW(self.judge.parameters(), lr=self.optim_config.learning_rate, betas=(0.5, 0.9))
        return [own, judge], [build_schedule(own, self.optim_config, self.schedule_steps())]

    # Steps -----------------------------------------------------------------------------------------------------

    def losses(self, batch: dict[str, Any], batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        """Reconstruction terms of one batch at one set size; in training the batch may lose tokens."""
        size = self._size(batch_idx, stage)
        return self._terms(batch["image"], size, stage)[0]

    def _terms(self, images: Tensor, size: int, stage: Stage) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        frozen = not self.encoder_moves
        self.tokenizer.quantize.train(stage == "train" and not frozen)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            vectors = self.tokenizer.vectors(images, size)
        codes, commitment = self._quantised(vectors, stage)
        made = self.tokenizer.decode_codes(self._thinned(codes) if stage == "train" else codes)
        squared, absolute = functional.mse_loss(made, images), functional.l1_loss(made, images)
        terms = {"squared": squared, "absolute": absolute, "commitment": commitment}
        one, two, three, four, _ = self.weights
        loss = one * squared + two * absolute
        if stage == "train" and not frozen:  # held-out losses of all parts of the run must be comparable
            loss = loss + four * commitment
        if self.features is not None:
            terms["perceptual"] = perceptual_distance(self.features, made, images)
            loss = loss + three * terms["perceptual"]
        terms["psnr"] = -10.0 * torch.log10((made.clamp(-1, 1) - images).square().mean((1, 2, 3)) / 4.0 + 1e-10).mean()
        return {**terms, "loss": loss}, made, vectors

    @property
    def is_continuous(self) -> bool:
        """Whether the run is still in its part without quantisation."""
        return not self.started and self._trainer is not None and self.done < self.continuous_until

    def _quantised(self, vectors: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
        """Codes [B, M, D] of vectors and their commitment, counted in `uses`; early in training the unit vectors.

        Held-out pictures always go through the codes: else checkpoints from before there were any would rank best.
        """
        book = self.tokenizer.quantize
        if stage == "train" and self.is_continuous:
            unit = functional.normalize(vectors.float(), dim=-1)
            return unit, torch.zeros((), device=unit.device)
        if stage == "train" and not self.started:
            book.start_from(vectors.detach())
            self.started = True
        found = book(vectors)
        self.uses.index_add_(0, found.ids.flatten(), torch.ones(found.ids.numel(), device=self.uses.device))
        return found.codes, found.loss

    def _size(self, batch_idx: int, stage: Stage) -> int:
        sizes = list(self.size_shares)
        if stage != "train":
            return sizes[batch_idx % len(sizes)]
        shares = torch.tensor(list(self.size_shares.values()))
        return sizes[int(torch.multinomial(shares, 1))]

    def _thinned(self, codes: Tensor) -> Tensor:
        """A random subset of the tokens for some batches; sets have no order, so which ones go is all the same."""
        size = codes.shape[1]
        if size < 4 or float(torch.rand(())) >= self.token_dropout:
            return codes
        kept = int(torch.randint(size // 2, size, ()))
        return codes[:, torch.randperm(size, device=codes.device)[:kept]]

    @property
    def done(self) -> float:
        """Share of the run that is over."""
        return self.trainer.global_step / max(1, self.schedule_steps())

    @property
    def encoder_moves(self) -> bool:
        """Whether encoder and codes still learn; once the judge has joined, only the decoder does."""
        return self.train_encoder and (self._trainer is None or self.done < self.adversarial_from)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        optimizer, judge_optimizer = self.optimizers()
        images = batch["image"]
        terms, made, vectors = self._terms(images, self._size(batch_idx, "train"), "train")
        loss = terms["loss"]
        if self.done >= self.adversarial_from and self.weights[-1]:
            self._train_judge(images, made, judge_optimizer.optimizer, terms)
            self.judge.requires_grad_(False)
            terms["fooling"] = generator_hinge_loss([self.judge(made)])
            self.judge.requires_grad_(True)
            loss = loss + self.weights[-1] * terms["fooling"]
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.check_gradients(optimizer):
            nn.utils.clip_grad_norm_(self.tokenizer.parameters(), CLIP)
        optimizer.step()
        self.lr_schedulers().step()
        self._revive(vectors.detach(), terms)
        self.log_terms(terms, "train", len(images))

    def _train_judge(
        self, images: Tensor, made: Tensor, optimizer: torch.optim.Optimizer, terms: dict[str, Tensor]
    ) -> None:
        terms["judging"] = discriminator_hinge_loss([self.judge(images)], [self.judge(made.detach())])
        optimizer.zero_grad()
        self.manual_backward(terms["judging"])
        optimizer.step()

    def _revive(self, vectors: Tensor, terms: dict[str, Tensor]) -> None:
        every, below, until = self.revival
        if (
            self.encoder_moves
            and self.started
            and every
            and self.trainer.global_step % every == 0
            and self.done < until
        ):
            terms["revived"] = torch.tensor(float(self.tokenizer.quantize.revive(vectors, below)))

    # Codebook health -------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        self.uses.zero_()

    def on_train_epoch_end(self) -> None:
        self._judge_usage(self._logged_usage("train"))

    def on_validation_epoch_start(self) -> None:
        self._kept_uses = self.uses.clone()
        self.uses.zero_()

    def on_validation_epoch_end(self) -> None:
        self._logged_usage("val")
        self.uses.copy_(self._kept_uses)

    def _logged_usage(self, stage: str) -> Usage:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.uses)
        usage = Usage.of(self.uses)
        self.log_dict(
            {
                f"{stage}/codes_used": usage.used,
                f"{stage}/codes_entropy": usage.entropy,
                f"{stage}/codes_dead": usage.dead,
            }
        )
        return usage

    def _judge_usage(self, usage: Usage) -> None:
        """Raises: CodebookCollapse after too many poor epochs in a row, as long as something can still change that."""
        if self.is_continuous or not self.encoder_moves:
            return
        self.poor_epochs = self.poor_epochs + 1 if usage.used < self.least_usage else 0
        if self.poor_epochs > self.patience:
            raise CodebookCollapse(
                f"only {usage.used:.0%} of the codes were used for {self.poor_epochs} epochs (wanted "
                f"{self.least_usage:.0%}). Take fewer codes, a larger batch, revive_every of 20 or so, or a lower "
                "learning rate; model.init_args.least_usage: 0 lets the run go on all the same"
            )

    # Checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        book = self.tokenizer.quantize
        checkpoint["genmm.codebook"] = {
            "mass": book.mass.cpu(), "sums": book.sums.cpu(), "uses": self.uses.cpu(), "started": self.started,
            "poor_epochs": self.poor_epochs,
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        kept, book = checkpoint.get("genmm.codebook"), self.tokenizer.quantize
        if kept is None:
            book.restart_averages()
            return
        book.mass.copy_(kept["mass"])
        book.sums.copy_(kept["sums"])
        self.uses.copy_(kept["uses"])
        self.started, self.poor_epochs = kept["started"], kept["poor_epochs"]

    def export(self, folder: str | Path) -> Path:
        """Write the tokenizer folder."""
        about = {"description": self.description} if self.description else {}
        return save_tokenizer(self.tokenizer, folder, dtype=getattr(torch, self.export_dtype), about=about)


def _checked_shares(config: SetTokenizerConfig, shares: dict[int, float] | None) -> dict[int, float]:
    shares = shares or dict.fromkeys(config.set_sizes, 1.0)
    wrong = [size for size, share in shares.items() if size not in config.set_sizes or share < 0]
    if wrong or not sum(shares.values()) > 0:
        raise ConfigError(f"size_shares may name {config.set_sizes} with shares above 0, got {shares}")
    return {int(size): float(share) for size, share in shares.items()}
