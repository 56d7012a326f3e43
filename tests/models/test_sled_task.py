"""SLED training: the loss that is minimised, what validation measures, what an export holds."""

from __future__ import annotations

import json

import pytest
import pytorch_lightning as pl
import torch
from tokenizers.pre_tokenizers import ByteLevel

from genmm.core.checkpoint import load_tensors, read_config
from genmm.core.errors import CheckpointError, ConfigError, DataError
from genmm.losses.energy import distance
from genmm.systems.sled.codec import SpeechCodec, SpeechCodecConfig
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.network import SledNetwork
from genmm.systems.sled.tokenizer import SMALLEST_VOCABULARY, SledTokenizer
from models.optim import OptimConfig
from models.sled import SledObjective, SledTask, stop_hits

SIZES = {
    "vocab_size": 12,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vae_embed_dim": 4,
    "diffloss_d": 2,
    "diffloss_w": 32,
    "noise_channels": 6,
    "training_cfg": 0.2,
    "voice_channels": 8,
}


def make_batch(seed: int = 0, rows: int = 6) -> dict[str, torch.Tensor]:
    """Each row speaks its three tokens: every token gives two frames around its own point, with noise."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(12, 4, generator=torch.Generator().manual_seed(7)) * 2
    letters = torch.randint(4, 12, (rows, 3), generator=generator)
    lengths = torch.randint(1, 4, (rows,), generator=generator)
    ids = torch.full((rows, 5), 1)
    text_mask = torch.zeros(rows, 5, dtype=torch.bool)
    latents, frame_mask = torch.zeros(rows, 6, 4), torch.zeros(rows, 6, dtype=torch.bool)
    for row, length in enumerate(lengths.tolist()):
        ids[row, 3 - length :] = torch.tensor([0, *letters[row, :length].tolist(), 2])
        text_mask[row, 3 - length :] = True
        spoken = points[letters[row, :length]].repeat_interleave(2, 0)
        latents[row, : 2 * length] = spoken + 0.5 * torch.randn(spoken.shape, generator=generator)
        frame_mask[row, : 2 * length] = True
    voice = torch.randn(rows, 8, generator=generator)
    return {"ids": ids, "text_mask": text_mask, "latents": latents, "frame_mask": frame_mask, "voice": voice}


class Batches(pl.LightningDataModule):
    def __init__(self, count: int = 40) -> None:
        super().__init__()
        self.count = count

    def train_dataloader(self):
        return torch.utils.data.DataLoader([make_batch(i) for i in range(self.count)], batch_size=None)

    def val_dataloader(self):
        return torch.utils.data.DataLoader([make_batch(1000 + i, rows=3 + i) for i in range(3)], batch_size=None)

    test_dataloader = val_dataloader


def make_trainer(**options) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0, **quiet, **options)


def make_task(**options) -> SledTask:
    torch.manual_seed(0)
    rate = OptimConfig(learning_rate=5e-3, schedule="linear", warmup_steps=5)
    objective = options.pop("objective", SledObjective(stop_positive_weight=5.0))
    return SledTask(SledConfig(**{**SIZES, **options.pop("sizes", {})}), objective, optimizer=rate, **options)


@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
def test_training_lowers_the_energy_and_calibrates(precision):
    task = make_task(objective=SledObjective(stop_positive_weight=5.0, head_repeats=2, input_noise=0.1, voice_drop=0.3))
    trainer = make_trainer(max_epochs=6, precision=precision, gradient_clip_val=1.0)
    [before] = trainer.validate(task, datamodule=Batches(), verbose=False)
    trainer.fit(task, datamodule=Batches())
    after = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    assert after["val/energy"] < 0.6 * before["val/energy"]
    assert before["val/calibration"] < 1e-3, "a fresh head gives the same output for any noise"
    assert 0.7 < after["val/calibration"] < 1.3
    assert after["val/stop"] < before["val/stop"]


def test_validation_repeats_and_never_drops_text():
    task, trainer = make_task(sizes={"training_cfg": 0.9, "dropout": 0.5}), make_trainer()
    torch.nn.init.normal_(task.network.scoreloss.net.final_layer.linear.weight)
    torch.manual_seed(1)
    [first] = trainer.validate(task, datamodule=Batches(), verbose=False)
    torch.manual_seed(2)
    [second] = trainer.validate(task, datamodule=Batches(), verbose=False)
    assert first == second


def test_validation_values_are_means_over_frames_not_over_batches():
    task, trainer = make_task(eval_draws=2), make_trainer()
    [values] = trainer.validate(task, datamodule=Batches(), verbose=False)
    # A fresh head outputs zero, so both draws lie at the origin: energy = 2 |h|, error = |h|, spread = 0.
    norms = torch.cat([distance(b["latents"], 0 * b["latents"])[b["frame_mask"]] for b in Batches().val_dataloader()])
    assert values["val/error"] == pytest.approx(norms.mean().item(), rel=1e-5)
    assert values["val/energy"] == pytest.approx(2 * norms.mean().item(), rel=1e-5)


def test_frames_per_batch_weights_batches_by_their_frames():
    batches = [make_batch(3, rows=2), make_batch(4, rows=7)]
    frames = [int(b["frame_mask"].sum()) for b in batches]
    for goal, factors in ((None, [1.0, 1.0]), (10.0, [f / 10.0 for f in frames])):
        task = make_task(objective=SledObjective(stop_positive_weight=5.0, frames_per_batch=goal)).eval()
        for batch, factor in zip(batches, factors, strict=True):
            terms = task.losses(batch, 0, "train")
            assert terms["loss"].item() == pytest.approx(factor * (terms["energy"] + terms["stop"]).item(), rel=1e-5)


def test_input_noise_reaches_inputs_and_not_targets(monkeypatch):
    task, batch, fed = make_task(objective=SledObjective(input_noise=0.5)), make_batch(), []
    plain = SledNetwork.embed_speech
    monkeypatch.setattr(SledNetwork, "embed_speech", lambda self, latents: fed.append(latents) or plain(self, latents))
    kept = batch["latents"].clone()
    energy = task.losses(batch, 0, "train")["energy"]
    assert not torch.equal(fed[0], kept) and torch.equal(batch["latents"], kept)
    norms = distance(kept, 0 * kept)[batch["frame_mask"]]
    assert energy.item() == pytest.approx(2 * norms.mean().item(), rel=1e-5)  # a fresh head: draws at the origin


def test_own_history_feeds_predictions_to_some_frames_and_leaves_targets(monkeypatch):
    task, batch, fed = make_task(objective=SledObjective(own_history=1.0, own_history_from=3)), make_batch(), []
    plain = SledNetwork.embed_speech
    monkeypatch.setattr(SledNetwork, "embed_speech", lambda self, latents: fed.append(latents) or plain(self, latents))
    kept = batch["latents"].clone()
    task.losses(batch, 0, "train")
    assert len(fed) == 1 and torch.equal(fed[0], kept), "not before its step"
    monkeypatch.setattr(type(task), "global_step", 3)
    energy = task.losses(batch, 0, "train")["energy"]
    _, _, mixed = fed
    own = ~torch.isclose(mixed, kept, atol=1e-6).all(-1)
    assert 0 < own.sum() < batch["frame_mask"].sum() and not own[~batch["frame_mask"]].any()
    assert mixed[own].abs().max() < 1e-5, "a fresh head predicts the origin for every frame"
    assert torch.equal(batch["latents"], kept)
    norms = distance(kept, 0 * kept)[batch["frame_mask"]]
    assert energy.item() == pytest.approx(2 * norms.mean().item(), rel=1e-5)


def test_stop_hits_tell_right_stops_from_early_ones():
    frame_mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    high, low = 5.0, -5.0
    logits = torch.tensor([[low, low, high, high], [high, low, low, high], [low, low, high, high]])
    found, early = stop_hits(logits, frame_mask, 0.8)
    assert found.tolist() == [True, True, False] and early.tolist() == [False, True, False]


def test_a_batch_without_masks_says_what_is_missing():
    batch = {name: value for name, value in make_batch().items() if name != "frame_mask"}
    with pytest.raises(DataError, match="frame_mask"):
        make_task().losses(batch, 0, "train")


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": 2.0},
        {"head_repeats": 0},
        {"voice_drop": 1.0},
        {"input_noise": -1.0},
        {"frames_per_batch": 0.0},
        {"own_history": 1.5},
        {"own_draws": 0},
    ],
)
def test_a_bad_objective_fails_at_construction(wrong):
    with pytest.raises(ConfigError):
        SledObjective(**wrong)


@pytest.fixture
def parts(tmp_path):
    """Folders of a tiny codec and of a byte tokenizer."""
    small = {f"{side}_{what}": 1 for side in ("encoder", "decoder") for what in ("depth", "latent_depth")}
    widths = {"encoder_width": 8, "encoder_latent_width": 8, "decoder_width": 8, "channels": 4}
    SpeechCodec(SpeechCodecConfig(**small, **widths)).save(tmp_path / "codec")
    byte_tokens = ByteLevel.alphabet()
    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *sorted(byte_tokens)])}
    SledTokenizer(vocab, []).save(tmp_path / "text")
    return {"codec": str(tmp_path / "codec"), "tokenizer": str(tmp_path / "text")}


def test_an_export_holds_everything_and_loads_back(parts, tmp_path):
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / "anna.json").write_text("{}")
    task = make_task(
        sizes={"vocab_size": SMALLEST_VOCABULARY},
        voices=str(tmp_path / "voices"),
        defaults={"guidance": 1.5},
        export_dtype="float16",
        **parts,
    )
    folder = task.export(tmp_path / "out")
    config = read_config(folder)
    assert SledConfig.from_dict(config["network"]) == task.network.config
    assert (config["system"], config["codec"], config["defaults"]) == ("sled", {"kind": "genmm"}, {"guidance": 1.5})
    tensors = load_tensors(folder)
    for name, value in task.network.state_dict().items():
        assert torch.equal(tensors[name], value.half().float()), name
    assert SpeechCodec.from_folder(folder / "codec").channels == 4
    assert json.loads((folder / "voices" / "anna.json").read_text()) == {}
    assert SledTokenizer.from_folder(folder).vocab_size == SMALLEST_VOCABULARY


def test_an_export_without_codec_or_with_a_wrong_vocabulary_says_so(parts, tmp_path):
    with pytest.raises(ConfigError, match="model.codec and model.tokenizer"):
        make_task().export(tmp_path / "out")
    with pytest.raises(ConfigError, match=f"vocab_size: {SMALLEST_VOCABULARY}"):
        make_task(**parts).export(tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        task = make_task(sizes={"vocab_size": SMALLEST_VOCABULARY}, **{**parts, "codec": str(tmp_path)})
        task.export(tmp_path / "out")


def test_a_streaming_task_starts_from_offline_weights(parts, tmp_path):
    sizes = {"vocab_size": SMALLEST_VOCABULARY}
    offline = make_task(sizes=sizes, **parts)
    offline.export(tmp_path / "offline")
    streaming = make_task(sizes={**sizes, "stream_n": 2, "stream_m": 3}, start_from=str(tmp_path / "offline"), **parts)
    assert all(torch.equal(a, b) for a, b in zip(offline.parameters(), streaming.parameters(), strict=True))
    batch = make_batch()  # right padding is what the streaming layout wants
    batch["ids"], batch["text_mask"] = batch["ids"].flip(1), batch["text_mask"].flip(1)
    assert torch.isfinite(streaming.losses(batch, 0, "train")["loss"])
