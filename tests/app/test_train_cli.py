"""`genmm fit` and its sisters: run folders, resume, refusals, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from app.train import HELP, SUBCOMMANDS, exit_code_of, run_training
from app.training.messages import readable

ROOT = Path(__file__).resolve().parents[2]
TOY = {
    "model": {"class_path": "models.toy.ToyTask"},
    "data": {"class_path": "datamodules.toy.ToyData"},
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 6,
        "val_check_interval": 3,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    },
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    """The run sets its seed in the environment; the next test must not see it."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    monkeypatch.chdir(tmp_path)


def config(folder: Path, name: str = "toy.yaml", **changes) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump({**TOY, **changes} if name == "toy.yaml" else changes))
    return str(path)


def fit(folder: Path, *more: str, **changes) -> int:
    given = ["--config", config(folder, **changes), "--run.root", str(folder / "runs"), "--run.name", "a"]
    return run_training("fit", [*given, *more])


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_help_answers_at_once_without_torch(subcommand):
    code = f"import sys; from app.train import run_training; run_training({subcommand!r}, ['--help']); "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'pytorch_lightning')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == HELP[subcommand]


def test_a_run_fills_its_folder_and_exports(tmp_path, capsys):
    assert fit(tmp_path) == 0
    run = tmp_path / "runs" / "toy" / "a"
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / "export" / "model.safetensors").is_file()
    card = (run / "export" / "README.md").read_text()
    assert "| Task | ToyTask |" in card and "| Optimizer steps | 6 |" in card and "| val/loss | " in card
    assert "train/loss" in (run / "logs" / "version_0" / "metrics.csv").read_text()
    assert list((run / "tensorboard").glob("events.*"))
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["model"]["class_path"] == "models.toy.ToyTask" and saved["trainer"]["max_steps"] == 6
    assert str(run / "export") in capsys.readouterr().out


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_processor_without_fast_bfloat16_trains_in_float32(tmp_path, monkeypatch, caplog, fast, precision):
    monkeypatch.setattr("app.training.session.multiplies_bfloat16", lambda device: fast)
    assert fit(tmp_path, "--trainer.precision", "bf16-mixed") == 0
    run = tmp_path / "runs" / "toy" / "a"
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["precision"] == precision
    assert f"| Precision | {precision} |" in (run / "export" / "README.md").read_text()
    assert ("training in float32" in caplog.text) is not fast


def test_later_files_and_keys_override_earlier_ones(tmp_path):
    more = config(tmp_path, "more.yaml", trainer={"max_steps": 2}, model={"init_args": {"width": 4}})
    assert fit(tmp_path, "--config", more, "--model.dropout", "0.1") == 0
    saved = yaml.safe_load((tmp_path / "runs" / "toy" / "a" / "config.yaml").read_text())
    assert saved["trainer"]["max_steps"] == 2
    assert (saved["model"]["init_args"]["width"], saved["model"]["init_args"]["dropout"]) == (4, 0.1)


def test_resume_continues_and_a_second_start_is_refused(tmp_path, capsys):
    assert fit(tmp_path, "--trainer.max_steps", "3") == 0
    assert fit(tmp_path) == 2
    assert "--resume" in capsys.readouterr().err
    assert fit(tmp_path, "--resume") == 0
    run = tmp_path / "runs" / "toy" / "a"
    assert "6" in (run / "logs" / "version_1" / "metrics.csv").read_text()
    assert yaml.safe_load((run / "config.0.yaml").read_text())["trainer"]["max_steps"] == 3


def test_a_run_is_resumed_by_its_folder_alone(tmp_path, capsys):
    assert fit(tmp_path, "--trainer.max_steps", "3", "--data.seed", "7") == 0
    run = tmp_path / "runs" / "toy" / "a"
    assert run_training("resume", ["runs/toy/a", "--trainer.max_steps", "6"]) == 0
    assert "6" in (run / "logs" / "version_1" / "metrics.csv").read_text()
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert (saved["trainer"]["max_steps"], saved["data"]["init_args"]["seed"]) == (6, 7)
    moved = tmp_path / "elsewhere" / "toys" / "b"
    moved.parent.mkdir(parents=True)
    run.rename(moved)
    assert run_training("resume", [str(moved), "--trainer.max_steps=9"]) == 0
    assert yaml.safe_load((moved / "config.1.yaml").read_text())["trainer"]["max_steps"] == 6


@pytest.mark.parametrize(
    ("given", "said"),
    [(["--trainer.max_steps", "6"], "folder of a run first"), (["runs/toy/none"], "holds no run")],
)
def test_resuming_what_is_no_run_is_explained(given, said, capsys):
    assert run_training("resume", given) == 2
    assert said in capsys.readouterr().err


def test_measuring_a_checkpoint_prints_and_keeps_the_values(tmp_path, capsys):
    assert fit(tmp_path) == 0
    given = ["--config", config(tmp_path), "--run.root", str(tmp_path / "runs"), "--run.name", "a"]
    assert run_training("test", given) == 2
    assert "--ckpt_path" in capsys.readouterr().err
    assert run_training("test", [*given, "--ckpt_path", "best"]) == 0
    values = json.loads((tmp_path / "runs" / "toy" / "a" / "metrics.json").read_text())
    assert 0 < values["test/loss"] < 10
    assert run_training("validate", [*given, "--ckpt_path", "last"]) == 0


def test_export_writes_the_average_of_a_run_or_a_checkpoint(tmp_path):
    assert fit(tmp_path) == 0
    run = tmp_path / "runs" / "toy" / "a"
    expected = (run / "export" / "model.safetensors").read_bytes()
    for source in (run, run / "checkpoints" / "last.ckpt"):
        assert run_training("export", [str(source), str(tmp_path / "out")]) == 0
        assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected
        assert "Nothing was measured" in (tmp_path / "out" / "README.md").read_text()


def test_what_cannot_be_exported_is_said(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "config.yaml").write_text("{}")
    (tmp_path / "text.ckpt").write_text("hello")
    for source, words in {
        "model": "is a model folder already: commands take it as --model model",
        "young": "has no checkpoint yet",
        ".": "is no folder of a training run",
        "gone": "gone holds no run: there is no such folder",
        "text.ckpt": "damaged or no training checkpoint\n",
    }.items():
        assert run_training("export", [source, "out"]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"class_path": "os.system"}}, "may not import"),
        ({"model": {"class_path": "models.toy.ToyTask", "init_args": {"optimizer": "os.system"}}}, "may not import"),
        ({"samples": {"factory": "os.system"}}, "may not import"),
        (
            {"trainer": {"callbacks": [{"class_path": "subprocess.Popen", "init_args": {"args": "x"}}]}},
            "may not import",
        ),
        ({"trainer": {"logger": {"class_path": "pytorch_lightning.cli.LightningCLI"}}}, "may not import"),
        ({"model": {"class_path": "models.toy.ToyTask", "init_args": {"widht": 3}}}, "did you mean width?"),
        ({"model": {"class_path": "models.toy.NoTask"}}, "NoTask"),
        ({"model": {"class_path": "models.toy.ToyTask", "init_args": {"width": "wide"}}}, "expected int, got wide"),
        (
            {"model": {"class_path": "models.toy.ToyTask", "init_args": {"optimizer": {"learning_rate": -1}}}},
            "learning_rate must be above 0",
        ),
        ({"trainer": {"max_step": 3}}, "max_step"),
        ({"trainer": {"accelerator": "abacus"}}, "the Trainer does not take these settings"),
        ({"data": {"class_path": "datamodules.toy.ToyData", "init_args": {"batch_size": 0}}}, "batch_size"),
        ({"trainer": {"accelerator": "cpu", "val_check_interval": 1000}}, "val_check_interval"),
    ],
)
def test_a_wrong_configuration_is_explained_in_one_line(tmp_path, capsys, changes, said):
    assert fit(tmp_path, **changes) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("genmm fit: ") and said in message and len(message) < 500, message
    assert not (tmp_path / "runs" / "toy" / "a" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--trainer.max_stepz", "3"], "did you mean --trainer.max_steps"),
        (["--resume"], "--run.name"),
        (["--resume", "--run.name", "never"], "nothing to resume"),
        (["--ckpt_path", "missing.ckpt"], "missing.ckpt"),
        (["--allow_import"], "--allow_import"),
    ],
)
def test_a_wrong_command_line_is_explained(tmp_path, capsys, argv, said):
    given = [] if "missing.yaml" in argv else ["--config", config(tmp_path)]
    assert run_training("fit", [*given, *argv]) == 2
    assert said in capsys.readouterr().err


def test_broken_yaml_is_explained(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("model: {class_path: models.toy.ToyTask\n")
    assert run_training("fit", ["--config", str(tmp_path / "bad.yaml")]) == 2
    assert "line" in capsys.readouterr().err


def test_own_code_needs_leave(tmp_path, capsys, monkeypatch):
    (tmp_path / "my_tasks.py").write_text("from models.toy import ToyTask\nclass Mine(ToyTask):\n    system = 'mine'\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = {"class_path": "my_tasks.Mine"}
    assert fit(tmp_path, model=mine) == 2
    assert "--allow_import" in capsys.readouterr().err
    assert fit(tmp_path, "--allow_import", "my_tasks", model=mine) == 0
    assert (tmp_path / "runs" / "mine" / "a" / "config.yaml").is_file()


def test_a_diverged_run_ends_with_a_message(tmp_path, capsys):
    assert fit(tmp_path, "--model.poison_step", "2") == 2
    assert "gradient is not finite" in capsys.readouterr().err


def test_no_arguments_and_unknown_commands_are_wrong_usage(capsys):
    assert run_training("fit", []) == 2
    assert run_training("tune", ["x"]) == 2
    assert "fit, resume, validate" in capsys.readouterr().err


def test_exit_codes_of_stops():
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    except SystemExit as stop:
        assert exit_code_of(stop) == 130
    from pytorch_lightning.utilities.exceptions import SIGTERMException

    assert exit_code_of(SIGTERMException()) == 143
    assert (exit_code_of(SystemExit(3)), exit_code_of(SystemExit(None)), exit_code_of(SystemExit("text"))) == (3, 0, 2)


def test_nested_parser_errors_become_one_line():
    text = (
        'Parser key "model":\n  Does not validate against any of the Union subtypes\n  Subtypes: [A, B]\n  Errors:\n'
        "    - Problem with given class_path 'models.x.Task':\n        Parser key \"width\":\n"
        "          Expected a <class 'int'>. Got value: wide\n    - Expected a <class 'NoneType'>\n  Given value: {}"
    )
    assert readable(text) == "model: models.x.Task: width: expected int, got wide"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_give_their_exit_code(tmp_path, number, code):
    command = [sys.executable, "-m", "app.train", "fit", "--config", config(tmp_path), "--trainer.max_steps", "1000000"]
    command += ["--run.root", str(tmp_path / "runs"), "--run.name", "a", "--checkpoints.every_steps", "5"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PL_")}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    last = tmp_path / "runs" / "toy" / "a" / "checkpoints" / "last.ckpt"
    try:
        deadline = time.monotonic() + 240
        while not last.is_file() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        changed = last.stat().st_mtime_ns
        process.send_signal(number)
        said = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == code and "Traceback" not in said, said
    assert last.stat().st_mtime_ns > changed


def test_changed_optimizer_settings_hold_in_the_resumed_run(tmp_path):
    slow = "--model.optimizer.learning_rate=1e-4"
    common = ("--model.optimizer.schedule", "constant")
    assert fit(tmp_path, "--trainer.max_steps", "3", *common) == 0
    changed = (slow, "--model.optimizer.weight_decay=0.3", "--model.optimizer.betas=[0.5,0.6]")
    assert fit(tmp_path, "--resume", *common, *changed) == 0
    from models.checkpointing import read_checkpoint

    state = read_checkpoint(tmp_path / "runs" / "toy" / "a" / "checkpoints" / "last.ckpt")
    groups = state["optimizer_states"][0]["param_groups"]
    assert {group["lr"] for group in groups} == {1e-4}
    assert max(group["weight_decay"] for group in groups) == 0.3 and {group["betas"] for group in groups} == {
        (0.5, 0.6)
    }
    assert state["lr_schedulers"][0]["base_lrs"] == [1e-4] * len(groups) and state["global_step"] == 6


def test_a_resumed_run_can_be_tested_by_its_best_checkpoint(tmp_path, monkeypatch):
    assert fit(tmp_path, "--trainer.max_steps", "3") == 0
    assert fit(tmp_path, "--resume") == 0
    run = tmp_path / "runs" / "toy" / "a"
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["resume"] is False and saved["ckpt_path"] is None
    taken = []
    monkeypatch.setattr(
        "app.training.session.read_checkpoint", lambda path: taken.append(Path(path).name) or read(path)
    )
    from models.checkpointing import read_checkpoint as read

    old = {**saved, "resume": True}  # as earlier versions wrote it
    (run / "config.yaml").write_text(yaml.safe_dump(old))
    given = ["--config", str(run / "config.yaml"), "--run.root", str(tmp_path / "runs"), "--run.name", "a"]
    assert run_training("validate", [*given, "--ckpt_path", "best"]) == 0
    assert taken[-1].startswith("best-step=")


def test_a_run_goes_on_from_one_checkpoint_only(tmp_path, capsys):
    assert fit(tmp_path, "--trainer.max_steps", "3") == 0
    last = tmp_path / "runs" / "toy" / "a" / "checkpoints" / "last.ckpt"
    other = tmp_path / "other.ckpt"
    other.write_bytes(last.read_bytes())
    assert fit(tmp_path, "--resume", "--ckpt_path", str(other)) == 2
    assert "give one of them" in capsys.readouterr().err
    assert fit(tmp_path, "--ckpt_path", str(other)) == 2  # it would overwrite what the folder holds
    assert "already holds" in capsys.readouterr().err


def test_a_run_from_a_checkpoint_of_another_does_not_rank_by_its_files(tmp_path):
    from models.checkpointing import Checkpoints, read_checkpoint

    assert fit(tmp_path) == 0
    first = tmp_path / "runs" / "toy" / "a" / "checkpoints"
    assert fit(tmp_path, "--run.name", "b", "--ckpt_path", str(first / "last.ckpt"), "--trainer.max_steps", "9") == 0
    second = tmp_path / "runs" / "toy" / "b" / "checkpoints"
    best = read_checkpoint(second / "last.ckpt")["callbacks"][Checkpoints.STATE_KEY]["best"]
    assert best and all((second / name).is_file() for name in best)


@pytest.mark.parametrize("key", ["--checkpoints.dirpath", "--trainer.default_root_dir"])
def test_checkpoints_kept_elsewhere_are_guarded_and_resumed_too(tmp_path, capsys, key):
    where = (key, str(tmp_path / "elsewhere"))
    assert fit(tmp_path, *where, "--trainer.max_steps", "3") == 0
    assert fit(tmp_path, *where) == 2
    assert "already holds" in capsys.readouterr().err
    assert fit(tmp_path, *where, "--resume") == 0


def test_an_average_that_was_turned_off_is_not_exported(tmp_path):
    import torch

    from models.checkpointing import read_checkpoint
    from models.ema import averaged_state

    assert fit(tmp_path, "--trainer.max_steps", "3") == 0
    assert fit(tmp_path, "--resume", "--ema.enabled", "false") == 0
    state = read_checkpoint(tmp_path / "runs" / "toy" / "a" / "checkpoints" / "last.ckpt")
    averaged = averaged_state(state)
    assert all(torch.equal(averaged[name], value) for name, value in state["state_dict"].items())
