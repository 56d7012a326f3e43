"""Starting and stopping the server as a person does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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


START = "import app.web.main as page; {before}page.serve(port={port}, model={model!r}, auth='ann:secret')"
"""What the server processes of these tests run."""
TERM_WHILE_STARTING = """
import os, signal
plain = page.launch
def launch(demo):
    os.kill(os.getpid(), signal.SIGTERM)
    return plain(demo)
page.launch = launch
"""


@pytest.fixture
def start(model_folder, tmp_path) -> Iterator[Callable[[str], tuple[subprocess.Popen, str]]]:
    """Starts a server process whose files go to tmp_path; gives back the process and its address."""
    processes = []

    def run(before: str = "") -> tuple[subprocess.Popen, str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        code = START.format(before=f"exec({before!r}); ", port=port, model=str(model_folder))
        environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return processes[-1], f"http://127.0.0.1:{port}"

    yield run
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_until_it_answers(process: subprocess.Popen, address: str) -> None:
    """Until the first answer; fails with what the process said when it ends before."""
    while True:
        try:
            assert httpx.get(f"{address}/genmm/health", timeout=60).json()["status"] == "ok"
            return
        except httpx.TransportError:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)


@pytest.mark.slow
def test_sigterm_stops_it_and_leaves_nothing_behind(start, tmp_path):
    process, address = start()
    wait_until_it_answers(process, address)
    assert list(tmp_path.glob("genmm-web-*"))
    assert httpx.get(f"{address}/config", timeout=60).status_code == 401
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert address in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("genmm-web-*"))


@pytest.mark.slow
def test_sigterm_while_it_starts_leaves_nothing_behind_either(start, tmp_path):
    process, _ = start(TERM_WHILE_STARTING)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("genmm-web-*"))
