"""The SLED configurations of the trainer run, on tiny sizes, from the command that they are for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

import genmm
from app.train import run_training
from datamodules.spoken_letters import byte_tokenizer, untrained_codec
from genmm.systems.sled.codec import SpeechCodec
from genmm.systems.sled.config import SledConfig
from genmm.systems.sled.network import SledNetwork

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "sled"
TINY = "vocab_size=260 hidden_size=16 intermediate_size=24 num_hidden_layers=1 num_attention_heads=2 vae_embed_dim=6 "
TINY += "diffloss_d=1 diffloss_w=16 noise_channels=4"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("GENMM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def quiet(steps: int) -> list[str]:
    values = {"max_steps": steps, "enable_progress_bar": "false", "enable_model_summary": "false", "devices": 1}
    return [f"--trainer.{name}={value}" for name, value in {**values, "accelerator": "cpu"}.items()]


def test_debug_runs_from_nothing_to_speech(tmp_path):
    given = ["--config", str(CONFIGS / "debug.yaml"), "--run.name", "try", "--data.utterances=16"]
    given += ["--samples.every_steps=4", "--trainer.val_check_interval=2"]
    assert run_training("fit", [*given, *quiet(4)]) == 0
    run = tmp_path / "runs" / "sled" / "try"
    assert list((run / "samples").glob("step=4-0*"))
    pipeline = genmm.load(str(run / "export"), device="cpu")
    result = pipeline.generate("aei", seed=3)
    assert result.sample_rate == 16000 and np.isfinite(result.samples[0]).all()
    assert run_training("test", [*given, "--ckpt_path", "last", *quiet(4)]) == 0
    assert {"test/energy", "test/calibration", "test/stop"} <= set(json.loads((run / "metrics.json").read_text()))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_debug_learns_in_its_minute(tmp_path):
    given = ["--config", str(CONFIGS / "debug.yaml"), "--run.name", "try", "--trainer.enable_progress_bar=false"]
    assert run_training("fit", given) == 0
    assert run_training("test", [*given, "--ckpt_path", "last"]) == 0
    values = json.loads((tmp_path / "runs" / "sled" / "try" / "metrics.json").read_text())
    assert values["test/stop_found"] > 0.8
    assert 0.6 < values["test/calibration"] < 1.4


def test_paper_has_the_published_size():
    config = yaml.safe_load((CONFIGS / "paper.yaml").read_text())
    with torch.device("meta"):
        network = SledNetwork(SledConfig.from_dict(config["model"]["init_args"]["network"]))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(203.63e6, abs=0.01e6)
    trainer, data = config["trainer"], config["data"]["init_args"]
    assert trainer["devices"] * trainer["accumulate_grad_batches"] * data["batch_size"] == 512


@pytest.mark.parametrize("streaming", [False, True])
def test_paper_runs_on_a_manifest(tmp_path, streaming):
    untrained_codec(6).save(tmp_path / "codec")
    byte_tokenizer().save(tmp_path / "text")
    soundfile.write(tmp_path / "a.flac", 0.1 * np.random.default_rng(0).standard_normal(5 * 16000), 16000)
    cuts = [
        {
            "id": f"cut-{i}",
            "start": 0.2 * i,
            "duration": 0.5 + 0.1 * i,
            "supervisions": [{"text": "Some words."}],
            "recording": {"sources": [{"source": "a.flac"}], "sampling_rate": 16000},
        }
        for i in range(6)
    ]
    (tmp_path / "cuts.jsonl").write_text("\n".join(json.dumps(cut) for cut in cuts))
    given = ["--config", str(CONFIGS / "paper.yaml"), "--run.name", "p", "--data.workers=0", "--data.batch_size=2"]
    given += [f"--data.{name}={tmp_path / name}" for name in ("codec",)] + [f"--data.tokenizer={tmp_path / 'text'}"]
    given += [f"--data.{name}=[{tmp_path / 'cuts.jsonl'}]" for name in ("train", "val")]
    given += [f"--data.audio_root={tmp_path}"] + [f"--model.network.{part}" for part in TINY.split()]
    given += ["--trainer.strategy=auto", "--trainer.accumulate_grad_batches=1", "--trainer.val_check_interval=2"]
    assert run_training("fit", [*given, *quiet(2)]) == 0
    assert (tmp_path / "runs" / "sled" / "p" / "export" / "model.safetensors").is_file()
    if streaming:
        more = ["--config", str(CONFIGS / "paper_streaming.yaml"), *given[2:], "--run.name", "s"]
        more = [*given[:2], *more, f"--model.start_from={tmp_path / 'runs' / 'sled' / 'p' / 'export'}"]
        assert run_training("fit", [*more, *quiet(2)]) == 0
        exported = json.loads((tmp_path / "runs" / "sled" / "s" / "export" / "config.json").read_text())
        assert (exported["network"]["stream_n"], exported["network"]["stream_m"]) == (5, 45)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_codec_trains_from_synthetic_speech_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMM_DATA", str(tmp_path / "no-data"))
    given = ["--config", str(CONFIGS / "codec_debug.yaml"), "--run.name", "try", "--model.total_steps=4"]
    given += ["--data.synthetic=6", "--data.train_batches=2", "--trainer.enable_progress_bar=false"]
    assert run_training("fit", [*given, "--trainer.enable_model_summary=false"]) == 0
    codec = SpeechCodec.from_folder("runs/speech-codec/try/export")
    assert codec.decode(codec.encode(torch.zeros(1, 16000))).shape == (1, 16000)


@pytest.mark.parametrize("name", ["codec_demo", "codec_demo_decoder"])
def test_the_codec_configurations_are_understood(name, capsys):
    given = ["--config", str(CONFIGS / f"{name}.yaml"), "--model.start_from=null", "--print_config"]
    assert run_training("fit", given) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["class_path"] == "models.audio_codec.SpeechCodecTask"
    assert shown["data"]["class_path"] == "datamodules.speech_waveforms.SpeechWaveformData"
