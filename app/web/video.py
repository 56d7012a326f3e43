"""The Video tab: a video in a handful of tokens, its map over the frames, similar moments, questions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app.web import video_api
from app.web.controls import (
    RunButtons,
    failed_html,
    idle_html,
    model_choice,
    note_html,
    progress_html,
    waiting_html,
)
from app.web.film import Film
from app.web.history import Entry, Visit
from app.web.messages import latest_problem, reported
from app.web.runs import stream_events
from app.web.tab import DEVICE, QUICK, SILENT, Page, Receiver
from app.web.video_moments import Moment, similar_moments
from app.web.video_recipe import recipe_values
from app.web.video_sample import SampleClip
from app.web.video_view import answer_html, captions, curve_html, facts_html, moments_html, summary, title_html
from app.web.video_work import (
    MOST,
    SYSTEM,
    Seen,
    VideoForm,
    check_form,
    frame_at,
    question_events,
    tokenize_events,
)
from app.web.work_tab import Work, WorkTab
from genmm.core.errors import Cancelled, UsageError
from genmm.core.events import Finished
from genmm.core.limits import clean_text
from genmm.core.wording import counted
from genmm.systems.vqtoken.answerer import EXAMPLES
from genmm.systems.vqtoken.methods import METHODS

__all__ = ["VideoTab"]


class VideoTab(WorkTab):
    """Video to tokens with VQToken."""

    key = "video"
    title = "Video"
    system = SYSTEM

    def build(self, page: Page) -> None:
        """Draw both columns and connect them; add the endpoints for programs."""
        self.sample = SampleClip(page.server.storage)
        super().build(page)
        video_api.add(self.server)

    # ------------------------------------------------------------ drawing

    def _draw_form(self) -> None:
        self.upload = Film(label="Video", sources=["upload"], elem_id="video-upload", buttons=[], height=280)
        with gr.Row(elem_classes=["gm-examples"]):
            self.try_sample = gr.Button("Take a sample clip", size="sm", min_width=60, elem_classes=["gm-example"])
            # The player above takes files of the type video alone.
            self.gif = gr.UploadButton(
                "Choose a GIF", file_types=[".gif"], size="sm", min_width=60, elem_id="video-gif",
                elem_classes=["gm-example"],
            )  # fmt: skip
        self.tokens = gr.Slider(
            1,
            MOST,
            value=32,
            step=1,
            label="Tokens",
            info="How many tokens stand for the whole video. 8 to 64 are usual; more keep more.",
            elem_id="video-tokens",
        )
        self.adaptive = gr.Checkbox(
            value=False,
            label="As many as it needs",
            info="Takes the fewest tokens that hold about 80 % of what differs in the video, at most the number above.",
        )
        self.buttons = RunButtons.draw("Tokenize")
        with gr.Accordion("Settings", open=False, elem_classes=["gm-flat"]):
            self.method = gr.Dropdown(
                choices=list(METHODS),
                value="vqtoken",
                label="Reducer",
                info="vqtoken clusters the whole video. The others are simpler ways, to compare; for short videos.",
                filterable=False,
            )
            self.model = model_choice(self.server.pool, SYSTEM)
            self.load_recipe = gr.UploadButton(
                "Load recipe", file_types=[".json"], file_count="single", type="filepath", size="sm"
            )

    def _draw_result(self) -> None:
        self.progress = gr.HTML(idle_html("The video appears here with its map: one colour for each token."))
        self.seen = gr.State(None)
        with gr.Column(visible=False, elem_classes=["gm-result"]) as self.result:
            self.name = gr.HTML(elem_id="video-name")
            self.film = Film(label="Token map", interactive=False, buttons=[], elem_id="video-map", height=320)
            self.curve = gr.HTML(elem_id="video-curve")
            with gr.Row(elem_classes=["gm-actions"]):
                self.file = gr.DownloadButton("Download tokens", size="sm", min_width=120)
                self.code = gr.DownloadButton("Download code", size="sm", min_width=120)
                self.recipe = gr.DownloadButton("Download recipe", size="sm", min_width=120)
            self.facts = gr.HTML()
            with gr.Accordion("Ask", open=True, elem_classes=["gm-flat"]):
                self.question = gr.Textbox(
                    label="Question",
                    info="The embedded model knows moving shapes: what, where, which way, how many, which first.",
                    max_lines=1,
                    max_length=200,
                    elem_id="video-question",
                )
                with gr.Row(elem_classes=["gm-examples"]):
                    for example in EXAMPLES[:3]:
                        chip = gr.Button(example, size="sm", min_width=60, elem_classes=["gm-example"])
                        chip.click(None, None, self.question, js=f"() => {json.dumps(example)}", **SILENT)
                self.ask = gr.Button("Ask", size="sm")
                self.answer = gr.HTML(elem_id="video-answer")
            with gr.Accordion("Moments", open=False, elem_classes=["gm-flat"]):
                self.at = gr.Slider(0, 1, value=0, step=0.1, label="Time", info="Seconds from the start.")
                with gr.Row(elem_classes=["gm-actions"]):
                    self.show = gr.Button("Show this frame", size="sm")
                    self.similar = gr.Button("Find similar moments", size="sm")
                self.picture = gr.Image(
                    show_label=False, interactive=False, buttons=[], container=False, elem_classes=["gm-picture"]
                )
                self.moments = gr.HTML(elem_id="video-moments")
                self.gallery = gr.Gallery(
                    show_label=False,
                    allow_preview=False,
                    buttons=[],
                    interactive=False,
                    visible=False,
                    elem_id="video-similar",
                    elem_classes=["gm-gallery", "gm-moments"],
                )
                self.found = gr.State(())

    # ------------------------------------------------------------ events

    @property
    def _inputs(self) -> list[Any]:
        return [self.upload, self.tokens, self.adaptive, self.method, self.model]

    @property
    def _shown(self) -> list[Any]:
        return [
            self.name, self.film, self.curve, self.file, self.code, self.recipe, self.facts, self.picture, self.at,
            self.answer, *self._similar_ones, self.seen,
        ]  # fmt: skip

    @property
    def _similar_ones(self) -> list[Any]:
        return [self.moments, self.gallery, self.found]

    def _connect(self) -> None:
        self._connect_run([self.buttons.start.click], self._inputs, [self.result, *self._shown])
        self._connect_cancel()
        self.load_recipe.upload(self._load_upload, self.load_recipe, self._settings, **QUICK)
        work = {**DEVICE, "api_visibility": "private", "show_progress": "hidden"}
        asked = gr.on(
            [self.ask.click, self.question.submit], self._begin_ask, [self.seen, self.question], self.answer, **QUICK
        )
        answered = asked.success(self._ask, [self.seen, self.question], self.answer, **work)
        for event in (asked, answered):
            event.failure(_not_answered, outputs=self.answer, **SILENT)
        self.similar.click(self._similar, [self.seen, self.at], self._similar_ones, **work)
        self.gallery.select(self._go_to, [self.seen, self.found], self.film, **QUICK)
        self.show.click(self._frame, [self.seen, self.at], self.picture, **{**QUICK, "concurrency_limit": 2})
        self.try_sample.click(self._take_sample, outputs=self.upload, **QUICK)
        self.gif.upload(lambda path: path, self.gif, self.upload, **QUICK)

    def _form(self, values: Sequence[Any]) -> VideoForm:
        video, tokens, adaptive, method, model = values
        form = VideoForm(
            video=video or "", tokens=int(tokens or 0), adaptive=bool(adaptive), method=method or "", model=model
        )
        check_form(form, self.server.pool)
        return form

    def _work(self, form: VideoForm) -> Work:
        server = self.server
        return tokenize_events(form, server.pool, server.storage.run_folder, server.settings.limits)

    def _cleared(self) -> dict[Any, Any]:
        return {self.result: gr.update(visible=False), self.seen: None}  # of another video, or made in another way

    def _finished(self, seen: Seen, elapsed_s: float, visit: Visit) -> dict[Any, Any]:
        made = seen.made
        curve = made.lost_curve
        last = round(float(made.times_s[-1]), 1)
        return {
            self.progress: note_html(summary(seen, elapsed_s)),
            self.result: gr.update(visible=True),
            self.name: title_html(seen),
            self.film: str(seen.film),
            self.curve: gr.update(value=curve_html(curve, made.tokens), visible=bool(curve)),
            self.file: str(seen.file),
            self.code: str(seen.code),
            self.recipe: str(seen.recipe),
            self.facts: facts_html(seen),
            self.picture: str(seen.picture),
            self.at: gr.update(maximum=max(0.1, last), value=round(last / 2, 1)),
            self.answer: "",
            **dict(zip(self._similar_ones, self._shown_moments([]), strict=True)),
            self.seen: seen,
            self.page.history.visit: self.page.history.added(visit, [_entry(seen)]),
        }

    def _needs(self, seen: Seen | None) -> Seen:
        if seen is None or not Path(seen.form.video).is_file() or not seen.index.is_dir():
            raise UsageError("tokenize a video first; uploads and results are kept for some hours only")
        return seen

    def _begin_ask(self, seen: Seen | None, question: str) -> str:
        """Check the question before it waits in the queue; this takes the place of the answer before."""
        with reported(self.key):
            self._needs(seen)
            clean_text(question or "", self.server.settings.limits)
            return waiting_html(self.page)

    async def _ask(self, request: gr.Request, seen: Seen | None, question: str) -> AsyncIterator[str]:
        with reported(self.key):
            seen, limits = self._needs(seen), self.server.settings.limits
            text = clean_text(question or "", limits)
            work = question_events(seen.form, text, self.server.pool, limits, seen)
            with self.server.runs.open(str(request.session_hash), self.key) as run:
                try:
                    async with contextlib.aclosing(stream_events(work, run.token)) as events:
                        async for event in events:
                            is_last = isinstance(event, Finished)
                            yield answer_html(text, event.result) if is_last else progress_html(event)
                except Cancelled:
                    yield note_html("Cancelled.", "stopped")

    def _similar(self, seen: Seen | None, at_s: float) -> tuple[Any, ...]:
        with reported(self.key):
            limits = self.server.settings.limits
            return self._shown_moments(similar_moments(self._needs(seen), float(at_s or 0.0), limits))

    def _shown_moments(self, moments: Sequence[Moment]) -> tuple[Any, ...]:
        """One value for each of `_similar_ones`."""
        text = moments_html(moments) if moments else ""
        starts_s = tuple(one.start_s for one in moments)
        return text, gr.update(value=captions(moments), selected_index=None, visible=bool(moments)), starts_s

    def _go_to(self, seen: Seen | None, starts_s: Sequence[float], picked: gr.SelectData) -> Any:
        """Move the film to the moment that was pressed; it begins where the tokens do."""
        number = picked.index if isinstance(picked.index, int) else 0
        if seen is None or not 0 <= number < len(starts_s):
            return gr.skip()
        return gr.update(playback_position=max(0.0, starts_s[number] - float(seen.made.times_s[0])))

    def _take_sample(self) -> str:
        with reported(self.key):
            return str(self.sample.path())

    def _frame(self, seen: Seen | None, at_s: float) -> Any:
        with reported(self.key):
            return frame_at(self._needs(seen), float(at_s or 0.0), self.server.settings.limits)

    # ------------------------------------------------------------ recipes and results of other tabs

    @property
    def _settings(self) -> list[Any]:
        return [self.tokens, self.adaptive, self.method, self.model]

    def _recipe_values(self, recipe: dict[str, Any]) -> list[Any]:
        return recipe_values(recipe, self.server.pool)

    def receivers(self) -> Sequence[Receiver]:
        """The settings of an earlier run, and any video of the history."""
        return (
            self._loads_settings("tokens, reducer and model", self._settings),
            Receiver(
                "Tokenize",
                "Puts the video itself, without a map over it, into the Video tab.",
                self.key,
                lambda entry: entry.media == "video",
                [self.upload],
                lambda entry: [str(entry.original)],
            ),
        )


def _not_answered(request: gr.Request) -> str:
    """What stands in the place of an answer after an error."""
    return failed_html(latest_problem(str(request.session_hash), VideoTab.key))


def _entry(seen: Seen) -> Entry:
    made = seen.made
    return Entry(
        task="video",
        media="video",
        title=seen.title,
        path=seen.film,
        recipe=seen.recipe,
        thumbnail=seen.thumbnail,
        source=Path(seen.form.video),
        facts=f"{counted(made.tokens, 'token')}, {made.seconds:.1f} s, {made.model['name']}",
    )
