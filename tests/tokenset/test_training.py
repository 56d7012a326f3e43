"""The TokenSet configurations of the trainer run, on tiny sizes, from the command that they are for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import genmm
from app.evaluation.images import ImageEvaluation, evaluate_images, report_markdown
from app.train import run_training
from datamodules.image_sources import PictureSource
from datamodules.images import ImageData, PictureStore, label_values
from datamodules.images_counts import MOVES, CountData
from datamodules.sampler import Pick
from genmm.core.errors import ConfigError, DataError, UsageError
from genmm.metrics.image_features import PictureFeatures, save_features
from genmm.systems.tokenset.config import CountNetworkConfig, SetTokenizerConfig
from genmm.systems.tokenset.network import CountNetwork
from genmm.systems.tokenset.tokenizer import SetTokenizer
from models.image_tokenizer import CodebookCollapse, SetTokenizerTask
from models.tokenset import TokenSetTask

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "tokenset"
SHAPES = {"kind": "drawn", "count": 48}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("GENMM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def quiet(steps: int) -> list[str]:
    values = {"max_steps": steps, "enable_progress_bar": "false", "enable_model_summary": "false", "devices": 1}
    return [f"--trainer.{name}={value}" for name, value in {**values, "accelerator": "cpu"}.items()]


@pytest.mark.timeout(600)
def test_debug_runs_from_drawn_shapes_to_pictures(tmp_path):
    """Tokenizer with its judge, cached counts, generator with samples, evaluation: the whole way."""
    features = save_features(PictureFeatures((8, 16)), tmp_path / "features")
    given = ["--config", str(CONFIGS / "tokenizer_debug.yaml"), "--run.name", "try", "--data.source.count=96"]
    given += ["--trainer.val_check_interval=4", "--model.adversarial_from=0.5", f"--model.perceptual={features}"]
    assert run_training("fit", [*given, *quiet(8)]) == 0
    tokenizer = tmp_path / "runs" / "set-tokenizer" / "try" / "export"
    given = ["--config", str(CONFIGS / "debug.yaml"), "--run.name", "try", "--data.source.count=96"]
    given += [f"--model.tokenizer={tokenizer}", f"--data.tokenizer={tokenizer}", "--samples.every_steps=4"]
    assert run_training("fit", [*given, "--trainer.val_check_interval=4", *quiet(4)]) == 0
    run = tmp_path / "runs" / "tokenset" / "try"
    assert list((run / "samples").glob("step=4-0*.png"))
    pipeline = genmm.load(str(run / "export"), device="cpu")
    assert pipeline.generate("red circle", labels={"style": "flat"}, seed=3).images[0].shape == (32, 32, 3)
    report = evaluate_images(pipeline, features, ImageEvaluation.quick(1), PictureSource(kind="drawn", count=96))
    assert set(report.figures["reconstruction"]) == {"4", "8", "16"}
    assert report.figures["order"]["max"] < 1e-3
    assert 0 <= report.figures["held_out_drawing"]["own_picture_in_first_5"] <= 1
    assert report.sheet.shape[2] == 3
    assert "PSNR" in report_markdown(report.figures)
    (tmp_path / "photos").mkdir()
    for number in range(60):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / "photos" / f"{number}.png")
    with pytest.raises(DataError, match="--pictures"):
        photos = PictureSource(kind="folder", path=str(tmp_path / "photos"))
        evaluate_images(pipeline, features, ImageEvaluation.quick(1), photos)


@pytest.mark.timeout(600)
def test_hand_signs_train_from_their_own_configurations(tmp_path, monkeypatch):
    """Features, tokenizer and generator of the class-conditional model, a few steps each, on like pictures."""
    import io
    import zipfile

    home = tmp_path / "data" / "images_sign_digits"
    home.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(home / "images.zip", "w") as archive:
        for number in range(60):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(stream, "JPEG")
            archive.writestr(f"{number % 10}/img_{number}.jpg", stream.getvalue())
    monkeypatch.setenv("GENMM_DATA", str(tmp_path / "data"))
    less = ["--data.batch_size=4", "--trainer.precision=32-true", "--trainer.val_check_interval=1"]
    smaller = {
        "signs_features": ["--model.widths=[8,8]"],
        "signs_tokenizer": [f"--model.tokenizer.{name}" for name in ("depth=1", "width=32", "features=16")],
        "signs": ["--model.network.depth=1", "--model.network.width=32"],
    }
    for name, sizes in smaller.items():
        assert run_training("fit", ["--config", str(CONFIGS / f"{name}.yaml"), *less, *sizes, *quiet(1)]) == 0
    pipeline = genmm.load(str(tmp_path / "runs" / "tokenset" / "signs" / "export"), device="cpu")
    assert pipeline.labels == {"class": tuple("0123456789")}
    assert pipeline.generate("7", seed=1, settings={"steps": 2}).images[0].shape == (64, 64, 3)
    with pytest.raises(UsageError, match="no class 'heart'"):
        pipeline.generate("heart")


def test_labels_that_differ_from_the_data_are_refused(tmp_path, pipeline):
    folder = str(pipeline.save(tmp_path / "model"))
    data = CountData(folder, 8, PictureSource(**SHAPES), text_rows=64)
    for style, fits in ((("flat", "outline"), True), (("outline", "flat"), False)):
        network = CountNetworkConfig(codes=32, tokens=8, width=16, depth=1, heads=2, labels={"style": style})
        task = TokenSetTask(network, folder)
        task._trainer = SimpleNamespace(datamodule=data, optimizers=[])
        if fits:
            task.on_fit_start()
            continue
        with pytest.raises(ConfigError, match="in order"):
            task.on_fit_start()


def test_versions_of_a_picture_are_moved_and_mirrored_for_training_alone(tmp_path, pipeline):
    folder = str(pipeline.save(tmp_path / "model"))
    data = CountData(folder, 8, PictureSource(**SHAPES), mirrored=True, moved=2, text_rows=64)
    stored = data.tokens.build()
    assert stored.shape == (SHAPES["count"], 6, 8)
    image = torch.from_numpy(data.pictures[0].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    down, right = MOVES[2]
    turned = image.roll((down, right), (-2, -1))  # drawn pictures have a plain border
    wanted = pipeline.tokenizer.encode(turned, 8)[0].sort().values
    assert torch.equal(torch.from_numpy(stored[0, 2].astype(np.int64)).sort().values, wanted)
    test = data.dataset("test")
    first = test[Pick(0, 5)]["tokens"]
    assert np.array_equal(first, stored[test.indices[0], 0])
    with pytest.raises(ConfigError, match="moved must be from 0 to 8"):
        CountData(folder, 8, moved=9)


@pytest.mark.parametrize("name", ["tokenizer_demo", "tokenizer_paper", "tokenizer_debug", "signs_tokenizer"])
def test_tokenizer_configurations_have_their_sizes(name):
    about = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["init_args"]["tokenizer"]
    config = SetTokenizerConfig.from_dict(about)
    with torch.device("meta"):
        numbers = sum(p.numel() for p in SetTokenizer(config).parameters())
    limits = {"tokenizer_paper": (203_322_383, 203_322_383), "tokenizer_demo": (1_000_000, 4_000_000),
              "signs_tokenizer": (500_000, 2_500_000)}  # fmt: skip
    low, high = limits.get(name, (1, 200_000))
    assert low <= numbers <= high


@pytest.mark.parametrize("name", ["demo", "paper", "debug", "signs"])
def test_generator_configurations_have_their_sizes(name):
    about = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["init_args"]["network"]
    if name == "paper":
        about["labels"] = {"class": [str(number) for number in range(1000)]}
    with torch.device("meta"):
        numbers = sum(p.numel() for p in CountNetwork(CountNetworkConfig.from_dict(about)).parameters())
    low, high = {
        "paper": (36_041_985, 36_041_985),
        "demo": (1_500_000, 6_000_000),
        "signs": (1_000_000, 3_000_000),
    }.get(name, (1, 300_000))
    assert low <= numbers <= high


# ---------------------------------------------------------------- codebook health


def tiny_task(**changes) -> SetTokenizerTask:
    config = SetTokenizerConfig(
        image_size=16, patch_size=8, tokens=4, codes=32, code_width=4, width=16, depth=1, heads=2, features=8,
        pixels="shuffle", pixel_channels=8, res_blocks=1, legacy_mixing=False,
    )  # fmt: skip
    return SetTokenizerTask(config, **changes)


def test_a_run_whose_codebook_stays_unused_fails_with_advice(monkeypatch):
    task = tiny_task(least_usage=0.5, patience=2)
    monkeypatch.setattr(task, "log_dict", lambda values: None)
    for _ in range(2):
        task.uses.zero_()
        task.uses[:3] = 1
        task.on_train_epoch_end()
    task.uses.fill_(1)
    task.on_train_epoch_end()  # a good epoch forgives the poor ones
    assert task.poor_epochs == 0
    task.uses.zero_()
    task.uses[:3] = 1
    with pytest.raises(CodebookCollapse, match="9% of the codes.*fewer codes"):
        for _ in range(3):
            task.on_train_epoch_end()


def test_a_codebook_that_no_longer_learns_does_not_end_the_run(monkeypatch):
    task = tiny_task(least_usage=0.5, patience=0, train_encoder=False)
    monkeypatch.setattr(task, "log_dict", lambda values: None)
    task.uses[:3] = 1
    for _ in range(3):
        task.on_train_epoch_end()
    assert task.poor_epochs == 0


def test_the_first_part_of_a_run_passes_vectors_through_and_keeps_the_codes(monkeypatch):
    task = tiny_task(continuous_until=0.5)
    share = {"done": 0.1}
    monkeypatch.setattr(SetTokenizerTask, "done", property(lambda self: share["done"]))
    task._trainer = object()
    before = task.tokenizer.quantize.embedding.weight.clone()
    images = torch.rand(8, 3, 16, 16)
    assert float(task.losses({"image": images}, 0, "train")["commitment"]) == 0.0
    assert torch.equal(task.tokenizer.quantize.embedding.weight, before) and not task.uses.any()
    vectors = task.tokenizer.vectors(images)
    assert torch.allclose(task._quantised(vectors, "train")[0], torch.nn.functional.normalize(vectors, dim=-1))
    share["done"] = 0.5
    assert float(task.losses({"image": images}, 0, "train")["commitment"]) > 0.0
    assert task.started and task.uses.sum() == 8 * 4
    assert not torch.equal(task.tokenizer.quantize.embedding.weight, before)


def test_held_out_losses_of_all_parts_of_a_run_are_comparable(monkeypatch):
    """The same weights give the same value wherever the run stands, and it is that of the codes."""
    task = tiny_task(continuous_until=0.5, adversarial_from=0.7)
    share = {"done": 0.1}
    monkeypatch.setattr(SetTokenizerTask, "done", property(lambda self: share["done"]))
    task._trainer = object()
    task.tokenizer.eval()
    images = torch.rand(8, 3, 16, 16)
    found = []
    for done in (0.1, 0.6, 0.9):
        share["done"] = done
        found.append(float(task.losses({"image": images}, 0, "val")["loss"]))
        task.started = done > 0.1
    assert found[0] == found[1] == found[2]
    size = list(task.size_shares)[0]
    made = task.tokenizer.decode_codes(task.tokenizer.quantize(task.tokenizer.vectors(images, size)).codes)
    wanted = (made - images).square().mean() + 0.5 * (made - images).abs().mean()
    assert found[0] == pytest.approx(float(wanted), rel=1e-5)


def test_a_checkpoint_keeps_the_moving_averages():
    task, again = tiny_task(), tiny_task()
    task.tokenizer.train()
    task.losses({"image": torch.rand(8, 3, 16, 16)}, 0, "train")
    checkpoint = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    again.on_load_checkpoint(checkpoint)
    for name in ("mass", "sums"):
        assert torch.equal(getattr(again.tokenizer.quantize, name), getattr(task.tokenizer.quantize, name))
    assert torch.equal(again.uses, task.uses)
    assert again.started


def test_the_exported_model_draws_with_the_noise_it_learned(tmp_path, pipeline):
    folder = str(pipeline.save(tmp_path / "model"))
    network = CountNetworkConfig(codes=32, tokens=8, width=16, depth=1, heads=2)
    assert TokenSetTask(network, folder, process="exchangeable").pipeline().defaults.process == "exchangeable"
    with pytest.raises(ConfigError, match="process"):
        TokenSetTask(network, folder, process="exchangeable", defaults={"process": "gaussian"})


def test_size_shares_name_trained_sizes():
    with pytest.raises(ConfigError, match="size_shares"):
        tiny_task(size_shares={3: 1.0})


# ---------------------------------------------------------------- data


def test_drawn_pictures_are_the_same_every_time():
    data = ImageData(PictureSource(**SHAPES), image_size=32, shift=2, recolour=0.5)
    one, again = data.dataset("train")[Pick(3, 7)], data.dataset("train")[Pick(3, 7)]
    assert np.array_equal(one["image"], again["image"])
    assert not np.array_equal(one["image"], data.dataset("train")[Pick(3, 8)]["image"])
    batch = data.collate([one, again])
    assert batch["image"].shape == (2, 3, 32, 32)
    assert -1 <= float(batch["image"].min()) <= float(batch["image"].max()) <= 1
    splits = [set(data.store.chosen(name)) for name in ("train", "val", "test")]
    assert sum(map(len, splits)) == 48 == len(set.union(*splits))
    assert label_values(data.store.entries) == {"style": ("flat", "outline")}


def test_folders_metadata_and_shards_give_the_same_pictures(tmp_path, picture):
    import io
    import json
    import tarfile

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    for part in ("train/cat", "val/dog"):
        (tmp_path / "tree" / part).mkdir(parents=True)
        (tmp_path / "tree" / part / "one.png").write_bytes(stream.getvalue())
    tree = PictureSource(kind="folder", path=str(tmp_path / "tree")).entries(tmp_path)
    assert [(entry.split, dict(entry.labels)) for entry in tree] == [
        ("train", {"class": "cat"}),
        ("val", {"class": "dog"}),
    ]
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "a.png").write_bytes(stream.getvalue())
    row = {"file_name": "a.png", "text": "a red thing", "label": 4}
    (tmp_path / "hub" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    hub = PictureSource(kind="folder", path=str(tmp_path / "hub")).entries(tmp_path)
    assert (hub[0].caption, hub[0].labels["class"]) == ("a red thing", "4")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, data in (
            ("./v1.2/x.png", stream.getvalue()), ("./v1.2/x.cls", b"7"), ("./v1.2/x.txt", b"a red thing"),
            ("./.hidden.png", b"no picture"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    shard = PictureSource(kind="webdataset", path=str(tmp_path / "0.tar")).entries(tmp_path)
    assert len(shard) == 1
    assert (shard[0].caption, shard[0].labels["class"]) == ("a red thing", "7")
    for entries in (tree, hub, shard):
        assert np.array_equal(entries[0].read(), picture)


def test_missing_data_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="GENMM_DATA"):
        PictureSource(kind="emoji").entries(tmp_path)
    with pytest.raises(DataError):
        PictureSource(kind="sign_digits").entries(tmp_path)
    with pytest.raises(ConfigError, match="needs its path"):
        PictureSource(kind="folder").entries(tmp_path)
    with pytest.raises(ConfigError, match="one of"):
        PictureSource(kind="photos").entries(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name\n../outside.png\n")
    with pytest.raises(DataError, match="which is not in"):
        PictureSource(kind="folder", path=str(tmp_path)).entries(tmp_path)


def test_the_emoji_set_holds_combinations_out(shared_data):
    entries = PictureSource().entries(shared_data)
    held = [entry for entry in entries if entry.split != "train"]
    assert 40 < len(held) < 200
    known = {(entry.caption, entry.labels["group"]) for entry in entries if entry.split == "train"}
    assert all((entry.caption, entry.labels["group"]) in known for entry in held)
    assert {entry.labels["style"] for entry in entries} == {"noto", "twemoji"}
    assert PictureStore(PictureSource(kind="drawn", count=4), 16)[0].shape == (16, 16, 3)
