"""Videos for programs: /tokenize and /ask_video, with inputs and outputs of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import gradio as gr

from app.web.messages import reported
from app.web.runs import stream_events
from app.web.tab import DEVICE, Server
from app.web.video_work import Seen, VideoForm, check_form, question_events, tokenize_events
from genmm.core.errors import Cancelled, UsageError
from genmm.core.events import Finished
from genmm.core.limits import clean_text

__all__ = ["add"]


def add(server: Server) -> None:
    """Add the endpoints; call it inside a gr.Blocks. Nothing of it can be seen on the page."""
    with gr.Row(visible=False):
        inputs = [
            gr.File(type="filepath", label="video"),
            gr.Textbox("32", label="tokens (1 to 64, or adaptive)"),
            gr.Textbox("vqtoken", label="method (reducer)"),
            gr.Textbox("", label="model (a name from /status; empty: the default)"),
        ]
        files = gr.File(file_count="multiple", label="files (tokens, code, overlay, recipe)")
        facts = gr.JSON(label="facts")
        question = gr.Textbox(label="question")
        answer = gr.JSON(label="answer")
        tokenize, ask = gr.Button("tokenize"), gr.Button("ask_video")
    tokenize.click(_tokenize(server), inputs, [files, facts], api_name="tokenize", **DEVICE)
    ask.click(_ask(server), [inputs[0], question, inputs[3]], answer, api_name="ask_video", **DEVICE)


def _tokenize(server: Server) -> Callable[..., Any]:
    async def tokenize(
        request: gr.Request, video: str | None, tokens: str = "32", method: str = "vqtoken", model: str = ""
    ) -> Any:
        """Tokenize a video; gives back the files, and figures about them."""
        with reported("tokenize"):
            form = _form(server, video, tokens, method, model)
            work = tokenize_events(form, server.pool, server.storage.run_folder, server.settings.limits)
            with server.runs.open(str(request.session_hash), "video") as run, contextlib.suppress(Cancelled):
                async with contextlib.aclosing(stream_events(work, run.token)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            seen: Seen = event.result
                            paths = (seen.file, seen.code, seen.film, seen.recipe)
                            facts = {**seen.made.facts(), "code_bytes": seen.code_bytes}
                            return [str(path) for path in paths], facts
        raise gr.Error("The run was cancelled.", title="Cancelled", print_exception=False)

    return tokenize


def _form(server: Server, video: str | None, tokens: str, method: str, model: str) -> VideoForm:
    text = str(tokens).strip() or "32"
    if text != "adaptive" and not (text.isascii() and text.isdigit() and len(text) < 6):
        raise UsageError(f"tokens is a number from 1 to 64 or adaptive, got {text[:40]!r}")
    adaptive = text == "adaptive"
    form = VideoForm(
        video=video or "",
        tokens=64 if adaptive else int(text),
        adaptive=adaptive,
        method=method or "vqtoken",
        model=model or None,
    )
    check_form(form, server.pool)
    return form


def _ask(server: Server) -> Callable[..., Any]:
    async def ask_video(request: gr.Request, video: str | None, question: str, model: str = "") -> dict[str, Any]:
        """Answer a question about a video with the embedded answerer."""
        with reported("ask"):
            form, limits = _form(server, video, "32", "vqtoken", model), server.settings.limits
            work = question_events(form, clean_text(question or "", limits), server.pool, limits)
            with server.runs.open(str(request.session_hash), "video") as run, contextlib.suppress(Cancelled):
                async with contextlib.aclosing(stream_events(work, run.token)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            answer = event.result
                            others = [{"answer": name, "probability": round(p, 4)} for name, p in answer.others]
                            return {"answer": answer.text, "probability": round(answer.confidence, 4), "others": others}
        raise gr.Error("The run was cancelled.", title="Cancelled", print_exception=False)

    return ask_video
