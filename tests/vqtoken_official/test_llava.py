"""The published model end to end on random weights: converted, token count K + 1, generation against transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import genmm
from genmm.core.errors import CheckpointError, ConfigError, UsageError
from genmm.media.video import write_video
from genmm.systems.vqtoken.convert import block_tensors, convert_vqtoken, official_block
from genmm.systems.vqtoken.llava import LlavaPipeline, prompt_parts

GRID, WIDTH = 4, 32
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "vqtoken"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (8, 4, 5, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    write_video(path, list(frames), 8, preset="ultrafast")
    return path


def test_every_weight_arrives_unchanged(published, converted):
    before, after = load_file(published / "model.safetensors"), load_file(converted / "model.safetensors")
    assert len(after) == len(before)
    for name, target in {
        "model.layers.1.self_attn.k_proj.bias": "llava.model.language_model.layers.1.self_attn.k_proj.bias",
        "model.mm_projector.2.weight": "llava.model.multi_modal_projector.linear_2.weight",
        "model.image_newline": "llava.model.image_newline",
        "model.cross_attention.to_q_proj.weight": "block.to_q_proj.weight",
    }.items():
        assert torch.equal(before[name], after[target])
    sums = [sorted(float(t.double().sum()) for t in tensors.values()) for tensors in (before, after)]
    assert sums[0] == sums[1]


def test_features_are_those_of_the_last_layer_before_the_norm(llava):
    frames = np.random.default_rng(1).integers(0, 255, (2, 24, 24, 3), np.uint8)
    features = llava.encoder(frames)
    assert features.shape == (2, GRID, GRID, WIDTH)
    tower = llava.network.model.vision_tower
    inner = getattr(tower, "vision_model", tower)
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with torch.no_grad():
        hidden = inner.embeddings(x)
        for layer in inner.encoder.layers:
            hidden = layer(hidden, None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        expected = llava.network.model.multi_modal_projector(hidden)
    torch.testing.assert_close(features.flatten(1, 2), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tokens", [3, 7, "adaptive"])
def test_a_clip_takes_its_tokens_and_one_newline(llava, clip, tokens):
    reduced = llava.watch(clip, tokens=tokens)
    count = int(reduced.num_tokens[0])
    assert count == tokens if isinstance(tokens, int) else 12 <= count <= 32
    prompt = llava.prompt("What is this?", reduced)
    words = sum(
        len(llava.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in prompt_parts("What is this?")
    )
    assert prompt.shape == (1, words + count + 1, WIDTH)


def test_the_codebook_is_of_unit_tokens(llava, clip):
    reduced = llava.watch(clip, tokens=6)
    features = F.normalize(llava.encoder(llava._sampled(clip)), dim=-1)
    mean = features[reduced.index_map[0] == 2].mean(0)
    torch.testing.assert_close(reduced.tokens[0, 2], mean, atol=1e-5, rtol=1e-5)


def test_the_published_block_gives_a_row_for_each_frame(llava, clip):
    assert llava.watch(clip, tokens=3, block="official").tokens.shape[1] == 5
    with pytest.raises(UsageError, match="block is none"):
        llava.watch(clip, block="paper")


def test_words_are_those_of_transformers(llava, clip):
    reduced = llava.watch(clip, tokens=4)
    ids = list(llava._greedy(llava.prompt("What is this?", reduced), 8))
    prompt = llava.prompt("What is this?", reduced)
    with torch.no_grad():
        expected = llava.network.generate(
            inputs_embeds=prompt,
            attention_mask=torch.ones(prompt.shape[:2], dtype=torch.int64),
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=llava.tokenizer.convert_tokens_to_ids("<|im_end|>"),
            pad_token_id=0,
        )[0].tolist()
    assert ids == expected[: len(ids)] and ids
    pieces = list(llava.answer_stream(reduced, "What is this?", max_new_tokens=8))
    assert "".join(pieces).strip() == llava.answer_words(reduced, "What is this?", max_new_tokens=8)


def test_the_pipeline_tokenizes_like_any_other(llava, clip, tmp_path):
    made = llava.tokenize(clip, tokens=5)
    assert made.tokens == 5 and made.model["system"] == "vqtoken"
    again = genmm.load(str(llava.save(tmp_path / "copy")), device="cpu", dtype="float32")
    assert isinstance(again, LlavaPipeline)
    torch.testing.assert_close(again.tokenize(clip, tokens=5).reduced.tokens, made.reduced.tokens)


@pytest.mark.parametrize("prefix", ["model.cross_attention.", "cross_attention.", ""])
def test_the_block_loads_with_any_prefix(published, prefix):
    own = block_tensors(load_file(published / "model.safetensors"))
    block = official_block({prefix + name: tensor for name, tensor in own.items()})
    assert (block.cells, block.width) == (GRID * GRID, WIDTH)
    with pytest.raises(CheckpointError, match="no VQToken block"):
        official_block({"x": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="cannot have 7 heads"):
        official_block(own, heads=7)
    with pytest.raises(CheckpointError, match=r"must be a matrix"):
        official_block({**own, "to_q_proj.weight": torch.zeros(4)})


def test_sharded_weights_and_a_tied_head(published, tmp_path):
    folder = tmp_path / "sharded"
    shutil.copytree(published, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    del tensors["lm_head.weight"]
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    table = {"weight_map": {name: file for file, own in shards.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))
    out = convert_vqtoken(folder, tmp_path / "out")
    stored = load_file(out / "model.safetensors")
    assert torch.equal(stored["llava.lm_head.weight"], tensors["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: (f / "config.json").write_text('{"model_type": "llava"}'), "expected 'llava_qwen'"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickle"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda f: save_file({"x": torch.zeros(1)}, f / "model.safetensors"), "no vision tower"),
    ],
)
def test_unusable_folders_leave_nothing_behind(published, tmp_path, change, text):
    folder = tmp_path / "broken"
    shutil.copytree(published, folder)
    change(folder)
    with pytest.raises(CheckpointError, match=text):
        convert_vqtoken(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_not_replaced_unasked(published, converted):
    with pytest.raises(UsageError, match="exists"):
        convert_vqtoken(published, converted)


@pytest.mark.timeout(600)
def test_fine_tuning_learns_an_answer_and_writes_a_model(converted, clip, tmp_path):
    from datamodules.sampler import Pick
    from datamodules.video_qa_manifest import VideoInstructions
    from genmm.core.errors import DataError
    from models.vqtoken_llava import VideoLanguageTask

    manifest = tmp_path / "train.jsonl"
    manifest.write_text(json.dumps({"video": str(clip), "question": "What?", "answer": "noise"}) + "\n")
    data = VideoInstructions(str(manifest), str(converted), frames=3, side=24)
    items = data.dataset("train")
    batch = data.collate([items[Pick(0, 0)]])
    assert batch["frames"][0].shape[0] == 3 and items.tokenizer.decode(batch["answer"][0]) == "noise<|im_end|>"
    task = VideoLanguageTask(str(converted), tokens=4, block="official")
    parameters = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, 3e-3)
    first = None
    for _ in range(12):
        terms = task.losses(batch, 0, "train")
        first = first if first is not None else float(terms["loss"].detach())
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    assert float(terms["tokens"]) >= 4 and float(terms["loss"].detach()) < 0.7 * first
    assert task.block.to_q_proj.weight.grad is not None
    again = genmm.load(str(task.export(tmp_path / "tuned")), device="cpu", dtype="float32")
    assert not torch.equal(
        again.network.lm_head.weight, genmm.load(str(converted), device="cpu").network.lm_head.weight
    )
    frozen = VideoLanguageTask(str(converted), trained=("block",))
    assert all(name.startswith("block.") for name, p in frozen.named_parameters() if p.requires_grad)
    with pytest.raises(ConfigError, match="nothing would be trained"):
        VideoLanguageTask(str(converted), block="none", trained=("block",))
    assert data.dataset("val") is None and data.dataset("test") is None
    both = VideoInstructions("none.jsonl", str(converted), val_manifest="none.jsonl", test_manifest=str(manifest))
    assert len(both.dataset("test")) == 1
    manifest.write_text('{"video": "gone.mp4", "question": "a", "answer": "b"}\n')
    with pytest.raises(DataError, match="line 1"):
        data.dataset("train")


def test_our_block_starts_as_the_identity_and_answers_after_training(converted, clip, tmp_path, capsys):
    from app.cli import main
    from models.vqtoken_llava import VideoLanguageTask

    task = VideoLanguageTask(str(converted), tokens=4, block="occupancy", trained=("block",))
    pipeline = task.pipeline[0]
    torch.testing.assert_close(
        pipeline.watch(clip, tokens=4).tokens, pipeline.watch(clip, tokens=4, block="none").tokens
    )
    ids = [torch.tensor(pipeline.tokenizer(text)["input_ids"]) for text in ("what", "?", "noise")]
    frames = torch.from_numpy(np.random.default_rng(2).integers(0, 255, (3, 24, 24, 3), np.uint8))
    batch = {"frames": [frames], **{name: [own] for name, own in zip(("before", "behind", "answer"), ids, strict=True)}}
    optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(10):
        losses.append(task.losses(batch, 0, "train")["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert float(losses[-1].detach()) < float(losses[0].detach()) - 0.05

    tuned = task.export(tmp_path / "tuned")
    again = genmm.load(str(tuned), device="cpu", dtype="float32")
    assert (again.info["block"], again.info["clustering"]) == ("occupancy", "k_center")
    assert not any(name.startswith("block.to_q_proj") for name in load_file(tuned / "model.safetensors"))
    assert int(again.watch(clip).num_tokens[0]) == 4 and again.frames == 3  # what it was trained with
    assert 12 <= int(again.watch(clip, tokens="adaptive").num_tokens[0]) <= 32
    assert "occupancy" in again.info["description"] and again.info["licence"] == "test"
    own, plain = (again.watch(clip, tokens=4, block=block).tokens for block in (None, "none"))
    assert own.shape == plain.shape and not torch.allclose(own, plain)

    def asked(*options: str) -> str:
        line = ["ask", str(clip), "What is this?", "--model", str(tuned), "--device", "cpu", "--dtype", "float32"]
        assert main([*line, "--tokens", "4", "--max-words", "4", *options]) == 0
        return capsys.readouterr().out.strip()

    assert (
        asked()
        == asked("--block", "occupancy")
        == again.answer_words(again.watch(clip, tokens=4), "What is this?", max_new_tokens=4)
    )
    assert asked("--block", "none") == again.answer_words(
        again.watch(clip, tokens=4, block="none"), "What is this?", max_new_tokens=4
    )
    reduced = again.tokenize(clip, tokens=4)
    assert again.answer_words(reduced, "What?", max_new_tokens=2) == again.answer_words(
        reduced.reduced, "What?", max_new_tokens=2
    )
    for options in ({"tokens": 9}, {"block": "none"}, {"max_new_tokens": 0}):
        with pytest.raises(UsageError, match="its tokens already|at least 1 word"):
            again.answer_words(reduced, "What?", **options)
    stored = json.loads((tuned / "config.json").read_text())
    (tuned / "config.json").write_text(json.dumps({**stored, "block": {**stored["block"], "depth": 3}}))
    with pytest.raises(CheckpointError, match="does not know"):
        genmm.load(str(tuned), device="cpu")
    (tuned / "config.json").write_text(json.dumps(stored))
    assert main(["ask", str(clip), "What is this?", "--model", str(tuned), "--block", "official"]) == 2
    assert "block is none or occupancy; got 'official'" in capsys.readouterr().err


def test_threads_do_not_mix_their_features(llava):
    import sys
    from concurrent.futures import ThreadPoolExecutor

    films = [np.random.default_rng(n).integers(0, 255, (2, 24, 24, 3), np.uint8) for n in range(4)]
    alone = [llava.encoder(film) for film in films]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(llava.encoder, films * 10))
    finally:
        sys.setswitchinterval(interval)
    assert all(torch.allclose(one, alone[n % 4], atol=1e-5) for n, one in enumerate(found))


def test_folders_converted_before_they_named_their_block_still_load(converted, clip, tmp_path):
    folder = tmp_path / "older"
    shutil.copytree(converted, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["block"], config["runs_block"]
    (folder / "config.json").write_text(json.dumps({**config, "block_heads": 8}))
    older, newer = (genmm.load(str(f), device="cpu", dtype="float32") for f in (folder, converted))
    assert older.config.block == newer.config.block and not older.runs_block
    torch.testing.assert_close(
        older.watch(clip, tokens=3, block="official").tokens, newer.watch(clip, tokens=3, block="official").tokens
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", ["official", "occupancy"])
def test_the_configurations_of_the_paper_train_from_the_command_line(converted, clip, tmp_path, monkeypatch, block):
    from app.train import run_training

    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    monkeypatch.chdir(tmp_path)
    rows = [{"video": str(clip), "question": "What?", "answer": answer} for answer in ("noise", "squares")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--config", str(CONFIGS / "paper.yaml"), "--run.name", "try"]
    if block == "occupancy":
        given += ["--config", str(CONFIGS / "paper_occupancy.yaml")]
    given += [f"--model.start_from={converted}", f"--data.model={converted}", "--data.manifest=train.jsonl"]
    given += ["--model.tokens=4", "--data.frames=3", "--data.side=24", "--data.workers=0"]
    short = {"max_steps": 2, "devices": 1, "accelerator": "cpu", "strategy": "auto", "precision": "32-true"}
    short |= {"enable_progress_bar": "false", "enable_model_summary": "false"}
    assert run_training("fit", [*given, *(f"--trainer.{name}={value}" for name, value in short.items())]) == 0
    tuned = genmm.load(str(tmp_path / "runs" / "vqtoken" / "try" / "export"), device="cpu", dtype="float32")
    assert tuned.info["block"] == block
    assert isinstance(tuned.answer_words(clip, "What?", tokens=4, max_new_tokens=2), str)
