"""Fixtures for all tests: where shared data and reference cases lie, and a wall against the outside network."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

# Before anything imports torch, huggingface_hub or gradio, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parent / "pages"))  # helpers of several folders
ROOT = Path(__file__).resolve().parents[1]
PARITY = Path(__file__).resolve().parent / "parity"
SHARED = ROOT.parent / "shared"


# ---------------------------------------------------------------- the network wall


class OutboundConnectionError(OSError):
    """A test tried to reach another machine."""


_attempts: list[str] = []


def _is_local(address: object) -> bool:
    if isinstance(address, str | bytes):  # a unix socket
        return True
    host = address[0] if isinstance(address, tuple) and address else ""
    if host in ("", "localhost", b"localhost", None):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host).split("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse(address: object) -> None:
    _attempts.append(repr(address))
    raise OutboundConnectionError(f"tests may not reach the network, tried {address!r}")


def _build_wall() -> None:
    plain_connect, plain_connect_ex = socket.socket.connect, socket.socket.connect_ex
    plain_sendto, plain_lookup = socket.socket.sendto, socket.getaddrinfo

    def connect(self: socket.socket, address: object) -> None:
        return plain_connect(self, address) if _is_local(address) else _refuse(address)

    def connect_ex(self: socket.socket, address: object) -> int:
        return plain_connect_ex(self, address) if _is_local(address) else _refuse(address)

    def sendto(self: socket.socket, data: bytes, *rest: object) -> int:
        return plain_sendto(self, data, *rest) if _is_local(rest[-1]) else _refuse(rest[-1])

    def getaddrinfo(host: object, *rest: object, **named: object) -> list:
        own = host in (None, "", "0.0.0.0", "::", socket.gethostname(), socket.gethostname().encode())  # noqa: S104
        return plain_lookup(host, *rest, **named) if own or _is_local((host,)) else _refuse((host,))

    socket.socket.connect, socket.socket.connect_ex = connect, connect_ex
    socket.socket.sendto, socket.getaddrinfo = sendto, getaddrinfo


_build_wall()


@pytest.fixture(autouse=True)
def outbound_attempts() -> Iterator[list[str]]:
    """Addresses that this test tried to reach; the test fails at its end unless it has emptied the list."""
    _attempts.clear()
    yield _attempts
    tried, _attempts[:] = list(_attempts), []
    assert not tried, f"this test tried to reach the network: {', '.join(tried)}"


@pytest.fixture(scope="session", autouse=True)
def own_home() -> Iterator[Path]:
    """An empty GENMM_HOME, so that models and settings of the person who runs the tests play no part."""
    before = {name: os.environ.get(name) for name in ("GENMM_HOME", "GENMM_MODELS")}
    with tempfile.TemporaryDirectory(prefix="genmm-home-") as home:
        os.environ["GENMM_HOME"] = home
        os.environ.pop("GENMM_MODELS", None)
        yield Path(home)
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


# ---------------------------------------------------------------- data that may be absent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real media ($GENMM_DATA or shared/data beside the repository); skips where there is none."""
    folder = Path(os.environ.get("GENMM_DATA") or SHARED / "data")
    if not folder.is_dir():
        pytest.skip("needs the shared media folder: set GENMM_DATA or put it at ../shared/data")
    return folder


# ---------------------------------------------------------------- pages


@pytest.fixture(autouse=True)
def files_belong_to_this_page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio finds files through one variable of the process, which a page that was built later has changed."""
    from served import SERVED

    for name in request.fixturenames:
        if name.endswith("page") and name != "files_belong_to_this_page":
            demo = SERVED.get(request.getfixturevalue(name))
            if demo is not None:
                monkeypatch.setenv("GRADIO_TEMP_DIR", str(demo.genmm_server.storage.files))


# ---------------------------------------------------------------- a real browser

BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
BROWSER_MARGIN_S = 100.0
"""So long before a test's own time limit its browser is ended, with what drives it. Playwright waits for a stuck one
without end, and a limit that interrupts Playwright itself leaves it unable to close anything."""


def _descendants(process: int) -> list[int]:
    """Processes that a process started, and those that they started, from /proc."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [process]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _end_browsers() -> None:
    """Kill every browser that this process has started, and its driver; what waits for one then gets an error."""
    for process in _descendants(os.getpid()):
        with contextlib.suppress(OSError):
            command = (Path("/proc") / str(process) / "cmdline").read_bytes().lower()
            if any(name in command for name in (b"chrom", b"headless", b"playwright")):
                os.kill(process, signal.SIGKILL)


@contextlib.contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, _end_browsers)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@pytest.fixture
def browser(request: pytest.FixtureRequest) -> Iterator:
    """A headless Chromium of the test's own; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install genmm[test]")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("GENMM_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("needs Chromium: install the package chromium, or name the program in GENMM_CHROMIUM")
    mark = request.node.get_closest_marker("timeout")
    limit_s = float(mark.args[0]) if mark and mark.args else float(request.config.getini("timeout"))
    with _no_longer_than(limit_s - BROWSER_MARGIN_S), playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=BROWSER_ARGUMENTS)
        yield browser
        with _no_longer_than(30.0), contextlib.suppress(playwright.Error):
            browser.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parity-dir",
        action="append",
        default=[],
        metavar="DIR",
        help="run all reference cases found under DIR (may be repeated); default: tests/parity and ../shared/parity",
    )


def _parity_dirs(config: pytest.Config) -> list[Path]:
    given = [Path(text).expanduser() for text in config.getoption("--parity-dir")]
    for folder in given:
        if not folder.is_dir():
            raise pytest.UsageError(f"--parity-dir {folder} is not a folder")
    return given or [folder for folder in (PARITY, SHARED / "parity") if folder.is_dir()]


def _parity_cases(config: pytest.Config, system: str) -> dict[str, Path]:
    """Test id -> JSON file, for every case of the system (any system for ""); the first of equal ids wins."""
    cases: dict[str, Path] = {}
    for folder in _parity_dirs(config):
        for path in sorted(folder.rglob("*.json")):
            try:
                case = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if not isinstance(case, dict) or not {"system", "kind"} <= case.keys() or path.stem.startswith("weights_"):
                continue  # weights_* are read by the cases that name them
            if system in ("", case["system"]):
                cases.setdefault(f"{case['system']}-{path.stem}", path)
    return cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that takes `parity_case` all cases of the system named by its `parity` mark."""
    if "parity_case" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("parity")
    cases = _parity_cases(metafunc.config, mark.args[0] if mark and mark.args else "")
    if cases:
        metafunc.parametrize("parity_case", list(cases.values()), ids=list(cases))
    else:
        absent = pytest.param(None, marks=pytest.mark.skip("no reference cases found; give --parity-dir DIR"))
        metafunc.parametrize("parity_case", [absent], ids=["none"])


@pytest.fixture(scope="session")
def parity_dirs(request: pytest.FixtureRequest) -> list[Path]:
    """The folders searched for reference cases; skips where there is none."""
    folders = _parity_dirs(request.config)
    if not folders:
        pytest.skip("needs reference cases: give --parity-dir DIR or put them at ../shared/parity")
    return folders


@pytest.fixture(scope="session")
def parity_dir(parity_dirs: list[Path]) -> Path:
    """The first folder of reference cases."""
    return parity_dirs[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu or fbgemm, with a reason, where torch has not what they need."""
    marked = [item for item in items if item.get_closest_marker("gpu") or item.get_closest_marker("fbgemm")]
    if not marked:
        return
    import torch

    has_gpu, packs = torch.cuda.is_available(), "fbgemm" in torch.backends.quantized.supported_engines
    for item in marked:
        if item.get_closest_marker("gpu") and not has_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("fbgemm") and not packs:
            item.add_marker(pytest.mark.skip(reason="needs a torch build with FBGEMM"))
