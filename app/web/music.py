"""The Music tab: describe music and get it, or hand in a recording and have it edited, patched, continued."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app.web import music_api
from app.web.controls import (
    RunButtons,
    SeedControl,
    idle_html,
    model_choice,
    note_html,
    parse_seeds,
    takes_choice,
)
from app.web.history import Visit
from app.web.messages import reported
from app.web.music_region import Region
from app.web.music_view import TEXT_INFO, entries, facts_html, fitting, recipe_values, summary, understood_html
from app.web.music_work import (
    KINDS,
    SYSTEM,
    WITH_SOURCE,
    Composed,
    MusicForm,
    check_form,
    descriptions,
    model_settings,
    music_events,
    parse_tempo,
    reads_captions,
    understood,
)
from app.web.sound import Sound
from app.web.tab import QUICK, SILENT, Page, Receiver
from app.web.work_tab import Work, WorkTab
from genmm.core.errors import GenmmError
from genmm.systems.melodyflow.captions import caption_of
from genmm.systems.melodyflow.request import MusicSettings

__all__ = ["MusicTab"]

log = logging.getLogger(__name__)

EXAMPLES = (
    "calm piano in A minor, 90 bpm, no drums",
    "energetic synth over organ chords, electronic drums, synth bass, 128 bpm",
    "bright guitar waltz in D major with double bass",
)
COMPARE = Path(__file__).with_name("music.js").read_text(encoding="utf-8").strip()
"""Function (before, result, which) that plays one of two sounds from where the other one is."""


class MusicTab(WorkTab):
    """Music with MelodyFlow."""

    key = "music"
    title = "Music"
    system = SYSTEM

    def build(self, page: Page) -> None:
        """Draw both columns and connect them; add the endpoints for programs."""
        super().build(page)
        music_api.add(self.server)

    # ------------------------------------------------------------ drawing

    def _draw_form(self) -> None:
        self.kind = gr.Radio(
            choices=[(title, kind) for kind, title in KINDS.items()],
            value="generate",
            label="What to do",
            info="New music and loops need a description alone; the others work on a recording of yours.",
            elem_classes=["gm-kinds"],
        )
        self._draw_source()
        self.text = gr.Textbox(
            label="Description",
            info=TEXT_INFO,
            placeholder="Describe the music, or take an example below.",
            lines=3,
            max_lines=8,
            elem_id="music-text",
        )
        self.line = gr.HTML(understood_html("understood: nothing, so the model chooses"), elem_id="music-understood")
        with gr.Row(elem_classes=["gm-examples"]):
            for example in EXAMPLES:
                chip = gr.Button(example, size="sm", min_width=60, elem_classes=["gm-example"])
                chip.click(None, None, self.text, js=f"() => {json.dumps(example)}", **SILENT)
        with gr.Row():
            self.bpm = gr.Textbox(
                label="Tempo (bpm)", info="60 to 180; empty: as the text says.", max_lines=1, elem_id="music-bpm"
            )
            self.music_key = gr.Textbox(
                label="Key", info="Such as A minor or Eb; empty: as the text says.", max_lines=1
            )
        self.seconds = gr.Slider(
            1, 120, value=10, step=0.5, label="Seconds", info="Length of new music, or of what is added."
        )
        self.bars = gr.Slider(1, 16, value=4, step=1, label="Bars", info="Length of the loop.", visible=False)
        self.buttons = RunButtons.draw("Make music")
        self._draw_settings()

    def _draw_source(self) -> None:
        with gr.Group(visible=False) as self.source_group:
            self.source = Sound(
                sources=["upload", "microphone"],
                type="filepath",
                label="Recording",
                buttons=[],
                elem_id="music-source",
            )
            self.said = gr.Textbox(
                label="What it is",
                info="In the same words, if you know: what your description leaves open stays so. May be empty.",
                max_lines=2,
                elem_id="music-said",
            )
            with gr.Column(visible=False, elem_classes=["gm-region"]) as self.region_group:
                self.region = Region(self.server.settings.limits)
            with gr.Column(visible=False) as self.edit_group:
                self.strength = gr.Slider(
                    0, 1, value=0.9, step=0.05, label="Strength",
                    info="0 gives the recording back, 1 follows the text most; 0.75 to 1 are usual.",
                )  # fmt: skip
                self.method = gr.Radio(
                    choices=[("Regularised", "regularised"), ("Plain", "plain")],
                    value="regularised",
                    label="Inversion",
                    info="Regularised follows the text better; plain is faster and keeps more of the recording.",
                    elem_classes=["gm-compact"],
                )

    def _draw_settings(self) -> None:
        start = self._start()
        with gr.Accordion("Settings", open=False, elem_classes=["gm-flat"]):
            self.negative = gr.Textbox(
                label="Not like this", info="What the music should not be, in the same words.", max_lines=2
            )
            self.guidance = gr.Slider(
                0, 10, value=start.guidance, step=0.1, label="Guidance",
                info="How strongly the text is followed. 0 is off and twice as fast.",
            )  # fmt: skip
            self.steps = gr.Slider(
                4, 128, value=start.steps, step=2, label="Steps", info="Network calls: more is finer and slower."
            )
            self.takes = takes_choice()
            self.seed = SeedControl()
            self.model = model_choice(self.server.pool, SYSTEM)
            self.more = gr.State({})
            self.load_recipe = gr.UploadButton(
                "Load recipe", file_types=[".json"], file_count="single", type="filepath", size="sm"
            )

    def _start(self) -> MusicSettings:
        """What the controls start with; a damaged checkpoint must not keep the page from opening."""
        try:
            return model_settings(self.server.pool, None)
        except GenmmError as error:
            log.warning("the settings of the first music model cannot be read: %s", error)
            return MusicSettings()

    def _draw_result(self) -> None:
        self.progress = gr.HTML(idle_html("Music appears here.", wave=True))
        self.made = gr.State(None)
        with gr.Column(visible=False, elem_classes=["gm-result"]) as self.result:
            self.take = gr.Radio(
                choices=[("Take 1", 0)], value=0, show_label=False, container=False, elem_classes=["gm-takes"],
                elem_id="music-takes",
            )  # fmt: skip
            self.before = Sound(label="Before", interactive=False, buttons=[], visible=False, elem_id="music-before")
            self.player = Sound(label="Result", interactive=False, buttons=[], elem_id="music-result")
            with gr.Row(visible=False, elem_classes=["gm-actions", "gm-compare"]) as self.compare:
                self.hear_before = gr.Button("A: before", size="sm", min_width=110, elem_id="music-hear-before")
                self.hear_result = gr.Button("B: result", size="sm", min_width=110, elem_id="music-hear-result")
            with gr.Row(elem_classes=["gm-actions"]):
                self.wav_file = gr.DownloadButton("Download wav", size="sm", min_width=110)
                self.flac_file = gr.DownloadButton("Download flac", size="sm", min_width=110)
                self.recipe_file = gr.DownloadButton("Download recipe", size="sm", min_width=110)
                self.edit_this = gr.Button("Edit this", size="sm", min_width=110)
                self.keep_seed = gr.Button("Use this seed", size="sm", min_width=110)
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
            self.kind, self.text, self.negative, self.bpm, self.music_key, self.seconds, self.bars, self.source,
            self.said, self.strength, self.method, self.region.start_s, self.region.end_s, self.model, self.guidance,
            self.steps, self.takes, self.seed.box, self.more,
        ]  # fmt: skip

    @property
    def _shown_take(self) -> list[Any]:
        return [
            self.player, self.wav_file, self.flac_file, self.recipe_file, self.picture, self.picture_dark, self.facts,
        ]  # fmt: skip

    @property
    def _recipe_controls(self) -> list[Any]:
        return [
            self.kind, self.text, self.negative, self.bpm, self.music_key, self.seconds, self.bars, self.said,
            self.strength, self.method, self.model, self.guidance, self.steps, self.takes, self.seed.box, self.more,
        ]  # fmt: skip

    def _connect(self) -> None:
        shown = [self.result, self.take, self.before, self.compare, *self._shown_take, self.made, self.seed.last]
        self._connect_run([self.buttons.start.click, self.text.submit], self._inputs, shown)
        self._connect_cancel()
        self.take.input(self._show_take, [self.made, self.take], self._shown_take, **QUICK)
        for which, button in enumerate((self.hear_before, self.hear_result)):
            play = f"(before, result) => ({COMPARE})(before, result, {which})"
            button.click(None, [self.before, self.player], None, js=play, **SILENT)
        self.keep_seed.click(_seed_of, [self.made, self.take], self.seed.box, **SILENT)
        groups = [self.source_group, self.region_group, self.edit_group, self.seconds, self.bars, self.text]
        self.kind.change(fitting, self.kind, groups, **SILENT)
        told = [self.kind, self.text, self.bpm, self.music_key, self.model]
        gr.on([control.change for control in told], self._understood, told, self.line, **SILENT)
        self.region.connect(self.source)
        self.model.input(self._model_changed, self.model, [self.guidance, self.steps], **QUICK)
        self.edit_this.click(_as_source, [self.made, self.take], [self.kind, self.source, self.said], **SILENT)
        self.load_recipe.upload(self._load_upload, self.load_recipe, self._recipe_controls, **QUICK)

    def _form(self, values: Sequence[Any]) -> MusicForm:
        kind, text, negative, bpm, key, seconds, bars, source, said, strength, method, *rest = values
        start_s, end_s, model, guidance, steps, takes, seed, more = rest
        kind, takes = kind or "generate", int(takes or 1)
        text, *others = descriptions(kind, text or "")
        form = MusicForm(
            kind=kind,
            text=text,
            others=tuple(others),
            negative=negative or "",
            bpm=parse_tempo(bpm),
            key=key or "",
            seconds=float(seconds or 10),
            bars=int(bars or 4),
            source=source if kind in WITH_SOURCE else None,
            source_text=said or "",
            strength=float(strength),
            method=method or "regularised",
            region=(float(start_s or 0), float(end_s or 0)),
            model=model,
            guidance=guidance,
            steps=int(steps) if steps else None,
            takes=takes,
            seeds=parse_seeds(seed, takes),
            more=more or {},
        )
        check_form(form, self.server.settings.limits)
        return form

    def _work(self, form: MusicForm) -> Work:
        server = self.server
        return music_events(form, server.pool, server.storage.run_folder, server.settings.limits)

    def _cleared(self) -> dict[Any, Any]:
        return {self.result: gr.update(visible=False)}

    def _finished(self, made: Composed, elapsed_s: float, visit: Visit) -> dict[Any, Any]:
        choices = [(label, n) for n, label in enumerate(made.labels)]
        shape = ["gm-takes", "gm-list-of-takes"] if made.is_many_edits else ["gm-takes"]
        before = None if made.source is None else str(made.source)
        return {
            self.progress: note_html(summary(made, elapsed_s)),
            self.result: gr.update(visible=True),
            self.take: gr.update(choices=choices, value=0, visible=len(choices) > 1, elem_classes=shape),
            self.before: gr.update(value=before, visible=before is not None),
            self.compare: gr.update(visible=before is not None),
            **dict(zip(self._shown_take, self._show_take(made, 0), strict=True)),
            self.made: made,
            self.seed.last: tuple(dict.fromkeys(take.seed for take in made.takes)),
            self.page.history.visit: self.page.history.added(visit, entries(made)),
        }

    def _show_take(self, made: Composed | None, number: int) -> list[Any]:
        if made is None or not 0 <= int(number or 0) < len(made.takes):
            return [gr.skip()] * 7
        take = made.takes[int(number or 0)]
        if not take.path.is_file():
            raise gr.Error("This result is gone; results are kept for some hours only.", print_exception=False)
        files = (take.path, take.path, take.flac, take.recipe, take.picture, take.picture_dark)
        return [*(str(path) for path in files), facts_html(made, take)]

    def _model_changed(self, model: str | None) -> tuple[Any, ...]:
        with reported(self.key):
            start = model_settings(self.server.pool, model)
            return start.guidance, start.steps

    def _understood(self, kind: str, text: str, bpm: str, key: str, model: str | None) -> str:
        """The line under the text, while it is written; one for each description."""
        try:
            if not reads_captions(self.server.pool, model):
                return understood_html("this model reads free text, so every word counts")
            lines = [understood(one, parse_tempo(bpm), key or "") for one in descriptions(kind, text or "")]
            return understood_html(*([f"{n}: {line}" for n, line in enumerate(lines, 1)] if lines[1:] else lines))
        except GenmmError as error:
            return understood_html(str(error))

    # ------------------------------------------------------------ recipes and results of other tabs

    def _recipe_values(self, recipe: dict[str, Any]) -> list[Any]:
        return recipe_values(recipe, self.server.pool, self.server.settings.limits)

    def receivers(self) -> Sequence[Receiver]:
        """The settings of earlier music, and any sound as a recording to edit."""
        return (
            self._loads_settings("the description and all settings", self._recipe_controls),
            Receiver(
                "Edit as music",
                "Takes this sound as the recording to edit.",
                self.key,
                lambda entry: entry.media == "audio",
                [self.kind, self.source, self.said],
                lambda entry: ["edit", str(entry.path), caption_of(entry.recipe)],
            ),
        )


def _seed_of(made: Composed | None, number: int) -> str:
    return "" if made is None else str(made.takes[int(number or 0)].seed)


def _as_source(made: Composed | None, number: int) -> tuple[Any, Any, Any]:
    """The shown take as the recording to edit, with what it is."""
    if made is None:
        return gr.skip(), gr.skip(), gr.skip()
    take = made.takes[int(number or 0)]
    return "edit", str(take.path), caption_of(take.recipe)
