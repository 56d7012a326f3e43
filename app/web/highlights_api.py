"""Highlights for programs: /highlights, with inputs and outputs of its own; it stays the same when the page changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import gradio as gr

from app.web.highlights_work import Found, HighlightForm, check_form, find_events, model_names
from app.web.messages import reported
from app.web.runs import stream_events
from app.web.tab import DEVICE, Server
from genmm.core.errors import Cancelled, UsageError
from genmm.core.events import Finished
from genmm.core.files import read_json

__all__ = ["add"]


def add(server: Server) -> None:
    """Add the endpoint; call it inside a gr.Blocks. Nothing of it can be seen on the page."""
    with gr.Row(visible=False):
        inputs = [
            gr.File(label="video", type="filepath"),
            gr.Number(label="seconds (empty: 30, unless share or count is given)"),
            gr.Number(label="share (of the video, above 0, at most 1)"),
            gr.Number(label="count (of segments)"),
            gr.Textbox("auto", label="modality (auto, av, v or a)"),
            gr.Textbox("", label="model (a name from /status, or heuristic; empty: the default)"),
            gr.JSON(label="settings (further fields of HighlightSettings, as an object)"),
        ]
        files = gr.File(file_count="multiple", label="files")
        document = gr.JSON(label="document")
        start = gr.Button("highlights")
    start.click(_highlights(server), inputs, [files, document], api_name="highlights", **DEVICE)


def _highlights(server: Server) -> Callable[..., Any]:
    async def highlights(
        request: gr.Request,
        video: str,
        seconds: float | None = None,
        share: float | None = None,
        count: float | None = None,
        modality: str = "auto",
        model: str = "",
        settings: dict[str, Any] | None = None,
    ) -> Any:
        """Find the best moments; gives back the reel (where there are pictures), JSON, CSV, EDL and chapters."""
        with reported("highlights"):
            if settings is not None and not isinstance(settings, dict):
                raise UsageError("settings must be an object")
            amounts = {"seconds": seconds, "share": share, "count": count}
            given = {name: value for name, value in amounts.items() if value is not None}
            chosen = {**(settings or {}), **given, "modality": modality or "auto"}
            form = HighlightForm(video=video or "", model=model or model_names(server.pool)[0], settings=chosen)
            check_form(form, server.pool)
            work = find_events(form, server.pool, server.storage.run_folder, server.settings.limits)
            with contextlib.suppress(Cancelled), server.runs.open(str(request.session_hash), "highlights") as run:
                async with contextlib.aclosing(stream_events(work, run.token)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            found: Found = event.result
                            reel = [str(found.reel)] if found.reel else []
                            files = [*reel, *(str(path) for path in found.documents.values())]
                            return files, read_json(found.documents["json"])
        raise gr.Error("The run was cancelled.", title="Cancelled", print_exception=False)

    return highlights
