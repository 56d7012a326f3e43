"""Starting and stopping the server as a person does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from app.web.main import serve
from genmm.core.errors import UsageError

ROOT = Path(__file__).resolve().parents[3]


def test_a_public_address_without_login_is_refused():
    with pytest.raises(UsageError, match="--insecure"):
        serve(host="0.0.0.0", port=0)  # noqa: S104


def test_an_unknown_model_is_refused_before_anything_starts():
    with pytest.raises(UsageError, match="no model"):
        serve(port=0, model="no-such-model")


def test_a_taken_port_is_explained(model_folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="--port"):
            serve(port=taken.getsockname()[1], model=str(model_folder))


@pytest.mark.slow
def test_sigterm_stops_it_and_leaves_nothing_behind(model_folder, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from app.web.main import serve; serve(port={port}, model={str(model_folder)!r}, auth='ann:secret')"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        for _ in range(600):
            try:
                assert httpx.get(f"http://127.0.0.1:{port}/genmm/health", timeout=5).json()["status"] == "ok"
                break
            except httpx.TransportError:
                assert process.poll() is None, process.stdout.read().decode()
                time.sleep(0.1)
        assert list(tmp_path.glob("genmm-web-*"))
        assert httpx.get(f"http://127.0.0.1:{port}/config", timeout=20).status_code == 401
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[0].decode()
    finally:
        process.kill()
    assert process.returncode == 0
    assert f"http://127.0.0.1:{port}" in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("genmm-web-*"))
