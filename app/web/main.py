"""The page: a frame around tabs, and the server that shows it.

A new tab is one file with one class (see tab.py, and work_tab.py for one with a large button) and one line in TABS.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.web.batch import BatchTab
from app.web.gate import Gate
from app.web.highlights import HighlightsTab
from app.web.history import History
from app.web.image import ImageTab
from app.web.music import MusicTab
from app.web.pool import ModelPool
from app.web.runs import RUN_THREAD, RunBook
from app.web.settings import Login, WebSettings, read_logins
from app.web.speech import SpeechTab
from app.web.speech_work import SYSTEM
from app.web.status import StatusTab, health
from app.web.storage import Storage
from app.web.tab import SILENT, Page, Server, Tab
from app.web.theme import FAVICON, HEAD, STYLE, theme
from app.web.video import VideoTab
from app.web.waiting import WaitingLine
from genmm.core.errors import GenmmError, UsageError

__all__ = ["TABS", "build", "launch", "serve"]

log = logging.getLogger(__name__)

TABS: tuple[type[Tab], ...] = (SpeechTab, MusicTab, ImageTab, VideoTab, HighlightsTab, BatchTab)
"""Tabs in order; History and Status follow them."""

WARM_UP_THREAD = "genmm-warm-up"
STOP_S = 60.0
"""Longest wait for a thread at the end, in seconds; a cancelled run ends within a step, loading a model within some."""

HEADER = """
<header class="gm-header">
  <div class="gm-brand"><span class="gm-logo" aria-hidden="true"><i></i><i></i><i></i><i></i><i></i></span>
  <span class="gm-name">genmm</span></div>
  <p class="gm-tagline">Generative models that run on your own machine</p>
  <button class="gm-theme" type="button" onclick="genmmTheme()" aria-label="Switch between light and dark"
    title="Light or dark"><i></i></button>
</header>
"""


def make_server(settings: WebSettings) -> Server:
    """Make the parts that all visitors share, and the private folder. Raises: UsageError for an unknown model."""
    pool = ModelPool(
        first=settings.model, device=settings.device, dtype=settings.dtype, capacity=settings.models_loaded
    )
    storage = Storage(keep_s=settings.keep_s, quota_bytes=settings.quota_bytes)
    os.environ["GRADIO_TEMP_DIR"] = str(storage.files)
    return Server(settings, pool, RunBook(), storage)


def build(settings: WebSettings | None = None, server: Server | None = None) -> gr.Blocks:
    """Draw the page. `server` is made from the settings when it is not given; the page keeps it as `genmm_server`."""
    server = server or make_server(settings or WebSettings())
    keep = server.settings.keep_s
    with gr.Blocks(title="genmm", analytics_enabled=False, delete_cache=(max(60, keep // 10), keep)) as demo:
        history = History(server.storage)
        gr.HTML(HEADER, padding=False)
        tabs = [make() for make in TABS]
        status = StatusTab()
        with gr.Tabs(elem_classes=["gm-tabs"]) as frame:
            page = Page(
                server=server,
                history=history,
                cancel=lambda session, task: _cancel_page(demo, session, task),
                waiting=lambda: len(demo.genmm_line.sessions_waiting()),
                select_tab=lambda key: gr.update(selected=key),
                tabs=frame,
            )
            for tab in tabs:
                with gr.Tab(tab.title, id=tab.key):
                    tab.build(page)
            with gr.Tab(history.title, id=history.key):
                history.build(page, [receiver for tab in tabs for receiver in tab.receivers()])
            with gr.Tab(status.title, id=status.key) as status_frame:
                status.build(page)
        clock = gr.Timer(5, active=False)
        gr.on([demo.load, status_frame.select, clock.tick], status.show, outputs=status.outputs, **SILENT)
        frame.select(_only_while_open(status.title), outputs=clock, **SILENT)
        demo.unload(_leave(server))
        gr.api(_cancel(demo), api_name="cancel", queue=False)
    demo.queue(api_open=False, default_concurrency_limit=4)
    demo.genmm_server, demo.genmm_line = server, WaitingLine.install(demo, server.settings.queue_max)
    return demo


def _only_while_open(title: str) -> Any:
    def switch(picked: gr.SelectData) -> gr.Timer:
        return gr.Timer(active=picked.value == title)

    return switch


def _leave(server: Server) -> Any:
    def leave(request: gr.Request) -> None:
        server.runs.cancel(str(request.session_hash))

    return leave


async def _cancel_page(demo: gr.Blocks, session: str, task: str) -> int:
    demo.genmm_server.runs.cancel(session, task)
    return await demo.genmm_line.withdraw(session, f"page_{task}")


def _cancel(demo: gr.Blocks) -> Any:
    async def cancel(request: gr.Request) -> int:
        """Stop the work of the calling session, running or waiting; gives back how many jobs there were."""
        session = str(request.session_hash)
        return demo.genmm_server.runs.cancel(session) + await demo.genmm_line.withdraw(session)

    return cancel


def launch(demo: gr.Blocks) -> str:
    """Start serving a page in background threads; gives back its address. Raises: UsageError when the port is taken."""
    server: Server = demo.genmm_server
    settings = server.settings
    _reach_ourselves()

    async def report(request: Request) -> JSONResponse:
        return JSONResponse(health(server, len(demo.genmm_line.sessions_waiting())))

    try:
        _, url, _ = demo.launch(
            server_name=settings.host,
            server_port=settings.port or _free_port(),
            auth=list(settings.auth) or None,
            prevent_thread_lock=True,
            quiet=True,
            inbrowser=False,
            _frontend=False,  # leaves out a test request that gives up after three seconds, too few on a busy machine
            share=False,
            show_error=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            num_workers=0,
            state_session_capacity=1000,
            max_file_size=settings.limits.file_bytes,
            allowed_paths=[],
            blocked_paths=_blocked(server.storage),
            footer_links=["api"],
            favicon_path=FAVICON,
            theme=theme(),
            css_paths=[STYLE],
            head=HEAD,
            app_kwargs={
                "middleware": [Middleware(Gate, storage=server.storage, guards_host=settings.guards_host)],
                "routes": [Route("/genmm/health", report, methods=["GET"])],
                "docs_url": None,
                "redoc_url": None,
                "openapi_url": None,
            },
        )
    except OSError as error:
        raise UsageError(
            f"cannot listen on {settings.host} port {settings.port}: it is in use or not allowed; try --port 0"
        ) from error
    server.storage.start_sweeping()
    threading.Thread(target=_warm_up, args=(server,), name=WARM_UP_THREAD, daemon=True).start()
    return url


def serve(
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: str | Login | Sequence[str | Login] | None = None,
    insecure: bool = False,
    model: str | None = None,
    queue_max: int = 32,
    open_browser: bool = False,
    device: str = "auto",
) -> None:
    """Serve the page until interrupted.

    Args: `auth` is "name:password" or several of them; `model` a name or a checkpoint folder; `queue_max` how many
    jobs may wait.
    Raises: UsageError for an address other machines can reach without `auth` or `insecure`, a taken port, an unknown
    model.
    """
    settings = WebSettings(
        host=host, port=port, auth=read_logins(auth), insecure=insecure, model=model, queue_max=queue_max, device=device
    )
    stop = _stop_at_sigterm()
    server = make_server(settings)
    try:
        demo = build(server=server)
        try:
            url = launch(demo)
            sys.stdout.write(f"genmm is at {url}  (stop it with Ctrl+C)\n")
            sys.stdout.flush()
            if open_browser:
                webbrowser.open(url)
            _wait_until_stopped(stop)
        finally:
            server.runs.cancel_all()
            demo.close(verbose=False)
            _wait_for_workers()
    finally:
        server.storage.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _reach_ourselves() -> None:
    """Keep a proxy of the environment out of Gradio's start-up request to this very server."""
    for name in ("NO_PROXY", "no_proxy"):
        known = os.environ.get(name, "")
        missing = [host for host in ("127.0.0.1", "localhost") if host not in known.split(",")]
        os.environ[name] = ",".join([*([known] if known else []), *missing])


def _stop_at_sigterm() -> threading.Event:
    """An event that SIGTERM sets from now on, so that a server told to stop while it starts cleans up too."""
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


def _wait_until_stopped(stop: threading.Event) -> None:
    """Sleep until Ctrl+C or SIGTERM."""
    with contextlib.suppress(KeyboardInterrupt):
        while not stop.wait(0.2):
            pass


def _wait_for_workers() -> None:
    """Let the threads end that use models: Python may crash when it ends while they are inside native code."""
    for thread in threading.enumerate():
        if thread.name in (RUN_THREAD, WARM_UP_THREAD):
            thread.join(STOP_S)


def _warm_up(server: Server) -> None:
    """Load the model that the first tab starts with, so that the first visitor need not wait for it."""
    try:
        if server.pool.default(SYSTEM) is not None:
            server.pool.get(None, SYSTEM)
    except GenmmError as error:
        log.warning("the first model could not be loaded: %s", error)


def _blocked(storage: Storage) -> list[str]:
    """Folders that Gradio never serves, a second lock behind the gate.

    A folder that holds the working folder cannot be named: Gradio resolves the names of its own streams against it.
    """
    home = Path.home()
    private = [home, *(home / name for name in (".ssh", ".config", ".cache", ".local", ".aws", ".gnupg"))]
    folders = [path.resolve() for path in (*private, Path("/etc"), Path("/proc"), Path("/sys"), Path("/var"))]
    ours = (Path.cwd().resolve(), storage.root)
    return [str(folder) for folder in folders if not any(path.is_relative_to(folder) for path in ours)]
