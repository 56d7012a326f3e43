"""One training session: parse the configuration, make the run folder, fit or measure, export at the end."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import pytorch_lightning as pl
from jsonargparse import ArgumentError
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from app.train import ALLOWED_IMPORTS
from genmm.core.errors import CheckpointError, ConfigError, UsageError
from genmm.core.files import safe_stem, write_json
from models.base import GenerativeModule
from models.callbacks import BatchSeeds, SampleLogger, Throughput
from models.checkpointing import LAST, Checkpoints, VerifiedCheckpointIO, read_checkpoint
from models.ema import EMA

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RunConfig:
    """Where a run writes."""

    name: str | None = None
    """Name of the run folder; null means date and time."""
    root: str = "runs"
    """Folder that holds <system>/<name>/."""
    system: str | None = None
    """Folder level between root and name; null takes it from the task."""


class Session(LightningCLI):
    """LightningCLI for one subcommand, with run folders, default callbacks and loggers, and `--resume`."""

    def __init__(self, subcommand: str, argv: Sequence[str]) -> None:
        self._only = subcommand
        self.run_folder: Path | None = None
        super().__init__(
            model_class=pl.LightningModule,
            datamodule_class=pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig if subcommand == "fit" else None,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, subcommand: {"exit_on_error": False}},
            trainer_defaults={"use_distributed_sampler": False, "enable_checkpointing": True},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=[subcommand, *argv],
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        return {self._only: super().subcommands()[self._only]}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Nothing: a checkpoint never changes the configuration."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run", type=RunConfig, default=RunConfig(), help="Where the run writes.")
        parser.add_argument("--resume", action="store_true", help="Continue the run from its last checkpoint.")
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_lightning_class_args(SampleLogger, "samples")

    # Run folder ------------------------------------------------------------------------------------------------

    def _value(self, key: str) -> Any:
        return self._get(self.config, key)

    def folder(self) -> Path:
        """runs/<system>/<name>/ of this session."""
        run = self._value("run")
        name = run.name or time.strftime("%Y%m%d-%H%M%S")
        if self._value("resume") and run.name is None:
            raise UsageError("--resume needs the name of the run to continue: add --run.name NAME")
        return Path(run.root) / safe_stem(run.system or getattr(self.model, "system", "model")) / safe_stem(name)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        folder = self.run_folder = self.folder()
        self._choose_checkpoint(folder)
        trainer = self._get(self.config_init, "trainer", default={})
        if trainer.get("default_root_dir") is None:
            kwargs["default_root_dir"] = str(folder)
        if trainer.get("logger") in (None, True):
            kwargs["logger"] = default_loggers(folder) if self.subcommand == "fit" else False
        kwargs["plugins"] = [*(trainer.get("plugins") or []), VerifiedCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
        callbacks = [BatchSeeds(), *callbacks, Throughput()] if self.subcommand == "fit" else [BatchSeeds()]
        if config.get("logger") and self.subcommand == "fit":
            callbacks.append(LearningRateMonitor("step"))
        return super()._instantiate_trainer(config, callbacks)

    def _choose_checkpoint(self, folder: Path) -> None:
        """Put the checkpoint to continue from into the arguments of fit, validate, test or predict."""
        arguments = self.config_init[self.subcommand]
        given, last = arguments.get("ckpt_path"), folder / "checkpoints" / LAST
        if self._value("resume"):
            if not last.is_file():
                raise CheckpointError(f"nothing to resume: {last} does not exist; start the run without --resume")
            given = str(last)
        elif self.subcommand == "fit" and last.is_file() and given is None:
            raise UsageError(
                f"the run folder {folder} already holds a run; continue it with --resume, or choose another --run.name"
            )
        elif self.subcommand != "fit" and given is None:
            raise UsageError(f"genmm {self.subcommand} needs --ckpt_path FILE.ckpt, or --run.name NAME with --resume")
        if given is not None:
            read_checkpoint(given)
        arguments["ckpt_path"] = given

    # After the run ---------------------------------------------------------------------------------------------

    def after_fit(self) -> None:
        if not self.trainer.is_global_zero or not can_export(self.model):
            return
        average = next((c for c in self.trainer.callbacks if isinstance(c, EMA)), EMA(enabled=False))
        with average.averaged(self.model):
            self.model.export(self.run_folder / "export")
        print(f"pipeline folder: {self.run_folder / 'export'}")

    def after_test(self) -> None:
        values = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        if self.trainer.is_global_zero:
            print(f"metrics: {write_json(self.run_folder / 'metrics.json', values)}")


class SaveRunConfig(SaveConfigCallback):
    """Writes config.yaml into the run folder; a resumed run keeps the old file as config.<n>.yaml when it differs."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.already_saved or not trainer.is_global_zero:
            return
        target = Path(trainer.default_root_dir) / "config.yaml"
        text = self.parser.dump(self.config, skip_none=False)
        if target.is_file() and target.read_text() != text:
            earlier = sorted(target.parent.glob("config.*.yaml"))
            log.warning("the configuration differs from the earlier part of this run; see config.%d.yaml", len(earlier))
            target.replace(target.with_name(f"config.{len(earlier)}.yaml"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        self.already_saved = True


def can_export(model: pl.LightningModule) -> bool:
    """Whether the task says how its pipeline folder is written."""
    method = getattr(type(model), "export", None)
    return method is not None and method is not GenerativeModule.export


def default_loggers(folder: Path) -> list[Logger]:
    """CSV under logs/ (a new version folder for every resume) and TensorBoard under tensorboard/."""
    csv = CSVLogger(str(folder), name="logs", flush_logs_every_n_steps=20)
    return [csv, TensorBoardLogger(str(folder), name="tensorboard", version="")]


def train(subcommand: str, argv: Sequence[str]) -> int:
    """Run one subcommand; 0 when it ended well. Raises: GenmmError for everything a person can repair."""
    argv, extra = take_allowed_imports(argv)
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*ALLOWED_IMPORTS, *extra])
    if "--help_all" in argv:
        argv = ["--help"]
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Experiment logs directory.*")
    try:
        Session(subcommand, argv)
    except ArgumentError as error:
        raise ConfigError(readable(error)) from error
    except MisconfigurationException as error:
        raise ConfigError(str(error)) from error
    return 0


def take_allowed_imports(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split off `--allow_import NAME`: (the other arguments, the names)."""
    rest, names = [], []
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--allow_import":
            name = next(arguments, None)
            if name is None:
                raise UsageError("--allow_import needs the name of a Python package")
            names.append(name)
        elif argument.startswith("--allow_import="):
            names.append(argument.split("=", 1)[1])
        else:
            rest.append(argument)
    return rest, names


def readable(error: ArgumentError) -> str:
    """Message of jsonargparse for a person."""
    return str(error)
