"""The Image tab: draw pictures from words, change pictures by their tokens, see where a picture spends them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np

from app.web import image_api
from app.web.controls import (
    RunButtons,
    SeedControl,
    idle_html,
    model_choice,
    note_html,
    parse_seeds,
)
from app.web.history import Entry, Visit
from app.web.image_work import (
    MOST,
    NEEDS_SECOND,
    OPERATIONS,
    SYSTEM,
    Drawn,
    ImageForm,
    check_form,
    image_events,
    model_facts,
)
from app.web.messages import escape, reported
from app.web.tab import QUICK, SILENT, Page, Receiver
from app.web.work_tab import Work, WorkTab
from genmm.core.errors import GenmmError, UsageError
from genmm.core.wording import counted
from genmm.media.image import read_image
from genmm.samplers.fixed_sum import ENGINES
from genmm.systems.tokenset.request import PictureSettings

__all__ = ["ImageTab"]

log = logging.getLogger(__name__)

EXAMPLES = ("red heart", "smiling face", "green apple", "rocket")
FREE = "any"
"""What a label list says when nothing is asked for."""
MOST_LABELS = 3


class ImageTab(WorkTab):
    """Pictures with TokenSet."""

    key = "image"
    title = "Image"
    system = SYSTEM

    def build(self, page: Page) -> None:
        """Draw both columns and connect them; add the endpoints for programs."""
        super().build(page)
        image_api.add(self.server)

    # ------------------------------------------------------------ drawing

    def _facts(self, model: str | None) -> tuple[dict[str, tuple[str, ...]], PictureSettings, tuple[int, ...]]:
        try:
            return model_facts(self.server.pool, model)
        except GenmmError as error:  # a damaged checkpoint must not keep the page from opening
            log.warning("the settings of an image model cannot be read: %s", error)
            return {}, PictureSettings(), ()

    def _draw_form(self) -> None:
        labels, start, sizes = self._facts(None)
        self.text = gr.Textbox(
            label="Words",
            info="What to draw, in a few words. Left empty: anything. Shift+Enter starts.",
            placeholder="red heart",
            lines=1,
            max_lines=4,
            max_length=self.server.settings.limits.text_chars,
            elem_id="image-text",
        )
        with gr.Row(elem_classes=["gm-examples"]):
            for example in EXAMPLES:
                chip = gr.Button(example, size="sm", min_width=60, elem_classes=["gm-example"])
                chip.click(None, None, self.text, js=f"() => {json.dumps(example)}", **SILENT)
        with gr.Row():
            self.labels = [
                gr.Dropdown(**given, interactive=True, filterable=True, min_width=140) for given in _label_boxes(labels)
            ]
        self.count = gr.Slider(
            1, MOST, 4, step=1, label="Pictures",
            info="Made in one go, each with its own seed. On the way to a second picture: how many steps.",
        )  # fmt: skip
        self.buttons = RunButtons.draw("Draw")
        with gr.Accordion("Change a picture", open=False, elem_classes=["gm-flat"]) as self.changing:
            self._draw_editing(sizes)
        with gr.Accordion("Settings", open=False, elem_classes=["gm-flat"]):
            self.steps = gr.Slider(
                1, 100, start.steps, step=1, label="Steps", info="More steps take longer and are a little better."
            )
            self.guidance = gr.Textbox(
                str(start.guidance),
                label="Guidance",
                info="How closely words and labels are kept to; 1 is off. 4_50_55 changes it over time.",
                max_length=40,
            )
            self.temperature = gr.Slider(
                0, 2, start.temperature, step=0.05, label="Temperature", info="Variety: lower is safer, 0 has none."
            )
            self.engine = gr.Radio(
                list(ENGINES), value=start.engine, label="Sampler",
                info="exact draws from the model itself, repair is faster, official is the published one.",
            )  # fmt: skip
            self.seed = SeedControl()
            self.model = model_choice(self.server.pool, SYSTEM)
            self.load_recipe = gr.UploadButton(
                "Load recipe", file_types=[".json"], file_count="single", type="filepath", size="sm"
            )

    def _draw_editing(self, sizes: Sequence[int]) -> None:
        self.operation = gr.Dropdown(
            [(name, key) for key, name in OPERATIONS.items()], value="redraw", label="What to do",
            info="Tokens outside a marked part are kept exactly; their pixels nearly.", filterable=False,
        )  # fmt: skip
        self.canvas = gr.ImageEditor(
            label="Picture; mark a part with the brush",
            type="numpy",
            image_mode="RGBA",
            sources=["upload", "clipboard"],
            brush=gr.Brush(default_size=24, colors=["#e64646"], color_mode="fixed"),
            layers=False,
            height=380,
            elem_id="image-canvas",
        )
        self.free = gr.Textbox(
            label="Tokens to redraw",
            info="Codes with commas between, as the table of a token map lists them. Empty: those of the marked part.",
            placeholder="17, 203",
            max_length=1000,
            elem_id="image-free",
        )
        self.second = gr.Image(label="Second picture", type="filepath", sources=["upload"], height=160, visible=False)
        self.strength = gr.Slider(
            0.05, 1, 1, step=0.05, label="Strength", info="1 draws anew, less stays nearer to the old picture."
        )
        self.tokens = gr.Dropdown(
            [str(size) for size in sizes], value=str(sizes[0]) if sizes else None, label="Tokens",
            info="Size of the set: fewer tokens keep less of the picture.", filterable=False, visible=False,
        )  # fmt: skip
        self.apply = gr.Button("Apply", variant="primary", elem_id="image-apply")

    def _draw_result(self) -> None:
        self.progress = gr.HTML(idle_html("Pictures appear here."))
        self.drawn = gr.State(None)
        self.chosen = gr.State(0)
        with gr.Column(visible=False, elem_classes=["gm-result"]) as self.result:
            self.gallery = gr.Gallery(
                label="Pictures", show_label=False, columns=4, height="auto", object_fit="contain", interactive=False,
                allow_preview=False, buttons=[], elem_id="image-gallery", elem_classes=["gm-pictures"],
            )  # fmt: skip
            with gr.Row(elem_classes=["gm-actions"]):
                self.picture_file = gr.DownloadButton("Download picture", size="sm", min_width=130)
                self.recipe_file = gr.DownloadButton("Download recipe", size="sm", min_width=130)
                self.keep_seed = gr.Button("Use this seed", size="sm", min_width=130)
                self.to_canvas = gr.Button("Change this one", size="sm", min_width=130)
            self.heat = gr.Image(label="Where the tokens act", interactive=False, visible=False, type="filepath")
            self.facts = gr.HTML()

    # ------------------------------------------------------------ events

    @property
    def _wish(self) -> list[Any]:
        return [
            self.text, self.count, self.steps, self.guidance, self.temperature, self.engine, self.seed.box, self.model,
            *self.labels,
        ]  # fmt: skip

    @property
    def _edit(self) -> list[Any]:
        return [self.operation, self.canvas, self.second, self.strength, self.tokens, self.free]

    @property
    def _shown(self) -> list[Any]:
        return [self.picture_file, self.recipe_file, self.facts]

    def _connect(self) -> None:
        shown = [self.result, self.gallery, self.heat, self.drawn, self.chosen, self.seed.last, *self._shown]
        self._connect_run([self.buttons.start.click, self.text.submit], self._wish, shown)
        self._connect_run([self.apply.click], [*self._wish, *self._edit], shown, self._change_form)
        self.operation.change(
            needed_controls, self.operation, [self.free, self.second, self.strength, self.tokens], **SILENT
        )
        self._connect_cancel()
        self.gallery.select(self._choose, self.drawn, [self.chosen, *self._shown], **QUICK)
        self.keep_seed.click(self._keep_seed, [self.drawn, self.chosen], self.seed.box, **SILENT)
        self.to_canvas.click(self._onto_canvas, [self.drawn, self.chosen], [self.canvas, self.changing], **QUICK)
        self.model.input(
            self._model_changed, self.model,
            [*self.labels, self.steps, self.guidance, self.temperature, self.engine, self.tokens], **QUICK,
        )  # fmt: skip
        self.load_recipe.upload(self._load_upload, self.load_recipe, self._settings, **QUICK)

    def _form(self, values: Sequence[Any]) -> ImageForm:
        return self._wished(values, {})

    def _wished(self, values: Sequence[Any], more: Mapping[str, Any]) -> ImageForm:
        text, count, steps, guidance, temperature, engine, seed, model, *labels = values
        count = int(count or 1)
        fields = list(self._facts(model)[0])[:MOST_LABELS]
        given = {name: value for name, value in zip(fields, labels, strict=False) if value and value != FREE}
        settings = {"steps": int(steps), "guidance": guidance or 1.0, "temperature": temperature, "engine": engine}
        form = ImageForm(
            text=text or "", labels=given, model=model, count=count, seeds=parse_seeds(seed, count), settings=settings,
            **more,
        )  # fmt: skip
        check_form(form, self.server.settings.limits)
        return form

    def _change_form(self, values: Sequence[Any]) -> ImageForm:
        operation, canvas, second, strength, tokens, free = values[-6:]
        picture, region = read_canvas(canvas)
        more = {
            "operation": operation, "picture": picture, "region": region, "strength": strength,
            "second": read_image(second, limits=self.server.settings.limits) if second else None,
            "tokens": int(tokens) if tokens else None, "free": parse_codes(free),
        }  # fmt: skip
        return self._wished(values[:-6], more)

    def _work(self, form: ImageForm) -> Work:
        return image_events(form, self.server.pool, self.server.storage.run_folder)

    def _finished(self, drawn: Drawn, elapsed_s: float, visit: Visit) -> dict[Any, Any]:
        pictures = [(str(take.path), f"seed {take.seed}") for take in drawn.takes]
        return {
            self.progress: note_html(f"{counted(len(drawn.takes), 'picture')} in {drawn.seconds:.1f} s."),
            self.result: gr.update(visible=True),
            self.gallery: gr.update(value=pictures, selected_index=0),
            self.heat: gr.update(value=str(drawn.heat) if drawn.heat else None, visible=drawn.heat is not None),
            self.drawn: drawn,
            self.chosen: 0,
            self.seed.last: tuple(take.seed for take in drawn.takes),
            **dict(zip(self._shown, self._show(drawn, 0), strict=True)),
            self.page.history.visit: self.page.history.added(visit, _entries(drawn)),
        }

    def _show(self, drawn: Drawn, number: int) -> list[Any]:
        take = drawn.takes[number]
        if not take.path.is_file():
            raise gr.Error("This result is gone; results are kept for some hours only.", print_exception=False)
        return [str(take.path), str(take.recipe), facts_html(drawn, number)]

    def _choose(self, drawn: Drawn | None, picked: gr.SelectData) -> list[Any]:
        number = picked.index if isinstance(picked.index, int) else 0
        if drawn is None or not 0 <= number < len(drawn.takes):
            return [gr.skip()] * (1 + len(self._shown))
        return [number, *self._show(drawn, number)]

    def _keep_seed(self, drawn: Drawn | None, number: int) -> str:
        return "" if drawn is None else str(drawn.takes[int(number or 0)].seed)

    def _onto_canvas(self, drawn: Drawn | None, number: int) -> Any:
        if drawn is None:
            return [gr.skip()] * 2
        with reported(self.key):
            return [enlarged(read_image(drawn.takes[int(number or 0)].path)), gr.update(open=True)]

    def _model_changed(self, model: str | None) -> list[Any]:
        with reported(self.key):
            labels, start, sizes = model_facts(self.server.pool, model)
            tokens = gr.update(choices=[str(size) for size in sizes], value=str(sizes[0]) if sizes else None)
            boxes = [gr.update(**given) for given in _label_boxes(labels)]
            return [*boxes, start.steps, str(start.guidance), start.temperature, start.engine, tokens]

    # ------------------------------------------------------------ recipes and results of other tabs

    @property
    def _settings(self) -> list[Any]:
        return self._wish

    def _recipe_values(self, recipe: dict[str, Any]) -> list[Any]:
        """Values of the controls. Raises: UsageError for settings out of range."""
        settings, names = recipe["settings"], self.server.pool.choices(SYSTEM)
        model = recipe["model"].get("name") if recipe["model"].get("name") in names else None
        labels, start, _ = model_facts(self.server.pool, model)
        known = {name: settings[name] for name in vars(start) if name in settings}
        chosen, given = start.changed(known), settings.get("labels") or {}
        lost = lost_settings(chosen, start)
        if lost:
            gr.Warning(
                f"The page has no control for {lost}, which this recipe sets. Make it again with: genmm draw --recipe"
            )
        boxes = [given.get(name, FREE) if given.get(name, FREE) in (FREE, *values) else FREE
                 for name, values in list(labels.items())[:MOST_LABELS]]  # fmt: skip
        boxes += [FREE] * (MOST_LABELS - len(boxes))
        count = min(MOST, max(1, len(recipe["seeds"])))
        seeds = ", ".join(str(seed) for seed in recipe["seeds"][:count])
        text = str(settings.get("text") or "")[: self.server.settings.limits.text_chars]
        model_value = model if model else gr.skip()
        return [
            text, count, chosen.steps, str(chosen.guidance), chosen.temperature, chosen.engine, seeds, model_value,
            *boxes,
        ]  # fmt: skip

    def receivers(self) -> Sequence[Receiver]:
        """The settings of an earlier picture, and any picture onto the canvas."""
        return (
            self._loads_settings("the words and all settings", self._settings),
            Receiver(
                "Change this picture",
                "Puts the picture onto the canvas of the Image tab.",
                self.key,
                lambda entry: entry.media == "image",
                [self.canvas, self.changing],
                lambda entry: [enlarged(read_image(entry.path)), gr.update(open=True)],
            ),
        )


def _label_boxes(labels: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Arguments of the label lists: as many as a model has, up to three, the rest hidden."""
    boxes = [
        {
            "label": name.capitalize(), "choices": [FREE, *values], "value": FREE, "visible": True,
            "info": f"Which {name} the picture shall have; any leaves it open.",
        }
        for name, values in list(labels.items())[:MOST_LABELS]
    ]  # fmt: skip
    hidden = {"label": "Label", "choices": [FREE], "value": FREE, "visible": False}
    return [*boxes, *[hidden] * (MOST_LABELS - len(boxes))]


def lost_settings(chosen: PictureSettings, start: PictureSettings) -> str:
    """Settings of a recipe that differ from the model's own and that no control shows, as a list in words."""
    shown = ("steps", "guidance", "temperature", "engine")
    pairs = ((name, value) for name, value in vars(chosen).items() if name not in shown)
    return ", ".join(f"{name} {value}" for name, value in pairs if value != getattr(start, name))


def needed_controls(operation: str) -> list[Any]:
    """Which of the controls for tokens, second picture, strength and set size an operation reads; others are hidden."""
    needs = operation == "redraw", operation in NEEDS_SECOND, operation in ("redraw", "vary"), operation == "fewer"
    return [gr.update(visible=need) for need in needs]


def parse_codes(text: str | None) -> tuple[int, ...]:
    """Codes from "17, 203". Raises: UsageError for what is no whole number."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    wrong = [part for part in parts if not part.isdecimal()]
    if wrong:
        raise UsageError(f"tokens to redraw are whole numbers with commas between, got {wrong[0][:40]!r}")
    return tuple(dict.fromkeys(int(part) for part in parts))


def read_canvas(value: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Picture [H, W, 3] uint8 on white and marked part [H, W] bool of a canvas; None where there is nothing.

    Raises: UsageError for a canvas without pixels.
    """
    if not isinstance(value, Mapping) or value.get("background") is None:
        return None, None
    ground = np.asarray(value["background"])
    if ground.ndim != 3 or 0 in ground.shape:
        raise UsageError("the canvas holds no picture; upload one")
    picture = _on_white(ground)
    region = np.zeros(picture.shape[:2], dtype=bool)
    for layer in value.get("layers") or []:
        layer = np.asarray(layer)
        if layer.ndim == 3 and layer.shape[2] == 4 and layer.shape[:2] == region.shape:
            region |= layer[..., 3] > 0
    return picture, region


def _on_white(ground: np.ndarray) -> np.ndarray:
    if ground.shape[2] == 3:
        return ground.astype(np.uint8)
    share = ground[..., 3:].astype(np.float32) / 255.0
    return np.rint(ground[..., :3] * share + 255.0 * (1.0 - share)).astype(np.uint8)


def enlarged(picture: np.ndarray) -> np.ndarray:
    """A small picture several times larger, so that a brush can meet its parts."""
    factor = max(1, 384 // max(picture.shape[:2]))
    return picture.repeat(factor, 0).repeat(factor, 1)


def facts_html(drawn: Drawn, number: int) -> str:
    """What there is to say about a picture, and, after an edit, which codes act in the marked part."""
    take = drawn.takes[number]
    lines = [f"{drawn.title}; seed {take.seed}; {counted(take.tokens, 'token')}; model {drawn.model}", *drawn.notes]
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    if not drawn.table:
        return f'<div class="gm-facts">{text}</div>'
    rows = "".join(f"<tr><td>{c}</td><td>{n}</td><td>{share:.0%}</td></tr>" for c, n, share in drawn.table[:24])
    head = "<tr><th>Code</th><th>Times</th><th>Share in the marked part</th></tr>"
    return f'<div class="gm-facts">{text}<table class="gm-table">{head}{rows}</table></div>'


def _entries(drawn: Drawn) -> list[Entry]:
    return [
        Entry(
            task="image", media="image", title=drawn.title, path=take.path, recipe=take.recipe,
            thumbnail=take.thumbnail, facts=f"{counted(take.tokens, 'token')}, seed {take.seed}, {drawn.model}",
        )
        for take in drawn.takes
    ]  # fmt: skip
