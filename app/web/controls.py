"""Controls that every tab shares: model, takes, seed, progress, start and cancel, recipe out and in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.web.messages import escape, latest_problem
from app.web.pool import ModelPool
from app.web.tab import QUICK, SILENT, Page
from genmm.core.errors import DataError, UsageError
from genmm.core.events import Progress
from genmm.core.seeds import check_seed
from genmm.core.wording import counted
from genmm.media.recipes import find_recipe

__all__ = [
    "MAX_TAKES",
    "RunButtons",
    "SeedControl",
    "failed_html",
    "idle_html",
    "model_choice",
    "note_html",
    "parse_seeds",
    "progress_html",
    "recipe_of_upload",
    "takes_choice",
    "two_columns",
    "waiting_html",
]

MAX_TAKES = 4
"""Results of one click."""
WAVE = (8, 14, 26, 18, 38, 56, 30, 44, 64, 40, 22, 34, 52, 28, 16, 24, 12, 8)
"""Heights of the bars of the drawing in an empty place, in pixels."""


def two_columns(draw_form: Callable[[], None], draw_result: Callable[[], None]) -> None:
    """A form beside what comes of it; on a phone one below the other."""
    with gr.Row(elem_classes=["gm-columns"]):
        with gr.Column(scale=5, min_width=300):
            draw_form()
        with gr.Column(scale=6, min_width=300):
            draw_result()


def model_choice(pool: ModelPool, system: str) -> gr.Dropdown:
    """A list of the usable models of one system."""
    names = pool.choices(system)
    return gr.Dropdown(
        choices=names,
        value=names[0] if names else None,
        label="Model",
        info="Which trained model does the work. The Status tab lists all of them and says how to get more.",
        interactive=True,
        filterable=False,
    )


def takes_choice() -> gr.Radio:
    """How many results to make at once."""
    return gr.Radio(
        choices=[(str(n), n) for n in range(1, MAX_TAKES + 1)],
        value=1,
        label="Takes",
        info="Versions made in one go, each with its own seed. Pick the one you like.",
        elem_classes=["gm-compact"],
    )


class SeedControl:
    """A seed box with two buttons: a fresh seed for every run, or the seed of the last run again."""

    def __init__(self) -> None:
        with gr.Column(elem_classes=["gm-seed"]):
            self.box = gr.Textbox(
                value="",
                label="Seed",
                placeholder="new for every run",
                info="The same seed and settings give the same result. Several, separated by commas: one per take.",
                max_lines=1,
                max_length=120,
            )
            with gr.Row(elem_classes=["gm-seed-buttons"]):
                self.fresh = gr.Button("New each time", size="sm")
                self.reuse = gr.Button("Reuse last", size="sm")
        self.last = gr.State(())
        self.fresh.click(lambda: "", outputs=self.box, **SILENT)
        self.reuse.click(_last_seeds, self.last, self.box, **QUICK)


def _last_seeds(seeds: Sequence[int]) -> str:
    if not seeds:
        gr.Info("There is no earlier run in this session yet.")
        return ""
    return ", ".join(str(seed) for seed in seeds)


def parse_seeds(text: object, takes: int) -> tuple[int, ...]:
    """Read a seed box: () for an empty one, else one seed, or one per take.

    Raises: UsageError for anything else.
    """
    parts = [part.strip() for part in str("" if text is None else text).split(",")]
    if parts == [""]:
        return ()
    if not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        raise UsageError("a seed is a whole number from 0 to 9223372036854775807; leave the box empty for a new one")
    seeds = tuple(check_seed(int(part)) for part in parts)
    if len(seeds) not in (1, takes):
        raise UsageError(f"there are {len(seeds)} seeds for {takes} takes; give one seed, or one per take")
    return seeds


@dataclass(frozen=True)
class RunButtons:
    """Start and cancel side by side; one of the two can be pressed at a time."""

    start: gr.Button
    cancel: gr.Button

    @classmethod
    def draw(cls, label: str) -> RunButtons:
        """Draw both in a row."""
        with gr.Row(elem_classes=["gm-run"]):
            start = gr.Button(label, variant="primary", size="lg", scale=3, elem_classes=["gm-start"])
            cancel = gr.Button("Cancel", variant="secondary", size="lg", scale=1, min_width=96, interactive=False)
        return cls(start, cancel)

    @property
    def both(self) -> list[gr.Button]:
        """The outputs of `busy` and `ready`."""
        return [self.start, self.cancel]

    def after(self, run: Any, progress: gr.HTML, task: str) -> None:
        """Connect the end of a run: the buttons change back, and `progress` says what went wrong."""
        run.then(self.ready, outputs=self.both, **SILENT)
        self.after_failure(run, progress, task)

    def after_failure(self, event: Any, progress: gr.HTML, task: str) -> None:
        """Connect the failure of an event of a task: `progress` keeps what was said, and the buttons change back.

        After an error the browser goes on with `failure` alone, not with `then` (Gradio 6.31).
        """

        def failed(request: gr.Request) -> tuple[Any, ...]:
            return failed_html(latest_problem(str(request.session_hash), task)), *self.ready()

        event.failure(failed, outputs=[progress, *self.both], **SILENT)

    @staticmethod
    def busy() -> tuple[Any, Any]:
        """Values while a run goes on."""
        return gr.update(interactive=False), gr.update(interactive=True)

    @staticmethod
    def ready() -> tuple[Any, Any]:
        """Values while nothing goes on."""
        return gr.update(interactive=True), gr.update(interactive=False)


def progress_html(progress: Progress, left_s: float | None = None) -> str:
    """A bar and a line of text; `left_s` is about how many seconds are left."""
    fraction = progress.fraction
    width = "gm-bar-open" if fraction is None else ""
    percent = 100 if fraction is None else round(100 * fraction)
    amount = "" if fraction is None else f"{percent} %"
    if left_s is not None and left_s >= 1:
        amount += f", about {left_s:.0f} s left"
    return (
        f'<div class="gm-progress" role="status"><div class="gm-progress-text"><span>{escape(progress.message)}</span>'
        f"<span>{amount}</span></div>"
        f'<div class="gm-track"><div class="gm-bar {width}" style="width:{percent}%"></div></div></div>'
    )


def note_html(text: str, kind: str = "done") -> str:
    """One line about how a run ended; `kind` is done, stopped or problem."""
    return f'<div class="gm-note gm-note-{escape(kind)}" role="status">{escape(text)}</div>'


def failed_html(problem: str = "") -> str:
    """The line after an error, which stays when the browser's message has gone."""
    return note_html(f"Not done: {problem}" if problem else "Not done; see the message.", "problem")


def waiting_html(page: Page) -> str:
    """What is shown from the click until the work begins."""
    before = page.waiting() + len(page.server.runs.active())
    jobs = counted(before, "job")
    return progress_html(Progress(0, None, "", f"Waiting for {jobs} before yours" if before else "Starting"))


def idle_html(text: str, *, wave: bool = False) -> str:
    """What a place shows before there is a result; `wave` adds a drawing of sound and makes it tall."""
    if not wave:
        return f'<div class="gm-idle"><span>{escape(text)}</span></div>'
    bars = "".join(f'<i style="height:{height}px"></i>' for height in WAVE)
    drawing = f'<div class="gm-wave" aria-hidden="true">{bars}</div>'
    return f'<div class="gm-idle gm-idle-tall">{drawing}<span>{escape(text)}</span></div>'


def recipe_of_upload(path: str | None, task: str) -> dict[str, Any]:
    """Read an uploaded recipe for a task: a .json file, or a result that carries it inside.

    Raises: DataError when it is none, or one of another task; MediaError when the file cannot be read.
    """
    if not path:
        raise DataError("choose the .json file that was saved beside a result, or the result itself")
    recipe = find_recipe(path, beside=False)
    if recipe["task"] != task:
        raise DataError(f"this recipe is for {str(recipe['task'])[:40]!r}, this tab makes {task!r}")
    return recipe
