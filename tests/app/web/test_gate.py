"""The gate in front of Gradio: closed doors, files, payloads, host names, headers."""

from __future__ import annotations

import asyncio
from urllib.parse import unquote

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.web.gate import BODY_BYTES, Gate, addresses_in, is_address
from app.web.storage import Storage


@pytest.fixture
def storage():
    storage = Storage()
    yield storage
    storage.close()


def client_of(storage: Storage, guards_host: bool = False, host: str = "127.0.0.1:7860") -> TestClient:
    async def echo(request: Request) -> JSONResponse:
        body = await request.body()
        return JSONResponse({"path": request.url.path, "body": body.decode()})

    app = Starlette(
        routes=[Route("/{rest:path}", echo, methods=["GET", "POST"])],
        middleware=[Middleware(Gate, storage=storage, guards_host=guards_host)],
    )
    return TestClient(app, base_url=f"http://{host}")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=http://127.0.0.1:1/x",
        "/gradio_api/vibe-edit/",
        "/gradio_api/vibe-code",
        "/gradio_api/process_recording",
        "/gradio_api/deep_link",
        "/gradio_api/run-history/connect",
        "/gradio_api/dev/reload",
        "/monitoring/summary",
    ],
)
@pytest.mark.parametrize("method", ["get", "post"])
def test_what_the_page_does_not_need_is_closed(storage, path, method):
    assert getattr(client_of(storage), method)(path).status_code == 404


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "http://127.0.0.1:1/x",
        "HTTPS://example.org/x",
        "file:///etc/passwd",
        "%68ttp://example.org/x",
        "pyproject.toml",
        "",
    ],
)
@pytest.mark.parametrize("route", ["/gradio_api/file=", "/gradio_api/file/"])
def test_no_file_outside_the_storage_is_sent(storage, route, name):
    assert asyncio.run(status_of(storage, unquote(route + name))) == 403


async def status_of(storage: Storage, path: str) -> int:
    """The answer to a path exactly as written; clients tidy dots away before they send."""
    sent = []

    async def answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"127.0.0.1")]}
    await Gate(answer, storage=storage, guards_host=True)(scope, None, send)
    return sent[0]["status"]


def test_own_files_pass_and_links_out_do_not(storage, tmp_path):
    sound = storage.run_folder() / "a.wav"
    sound.write_bytes(b"x")
    (tmp_path / "secret").write_text("s")
    link = sound.with_name("b.wav")
    link.symlink_to(tmp_path / "secret")
    client = client_of(storage)
    assert client.get(f"/gradio_api/file={sound}").status_code == 200
    assert client.get(f"/gradio_api/file={link}").status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "http://127.0.0.1:1/x",
        "https://example.org",
        "HtTp://x",
        " http://x",
        "file:///etc/passwd",
        "ftp://x/y",
        "//example.org/x",
        "\\\\host\\share",
        "data:audio/wav;base64,AAAA",
        "concat:a|b",
        "a\0b",
    ],
)
def test_files_named_by_address_are_refused(storage, path):
    payload = {"data": ["text", {"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": 1}
    for route in ("queue/join", "call/speak", "call/v2/speak", "run/speak", "api/speak", "component_server"):
        assert client_of(storage).post(f"/gradio_api/{route}", json=payload).status_code == 400
    assert addresses_in([[{"deep": [payload]}]])


def test_ordinary_requests_pass_unchanged(storage):
    payload = {"data": ["see http://example.org", {"path": "/tmp/x/a.wav", "url": "http://127.0.0.1/a"}, "C:\\x"]}
    answer = client_of(storage).post("/gradio_api/queue/join", json=payload)
    assert answer.status_code == 200
    assert "see http://example.org" in answer.json()["body"]
    assert not is_address("C:\\Temp\\a.wav")


def test_large_broken_and_multipart_bodies_are_refused(storage):
    client, route = client_of(storage), "/gradio_api/queue/join"
    assert client.post(route, content=b"[" + b" " * BODY_BYTES + b"]").status_code == 413
    assert client.post(route, content=b"{nonsense").status_code == 400
    assert client.post(route, content=b"[" * 100_000).status_code == 400
    assert client.post(route, files={"file": b"x"}).status_code == 415


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "localhost"])
def test_local_names_are_answered(storage, host):
    assert client_of(storage, guards_host=True, host=host).get("/").status_code == 200


def test_a_foreign_name_for_a_local_page_is_refused(storage):
    assert client_of(storage, guards_host=True, host="evil.example:7860").get("/").status_code == 403
    assert client_of(storage, guards_host=False, host="my.example:7860").get("/").status_code == 200


def test_the_browser_is_told_to_talk_to_nobody_else(storage):
    headers = client_of(storage).get("/").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
