"""The Highlights tab: give a video, see its curve, edit the segments, watch and keep the reel and its files."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app.web import highlights_api
from app.web.controls import RunButtons, idle_html, note_html
from app.web.film import Film
from app.web.highlights_view import captions, curve_html, facts_html, spans_of, summary, table_rows
from app.web.highlights_work import (
    HEURISTIC,
    Found,
    HighlightForm,
    check_form,
    cut_events,
    find_events,
    model_names,
    rescored,
)
from app.web.history import Entry, Visit
from app.web.messages import reported
from app.web.tab import QUICK, SILENT, Page, Receiver
from app.web.waiting import page_event
from app.web.work_tab import Work, WorkTab
from genmm.core.errors import UsageError
from genmm.core.wording import counted

__all__ = ["HighlightsTab"]

SCRIPT = Path(__file__).with_name("highlights.js").read_text(encoding="utf-8")
AMOUNTS = [("Seconds", "seconds"), ("Share of the video", "share"), ("Number of segments", "count")]
AMOUNT_VALUES = {"seconds": 30.0, "share": 0.1, "count": 5}
MODALITIES = [("Picture and sound", "auto"), ("Picture only", "v"), ("Sound only", "a")]
COLUMNS = ["Keep", "Start", "End", "Length", "Score"]
DOWNLOADS = {
    "json": "JSON",
    "csv": "CSV",
    "edl": "EDL",
    "chapters": "Chapters",
    "vtt": "WebVTT",
}


class HighlightsTab(WorkTab):
    """The best moments of a video with RASL."""

    key = "highlights"
    title = "Highlights"

    def build(self, page: Page) -> None:
        """Draw both columns and connect them; add the endpoints for programs."""
        super().build(page)
        highlights_api.add(self.server)

    # ------------------------------------------------------------ drawing

    def _draw_form(self) -> None:
        self.video = Film(label="Video", sources=["upload"], elem_id="highlights-video", buttons=[], height=280)
        with gr.Row():
            self.amount = gr.Radio(
                choices=AMOUNTS, value="seconds", label="How much to keep", info="What the number beside it counts."
            )
            self.number = gr.Number(
                value=30.0,
                minimum=0.01,
                label="Amount",
                info="Such as 30 seconds, 0.1 of the video, or 5 segments.",
                elem_id="highlights-amount",
            )
        self.modality = gr.Radio(
            choices=MODALITIES,
            value="auto",
            label="Scored by",
            info="Switch it after a run as well: the video is not read again. Without sound, the pictures decide.",
            elem_id="highlights-modality",
        )
        self.buttons = RunButtons.draw("Find highlights")
        with gr.Accordion("Settings", open=False, elem_classes=["gm-flat"]):
            names = model_names(self.server.pool)
            self.model = gr.Dropdown(
                choices=names,
                value=names[0],
                label="Model",
                info="heuristic: movement, typicality, loudness, position. Others have learned what belongs together.",
                filterable=False,
            )
            self.clip = gr.Slider(
                1, 10, value=2, step=0.5, label="Clip length", info="Seconds that get one score; 2 is usual."
            )
            self.shortest = gr.Slider(
                0.5, 10, value=2, step=0.5, label="Shortest segment", info="Seconds; pieces below it join a neighbour."
            )
            self.longest = gr.Slider(
                2, 60, value=20, step=1, label="Longest segment", info="Seconds; longer runs are divided."
            )
            self.middle = gr.Checkbox(
                value=True,
                label="Prefer the middle",
                info="Heuristic only, from one minute on: openings and endings are seldom what people pick.",
            )

    def _draw_result(self) -> None:
        self.progress = gr.HTML(idle_html("The score over time appears here, with the moments worth keeping."))
        self.found = gr.State(None, time_to_live=self.server.settings.keep_s)
        with gr.Column(visible=False, elem_classes=["gm-result"]) as self.result:
            self.curve = gr.HTML(elem_id="highlights-curve")
            self.reel = Film(label="Reel", interactive=False, buttons=[], elem_id="highlights-reel", height=280)
            gr.HTML(
                '<p class="gm-dim">Segments, in seconds. Change start and end, untick or add rows, then cut again.</p>'
            )
            self.table = gr.Dataframe(
                headers=COLUMNS,
                datatype=["bool", "number", "number", "number", "number"],
                interactive=True,
                column_count=(len(COLUMNS), "fixed"),
                row_count=1,
                column_widths=["19%", "20%", "20%", "21%", "20%"],
                label="Segments",
                show_label=False,
                buttons=[],
                elem_id="highlights-table",
            )
            with gr.Row(elem_classes=["gm-actions"]):
                self.cut = gr.Button("Cut the reel again", size="sm", min_width=130)
                self.reel_file = gr.DownloadButton("Download reel", size="sm", min_width=130)
                self.sheet_file = gr.DownloadButton("Contact sheet", size="sm", min_width=130)
            with gr.Row(elem_classes=["gm-actions"]):
                self.files = [gr.DownloadButton(label, size="sm", min_width=80) for label in DOWNLOADS.values()]
            self.gallery = gr.Gallery(
                show_label=False,
                allow_preview=False,
                buttons=[],
                interactive=False,
                elem_id="highlights-moments",
                elem_classes=["gm-gallery", "gm-moments"],
            )
            self.facts = gr.HTML()

    # ------------------------------------------------------------ events

    @property
    def _inputs(self) -> list[Any]:
        return [
            self.video, self.amount, self.number, self.modality, self.model, self.clip, self.shortest, self.longest,
            self.middle,
        ]  # fmt: skip

    @property
    def _shown(self) -> list[Any]:
        return [
            self.curve, self.reel, self.table, self.reel_file, self.sheet_file, *self.files, self.gallery, self.facts,
        ]  # fmt: skip

    def _connect(self) -> None:
        visit, buttons = self.page.history.visit, self.buttons
        shown = [self.result, *self._shown, self.found]
        buttons.start.click(None, None, None, js=SCRIPT, **SILENT)
        self._connect_run([buttons.start.click], self._inputs, shown)
        again = self.cut.click(lambda: RunButtons.busy(), outputs=buttons.both, **SILENT)
        edited = again.then(
            self._cut_again,
            [self.found, self.table, visit],
            [self.progress, *shown, visit, *buttons.both],
            **page_event(f"{self.key}_cut"),
        )
        self._connect_end(edited)
        self._connect_cancel()
        self.amount.input(lambda kind: AMOUNT_VALUES[kind], self.amount, self.number, **SILENT)
        self.modality.input(
            self._switch,
            [self.found, self.modality],
            [self.progress, self.found, self.curve, self.table, self.facts],
            **QUICK,
        )

    def _form(self, values: Sequence[Any]) -> HighlightForm:
        video, amount, number, modality, model, clip, shortest, longest, middle = values
        if amount not in AMOUNT_VALUES or number is None:
            raise UsageError("say how much to keep: a number of seconds, a share, or a number of segments")
        settings = {
            amount: int(number) if amount == "count" else float(number),
            "modality": modality or "auto",
            "clip_s": float(clip),
            "min_segment_s": float(shortest),
            "max_segment_s": max(float(longest), float(shortest)),
            "position": 1.0 if middle else 0.0,
        }
        form = HighlightForm(video=video or "", model=model or HEURISTIC, settings=settings)
        check_form(form, self.server.pool)
        return form

    def _work(self, form: HighlightForm) -> Work:
        server = self.server
        return find_events(form, server.pool, server.storage.run_folder, server.settings.limits)

    def _cleared(self) -> dict[Any, Any]:
        return {self.result: gr.update(visible=False)}

    async def _cut_again(
        self, request: gr.Request, found: Found | None, rows: Any, visit: Visit
    ) -> AsyncIterator[dict[Any, Any]]:
        with reported(self.key):
            if found is None:
                raise UsageError("find the highlights of a video first; results are kept for some hours only")
            listed = rows.values.tolist() if hasattr(rows, "values") else rows
            try:
                spans = spans_of(listed)
            except (TypeError, ValueError, IndexError) as error:
                raise UsageError("start and end of a segment must be numbers of seconds") from error
            if not spans:
                raise UsageError("no segment is ticked; keep at least one")
            work = cut_events(found, spans, self.server.storage.run_folder)
            async with contextlib.aclosing(self._run(request, work, visit)) as updates:
                async for update in updates:
                    yield update

    def _finished(self, found: Found, elapsed_s: float, visit: Visit) -> dict[Any, Any]:
        return {
            self.progress: note_html(summary(found, elapsed_s)),
            self.result: gr.update(visible=True),
            **dict(zip(self._shown, self._values(found), strict=True)),
            self.found: found,
            self.page.history.visit: self.page.history.added(visit, _entries(found)),
        }

    def _values(self, found: Found) -> list[Any]:
        """One value for each of `_shown`."""
        reel = str(found.reel) if found.reel else None
        sheet = str(found.sheet) if found.sheet else None
        return [
            curve_html(found.result),
            gr.update(value=reel, visible=reel is not None),
            table_rows(found.result),
            gr.update(value=reel, visible=reel is not None),
            gr.update(value=sheet, visible=sheet is not None),
            *(str(found.documents[kind]) for kind in DOWNLOADS),
            gr.update(value=captions(found), visible=bool(found.thumbnails)),
            facts_html(found),
        ]

    def _switch(self, found: Found | None, modality: str) -> list[Any]:
        """Score the same video by other streams; the reel stays until it is cut again."""
        if found is None:
            return [gr.skip()] * 5
        with reported(self.key):
            other = rescored(found, self.server.pool, modality)
            note = note_html("Scored anew. Reel, files and pictures are those of before until you cut the reel again.")
            return [note, other, curve_html(other.result), table_rows(other.result), facts_html(other)]

    def receivers(self) -> Sequence[Receiver]:
        """Any video of the history."""
        return (
            Receiver(
                "Find its highlights",
                "Puts the video itself, without a map over it, into the Highlights tab.",
                self.key,
                lambda entry: entry.media == "video",
                [self.video],
                lambda entry: [str(entry.original)],
            ),
        )


def _entries(found: Found) -> list[Entry]:
    if found.reel is None or not found.thumbnails:
        return []
    result = found.result
    return [
        Entry(
            task="highlight",
            media="video",
            title=f"Highlights of {result.source}",
            path=found.reel,
            recipe=found.documents["json"],
            thumbnail=found.thumbnails[0],
            facts=f"{counted(len(result.segments), 'segment')}, {result.seconds:.1f} s",
        )
    ]
