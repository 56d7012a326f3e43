"""Pictures for programs: /draw, /edit_image and /tokenize_image, with inputs and outputs of their own.

The page itself uses other events; these stay the same when the page changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np

from app.web.controls import parse_seeds
from app.web.image_work import SYSTEM, Drawn, ImageForm, check_form, image_events
from app.web.messages import reported
from app.web.runs import stream_events
from app.web.tab import DEVICE, Server
from genmm.core.errors import Cancelled, UsageError
from genmm.core.events import Finished
from genmm.core.files import read_json
from genmm.media.image import read_image

__all__ = ["add"]


def add(server: Server) -> None:
    """Add the endpoints; call it inside a gr.Blocks. Nothing of it can be seen on the page."""
    with gr.Row(visible=False):
        wish = [
            gr.Textbox("", label="text (empty: anything)"),
            gr.JSON(label="labels (such as {style: noto})"),
            gr.Number(1, precision=0, label="count (1 to 8)"),
            gr.Textbox("", label="seed (empty: a new one; or one per picture, with commas)"),
            gr.Textbox("", label="model (a name from /status; empty: the default)"),
            gr.JSON(label="settings (fields of PictureSettings, as an object)"),
        ]
        edit = [
            gr.File(label="picture", type="filepath"),
            gr.Textbox("vary", label="operation (redraw, vary, clean, fewer, mix, swap, map)"),
            gr.JSON(label="region ([left, top, right, bottom] in pixels of the picture)"),
            gr.File(label="second picture", type="filepath"),
            gr.Number(1.0, label="strength (above 0 to 1)"),
            gr.Number(None, precision=0, label="tokens (set size for fewer)"),
        ]
        free = gr.JSON(label="free (codes to redraw, such as [17, 203], instead of a region)")
        single = [gr.File(label="picture", type="filepath"), gr.Number(None, precision=0, label="tokens"), wish[4]]
        files, recipe = gr.File(file_count="multiple", label="files"), gr.JSON(label="recipe")
        found = gr.JSON(label="found")
        draw, change, look = gr.Button("draw"), gr.Button("edit_image"), gr.Button("tokenize_image")
    draw.click(_draw(server), wish, [files, recipe], api_name="draw", **DEVICE)
    change.click(_edit(server), [*edit, *wish, free], [files, recipe], api_name="edit_image", **DEVICE)
    look.click(_tokenize(server), single, found, api_name="tokenize_image", **DEVICE)


def _draw(server: Server) -> Callable[..., Any]:
    async def draw(
        request: gr.Request, text: str = "", labels: Any = None, count: int = 1, seed: str = "", model: str = "",
        settings: Any = None,
    ) -> Any:  # fmt: skip
        """Draw pictures; gives back one png file each, and the recipe."""
        with reported("draw"):
            return await _made(server, request, _form(server, text, labels, count, seed, model, settings, {}))

    return draw


def _edit(server: Server) -> Callable[..., Any]:
    async def edit_image(
        request: gr.Request, picture: str, operation: str, region: Any = None, second: str | None = None,
        strength: float = 1.0, tokens: int | None = None, text: str = "", labels: Any = None, count: int = 1,
        seed: str = "", model: str = "", settings: Any = None, free: Any = None,
    ) -> Any:  # fmt: skip
        """Change a picture by its tokens; gives back png files, and the recipe."""
        with reported("edit_image"):
            limits = server.settings.limits
            if not picture:
                raise UsageError("give a picture")
            own = read_image(picture, limits=limits)
            more = {
                "operation": operation, "picture": own, "region": _marked(region, own),
                "second": read_image(second, limits=limits) if second else None,
                "strength": 1.0 if strength is None else float(strength), "tokens": int(tokens) if tokens else None,
                "free": _codes(free),
            }  # fmt: skip
            return await _made(server, request, _form(server, text, labels, count, seed, model, settings, more))

    return edit_image


def _tokenize(server: Server) -> Callable[..., Any]:
    def tokenize_image(picture: str, tokens: int | None = None, model: str = "") -> Any:
        """The token set of a picture: tokens in ascending order, and counts by code."""
        with reported("tokenize_image"):
            if not picture:
                raise UsageError("give a picture")
            one = read_image(picture, limits=server.settings.limits)
            found = server.pool.get(model or None, SYSTEM).tokenize([one], int(tokens) if tokens else None)[0]
            return {"tokens": list(found), "counts": {str(code): times for code, times in found.pairs}}

    return tokenize_image


def _form(
    server: Server, text: str, labels: Any, count: Any, seed: str, model: str, settings: Any, more: dict[str, Any]
) -> ImageForm:
    for name, value in (("labels", labels), ("settings", settings)):
        if value is not None and not isinstance(value, dict):
            raise UsageError(f"{name} must be an object, got {type(value).__name__}")
    many = int(count or 1)
    form = ImageForm(
        text=text or "",
        labels=labels or {},
        model=model or None,
        count=many,
        seeds=parse_seeds(seed, many),
        settings=settings or {},
        **more,
    )
    check_form(form, server.settings.limits)
    return form


def _codes(free: Any) -> tuple[int, ...]:
    if free in (None, [], {}):
        return ()
    if not isinstance(free, list) or not all(type(code) is int for code in free):
        raise UsageError(f"free must be a list of codes such as [17, 203], got {free!r}")
    return tuple(dict.fromkeys(free))


def _marked(region: Any, picture: np.ndarray) -> np.ndarray | None:
    if region in (None, [], {}):
        return None
    height, width = picture.shape[:2]
    good = isinstance(region, list) and len(region) == 4 and all(type(edge) is int for edge in region)
    if not good or not (0 <= region[0] < region[2] <= width and 0 <= region[1] < region[3] <= height):
        raise UsageError(f"region must be [left, top, right, bottom] within {width}x{height} pixels, got {region!r}")
    marked = np.zeros((height, width), dtype=bool)
    marked[region[1] : region[3], region[0] : region[2]] = True
    return marked


async def _made(server: Server, request: gr.Request, form: ImageForm) -> Any:
    work = image_events(form, server.pool, server.storage.run_folder)
    with server.runs.open(str(request.session_hash), "image") as run, contextlib.suppress(Cancelled):
        async with contextlib.aclosing(stream_events(work, run.token)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return _files(event.result), _recipe(event.result)
    raise gr.Error("The run was cancelled.", title="Cancelled", print_exception=False)


def _files(drawn: Drawn) -> list[str]:
    more = [str(drawn.heat)] if drawn.heat else []
    return [*(str(take.path) for take in drawn.takes), *more]


def _recipe(drawn: Drawn) -> dict[str, Any]:
    pictures = [{"seed": take.seed, "tokens": read_json(take.recipe)["tokens"][0]} for take in drawn.takes]
    codes = [{"code": code, "times": times, "share": share} for code, times, share in drawn.table]
    return {**read_json(drawn.takes[0].recipe), "pictures": pictures, **({"codes": codes} if codes else {})}
