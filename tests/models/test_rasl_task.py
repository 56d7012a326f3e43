"""Training of RASL from its configurations: from nothing to an exported model that finds highlights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import genmm
from app.train import run_training
from genmm.systems.rasl.config import RaslConfig
from genmm.systems.rasl.feature_table import FeatureTable, save_table
from genmm.systems.rasl.network import RaslNetwork

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "rasl"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("GENMM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def noise_tables(folder: Path, count: int = 12) -> Path:
    rng = np.random.default_rng(0)
    for number in range(count):
        visual = rng.random((24, 304)).astype(np.float32)
        table = FeatureTable(
            visual=visual,
            audio=rng.standard_normal((24, 196)).astype(np.float32),
            audio_valid=np.ones(24, bool),
            motion=visual[:, 296:],
            loudness_db=np.full(24, -20.0, np.float32),
            duration_s=24.0,
        )
        save_table(folder / f"video{number}.safetensors", table)
    return folder


@pytest.mark.timeout(600)  # fifteen seconds on a free core
def test_debug_runs_from_scenes_to_highlights(tmp_path):
    given = ["--config", str(CONFIGS / "debug.yaml"), "--run.name", "try", "--trainer.enable_model_summary=false"]
    assert run_training("fit", given) == 0
    run = tmp_path / "runs" / "rasl" / "try"
    pipeline = genmm.load(str(run / "export"), device="cpu")
    rng = np.random.default_rng(0)
    visual = rng.random((20, 304)).astype(np.float32)
    table = FeatureTable(visual, None, None, visual[:, 296:], None, 20.0)
    result = pipeline.score(table, {"seconds": 5.0})
    assert np.isfinite(result.scores).all()
    assert float(pipeline.network.branches["visual"].mean.abs().sum()) > 0  # statistics came along
    assert run_training("test", [*given, "--ckpt_path", "last"]) == 0
    assert {"test/k_point", "test/contrast"} <= set(json.loads((run / "metrics.json").read_text()))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["demo", "paper", "tvsum"])
def test_other_configurations_run_on_a_folder(tmp_path, name):
    folder = noise_tables(tmp_path / "tables")
    given = ["--config", str(CONFIGS / f"{name}.yaml"), "--run.name", name, "--trainer.max_steps=1"]
    given += ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.enable_model_summary=false"]
    given += [f"--data.sources.folder={folder}", "--data.sources.rendered=0", "--data.sources.tvsum=false"]
    given += ["--data.batch_size=2", "--data.window=8", "--model.network.width=16", "--trainer.limit_val_batches=1"]
    given += ["--model.network.projection=8", "--trainer.val_check_interval=1", "--trainer.enable_progress_bar=false"]
    assert run_training("fit", given) == 0
    assert (tmp_path / "runs" / "rasl" / name / "export" / "model.safetensors").is_file()


def test_the_sizes_are_those_of_the_documentation():
    paper = yaml.safe_load((CONFIGS / "paper.yaml").read_text())["model"]["init_args"]["network"]
    demo = yaml.safe_load((CONFIGS / "demo.yaml").read_text())["model"]["init_args"]["network"]
    count = [sum(p.numel() for p in RaslNetwork(RaslConfig(**values)).parameters()) for values in (paper, demo)]
    assert 2.4e6 < count[0] < 3.2e6
    assert 0.4e6 < count[1] < 0.7e6
