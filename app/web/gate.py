"""What stands before Gradio's routes: closed doors, checked paths and payloads, and headers.

Gradio offers more than this page needs: proxying of URLs, a code editor, monitoring, fetching of files that a client
names by URL. Those are closed here, once, for every tab.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.settings import is_loopback
from app.web.storage import Storage

__all__ = ["CONTENT_POLICY", "Gate"]

API = "/gradio_api"
CLOSED = tuple(
    f"{API}/{name}"
    for name in (
        "proxy=", "vibe-", "undo-vibe-edit", "process_recording", "deep_link", "run-history", "runs", "token",
        "dev/", "profiling", "custom_component",
    )
) + ("/monitoring", "/svelte")  # fmt: skip
"""Beginnings of paths that answer 404."""
JSON_ROUTES = tuple(f"{API}/{name}" for name in ("queue/join", "call", "run", "api", "component_server", "stream"))
"""Beginnings of paths whose JSON bodies are read and checked."""
BODY_BYTES = 4_000_000
"""Largest JSON body; uploads go another way and have their own limit."""
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-src 'self'; frame-ancestors 'self'; object-src 'none'; base-uri 'self'"
)
"""The browser itself then refuses to talk to any other server. Gradio's page needs inline scripts."""
_SCHEME = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.-]+:|//|\\\\)")


class Gate:
    """ASGI middleware around the whole page."""

    def __init__(self, app: ASGIApp, *, storage: Storage, guards_host: bool) -> None:
        self.app, self.storage, self.guards_host = app, storage, guards_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None and scope["method"] == "POST" and scope["path"].startswith(JSON_ROUTES):
            body, refusal = await _read_body(receive, Headers(scope=scope))
            receive = _replay(body, receive)
        await (refusal or self.app)(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        path = scope["path"]
        if self.guards_host and not is_loopback(_host_name(Headers(scope=scope))):
            return _say(
                403, "This page answers only under 127.0.0.1 or localhost; restart it with a login to share it."
            )
        if path.startswith(CLOSED):
            return _say(404, "There is nothing here.")
        for route in (f"{API}/file=", f"{API}/file/"):
            if path.startswith(route) and not self._may_send(path[len(route) :]):
                return _say(403, "This file may not be read.")
        return None

    def _may_send(self, name: str) -> bool:
        """Whether this is a file of ours, however the name is written."""
        plain = unquote(name)
        return "\0" not in plain and not is_address(name) and not is_address(plain) and self.storage.holds(name)


def is_address(text: str) -> bool:
    """Whether a client gave a URL (http:, file:, //host ...) where only the path of an upload belongs."""
    return _SCHEME.match(text) is not None


def addresses_in(value: Any) -> bool:
    """Whether a request body names a file by URL, at any depth."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            path = item.get("path")
            if isinstance(path, str) and (is_address(path) or "\0" in path):
                return True
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return False


async def _read_body(receive: Receive, headers: Headers) -> tuple[bytes, Response | None]:
    """Collect a body of at most BODY_BYTES and check it; a multipart body (never used by this page) is refused."""
    if headers.get("content-type", "").lower().startswith("multipart/"):
        return b"", _say(415, "Send files to the upload route first.")
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"", _say(400, "The request ended early.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES:
            return b"", _say(413, f"The request is larger than {BODY_BYTES // 1_000_000} MB; upload files instead.")
        if not message.get("more_body", False):
            break
    body = b"".join(parts)
    try:
        value = json.loads(body) if body else None
    except (ValueError, RecursionError):
        return b"", _say(400, "The request is not JSON.")
    if addresses_in(value):
        return b"", _say(400, "Files are uploaded, not named by address.")
    return body, None


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["x-content-type-options"] = "nosniff"
            headers["referrer-policy"] = "same-origin"
            headers["content-security-policy"] = CONTENT_POLICY
        await send(message)

    return sender


def _host_name(headers: Headers) -> str:
    host = headers.get("host", "")
    return host.partition("]")[0].lstrip("[") if host.startswith("[") else host.rpartition(":")[0] or host


def _say(status: int, text: str) -> JSONResponse:
    return JSONResponse({"detail": text}, status_code=status)
