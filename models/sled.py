"""Training of SLED: the energy loss of speech frames and the stop loss, under teacher forcing.

Letters: B batch, Tt text tokens, T frames, D latent channels, V voice statistics, C noise channels, H width,
K valid frames of a batch, M draws.
Source: SLED (arXiv 2505.13181); input noise and head repeats from CALM (arXiv 2509.06926), both off by default.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from genmm.core.checkpoint import load_into, load_tensors, save_checkpoint
from genmm.core.errors import CheckpointError, ConfigError, DataError
from genmm.core.seeds import derive_seed
from genmm.losses.energy import distance, energy_score
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.network import SledNetwork, TeacherForced
from genmm.systems.sled.objective import sled_losses, stop_loss
from models.alignment import AlignmentGuide, AttentionReader, alignment_loss
from models.base import BadStepPolicy, GenerativeModule, Stage
from models.optim import OptimConfig

VOCABULARY = ("vocab.json", "merges.txt")


@dataclass(frozen=True, kw_only=True)
class SledObjective:
    """What is minimised; the defaults are the published recipe."""

    beta: float = 1.0
    """Power of the distances in the energy loss, in (0, 2); 1 in the paper, below 1 is unstable."""
    stop_weight: float = 1.0
    """Weight of the stop loss beside the energy loss."""
    stop_positive_weight: float = 100.0
    """Weight of the one stop position; take about the mean number of frames when utterances are short."""
    head_repeats: int = 1
    """Uses of each hidden state in the energy loss, each with fresh noise; 1 is official, 2 to 8 lower the variance."""
    input_noise: float = 0.0
    """Standard deviation of noise on the latents that are fed (never on targets), in latent units; 0 is official."""
    input_noise_law: Literal["constant", "uniform"] = "uniform"
    """uniform draws a deviation in [0, input_noise] for each row, so clean inputs stay familiar."""
    own_history: float = 0.0
    """Scheduled sampling (arXiv 1506.03099) in two parallel passes (arXiv 1906.04331): each row feeds a random share of
    frames, uniform in [0, own_history], as the model itself predicts them. It learns to go on from its own frames,
    for a third more time a step; 0 is official."""
    own_history_from: int = 0
    """Step from which on own_history counts; before, predictions are not worth feeding."""
    own_draws: int = 4
    """Draws whose mean is fed by own_history; take what generation will use, or fewer to save time."""
    voice_drop: float = 0.0
    """Probability that a row gets an all-zero voice vector, so that the model also speaks without a voice."""
    frames_per_batch: float | None = None
    """None: mean over the frames of each batch (official). A number: sum over frames divided by it, so every frame
    counts alike when batches of different sizes are accumulated or spread over devices."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < 2:
            raise ConfigError(f"objective.beta must be in (0, 2), got {self.beta}; the paper has 1")
        if self.head_repeats < 1:
            raise ConfigError(f"objective.head_repeats must be at least 1, got {self.head_repeats}")
        if min(self.stop_weight, self.input_noise) < 0 or self.stop_positive_weight <= 0:
            raise ConfigError("objective: stop_weight and input_noise at least 0, stop_positive_weight above 0")
        if not 0 <= self.own_history <= 1 or self.own_draws < 1 or self.own_history_from < 0:
            raise ConfigError(
                "objective: own_history must be in [0, 1], own_draws at least 1, own_history_from at least 0; "
                f"got {self.own_history}, {self.own_draws}, {self.own_history_from}"
            )
        if not 0 <= self.voice_drop < 1:
            raise ConfigError(f"objective.voice_drop must be in [0, 1), got {self.voice_drop}")
        if self.frames_per_batch is not None and self.frames_per_batch <= 0:
            raise ConfigError(f"objective.frames_per_batch must be above 0 or null, got {self.frames_per_batch}")


@dataclass(frozen=True)
class SpeechBatch:
    """One training batch as the task reads it from a dict or any object with these names."""

    ids: Tensor
    """[B, Tt] int64 text tokens with <s> and </s>; padded on the left offline, on the right streaming."""
    text_mask: Tensor
    """[B, Tt] bool, True at real tokens."""
    latents: Tensor
    """[B, T, D] float, padded on the right."""
    frame_mask: Tensor
    """[B, T] bool, True at real frames."""
    voice: Tensor | None
    """[B, V] float, or None for a network without voices."""
    path: Tensor | None = None
    """[B, T] float, expected token index of each frame counted from <s>; only read when alignment is guided."""

    @classmethod
    def of(cls, batch: Any) -> SpeechBatch:
        """Read a batch. Raises: DataError that names what is missing."""
        source = batch if isinstance(batch, dict) else vars(batch)
        missing = [f.name for f in fields(cls) if f.name not in source and f.name not in ("voice", "path")]
        if missing:
            raise DataError(f"a SLED batch needs {[f.name for f in fields(cls)]}; missing: {missing}")
        return cls(**{f.name: source.get(f.name) for f in fields(cls)})


class SledTask(GenerativeModule):
    """Trains a SledNetwork and writes complete SLED checkpoint folders."""

    system = "sled"

    def __init__(
        self,
        network: SledConfig,
        objective: SledObjective | None = None,
        guide: AlignmentGuide | None = None,
        codec: str | None = None,
        tokenizer: str | None = None,
        voices: str | None = None,
        text: dict[str, Any] | None = None,
        defaults: dict[str, Any] | None = None,
        card: str | None = None,
        export_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        start_from: str | None = None,
        eval_draws: int = 8,
        stop_threshold: float = 0.8,
        optimizer: OptimConfig | None = None,
        bad_steps: BadStepPolicy | None = None,
    ) -> None:
        """
        Args:
            network: Sizes of the network.
            objective: What is minimised.
            guide: Help for text alignment early in training; off unless its weight is set.
            codec: Codec folder whose latents the data holds, for the exported folder; null asks the data module.
            tokenizer: Folder with vocab.json and merges.txt, for the exported folder; null asks the data module.
            voices: Folder of voices to put into the exported folder; null for none.
            text: Settings of the text normaliser, stored in config.json.
            defaults: Settings of generation (guidance, threshold ...), stored in config.json.
            card: File that becomes README.md of the exported folder.
            export_dtype: Type of the exported weights.
            start_from: Checkpoint folder whose weights training starts from (a streaming model starts from an
                offline one); the text and speech sizes must agree.
            eval_draws: Draws per frame in validation, at least 2.
            stop_threshold: Stop probability from which validation counts a stop; 0.8 offline, 0.5 streaming.
            optimizer: AdamW, schedule and decay settings.
            bad_steps: What to do when a gradient is NaN or infinite.
        """
        super().__init__(optimizer=optimizer, bad_steps=bad_steps)
        if eval_draws < 2 or not 0 < stop_threshold < 1:
            raise ConfigError(
                f"eval_draws must be at least 2 and stop_threshold in (0, 1), got {eval_draws}, {stop_threshold}"
            )
        self.objective, self.guide = objective or SledObjective(), guide or AlignmentGuide()
        self.network = SledNetwork(network)
        self.parts = {"codec": codec, "tokenizer": tokenizer}
        self.voices_folder = voices
        self.text, self.defaults, self.card, self.export_dtype = text or {}, defaults or {}, card, export_dtype
        self.eval_draws, self.stop_threshold = eval_draws, stop_threshold
        self._sums: dict[str, Tensor] = {}
        if start_from is not None:
            load_into(self.network, load_tensors(start_from))

    # Training --------------------------------------------------------------------------------------------------

    def losses(self, batch: Any, batch_idx: int, stage: Stage) -> dict[str, Tensor]:
        """Training terms of one batch: loss, energy, stop, calibration, error, frames."""
        batch = SpeechBatch.of(batch)
        if batch_idx == 0:
            self._check_padding(batch)
        voice = self._voice(batch)
        noise = self._change_of_inputs(batch, voice)
        weight = self.guide.weight_at(self.global_step)
        guided: dict[str, Tensor] = {}
        if weight > 0 and batch.path is not None:
            with AttentionReader(self.network, self.guide.layers) as reader:
                forced = self._forced(batch, noise, voice)
            guided["alignment"] = alignment_loss(reader, self.guide, batch.path, batch.text_mask, batch.frame_mask)
        else:
            forced = self._forced(batch, noise, voice)
        goal = self.objective
        parts = sled_losses(
            self.network,
            forced,
            batch.latents,
            batch.frame_mask,
            beta=goal.beta,
            stop_positive_weight=goal.stop_positive_weight,
            stop_weight=goal.stop_weight,
            head_repeats=goal.head_repeats,
        )
        frames = batch.frame_mask.sum()
        loss = parts.total if goal.frames_per_batch is None else parts.total * (frames / goal.frames_per_batch)
        with torch.no_grad():
            spread = distance(parts.draw_1, parts.draw_2).mean()
        if guided:
            loss = loss + weight * guided["alignment"]
        return guided | {
            "loss": loss,
            "energy": parts.energy,
            "stop": parts.stop,
            "calibration": parts.calibration,
            "spread": spread,
            "frames": frames,
        }

    def _check_padding(self, batch: SpeechBatch) -> None:
        """Refuse texts that are padded on the wrong side, which would train without an error and never speak."""
        streaming = self.network.config.is_streaming
        edge = batch.text_mask[:, 0 if streaming else -1]
        if not bool(edge.all()):
            side = "right (the streaming layout)" if streaming else "left (the offline layout)"
            raise DataError(f"texts of this network must be padded on the {side}; see the data's padding or streaming")

    def _forced(self, batch: SpeechBatch, noise: Tensor | None, voice: Tensor | None) -> TeacherForced:
        return self.network.teacher_forcing(
            batch.ids, batch.text_mask, batch.latents, batch.frame_mask, voice=voice, input_noise=noise
        )

    def _change_of_inputs(self, batch: SpeechBatch, voice: Tensor | None) -> Tensor | None:
        """What is added to the latents that are fed: noise, and the way to the model's own frames [B, T, D]."""
        noise, goal = self._input_noise(batch.latents), self.objective
        if goal.own_history == 0 or self.global_step < goal.own_history_from:
            return noise
        own = self._own_frames(batch, noise, voice)
        rows, frames = batch.frame_mask.shape
        share = goal.own_history * torch.rand(rows, 1, 1, device=own.device)
        way = (own - batch.latents) * (torch.rand(rows, frames, 1, device=own.device) < share)
        return way if noise is None else way + noise

    @torch.no_grad()
    def _own_frames(self, batch: SpeechBatch, noise: Tensor | None, voice: Tensor | None) -> Tensor:
        """Mean of own_draws predictions of each frame after its true history: [B, T, D]; padding keeps its latents."""
        valid = batch.frame_mask.bool()
        z = self._forced(batch, noise, voice).z[valid].repeat(self.objective.own_draws, 1)
        drawn = self.network.head(z, torch.randn(z.shape[0], self.network.config.noise_channels, device=z.device))
        own = batch.latents.clone()
        own[valid] = drawn.unflatten(0, (self.objective.own_draws, -1)).mean(0).to(own.dtype)
        return own

    def _input_noise(self, latents: Tensor) -> Tensor | None:
        """Noise [B, T, D] for the latents that are fed, None when it is off."""
        goal = self.objective
        if goal.input_noise == 0:
            return None
        noise = torch.randn_like(latents) * goal.input_noise
        if goal.input_noise_law == "uniform":
            noise = noise * torch.rand(latents.shape[0], 1, 1, device=latents.device, dtype=latents.dtype)
        return noise

    def _voice(self, batch: SpeechBatch) -> Tensor | None:
        """Voice vectors [B, V] with some rows zeroed, as objective.voice_drop says."""
        if batch.voice is None or self.objective.voice_drop == 0:
            return batch.voice
        kept = torch.rand(batch.voice.shape[0], 1, device=batch.voice.device) >= self.objective.voice_drop
        return batch.voice * kept

    # Evaluation ------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(SpeechBatch.of(batch), batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(SpeechBatch.of(batch), batch_idx)

    def _evaluate(self, batch: SpeechBatch, batch_idx: int) -> None:
        """Add one batch to the sums of the epoch; text is never dropped and the noise has fixed seeds."""
        forced = self._forced(batch, None, batch.voice)
        valid = batch.frame_mask.bool()
        z, target = forced.z[valid], batch.latents[valid].float()
        generator = torch.Generator().manual_seed(derive_seed(0, "evaluation", batch_idx, self.global_rank))
        shape = (z.shape[0], self.network.config.noise_channels)
        draws = [
            self.network.head(z, torch.randn(shape, generator=generator).to(z)).float() for _ in range(self.eval_draws)
        ]
        spread = sum(distance(draws[i - 1], draws[i]).sum() for i in range(self.eval_draws)) / self.eval_draws
        error = sum(distance(draw, target).sum() for draw in draws) / self.eval_draws
        found, early = stop_hits(forced.stop_logits, valid, self.stop_threshold)
        positions = valid.sum() + valid.shape[0]
        self._add(
            energy=energy_score(torch.stack(draws), target, self.objective.beta).sum(),
            spread=spread,
            error=error,
            frames=valid.sum(),
            stop=stop_loss(forced.stop_logits, valid, self.objective.stop_positive_weight) * positions,
            positions=positions,
            found=found.sum(),
            early=early.sum(),
            rows=torch.tensor(valid.shape[0]),
        )

    def _add(self, **values: Tensor) -> None:
        for name, value in values.items():
            value = value.detach().to(self.device, torch.float64 if self.device.type != "mps" else torch.float32)
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value

    def _finish(self, stage: Stage) -> None:
        """Log the epoch's values, exact over batches and processes."""
        if not self._sums:
            return
        names = sorted(self._sums)
        total = self.trainer.strategy.reduce(torch.stack([self._sums[name] for name in names]), reduce_op="sum")
        s = dict(zip(names, total.tolist(), strict=True))
        self._sums = {}
        energy, stop = s["energy"] / s["frames"], s["stop"] / s["positions"]
        values = {
            "loss": energy + self.objective.stop_weight * stop,
            "energy": energy,
            "stop": stop,
            "calibration": s["spread"] / max(s["error"], 1e-30),
            "error": s["error"] / s["frames"],
            "stop_found": s["found"] / s["rows"],
            "stop_early": s["early"] / s["rows"],
        }
        for name, value in values.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "loss")

    def on_validation_epoch_start(self) -> None:
        self._sums = {}

    def on_test_epoch_start(self) -> None:
        self._sums = {}

    def on_validation_epoch_end(self) -> None:
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        self._finish("test")

    # Export ----------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Take codec and tokenizer from the data where they were not given, and check the size of the vocabulary."""
        super().on_fit_start()
        for part in self.parts:
            folder = getattr(self.trainer.datamodule, f"{part}_folder", None)
            if self.parts[part] is None and folder is not None:
                self.parts[part] = str(folder)
        if self.parts["tokenizer"] is not None:
            self._check_vocabulary(Path(self.parts["tokenizer"]))

    def _check_vocabulary(self, folder: Path) -> None:
        entries, rows = len(json.loads(read_part(folder / VOCABULARY[0]))), self.network.config.vocab_size
        if entries > rows:
            raise ConfigError(
                f"the tokenizer in {folder} has {entries} entries, the network only {rows}; "
                f"set model.network.vocab_size: {entries}"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["genmm.sled.parts"] = dict(self.parts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        stored = checkpoint.get("genmm.sled.parts", {})
        self.parts = {part: self.parts[part] or stored.get(part) for part in self.parts}

    def export(self, folder: str | Path) -> Path:
        """Write a SLED checkpoint folder: network, codec, tokenizer, voices, card.

        Raises: ConfigError when codec or tokenizer are unknown, CheckpointError when a file of them is missing.
        """
        absent = [f"model.{part}" for part, place in self.parts.items() if place is None]
        if absent:
            raise ConfigError(f"a SLED folder holds its codec and its tokenizer; set {' and '.join(absent)} to folders")
        codec, tokenizer = (Path(self.parts[part]) for part in ("codec", "tokenizer"))
        self._check_vocabulary(tokenizer)
        extra = {f"codec/{name}": read_part(codec / name) for name in ("config.json", "model.safetensors")}
        extra |= {name: read_part(tokenizer / name) for name in VOCABULARY}
        if self.voices_folder is not None:
            voices = sorted(p for p in Path(self.voices_folder).iterdir() if p.suffix in (".json", ".safetensors"))
            extra |= {f"voices/{path.name}": read_part(path) for path in voices}
        if self.card is not None:
            extra["README.md"] = read_part(Path(self.card))
        config = {
            "system": "sled",
            "network": self.network.config.to_dict(),
            "codec": {"kind": codec_kind(codec)},
            "text": self.text,
            "defaults": self.defaults,
        }
        dtype = getattr(torch, self.export_dtype)
        return save_checkpoint(folder, config, self.network.state_dict(), dtype=dtype, extra_files=extra)


def stop_hits(logits: Tensor, frame_mask: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Which rows stop where they should, and which would stop before that.

    Shapes: logits [B, T + 1], frame_mask [B, T] bool. Returns: two [B] bool.
    """
    stops = torch.sigmoid(logits.float()) >= threshold
    frames = frame_mask.sum(1, keepdim=True)  # [B, 1]: the right place to stop
    found = stops.gather(1, frames).squeeze(1)
    places = torch.arange(logits.shape[1], device=logits.device)
    return found, (stops & (places < frames)).any(1)


def codec_kind(folder: Path) -> str:
    """ "genmm" for a codec of ours, "encodec" for EnCodec; told by the codec's config.json."""
    config = json.loads(read_part(folder / "config.json"))
    return "encodec" if "encodec" in (config.get("system"), config.get("model_type"), config.get("kind")) else "genmm"


def read_part(path: Path) -> bytes:
    """Bytes of a file that belongs into an exported folder. Raises: CheckpointError when it is missing."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, so the exported folder would not be complete")
    return path.read_bytes()
