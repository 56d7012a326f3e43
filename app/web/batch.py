"""The Batch tab: many texts with one model, the same runner as `genmm batch`, resumable, results as a zip."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio as gr

from app.web.batch_work import COLUMNS, MAX_ROWS, Batch, make_batch, pack, run, table
from app.web.controls import (
    RunButtons,
    idle_html,
    model_choice,
    note_html,
    parse_seeds,
    progress_html,
    two_columns,
    waiting_html,
)
from app.web.markup import chip_html, table_html
from app.web.messages import escape, plain_message, reported
from app.web.pool import ModelPool
from app.web.runs import stream_work
from app.web.speech_view import stop_text
from app.web.speech_work import SYSTEM, voice_names
from app.web.tab import DEVICE, QUICK, SILENT, Page, Receiver
from app.web.waiting import page_event
from genmm.core.errors import Cancelled, GenmmError, UsageError
from genmm.core.events import Finished
from genmm.core.seeds import fresh_seed

__all__ = ["BatchTab"]

EXAMPLE = "Seven four one.\nThe next train leaves at a quarter past five.\nPlease hold the line."
HELP = """
A manifest has one JSON object a line. `id` and `text` are needed; `voice` (a name of the list), `seed`, `guidance`,
`temperature` and `settings` may follow.

```json
{"id": "welcome", "text": "Welcome to the line."}
{"id": "number", "text": "Seven four one.", "seed": 7}
```
"""


class BatchTab:
    """Speech for a list of texts."""

    key = "batch"
    title = "Batch"

    def build(self, page: Page) -> None:
        """Draw the form on the left, progress and results on the right; `/batch` does the same for programs."""
        self.page, self.server = page, page.server
        self.batch = gr.State(None, delete_callback=self._forget)
        two_columns(self._draw_form, self._draw_result)
        self._connect()
        self._add_api()

    def _draw_form(self) -> None:
        self.texts = gr.Textbox(
            label="Texts",
            info=f"One text a line, at most {MAX_ROWS}. Each becomes a sound of its own.",
            placeholder=EXAMPLE,
            lines=7,
            max_lines=14,
            max_length=200_000,
        )
        with gr.Accordion("Upload a manifest instead", open=False):
            self.manifest = gr.File(
                label="Manifest, JSON lines", file_types=[".jsonl", ".json", ".txt"], type="filepath", height=130
            )
            gr.Markdown(HELP, elem_classes=["gm-help"])
        self.voice = gr.Dropdown(
            choices=voice_list(self.server.pool, None),
            value="",
            label="Voice",
            info="Speaks every text; rows of a manifest may name another one.",
            filterable=False,
        )
        with gr.Row():
            self.model = model_choice(self.server.pool, SYSTEM)
            self.seed = gr.Textbox(
                label="Run seed",
                placeholder="new for every batch",
                info="Every text gets its own seed from this one and its id.",
                max_lines=1,
                max_length=20,
            )
        self.buttons = RunButtons.draw("Start batch")
        self.resume = gr.Button("Resume", visible=False, size="sm")

    def _draw_result(self) -> None:
        self.progress = gr.HTML(idle_html("Progress and results appear here.", wave=True))
        self.table = gr.HTML(visible=False)
        self.archive = gr.DownloadButton("Download all as zip", visible=False, size="sm")

    @property
    def _outputs(self) -> list[Any]:
        return [self.progress, self.table, self.archive, self.batch, self.resume, *self.buttons.both]

    def _connect(self) -> None:
        fields = [self.texts, self.manifest, self.model, self.seed, self.voice, self.batch]
        self.model.input(self._model_changed, self.model, self.voice, **QUICK)
        begin = self.buttons.start.click(self._begin, fields, [self.batch, self.progress, *self.buttons.both], **QUICK)
        first = begin.success(self._run, self.batch, self._outputs, **page_event(self.key))
        again = self.resume.click(self._again, outputs=[self.progress, *self.buttons.both], **SILENT)
        self.buttons.after_failure(begin, self.progress, self.key)
        rest = again.success(self._run, self.batch, self._outputs, **page_event(self.key))
        for event in (first, rest):
            self.buttons.after(event, self.progress, self.key)
        self.buttons.cancel.click(self._cancel, self.batch, self._outputs, **SILENT)

    # ------------------------------------------------------------ work

    def _begin(
        self, texts: str, manifest: str | None, model: str | None, seed: str, voice: str, old: Batch | None
    ) -> tuple[Any, ...]:
        """Check everything before the batch waits in the queue; the earlier batch makes room."""
        with reported(self.key):
            batch = self._make(texts, manifest, model, seed, voice)
            self._forget(old)
            return batch, *self._again()

    def _again(self) -> tuple[Any, ...]:
        return waiting_html(self.page), *RunButtons.busy()

    def _model_changed(self, model: str | None) -> Any:
        with reported(self.key):
            return gr.update(choices=voice_list(self.server.pool, model), value="")

    def _make(self, texts: str, manifest: str | None, model: str | None, seed: str, voice: str) -> Batch:
        seeds = parse_seeds(seed, 1)
        return make_batch(
            self.server.storage,
            self.server.pool,
            texts=texts or "",
            upload=manifest,
            model=model or None,
            seed=seeds[0] if seeds else fresh_seed(),
            voice=voice or None,
            limits=self.server.settings.limits,
        )

    async def _run(self, request: gr.Request, batch: Batch | None) -> AsyncIterator[dict[Any, Any]]:
        with reported(self.key):
            if batch is None or not batch.folder.is_dir():
                raise UsageError("there is no batch to go on with; start a new one")
            read = 0.0
            async with contextlib.aclosing(self._events(request, batch)) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        yield self._ended(dataclasses.replace(batch, report=event.result))
                        return
                    update: dict[Any, Any] = {self.progress: progress_html(event)}
                    if time.monotonic() - read > 1.0:
                        read = time.monotonic()
                        update[self.table] = self._rows(batch)
                    yield update
            yield self._ended(batch)

    async def _events(self, request: gr.Request, batch: Batch) -> AsyncIterator[Any]:
        work = functools.partial(run, batch, self.server.pool)
        with self.server.runs.open(str(request.session_hash), self.key) as entry, contextlib.suppress(Cancelled):
            async with contextlib.aclosing(stream_work(work, entry.token)) as events:
                async for event in events:
                    yield event

    def _ended(self, batch: Batch) -> dict[Any, Any]:
        report = batch.report
        if report is None or report.stopped:
            note = note_html("Stopped. What is finished is kept; Resume goes on from there.", "stopped")
        elif report.failed:
            note = note_html(f"{report.done} of {report.total} done, {report.failed} failed.", "problem")
        else:
            note = note_html(f"All {report.total} done.")
        archive = pack(batch)
        return {
            self.progress: note,
            self.table: self._rows(batch),
            self.archive: gr.update(value=str(archive) if archive else None, visible=archive is not None),
            self.batch: batch,
            self.resume: gr.update(visible=batch.can_resume),
        }

    def _rows(self, batch: Batch) -> Any:
        rows = table(batch)
        return gr.update(value=rows_html(rows), visible=bool(rows))

    async def _cancel(self, request: gr.Request, batch: Batch | None) -> dict[Any, Any]:
        """Ask the run to stop; it shows what it has made, and the buttons change, when it has."""
        withdrawn = await self.page.cancel(str(request.session_hash), self.key)
        note = "Stopped before it began." if withdrawn else "Stopping after the texts that are being spoken."
        return {
            self.progress: note_html(note, "stopped"),
            self.resume: gr.update(visible=bool(withdrawn and batch)),
        }

    def _forget(self, batch: Batch | None) -> None:
        if batch is not None:
            self.server.storage.remove(batch.folder)

    # ------------------------------------------------------------ programs

    def _add_api(self) -> None:
        with gr.Row(visible=False):
            inputs = [
                gr.File(label="manifest (JSON lines, or empty)", type="filepath"),
                gr.Textbox("", label="texts (one a line, when there is no manifest)"),
                gr.Textbox("", label="model (a name from /status; empty: the default)"),
                gr.Textbox("", label="seed (of the run; empty: a new one)"),
                gr.Textbox("", label="voice (a name from /voices; empty: the default)"),
            ]
            archive = gr.File(label="archive")
            report = gr.JSON(label="report")
            start, again = gr.Button("batch"), gr.Button("batch_resume")
        start.click(self._api_start, [*inputs, self.batch], [archive, report, self.batch], api_name="batch", **DEVICE)
        again.click(self._api_resume, self.batch, [archive, report, self.batch], api_name="batch_resume", **DEVICE)

    async def _api_start(
        self,
        request: gr.Request,
        manifest: str | None = None,
        texts: str = "",
        model: str = "",
        seed: str = "",
        voice: str = "",
        old: Batch | None = None,
    ) -> AsyncIterator[Any]:
        """Speak many texts. Gives progress while it works, at the end a zip with all results and a report per item."""
        with reported(self.key):
            batch = self._make(texts, manifest, model, seed, voice)
            self._forget(old)
            async with contextlib.aclosing(self._api_events(request, batch)) as updates:
                async for update in updates:
                    yield update

    async def _api_resume(self, request: gr.Request, batch: Batch | None = None) -> AsyncIterator[Any]:
        """Go on with the latest batch of this session, after a cancel or when some items failed."""
        with reported(self.key):
            if batch is None or not batch.folder.is_dir():
                raise UsageError("there is no batch to go on with; start a new one with /batch")
            async with contextlib.aclosing(self._api_events(request, batch)) as updates:
                async for update in updates:
                    yield update

    async def _api_events(self, request: gr.Request, batch: Batch) -> AsyncIterator[tuple[Any, Any, Any]]:
        yield None, {"state": "starting", "seed": batch.seed}, batch
        async with contextlib.aclosing(self._events(request, batch)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    batch = dataclasses.replace(batch, report=event.result)
                else:
                    yield None, {"state": "working", "done": event.done, "total": event.total}, batch
        archive, report = pack(batch), batch.report
        counts = {} if report is None else {"total": report.total, "done": report.done, "failed": report.failed}
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in table(batch)]
        state = "done" if report is not None and not report.stopped else "stopped"
        summary = {"state": state, "seed": batch.seed, **counts, "items": rows}
        yield (str(archive) if archive else None), summary, batch

    def receivers(self) -> Sequence[Receiver]:
        """The tab takes nothing from others."""
        return ()


def voice_list(pool: ModelPool, model: str | None) -> list[tuple[str, str]]:
    """(label, value) pairs; "" leaves the choice to the model. A damaged checkpoint offers that alone."""
    try:
        names = voice_names(pool, model)
    except GenmmError:
        names = []
    return [("The model's own", ""), *((name.capitalize(), name) for name in names)]


def rows_html(rows: Sequence[Sequence[Any]]) -> str:
    """The table of finished items."""
    return table_html(("Id", "State", "Seconds", "Text understood", "Seed"), [_cells(row) for row in rows])


def _cells(row: Sequence[Any]) -> list[str]:
    name, state, seconds, ended, seed, text, problem = row
    kind = "bad" if state == "failed" else "good" if ended == "stop" else "plain"
    shown = state if state == "failed" or ended == "stop" else stop_text(ended)
    said = f'<span class="gm-wrap">{plain_message(problem) if problem else escape(text)}</span>'
    return [escape(name), chip_html(shown, kind), f"{seconds:.2f}" if problem == "" else "", said, escape(seed)]
