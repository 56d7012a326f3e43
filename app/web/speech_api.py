"""Speech for programs: /speak, /speak_stream and /voices, with inputs and outputs of their own.

The page itself uses other events; these stay the same when the page changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr
import numpy as np

from app.web.controls import parse_seeds
from app.web.messages import reported
from app.web.runs import stream_events
from app.web.sound import Cutter
from app.web.speech_work import SpeechForm, Spoken, check_form, speak_events, voice_names
from app.web.tab import DEVICE, Server
from genmm.core.errors import Cancelled
from genmm.core.events import Event, Finished, PartialAudio, Progress
from genmm.core.files import read_json, write_bytes

__all__ = ["add"]


def add(server: Server) -> None:
    """Add the endpoints; call it inside a gr.Blocks. Nothing of it can be seen on the page."""
    with gr.Row(visible=False):
        inputs = [
            gr.Textbox(label="text"),
            gr.Textbox("", label="voice (a name from /voices; empty: the model's first)"),
            gr.Textbox("", label="model (a name from /status; empty: the default)"),
            gr.Audio(type="filepath", label="recording (of a voice, goes before voice)"),
            gr.Textbox("", label="transcript (what is said in the recording, when known)"),
            gr.Number(label="guidance (empty: the model's own)"),
            gr.Number(label="temperature (empty: the model's own)"),
            gr.Number(1, precision=0, label="takes (1 to 4)"),
            gr.Textbox("", label="seed (empty: a new one; or one per take, with commas)"),
            gr.JSON(label="settings (further fields of SpeechSettings, as an object)"),
        ]
        files = gr.File(file_count="multiple", label="files")
        recipe = gr.JSON(label="recipe")
        piece = gr.File(label="piece")
        info = gr.JSON(label="info")
        speak, stream = gr.Button("speak"), gr.Button("speak_stream")
    speak.click(_speak(server), inputs, [files, recipe], api_name="speak", **DEVICE)
    stream.click(_speak_stream(server), inputs, [piece, files, info], api_name="speak_stream", **DEVICE)
    gr.api(_voices(server), api_name="voices", queue=False)


def _speak(server: Server) -> Callable[..., Any]:
    async def speak(
        request: gr.Request,
        text: str,
        voice: str,
        model: str,
        recording: str | None = None,
        transcript: str = "",
        guidance: float | None = None,
        temperature: float | None = None,
        takes: int = 1,
        seed: str = "",
        settings: dict[str, Any] | None = None,
    ) -> Any:
        """Say a text; gives back one wav file per take, and the recipe with seeds, timings and how each take ended."""
        with reported("speak"):
            form = _form(
                server, text, voice, model, recording, transcript, guidance, temperature, takes, seed, settings
            )
            async with contextlib.aclosing(_events(server, form, request)) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        return _files(event.result), _recipe(event.result)
        raise gr.Error("The run was cancelled.", title="Cancelled", print_exception=False)

    return speak


def _speak_stream(server: Server) -> Callable[..., Any]:
    async def speak_stream(
        request: gr.Request,
        text: str,
        voice: str,
        model: str,
        recording: str | None = None,
        transcript: str = "",
        guidance: float | None = None,
        temperature: float | None = None,
        takes: int = 1,
        seed: str = "",
        settings: dict[str, Any] | None = None,
    ) -> AsyncIterator[Any]:
        """Say a text; gives the sound of take 1 in wav pieces as it appears, at the end all files and the recipe."""
        with reported("speak"):
            form = _form(
                server, text, voice, model, recording, transcript, guidance, temperature, takes, seed, settings
            )
            async with contextlib.aclosing(_events(server, form, request)) as events:
                async for piece, files, info in _pieces(server, events):
                    yield piece, files, info

    return speak_stream


async def _pieces(server: Server, events: AsyncIterator[Event]) -> AsyncIterator[tuple[Any, Any, dict[str, Any]]]:
    """(piece file, files, info) for every piece of sound, and once more at the end."""
    folder = server.storage.run_folder()
    cutter: Cutter | None = None
    written = 0

    def save(data: bytes) -> str:
        nonlocal written
        written += 1
        return str(write_bytes(folder / f"piece_{written:04d}.wav", data))

    async for event in events:
        if isinstance(event, PartialAudio) and event.take == 0:
            cutter = cutter or Cutter(event.sample_rate)
            for data in cutter.push(np.asarray(event.samples, np.float32).reshape(-1)):
                yield save(data), None, {"state": "speaking", "piece": written + 1, "seconds": round(cutter.given_s, 3)}
        elif isinstance(event, Finished):
            for data in cutter.flush() if cutter else []:
                yield save(data), None, {"state": "speaking", "piece": written + 1, "seconds": round(cutter.given_s, 3)}
            yield None, _files(event.result), {"state": "done", "pieces": written, "recipe": _recipe(event.result)}
        elif isinstance(event, Progress) and cutter is None:
            yield None, None, {"state": "preparing", "message": event.message}


async def _events(server: Server, form: SpeechForm, request: gr.Request) -> AsyncIterator[Event]:
    """The events of one run, entered in the book of runs; ends without Finished when the run was cancelled."""
    work = speak_events(form, server.pool, server.storage.run_folder, server.settings.limits, pictures=False)
    with server.runs.open(str(request.session_hash), "speech") as run, contextlib.suppress(Cancelled):
        async with contextlib.aclosing(stream_events(work, run.token)) as events:
            async for event in events:
                yield event


def _form(
    server: Server,
    text: str,
    voice: str,
    model: str,
    recording: str | None,
    transcript: str,
    guidance: float | None,
    temperature: float | None,
    takes: float | None,
    seed: str,
    settings: dict[str, Any] | None,
) -> SpeechForm:
    count = int(takes or 1)
    form = SpeechForm(
        text=text or "",
        voice=voice or None,
        model=model or None,
        recording=recording,
        transcript=transcript or "",
        guidance=guidance,
        temperature=temperature,
        takes=count,
        seeds=parse_seeds(seed, count),
        more=settings or {},
    )
    check_form(form, server.settings.limits)
    return form


def _files(spoken: Spoken) -> list[str]:
    return [str(take.path) for take in spoken.takes]


def _recipe(spoken: Spoken) -> dict[str, Any]:
    ends = [
        {"seed": take.seed, "seconds": round(take.seconds, 3), "stop_reason": take.stop_reason} for take in spoken.takes
    ]
    return {**read_json(spoken.takes[0].recipe), "text_spoken": spoken.text_spoken, "takes": ends}


def _voices(server: Server) -> Callable[[str], list[str]]:
    def voices(model: str = "") -> list[str]:
        """Names of the voices that come with a model; an empty model is the default one."""
        with reported("voices"):
            return voice_names(server.pool, model or None)

    return voices
