"""What a system brings to the batch runner: one small class in one file, listed in TASKS."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from genmm.batch.manifest import ManifestRow
from genmm.core.errors import UsageError
from genmm.core.events import CancelToken
from genmm.core.results import Result

TASKS: Mapping[str, str] = {
    "speech": "genmm.batch.speech:SpeechTask",
    "highlight": "genmm.batch.highlight:HighlightTask",
    "video": "genmm.batch.video:VideoTask",
    "music": "genmm.batch.music:MusicTask",
    "image": "genmm.batch.image:ImageTask",
}
"""Name on the command line -> "module:class". A new system adds one line here and one file beside this one."""


@dataclass(frozen=True)
class BatchItem:
    """One unit of work as the task sees it."""

    id: str
    """The manifest's id."""
    request: Any
    """What the task's `validate` made of the row."""
    seed: int
    """The item's own seed: the row's `seed`, else derived from the run seed and the id. It alone decides the noise."""


@runtime_checkable
class BatchTask(Protocol):
    """The work of one system. Tasks are small dataclasses that pickle; the model is loaded by `setup`.

    Every dataclass field whose metadata holds `help` becomes an option of `genmm batch NAME` (also `choices` and
    `metavar`, as in argparse). The first line of the class's docstring is its help, `examples` more of it. A task
    must give an item the same result whatever items share its batch.

    A task whose items may become several media each also has `stems(id, request)`: the names of an item's files without
    suffix, each the id or the id, "_" and more. The runner refuses manifests where two items would share a file.
    A task whose rows name files to read also has `sources(request)`: their absolute paths. No item replaces them.
    A task whose `run` makes one item after another sets `one_by_one = True`: its batches are of one item, so that each
    is kept as soon as it is made.
    """

    name: str
    """The name in TASKS, stored in the run folder."""
    suffix: str
    """Suffix of the media files with its dot, such as ".wav"; an item's file is `<id><suffix>`."""
    fields: Mapping[str, str]
    """Row fields besides `id` and `seed` -> one line of help each."""

    def validate(self, row: ManifestRow) -> Any:
        """Turn a row into a request without loading the model. Raises: GenmmError that says what is wrong."""

    def cost(self, request: Any) -> float:
        """Relative length of the work; items of like cost share a batch. Constant when it does not matter."""

    def fingerprint(self) -> Mapping[str, Any]:
        """JSON values that decide the results: model fingerprint, settings. Not the device, not the batch size."""

    def setup(self) -> None:
        """Load the model; called once in every process that works, before the first `run`."""

    def run(self, items: Sequence[BatchItem], cancel: CancelToken) -> Sequence[Result | Exception]:
        """Make the results of one batch in order. An exception in place of a result marks that item alone as failed.

        Raises: Cancelled soon after `cancel` is set; MemoryError or torch.OutOfMemoryError when the batch is too large
        (the runner halves it); any other error makes the runner try the items one by one.
        """

    def facts(self, result: Result) -> Mapping[str, Any]:
        """JSON values for the results file, such as seconds of sound; nothing that depends on time or machine."""


SEED_HELP = "seed of this item alone, a whole number from 0 to 2**63 - 1; default: derived from the run seed and the id"
"""Help of the field `seed`, which every task's rows may have."""


def row_fields(task: BatchTask) -> dict[str, str]:
    """All fields that rows of the task may have besides `id`, with their help."""
    return {**task.fields, "seed": SEED_HELP}


def task_class(name: str) -> type[BatchTask]:
    """Import the class of a task. Raises: UsageError listing the tasks when there is none of that name."""
    if name not in TASKS:
        raise UsageError(f"there is no batch task {name!r}; choose one of: {', '.join(sorted(TASKS))}")
    module, _, attribute = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def item_stems(task: BatchTask, name: str, request: Any) -> tuple[str, ...]:
    """Names without suffix of the files of one item."""
    stems = getattr(task, "stems", None)
    return tuple(stems(name, request)) if stems else (name,)


def on_device(task: BatchTask, device: str) -> BatchTask:
    """Give back the task with its `device` option set, or unchanged when it has none."""
    if dataclasses.is_dataclass(task) and any(entry.name == "device" for entry in dataclasses.fields(task)):
        return dataclasses.replace(task, device=device)  # type: ignore[type-var]
    return task
