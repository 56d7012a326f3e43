"""From a recipe to a model that `--model` knows: plan, ask, download, convert, register; all or nothing."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from genmm.core.errors import Cancelled, GenmmError, UsageError
from genmm.core.events import CancelToken, Progress
from genmm.core.paths import genmm_home, models_home
from genmm.hub.download import RemoteRepo, UnreachableError, describe_repo, fetch_file
from genmm.hub.recipes import Recipe, find_recipe
from genmm.registry import ModelInfo, find_model

OnEvent = Callable[[Progress], None]
EVENT_S = 0.1
"""Seconds between two events of a download."""


@dataclass(frozen=True)
class PullPlan:
    """What a pull would fetch, known before a byte of it is fetched."""

    recipe: Recipe
    """What it is."""
    repos: tuple[RemoteRepo, ...]
    """The files, per repository, at their present commits."""
    target: Path
    """Folder of the finished model."""
    is_installed: bool
    """Whether the target already holds exactly these commits."""

    @property
    def size(self) -> int:
        """Bytes to download in all."""
        return sum(repo.size for repo in self.repos)

    @property
    def licence(self) -> str:
        """Licences as the repositories state them, for the model's card."""
        return "; ".join(f"{repo.source.folder}: {repo.licence or 'not stated'}" for repo in self.repos)

    def describe(self) -> str:
        """Several lines for a person who has to decide."""
        lines = [self.recipe.title, ""]
        for repo in self.repos:
            names = ", ".join(f"{file.name} ({size_text(file.size)})" for file in repo.files)
            lines += [
                f"{repo.source.repo} at {repo.commit[:12]}: {size_text(repo.size)}",
                f"  files:   {names}",
                f"  licence: {repo.licence or 'not stated in the repository'} ({repo.source.licence_note})",
            ]
        return "\n".join([*lines, "", f"download {size_text(self.size)}, kept as {self.target}"])


def plan_pull(system: str, *, variant: str = "") -> PullPlan:
    """Ask the hub what pulling a system's model means now.

    Raises: UsageError when there is no such recipe; DownloadError, which says what to do by hand when the hub is out of
    reach.
    """
    recipe = find_recipe(system, variant)
    try:
        repos = tuple(describe_repo(source) for source in recipe.sources)
    except UnreachableError as error:
        raise UnreachableError(f"{error}.\n{by_hand_text(recipe)}") from error
    target = models_home() / recipe.model
    return PullPlan(recipe, repos, target, _commits_of(target) == {r.source.repo: r.commit for r in repos})


def run_pull(plan: PullPlan, *, on_event: OnEvent | None = None, cancel: CancelToken | None = None) -> ModelInfo:
    """Download, convert and register what a plan names; gives back the registered model.

    Downloads continue where an earlier run stopped. The model appears only when everything worked; an older version
    stays until then.
    Raises: DownloadError, CheckpointError, Cancelled, or UsageError when the disk is too small or another pull runs.
    """
    from filelock import FileLock, Timeout

    say, downloads = on_event or (lambda event: None), genmm_home() / "downloads" / plan.recipe.model
    if plan.is_installed and not (info := find_model(plan.recipe.model)).problem:
        say(Progress(plan.size, plan.size, "bytes", f"{plan.recipe.model} is here already"))
        return info
    downloads.mkdir(parents=True, exist_ok=True)
    lock = FileLock(downloads.with_suffix(".lock"))
    try:
        with lock.acquire(timeout=0):
            _check_disk(plan, downloads)
            _download(plan, downloads, say, cancel or CancelToken())
            _convert(plan, downloads, say)
            shutil.rmtree(downloads, ignore_errors=True)
    except Timeout as error:
        raise UsageError(f"another genmm is pulling {plan.recipe.model} at this moment; wait for it") from error
    except UnreachableError as error:
        raise UnreachableError(
            f"{error}. What has arrived is kept; the same command goes on from there.\n{by_hand_text(plan.recipe)}"
        ) from error
    return find_model(plan.recipe.model)


def pull(
    system: str,
    *,
    streaming: bool = False,
    yes: bool = False,
    confirm: Callable[[PullPlan], bool] | None = None,
    on_event: OnEvent | None = None,
    cancel: CancelToken | None = None,
) -> ModelInfo:
    """Fetch a published model, convert it and register it; gives back the model as `genmm.load` finds it.

    `confirm` is shown the plan (sizes and licences) and says whether to go on; `yes` goes on without asking.
    Raises: as `plan_pull` and `run_pull`; UsageError without `yes` or `confirm`, Cancelled when the answer is no.
    """
    if not yes and confirm is None:
        raise UsageError("a pull needs somebody's agreement to size and licence: pass yes=True or a confirm function")
    plan = plan_pull(system, variant="streaming" if streaming else "")
    if not yes and not confirm(plan):
        raise Cancelled("nothing was downloaded")
    return run_pull(plan, on_event=on_event, cancel=cancel)


def by_hand_text(recipe: Recipe) -> str:
    """How to get a recipe's model on a machine that does not reach the hub."""
    lines = ["To do it by hand, fetch these files with any browser, each repository into a folder of its own:"]
    for source in recipe.sources:
        lines.append(f"  https://huggingface.co/{source.repo}/tree/main -> {source.folder}/")
        lines.append(f"    {', '.join(source.files)}")
        if source.optional:
            lines.append(f"    if there: {', '.join(source.optional)}")
    out = models_home() / recipe.model
    command = recipe.by_hand.format(*(source.folder for source in recipe.sources), out=out)
    return "\n".join([*lines, "and convert them beside those folders with", f"  {command}"])


def size_text(count: int) -> str:
    """Bytes for people, in decimal units: 814.5 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def _commits_of(folder: Path) -> dict[str, str] | None:
    """Repositories and commits that an installed model was made from, None when there is none."""
    from genmm.core.checkpoint import read_config

    try:
        return read_config(folder).get("origin")
    except GenmmError:
        return None


def _check_disk(plan: PullPlan, downloads: Path) -> None:
    there = sum(file.stat().st_size for file in downloads.rglob("*") if file.is_file())
    needed = 2 * plan.size - there  # the files as published, and the converted model
    free = shutil.disk_usage(downloads).free
    if free < needed:
        raise UsageError(
            f"pulling {plan.recipe.model} needs {size_text(needed)} of disk for a while, {downloads} has only "
            f"{size_text(free)}; make room, or set GENMM_HOME to a folder on a larger disk"
        )


class _Meter:
    """Turns the bytes of one file into progress of the whole pull, at most ten events a second."""

    def __init__(self, total: int, say: OnEvent, cancel: CancelToken) -> None:
        self._total, self._say, self._cancel = total, say, cancel
        self._before, self._name, self._last = 0, "", -EVENT_S

    def start_file(self, name: str) -> None:
        self._name = name

    def report(self, have: int) -> None:
        self._cancel.check()
        if time.monotonic() - self._last >= EVENT_S:
            self._last = time.monotonic()
            self._say(Progress(self._before + have, self._total, "bytes", self._name))

    def finish_file(self, size: int) -> None:
        self._before += size
        self._say(Progress(self._before, self._total, "bytes", self._name))


def _download(plan: PullPlan, downloads: Path, say: OnEvent, cancel: CancelToken) -> None:
    meter = _Meter(plan.size, say, cancel)
    for repo in plan.repos:
        for file in repo.files:
            meter.start_file(f"{repo.source.repo}/{file.name}")
            fetch_file(repo, file, downloads / repo.source.folder, meter.report)
            meter.finish_file(file.size)


def _convert(plan: PullPlan, downloads: Path, say: OnEvent) -> None:
    module, _, name = plan.recipe.converter.partition(":")
    convert = getattr(import_module(module), name)
    folders = [downloads / repo.source.folder for repo in plan.repos]
    convert(
        *folders,
        plan.target,
        licence=plan.licence,
        origin={repo.source.repo: repo.commit for repo in plan.repos},
        overwrite=True,
        on_event=say,
        **plan.recipe.options,
    )
