"""Music for programs: /compose and /edit_music, with inputs and outputs of their own.

The page itself uses other events; these stay the same when the page changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import gradio as gr

from app.web.controls import parse_seeds
from app.web.messages import reported
from app.web.music_work import Composed, MusicForm, check_form, music_events
from app.web.runs import stream_events
from app.web.tab import DEVICE, Server
from genmm.core.errors import Cancelled, UsageError
from genmm.core.events import Finished

__all__ = ["add"]


def add(server: Server) -> None:
    """Add the endpoints; call it inside a gr.Blocks. Nothing of it can be seen on the page."""
    with gr.Row(visible=False):
        text = gr.Textbox(label="text (empty: the model chooses)")
        wish = [
            gr.Number(label="bpm (empty: as the text says)"),
            gr.Textbox("", label="key (such as A minor; empty: as the text says)"),
            gr.Textbox("", label="negative (what it should not be)"),
            gr.Number(1, precision=0, label="takes (1 to 4)"),
            gr.Textbox("", label="seed (empty: a new one; or one per take, with commas)"),
            gr.Textbox("", label="model (a name from /status; empty: the default)"),
            gr.JSON(label="settings (fields of MusicSettings, as an object)"),
        ]
        new = [gr.Number(10, label="seconds"), gr.Number(0, precision=0, label="bars (above 0: a loop of so many)")]
        edit = [
            gr.File(label="source", type="filepath"),
            gr.Textbox("", label="text (empty: the model chooses, or texts)"),
            gr.Textbox("edit", label="kind (edit, inpaint or extend)"),
            gr.Number(0.9, label="strength (0 to 1)"),
            gr.Textbox("regularised", label="method (regularised or plain)"),
            gr.JSON(label="region ([start, end] in seconds, for inpaint)"),
            gr.Number(5, label="seconds (to add, for extend)"),
            gr.Textbox("", label="source_text (what the recording is; what the text leaves open stays so)"),
        ]
        texts = gr.JSON(label="texts (in place of text: several descriptions of edits, as a list)")
        files, recipe = gr.File(file_count="multiple", label="files"), gr.JSON(label="recipe")
        compose, change = gr.Button("compose"), gr.Button("edit_music")
    compose.click(_compose(server), [text, *new, *wish], [files, recipe], api_name="compose", **DEVICE)
    change.click(_edit(server), [*edit, *wish, texts], [files, recipe], api_name="edit_music", **DEVICE)


def _compose(server: Server) -> Callable[..., Any]:
    async def compose(
        request: gr.Request, text: str, seconds: float = 10, bars: int = 0, bpm: float | None = None, key: str = "",
        negative: str = "", takes: int = 1, seed: str = "", model: str = "", settings: Any = None,
    ) -> Any:  # fmt: skip
        """Make music, or with bars a loop; gives back one flac file per take, and the recipe."""
        with reported("music"):
            own = {"kind": "loop", "bars": int(bars)} if bars else {"seconds": float(seconds or 10)}
            form = _form(text, bpm, key, negative, takes, seed, model, settings, **own)
            return await _made(server, form, request)

    return compose


def _edit(server: Server) -> Callable[..., Any]:
    async def edit_music(
        request: gr.Request, source: str, text: str = "", kind: str = "edit", strength: float = 0.9,
        method: str = "regularised", region: Any = None, seconds: float = 5, source_text: str = "",
        bpm: float | None = None, key: str = "", negative: str = "", takes: int = 1, seed: str = "", model: str = "",
        settings: Any = None, texts: Any = None,
    ) -> Any:  # fmt: skip
        """Edit a recording, make a region of it anew, or go on behind it; gives back one flac file per take.

        Several `texts` make one edit each from a single inversion, in their order.
        """
        with reported("music"):
            if kind not in ("edit", "inpaint", "extend"):
                raise UsageError(f"kind must be edit, inpaint or extend, got {str(kind)[:40]!r}")
            own = {"kind": kind, "source": source, "strength": float(strength), "method": method or "regularised",
                   "region": _region(region), "seconds": float(seconds or 5),
                   "source_text": source_text or ""}  # fmt: skip
            first, *others = _descriptions(text or "", texts)
            own["others"] = tuple(others)
            form = _form(first, bpm, key, negative, takes, seed, model, settings, **own)
            return await _made(server, form, request)

    return edit_music


def _form(
    text: str,
    bpm: float | None,
    key: str,
    negative: str,
    takes: float,
    seed: str,
    model: str,
    settings: Any,
    **own: Any,
) -> MusicForm:
    if settings is not None and not isinstance(settings, dict):
        raise UsageError(f"settings must be an object, got {type(settings).__name__}")
    count = int(takes or 1)
    form = MusicForm(
        text=text or "",
        bpm=bpm or None,
        key=key or "",
        negative=negative or "",
        takes=count,
        seeds=parse_seeds(seed, count),
        model=model or None,
        more=settings or {},
        **own,
    )
    check_form(form)
    return form


def _descriptions(text: str, texts: Any) -> list[str]:
    """What to edit towards. Raises: UsageError when both are given, or `texts` is no list of descriptions."""
    if texts is None:
        return [text]
    if text:
        raise UsageError("give text or texts, not both")
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
        raise UsageError(f'texts must be a list of descriptions, such as ["organ", "choir"], got {str(texts)[:60]}')
    return texts


def _region(region: Any) -> tuple[float, float]:
    if region is None:
        return 0.0, 0.0
    if not isinstance(region, list) or len(region) != 2 or not all(isinstance(x, int | float) for x in region):
        raise UsageError(f"region must be [start, end] in seconds, got {str(region)[:60]}")
    return float(region[0]), float(region[1])


async def _made(server: Server, form: MusicForm, request: gr.Request) -> tuple[list[str], dict[str, Any]]:
    work = music_events(form, server.pool, server.storage.run_folder, server.settings.limits, pictures=False)
    with server.runs.open(str(request.session_hash), "music") as run, contextlib.suppress(Cancelled):
        async with contextlib.aclosing(stream_events(work, run.token)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return [str(take.flac) for take in event.result.takes], _recipe(event.result)
    raise gr.Error("The run was cancelled.", title="Cancelled", print_exception=False)


def _recipe(made: Composed) -> dict[str, Any]:
    """The recipe of all takes together, with what each came to; the files hold recipes of their own."""
    takes = [
        {"text": take.text, "seed": take.seed, "seconds": round(take.seconds, 3), "understood": take.sentence}
        for take in made.takes
    ]
    return {**made.recipe, "takes": takes}
