"""The Speech tab: type a text, hear it while it is being made, choose among takes, keep sound and recipe."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import gradio as gr

from app.web import speech_api
from app.web.controls import (
    RunButtons,
    SeedControl,
    idle_html,
    model_choice,
    note_html,
    parse_seeds,
    progress_html,
    takes_choice,
)
from app.web.history import Entry, Visit
from app.web.live import LiveSound
from app.web.messages import reported
from app.web.runs import stream_events
from app.web.sound import Sound
from app.web.speech_recipe import OWN, more_values, recipe_values, voice_choices
from app.web.speech_run import View
from app.web.speech_view import facts_html, stop_text, summary
from app.web.speech_work import (
    FILE_FORMATS,
    GUIDANCE,
    SYSTEM,
    TEMPERATURE,
    SpeechForm,
    Spoken,
    check_form,
    model_settings,
    speak_events,
    voice_names,
)
from app.web.tab import QUICK, SILENT, Page, Receiver
from app.web.work_tab import Work, WorkTab
from genmm.core.errors import Cancelled, GenmmError, UsageError
from genmm.core.events import Progress
from genmm.systems.sled.request import SpeechSettings

__all__ = ["SpeechTab"]

log = logging.getLogger(__name__)

EXAMPLES = (
    "Seven four one, nine two.",
    "The next train leaves at a quarter past five.",
    "Please enter the number and press the green button.",
)


class SpeechTab(WorkTab):
    """Text to speech with SLED."""

    key = "speech"
    title = "Speech"
    system = SYSTEM

    def build(self, page: Page) -> None:
        """Draw both columns and connect them; add the endpoints for programs."""
        super().build(page)
        speech_api.add(self.server)

    # ------------------------------------------------------------ drawing

    def _look_up(self) -> None:
        """What the controls start with; a damaged checkpoint must not keep the page from opening."""
        try:
            self._start, self._names = model_settings(self.server.pool, None), voice_names(self.server.pool, None)
        except GenmmError as error:
            log.warning("the settings of the first speech model cannot be read: %s", error)
            self._start, self._names = SpeechSettings(), []

    def _draw_form(self) -> None:
        self._look_up()
        limits = self.server.settings.limits
        self.text = gr.Textbox(
            label="Text",
            info=f"What to say, in English, at most {limits.text_chars} characters. Shift+Enter starts. Numbers and "
            "common signs are spelled out first.",
            placeholder="Write a sentence, or take an example below.",
            lines=4,
            max_lines=12,
            autofocus=True,
            elem_id="speech-text",
        )
        with gr.Row(elem_classes=["gm-examples"]):
            for example in EXAMPLES:
                chip = gr.Button(example, size="sm", min_width=60, elem_classes=["gm-example"])
                chip.click(None, None, self.text, js=f"() => {json.dumps(example)}", **SILENT)
        self._draw_voice()
        self.buttons = RunButtons.draw("Speak")
        start = self._start
        with gr.Accordion("Settings", open=False, elem_classes=["gm-flat"]):
            self.guidance = gr.Slider(
                *GUIDANCE,
                value=start.guidance,
                step=0.1,
                label="Guidance",
                info="How closely the voice keeps to the text. 1 is free; above 3 it may sound forced.",
            )
            self.temperature = gr.Slider(
                *TEMPERATURE,
                value=start.temperature,
                step=0.05,
                label="Temperature",
                info="How much takes differ. Below 1 is calmer and more alike, 1 is what the model has learned.",
            )
            self.takes = takes_choice()
            self.seed = SeedControl()
            self.file_format = gr.Radio(
                choices=list(FILE_FORMATS),
                value=FILE_FORMATS[0],
                label="Sound file",
                info="wav and flac keep every sample, mp3 and ogg are smaller. The recipe is inside each of them.",
                elem_classes=["gm-compact"],
            )
            self.model = model_choice(self.server.pool, SYSTEM)
            self.more = gr.State({})
            self.more_note = gr.HTML(visible=False)
            self.plain = gr.Button("Forget them", size="sm", visible=False, elem_classes=["gm-quiet"])
            self.load_recipe = gr.UploadButton(
                "Load recipe",
                file_types=[".json", *(f".{suffix}" for suffix in FILE_FORMATS)],
                file_count="single",
                type="filepath",
                size="sm",
            )

    def _draw_voice(self) -> None:
        choices = voice_choices(self._names)
        self.voice = gr.Dropdown(
            choices=choices,
            value=choices[0][1],
            label="Voice",
            info="A voice that comes with the model, or one you give: a few seconds are enough.",
            filterable=False,
        )
        with gr.Group(visible=choices[0][1] == OWN) as self.own:
            self.recording = Sound(
                sources=["upload", "microphone"],
                type="filepath",
                label="Recording of the voice",
                buttons=[],
                elem_id="speech-recording",
            )
            self.transcript = gr.Textbox(
                label="What is said in the recording",
                info="Optional, but the voice is met better when the words are known.",
                lines=2,
            )

    def _draw_result(self) -> None:
        self.progress = gr.HTML(
            idle_html("Sound appears here. It starts to play before the sentence is finished.", wave=True)
        )
        self.live = LiveSound(
            label="Live",
            streaming=True,
            autoplay=True,
            interactive=False,
            visible=False,
            buttons=[],
            elem_id="speech-live",
            elem_classes=["gm-live"],
        )
        self.spoken = gr.State(None)
        with gr.Column(visible=False, elem_classes=["gm-result"]) as self.result:
            self.take = gr.Radio(
                choices=[("Take 1", 0)], value=0, show_label=False, container=False, elem_classes=["gm-takes"]
            )
            self.player = Sound(label="Result", interactive=False, buttons=[], elem_id="speech-result")
            with gr.Row(elem_classes=["gm-actions"]):
                self.sound_file = gr.DownloadButton("Download sound", size="sm", min_width=130)
                self.recipe_file = gr.DownloadButton("Download recipe", size="sm", min_width=130)
                self.keep_seed = gr.Button("Use this seed", size="sm", min_width=130)
            picture: dict[str, Any] = {
                "show_label": False, "interactive": False, "buttons": [], "container": False, "type": "filepath",
            }  # fmt: skip
            self.picture = gr.Image(elem_classes=["gm-picture", "gm-only-light"], **picture)
            self.picture_dark = gr.Image(elem_classes=["gm-picture", "gm-only-dark"], **picture)
            self.facts = gr.HTML()

    # ------------------------------------------------------------ events

    @property
    def _inputs(self) -> list[Any]:
        return [
            self.text, self.model, self.voice, self.recording, self.transcript,
            self.guidance, self.temperature, self.takes, self.seed.box, self.more, self.file_format,
        ]  # fmt: skip

    @property
    def _shown_take(self) -> list[Any]:
        return [self.player, self.sound_file, self.recipe_file, self.picture, self.picture_dark, self.facts]

    def _connect(self) -> None:
        shown = [self.live, self.result, self.take, *self._shown_take, self.spoken, self.seed.last]
        run = self._connect_run([self.buttons.start.click, self.text.submit], self._inputs, shown)
        self._connect_cancel()
        run.failure(lambda: gr.update(visible=False), outputs=self.live, **SILENT)
        self.live.stop(_played_to_its_end, self.spoken, self.live, **SILENT)
        self.take.input(self._show_take, [self.spoken, self.take], self._shown_take, **QUICK)
        self.keep_seed.click(self._keep_seed, [self.spoken, self.take], self.seed.box, **SILENT)
        self.model.input(
            self._model_changed, self.model, [self.voice, self.own, self.guidance, self.temperature], **QUICK
        )
        self.plain.click(lambda: more_values({}), outputs=[self.more, self.more_note, self.plain], **SILENT)
        self.voice.change(lambda voice: gr.update(visible=voice == OWN), self.voice, self.own, **SILENT)
        self.load_recipe.upload(self._load_upload, self.load_recipe, self._settings, **QUICK)

    def _form(self, values: Sequence[Any]) -> SpeechForm:
        text, model, voice, recording, transcript, guidance, temperature, takes, seed, more, file_format = values
        own = voice == OWN
        if own and not recording:
            raise UsageError("upload or record a voice first, or choose one of the list")
        takes = int(takes or 1)
        form = SpeechForm(
            text=text or "",
            model=model,
            voice=None if own else voice,
            recording=recording if own else None,
            transcript=transcript or "" if own else "",
            guidance=guidance,
            temperature=temperature,
            takes=takes,
            seeds=parse_seeds(seed, takes),
            more=more or {},
            file_format=file_format or FILE_FORMATS[0],
        )
        check_form(form, self.server.settings.limits)
        return form

    def _work(self, form: SpeechForm) -> Work:
        server = self.server
        return speak_events(form, server.pool, server.storage.run_folder, server.settings.limits)

    def _cleared(self) -> dict[Any, Any]:
        return {
            self.live: gr.update(value=None, visible=True),
            self.result: gr.update(visible=False),
            self.spoken: None,
        }

    async def _run(
        self, request: gr.Request, work: Work, visit: Visit, cleared: Mapping[Any, Any] | None = None
    ) -> AsyncIterator[dict[Any, Any]]:
        """As of any tab, with sound while it is made."""
        with self.server.runs.open(str(request.session_hash), self.key) as run:
            view = View(self)
            yield {self.progress: progress_html(Progress(0, None, "", "Starting")), **(cleared or {})}
            try:
                async with contextlib.aclosing(stream_events(work, run.token)) as events:
                    async for event in events:
                        for update in view.updates(event):
                            yield update
            except Cancelled:
                heard = view.cutter is not None and view.cutter.pieces > 0
                yield {self.progress: note_html("Cancelled.", "stopped"), self.live: gr.update(visible=heard)}
                return
            yield self._finished(view, view.elapsed_s, visit)

    def _finished(self, view: View, elapsed_s: float, visit: Visit) -> dict[Any, Any]:
        """`view` has the result, and when sound was heard first."""
        spoken = view.spoken
        choices = [(f"Take {n + 1}", n) for n in range(len(spoken.takes))]
        return {
            self.progress: note_html(summary(spoken, elapsed_s, view.first_sound_s)),
            self.result: gr.update(visible=True),
            self.take: gr.update(choices=choices, value=0, visible=len(choices) > 1),
            **dict(zip(self._shown_take, self._show_take(spoken, 0), strict=True)),
            self.spoken: spoken,
            self.seed.last: tuple(take.seed for take in spoken.takes),
            self.page.history.visit: self.page.history.added(visit, _entries(spoken)),
        }

    def _show_take(self, spoken: Spoken | None, number: int) -> list[Any]:
        if spoken is None or not 0 <= int(number or 0) < len(spoken.takes):
            return [gr.skip()] * 6
        take = spoken.takes[int(number or 0)]
        if not take.path.is_file():
            raise gr.Error("This result is gone; results are kept for some hours only.", print_exception=False)
        files = (take.path, take.path, take.recipe, take.picture, take.picture_dark)
        return [*(str(path) for path in files), facts_html(spoken, take)]

    def _keep_seed(self, spoken: Spoken | None, number: int) -> str:
        if spoken is None:
            return ""
        return str(spoken.takes[int(number or 0)].seed)

    def _model_changed(self, model: str | None) -> tuple[Any, ...]:
        with reported(self.key):
            choices = voice_choices(voice_names(self.server.pool, model))
            start, own = model_settings(self.server.pool, model), choices[0][1] == OWN
            voice = gr.update(choices=choices, value=choices[0][1])
            return voice, gr.update(visible=own), start.guidance, start.temperature

    # ------------------------------------------------------------ recipes and results of other tabs

    @property
    def _settings(self) -> list[Any]:
        return [
            self.text, self.model, self.voice, self.guidance, self.temperature, self.takes, self.seed.box,
            self.more, self.more_note, self.plain,
        ]  # fmt: skip

    def _recipe_values(self, recipe: dict[str, Any]) -> list[Any]:
        return recipe_values(recipe, self.server.pool, self.server.settings.limits)

    def receivers(self) -> Sequence[Receiver]:
        """The settings of an earlier speech, and any sound as a voice."""
        return (
            self._loads_settings("the text and all settings", self._settings),
            Receiver(
                "Use as voice",
                "Speaks the next text with the voice heard here.",
                self.key,
                lambda entry: entry.media == "audio",
                [self.voice, self.recording, self.transcript],
                self._as_voice,
            ),
        )

    def _as_voice(self, entry: Entry) -> list[Any]:
        words = entry.title if entry.task == "speech" else ""
        return [OWN, str(entry.path), words]


def _played_to_its_end(spoken: Spoken | None) -> Any:
    """The live player goes when its sound is over and the whole result is there; one player is enough then."""
    return gr.update(visible=False) if spoken is not None else gr.skip()


def _entries(spoken: Spoken) -> list[Entry]:
    several = len(spoken.takes) > 1
    return [
        Entry(
            task="speech",
            media="audio",
            title=spoken.text,
            path=take.path,
            recipe=take.recipe,
            thumbnail=take.thumbnail,
            facts=", ".join(
                [
                    *([f"take {number}"] if several else []),
                    f"{take.seconds:.1f} s",
                    f"seed {take.seed}",
                    stop_text(take.stop_reason),
                ]
            ),
        )
        for number, take in enumerate(spoken.takes, 1)
    ]
