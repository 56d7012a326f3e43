"""One training session: parse the configuration, make the run folder, fit or measure, export at the end."""

from __future__ import annotations

import logging
import os
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentError
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from app.train import ALLOWED_IMPORTS
from app.training.card import add_card, validation_values
from app.training.messages import readable
from genmm.core.devices import choose_device, multiplies_bfloat16
from genmm.core.errors import CheckpointError, ConfigError, GenmmError, UsageError
from genmm.core.files import safe_stem, write_json
from models.base import GenerativeModule
from models.callbacks import BatchSeeds, ReturnMemory, SampleLogger, Throughput
from models.checkpointing import LAST, Checkpoints, VerifiedCheckpointIO, checkpoint_folder, read_checkpoint
from models.ema import EMA

log = logging.getLogger(__name__)
RUN_NAME = "GENMM_RUN_NAME"


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
        own = self._subcommand_parsers[self._only]
        own.prog = f"genmm {self._only}"
        if "--help_all" in args:
            own.print_help()
            raise SystemExit(0)
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise ConfigError(readable(str(error), own._option_string_actions)) from error

    def _parse_ckpt_path(self) -> None:
        """Nothing: a checkpoint never changes the configuration."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run", type=RunConfig, default=RunConfig(), help="Where the run writes.")
        parser.add_argument("--resume", action="store_true", help="Continue the run from its last checkpoint.")
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_lightning_class_args(SampleLogger, "samples")

    def before_instantiate_classes(self) -> None:
        """Before config.yaml is written, so that it and the card say what the run was really computed in."""
        trainer = self._value("trainer")
        trainer["precision"] = fitting_precision(trainer.get("precision"), trainer.get("accelerator"))

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ArgumentError, ValueError, TypeError) as error:
            if isinstance(error, GenmmError) or "Does not validate" not in str(error):
                raise
            raise ConfigError(readable(str(error))) from error

    # Run folder ------------------------------------------------------------------------------------------------

    def _value(self, key: str) -> Any:
        return self._get(self.config, key)

    def folder(self) -> Path:
        """runs/<system>/<name>/ of this session."""
        run = self._value("run")
        if run.name is None and self._value("resume"):
            raise UsageError("--resume needs the name of the run to continue: add --run.name NAME")
        if run.name is None and "RANK" in os.environ:
            raise UsageError("several processes were started together and must share a run folder: add --run.name NAME")
        # Processes that Lightning starts itself inherit the name of the first one.
        name = run.name or os.environ.setdefault(RUN_NAME, time.strftime("%Y%m%d-%H%M%S"))
        return Path(run.root) / safe_stem(run.system or getattr(self.model, "system", "model")) / safe_stem(name)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        folder = self.run_folder = self.folder()
        trainer = self._get(self.config_init, "trainer", default={})
        own = self._get(self.config, "checkpoints", default={}).get("dirpath")
        self._choose_checkpoint(checkpoint_folder(trainer.get("default_root_dir") or folder, own))
        if trainer.get("default_root_dir") is None:
            kwargs["default_root_dir"] = str(folder)
        if trainer.get("logger") in (None, True):
            kwargs["logger"] = default_loggers(folder) if self.subcommand == "fit" else False
        kwargs["plugins"] = [*(trainer.get("plugins") or []), VerifiedCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
        callbacks = (
            [BatchSeeds(), *callbacks, Throughput(), ReturnMemory()] if self.subcommand == "fit" else [BatchSeeds()]
        )
        if config.get("logger") and self.subcommand == "fit":
            callbacks.append(LearningRateMonitor("step"))
        try:
            return super()._instantiate_trainer(config, callbacks)
        except (MisconfigurationException, ModuleNotFoundError, ValueError, TypeError) as error:
            raise ConfigError(f"the Trainer does not take these settings: {error}") from error

    def _choose_checkpoint(self, folder: Path) -> None:
        """Put the checkpoint to continue from into the arguments of fit, validate or test."""
        arguments = self.config_init[self.subcommand]
        given, last = arguments.get("ckpt_path"), folder / LAST
        resumes = self.subcommand == "fit" and self._value("resume")
        if resumes and given is not None:
            raise UsageError(f"--resume continues from {last}, --ckpt_path from {given}; give one of them")
        if given in ("last", "best"):
            given = str(last if given == "last" else best_checkpoint(last))
        if resumes:
            if not last.is_file():
                raise CheckpointError(f"nothing to resume: {last} does not exist; start the run without --resume")
            given = str(last)
        elif self.subcommand == "fit" and last.is_file() and (given is None or Path(given).parent != folder):
            raise UsageError(
                f"the folder {folder} already holds the checkpoints of a run; continue it with --resume, or choose "
                "another --run.name"
            )
        elif self.subcommand != "fit" and given is None:
            raise UsageError("give --ckpt_path FILE.ckpt, or --run.name NAME with --ckpt_path best or last")
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
        config = self.run_folder / "config.yaml"
        if config.is_file():  # Lightning keeps none of a fast_dev_run
            add_card(
                self.run_folder / "export",
                yaml.safe_load(config.read_text(encoding="utf-8")),
                self.trainer.global_step,
                validation_values(self.trainer.callback_metrics),
            )
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
        config = self.config.clone()
        config["resume"], config["ckpt_path"] = False, None  # how this session began is not what the run is
        text = self.parser.dump(config, skip_unset=False)
        if target.is_file():
            changes = config_changes(yaml.safe_load(target.read_text()), yaml.safe_load(text))
            if changes:
                earlier = target.with_name(f"config.{len(list(target.parent.glob('config.*.yaml')))}.yaml")
                log.warning("this run goes on with other settings (the old ones are in %s):", earlier)
                for change in changes:
                    log.warning("  %s", change)
                target.replace(earlier)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        self.already_saved = True


def fitting_precision(precision: str | None, accelerator: str | None) -> str | None:
    """The precision to train in: float32 where bf16-mixed was asked for on a processor that multiplies bfloat16 slowly.

    Weights and checkpoints are float32 in both, so a run can go on on another machine.
    """
    on_cpu = accelerator == "cpu" or (accelerator in (None, "auto") and choose_device().type == "cpu")
    if precision != "bf16-mixed" or not on_cpu or multiplies_bfloat16("cpu"):
        return precision
    log.warning("this processor multiplies bfloat16 far slower than float32: training in float32 (precision 32-true)")
    return "32-true"


def best_checkpoint(last: Path) -> Path:
    """Best checkpoint beside last.ckpt of a run, by the scores stored in it.

    Raises: CheckpointError when the run has kept none.
    """
    stored = read_checkpoint(last).get("callbacks", {}).get(Checkpoints.STATE_KEY, {})
    present = {name: score for name, score in stored.get("best", {}).items() if (last.parent / name).is_file()}
    if not present:
        raise CheckpointError(f"the run has no best checkpoint yet beside {last}; use --ckpt_path last")
    choose = min if stored["mode"] == "min" else max
    return last.parent / choose(present, key=present.__getitem__)


def can_export(model: pl.LightningModule) -> bool:
    """Whether the task says how its pipeline folder is written."""
    method = getattr(type(model), "export", None)
    return method is not None and method is not GenerativeModule.export


def default_loggers(folder: Path) -> list[Logger]:
    """CSV under logs/ (a new version folder for every resume) and TensorBoard under tensorboard/."""
    csv = CSVLogger(str(folder), name="logs", flush_logs_every_n_steps=20)
    return [csv, TensorBoardLogger(str(folder), name="tensorboard", version="")]


def config_changes(old: Any, new: Any, place: str = "") -> list[str]:
    """What differs between two configurations, as "key: old -> new"; how and where the run goes on does not count."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**old, **new} if place or key not in ("resume", "ckpt_path", "run")]
        return [
            line for key in keys for line in config_changes(old.get(key), new.get(key), f"{place}.{key}".strip("."))
        ]
    return [] if old == new else [f"{place}: {old} -> {new}"]


def from_lightning(error: Exception) -> bool:
    """Whether Lightning itself raised the error, which it does for settings that do not fit the data."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and "pytorch_lightning" in last.tb_frame.f_code.co_filename


def be_quiet() -> None:
    """Leave out messages of Lightning that advertise, or warn of what does not apply here."""
    texts = ("does not have many workers", "Experiment logs directory", "LeafSpec", "callbacks used to create")
    for text in texts:
        warnings.filterwarnings("ignore", message=f".*{text}.*")
    noise = re.compile("litlogger|TPU available|HPU available|weights_only")
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: not noise.search(record.getMessage()))


def train(subcommand: str, argv: Sequence[str]) -> int:
    """Run one subcommand; 0 when it ended well. Raises: GenmmError for everything a person can repair."""
    argv, extra = take_allowed_imports(argv)
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*ALLOWED_IMPORTS, *extra])
    be_quiet()
    started_by_lightning = "LOCAL_RANK" in os.environ
    try:
        Session(subcommand, argv)
    except ArgumentError as error:
        raise ConfigError(readable(str(error))) from error
    except (MisconfigurationException, ValueError) as error:
        if isinstance(error, GenmmError) or not from_lightning(error):
            raise
        raise ConfigError(" ".join(str(error).split())) from error
    finally:
        if not started_by_lightning:
            os.environ.pop(RUN_NAME, None)
    return 0


def resume_arguments(argv: Sequence[str]) -> list[str]:
    """The arguments of `fit` that continue the run of `RUN [--KEY VALUE ...]`.

    Raises: UsageError when no folder is named, CheckpointError when it is not that of a run.
    """
    if not argv or argv[0].startswith("-"):
        raise UsageError("genmm resume needs the folder of a run first: genmm resume runs/sled/NAME [--KEY VALUE ...]")
    folder = Path(argv[0])
    if len(folder.parts) < 3 or ".." in folder.parts:
        folder = folder.resolve()
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(f"{folder} holds no run: there is no config.yaml; run folders are runs/<system>/<name>")
    own = ["--run.root", str(folder.parent.parent), "--run.system", folder.parent.name, "--run.name", folder.name]
    return ["--config", str(folder / "config.yaml"), *own, "--resume", *argv[1:]]


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
