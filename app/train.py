"""`genmm fit`, `resume`, `validate`, `test`: LightningCLI with run folders, allowed imports, plain errors.

Nothing heavy is imported until a command really runs, so that help answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

log = logging.getLogger(__name__)
SUBCOMMANDS = ("fit", "resume", "validate", "test", "export")
"""What run_training accepts; export writes the pipeline folder of a finished or running run."""

ALLOWED_IMPORTS = (
    "models",
    "datamodules",
    "genmm",
    "torch.optim",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
    "pytorch_lightning.strategies",
    "pytorch_lightning.plugins",
    "pytorch_lightning.profilers",
    "pytorch_lightning.accelerators",
    "lightning_fabric.plugins",
)
"""Modules from which a configuration may name classes; anything else is refused before it is imported."""

HELP = {
    "fit": """usage: genmm fit --config FILE.yaml [--config MORE.yaml] [--KEY VALUE ...]

Train a model. The configuration names the task (model), the data (data) and the Trainer; later files and command-line
keys override earlier ones, e.g. --trainer.max_steps 2000 --model.optimizer.learning_rate 1e-3

  --config FILE           a YAML file; configs/sled/debug.yaml runs in a minute on a CPU
  --run.name NAME         name of the run folder runs/<system>/<name>/ (default: date and time)
  --run.root DIR          where run folders are made (default: runs)
  --resume                continue the run of that name from its last checkpoint, exactly where it stopped
  --ckpt_path FILE        start a new run from this training checkpoint, its steps and optimizer included
  --seed_everything N     seed of the run (default 0)
  --trainer.KEY VALUE     any option of the Lightning Trainer: devices, precision, max_steps, max_time ...
  --model.KEY, --data.KEY any option of the task and its data
  --ema.KEY, --checkpoints.KEY, --samples.KEY   averaging, saving, and sample logging
  --print_config          show the complete configuration and stop
  --allow_import NAME     let the configuration name classes of this Python package too (your own code)
  --help_all              every option with its meaning (takes some seconds)

The run folder holds config.yaml, checkpoints/last.ckpt and the best ones, logs/ (CSV), tensorboard/, samples/ and, when
the training ends, export/: the finished pipeline folder for `genmm speak --model`.
Exit codes: 0 done, 2 wrong usage or failed run, 130 interrupted (Ctrl-C), 143 terminated; the last two save first.
""",
    "resume": """usage: genmm resume RUN [--KEY VALUE ...]

Continue the run in the folder RUN (runs/<system>/<name>) from its last checkpoint, exactly where it stopped, with the
configuration that the folder holds. Keys change it, e.g. --trainer.max_steps 9000 or
--model.optimizer.learning_rate 1e-4; what differs is said and kept.
The same as `genmm fit --config RUN/config.yaml --run.name NAME --resume`.
""",
    "validate": """usage: genmm validate --config FILE.yaml --ckpt_path FILE.ckpt [--KEY VALUE ...]

Measure a training checkpoint on the validation data, with its averaged weights. Same options as `genmm fit`; with
--run.name NAME, --ckpt_path best or last takes that checkpoint of the run. Prints a table of the measured values.
""",
    "test": """usage: genmm test --config FILE.yaml --ckpt_path FILE.ckpt [--KEY VALUE ...]

Measure a training checkpoint on the test data, with its averaged weights, and write the values to metrics.json in the
run folder. Same options as `genmm fit`; with --run.name NAME, --ckpt_path best or last takes one of that run.
""",
    "export": """usage: genmm export RUN_OR_CKPT OUT_FOLDER

Write the pipeline folder of a training run (runs/<system>/<name>, its last checkpoint) or of one .ckpt file, with the
averaged weights. The folder works with every command: genmm speak --model OUT_FOLDER "seven four one" -o out.wav
""",
}


def run_training(subcommand: str, argv: Sequence[str]) -> int:
    """Run one training subcommand with its arguments and give back the exit code; errors of a person have no traceback.

    Codes: 0 done, 2 wrong usage or a run that had to stop, 130 interrupted, 143 terminated. Unexpected errors are
    raised, they are bugs.
    """
    if subcommand not in SUBCOMMANDS:
        print(f"genmm: unknown training command {subcommand!r}; there are {', '.join(SUBCOMMANDS)}", file=sys.stderr)
        return 2
    if not argv or set(argv) & {"-h", "--help"}:
        print(HELP[subcommand], end="")
        return 0 if argv else 2
    missing = _missing_files(subcommand, argv)
    if missing:
        print(f"genmm {subcommand}: {missing}", file=sys.stderr)
        return 2
    # oneDNN keeps a prepared product for every shape it meets, up to 1024. Measured on eight bfloat16 layers and 400
    # lengths: 0.9 GB with 64 of them, 1.5 GB and rising with 1024, at the same speed. Where all shapes fit, more may be
    # faster; a value in the environment goes first.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    from genmm.core.errors import GenmmError

    try:
        if subcommand == "export":
            from app.training.export import export_command

            return export_command(argv)
        from app.training.session import resume_arguments, train

        if subcommand == "resume":
            subcommand, argv = "fit", resume_arguments(argv)

        return train(subcommand, argv)
    except GenmmError as error:
        print(f"genmm {subcommand}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return exit_code_of(stop)


def _missing_files(subcommand: str, argv: Sequence[str]) -> str:
    """What is wrong with the files that are named, looked at before the imports that take seconds."""
    if subcommand in ("resume", "export") and not argv[0].startswith("-") and not os.path.exists(argv[0]):
        return f"{argv[0]} holds no run: there is no such folder; name the folder of a run, runs/<system>/<name>"
    named = [after for word, after in zip(argv, argv[1:], strict=False) if word == "--config"]
    named += [word.partition("=")[2] for word in argv if word.startswith("--config=")]
    for name in named:
        if not os.path.isfile(name):
            what = "is a folder" if os.path.isdir(name) else "does not exist"
            return f"the configuration {name} {what}; recipes to start from are in configs/"
    return ""


def exit_code_of(stop: SystemExit) -> int:
    """Exit code behind a SystemExit: 130 when Lightning turned a Ctrl-C into it, 143 after SIGTERM."""
    if isinstance(stop.__context__, KeyboardInterrupt):
        return 130
    if type(stop).__name__ == "SIGTERMException":
        return 143
    return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2


def main() -> None:
    """`python -m app.train fit --config ...`, the same as `genmm fit --config ...`."""
    sys.exit(run_training(sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:]))


if __name__ == "__main__":
    main()
