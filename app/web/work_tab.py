"""What the tabs with one large button have in common: a form beside its result, and runs that report, can be cancelled
and end in the history. The Batch tab stands apart: its runs go on where they stopped and do not end there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from app.web.controls import RunButtons, note_html, progress_html, recipe_of_upload, two_columns, waiting_html
from app.web.history import Visit
from app.web.messages import reported
from app.web.runs import stream_events
from app.web.tab import QUICK, SILENT, Page, Receiver
from app.web.waiting import page_event
from genmm.core.errors import Cancelled, GenerationError
from genmm.core.events import CancelToken, Event, Finished, Progress

__all__ = ["PAGE_UPDATES_S", "Work", "WorkTab"]

PAGE_UPDATES_S = 0.2
"""Steps are sent to the browser at most this often; that a stage begins always."""

Work = Callable[[CancelToken], Iterator[Event]]
"""What a run does, as `stream_events` takes it."""


class WorkTab:
    """Base of such tabs. Subclasses draw, read the form, name the work for it, and show what came of it; what they do
    with results of others they say in `receivers`, see `tab.Tab`."""

    key: str
    """Short name, used in addresses and messages; where recipes are read, also the task of the results."""
    title: str
    """What the tab says."""
    system: str = ""
    """The system whose model it needs; "" when it can do without."""

    buttons: RunButtons
    """Drawn by `_draw_form`."""
    progress: gr.HTML
    """Drawn by `_draw_result`; says how the run goes and how it ended."""

    def build(self, page: Page) -> None:
        """Draw both columns and connect them."""
        self.page, self.server = page, page.server
        if self.system and self.server.pool.default(self.system) is None:
            missing = f"There is no {self.key} model on this machine. See: genmm pull {self.system}"
            gr.HTML(note_html(missing, "problem"))
        two_columns(self._draw_form, self._draw_result)
        self._connect()

    # ------------------------------------------------------------ what a tab is made of

    def _draw_form(self) -> None:
        raise NotImplementedError

    def _draw_result(self) -> None:
        raise NotImplementedError

    def _connect(self) -> None:
        raise NotImplementedError

    def _form(self, values: Sequence[Any]) -> Any:
        """What the visitor asks for. Raises: GenmmError with a message for the visitor."""
        raise NotImplementedError

    def _work(self, form: Any) -> Work:
        """What has to be done for a form; the result of its last event goes to `_finished`."""
        raise NotImplementedError

    def _cleared(self) -> dict[Any, Any]:
        """What changes on the page when a run begins, beside the progress: nothing of another run should mislead."""
        return {}

    def _finished(self, result: Any, elapsed_s: float, visit: Visit) -> dict[Any, Any]:
        """What changes on the page when a run has ended well."""
        raise NotImplementedError

    def _recipe_values(self, recipe: dict[str, Any]) -> list[Any]:
        """Values of the controls that a recipe sets."""
        raise NotImplementedError

    # ------------------------------------------------------------ runs

    def _connect_run(
        self,
        triggers: Sequence[Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        form: Callable[[Sequence[Any]], Any] | None = None,
    ) -> Any:
        """Connect what starts a run: the form is checked at once, then the run waits for the device.

        `outputs` are what `_cleared` and `_finished` change beside progress, buttons and history; `form` reads another
        form than `_form`. Gives back the event of the run.
        """
        read = form or self._form

        def check(*values: Any) -> tuple[Any, ...]:
            with reported(self.key):
                read(values)
                return waiting_html(self.page), *RunButtons.busy()

        async def work(request: gr.Request, *values: Any) -> AsyncIterator[dict[Any, Any]]:
            *fields, visit = values
            with reported(self.key):
                job = self._work(read(fields))
                async with contextlib.aclosing(self._run(request, job, visit, self._cleared())) as updates:
                    async for update in updates:
                        yield update

        busy = [self.progress, *self.buttons.both]
        begin = gr.on(list(triggers), check, list(inputs), busy, **QUICK)
        self.buttons.after_failure(begin, self.progress, self.key)
        visit = self.page.history.visit
        run = begin.success(
            work, [*inputs, visit], [self.progress, *outputs, visit, *self.buttons.both], **page_event(self.key)
        )
        self._connect_end(run)
        return run

    def _connect_end(self, run: Any) -> None:
        """Connect the end of a run: buttons, what went wrong, history."""
        history = self.page.history
        self.buttons.after(run, self.progress, self.key)
        run.then(history.refresh, history.visit, history.shown, **SILENT)

    def _connect_cancel(self) -> None:
        self.buttons.cancel.click(self._cancel, outputs=self.progress, **SILENT)

    async def _run(
        self, request: gr.Request, work: Work, visit: Visit, cleared: Mapping[Any, Any] | None = None
    ) -> AsyncIterator[dict[Any, Any]]:
        """Do the work under the name of the tab; gives updates of the page, `cleared` with the first."""
        began, shown = time.monotonic(), 0.0
        with self.server.runs.open(str(request.session_hash), self.key) as run:
            yield {self.progress: progress_html(Progress(0, None, "", "Starting")), **(cleared or {})}
            try:
                async with contextlib.aclosing(stream_events(work, run.token)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            yield self._finished(event.result, time.monotonic() - began, visit)
                            return
                        elif isinstance(event, Progress) and (
                            event.done == 0 or time.monotonic() - shown >= PAGE_UPDATES_S
                        ):
                            shown = time.monotonic()
                            yield {self.progress: progress_html(event)}
            except Cancelled:
                yield {self.progress: note_html("Cancelled.", "stopped")}
                return
            raise GenerationError("the work ended without a result")

    async def _cancel(self, request: gr.Request) -> str:
        """Ask the run to stop; the buttons change when it has."""
        await self.page.cancel(str(request.session_hash), self.key)
        return note_html("Cancelled.", "stopped")

    # ------------------------------------------------------------ recipes

    def _load_upload(self, path: str | None) -> list[Any]:
        with reported(self.key):
            return self._recipe_values(recipe_of_upload(path, self.key))

    def _loads_settings(self, what: str, controls: Sequence[Any]) -> Receiver:
        """The button of the history that puts `what` of an earlier result back into the tab."""
        return Receiver(
            "Load settings",
            f"Puts {what} of this result back into the {self.title} tab.",
            self.key,
            lambda entry: entry.task == self.key,
            controls,
            lambda entry: self._load_upload(str(entry.recipe)),
        )
