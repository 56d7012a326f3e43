"""What the Makefile does, watched through a Python that only writes down how it was called."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/genmm"; fi
if [ "$1" = "-c" ]; then exit {old}; fi
"""


class Project:
    """A copy of the build files in an empty folder."""

    def __init__(self, folder: Path, old: int = 0) -> None:
        self.folder, self.log = folder, folder / "calls.log"
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder / name)
        self.python = folder / "fake-python"
        self.python.write_text(FAKE_PYTHON.format(log=self.log, old=old))
        self.python.chmod(0o755)

    def make(self, *arguments: str) -> list[str]:
        """Run make, then let time pass; gives back the calls of Python and of genmm that it made."""
        self.log.write_text("")
        # Without the variables of a make that may be running these tests.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "TORCH_INDEX"}
        self.done = subprocess.run(
            ["make", *arguments, f"PYTHON={self.python}"],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        calls = self.log.read_text().splitlines()
        self.grow_older()
        return calls

    def grow_older(self) -> None:
        """Move every file 10 s into the past, so that what is changed next is newer, however coarse time stamps are."""
        for path in self.folder.rglob("*"):
            made = path.stat().st_mtime_ns - 10**10
            os.utime(path, ns=(made, made))


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_install_makes_an_environment_with_the_pinned_versions(project):
    calls = project.make("install")
    assert project.done.returncode == 0, project.done.stderr
    assert calls[1] == "-m venv .venv"
    assert [c for c in calls if " install " in c] == [
        "-m pip --disable-pip-version-check install --quiet -c constraints.txt -e ."
    ]


def test_a_second_install_does_nothing(project):
    project.make("install")
    assert project.make("install") == []
    assert project.done.returncode == 0
    project.make("--question", "install")
    assert project.done.returncode == 0


def test_changed_requirements_are_installed_once(project):
    project.make("install")
    os.utime(project.folder / "pyproject.toml")
    assert len(project.make("install")) == 1
    assert project.make("install") == []


def test_another_index_replaces_torch_and_is_remembered(project):
    project.make("install")
    torch, rest = project.make("install", "TORCH_INDEX=http://127.0.0.1/cpu")
    assert "install --quiet --force-reinstall --no-deps --index-url http://127.0.0.1/cpu" in torch
    assert torch.endswith("-c constraints.txt torch torchvision torchaudio")
    assert "--extra-index-url http://127.0.0.1/cpu" in rest
    assert project.make("install", "TORCH_INDEX=http://127.0.0.1/cpu") == []
    assert project.make("install") == []
    assert len(project.make("install", "TORCH_INDEX=http://127.0.0.1/rocm")) == 2


def test_demo_serves_on_this_machine_only_and_installs_first(project):
    calls = project.make("demo")
    assert any("install" in call for call in calls)
    assert calls[-1] == "app --host 127.0.0.1 --port 7860"
    assert project.make("demo") == calls[-1:]


def test_test_adds_the_test_extras_and_runs_everything(project):
    calls = project.make("test")
    assert any(call.endswith("-e .[test]") for call in calls)
    assert calls[-1].startswith("-m pytest -n 2")
    assert "slow or not slow" in calls[-1]
    assert len(project.make("test")) == 1


def test_a_failing_suite_fails_make(project):
    project.make("install-test")
    (project.folder / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 3\n")
    project.make("test")
    assert project.done.returncode != 0


def test_an_old_python_is_refused_with_a_way_out(tmp_path):
    project = Project(tmp_path, old=1)
    project.make("install")
    assert project.done.returncode != 0
    assert "needs Python 3.11 or newer" in project.done.stdout
    assert not (tmp_path / ".venv").exists()


def test_a_failed_installation_is_tried_again(project):
    project.make("install")
    python = project.folder / ".venv" / "bin" / "python"
    working = python.read_text()
    os.utime(project.folder / "constraints.txt")
    python.write_text("#!/bin/sh\nexit 1\n")
    project.make("install")
    assert project.done.returncode != 0
    python.write_text(working)
    assert len(project.make("install")) == 1


def test_continuous_integration_runs_make_test(tmp_path):
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    made = tmp_path / "make"
    made.write_text('#!/bin/sh\necho "make $@ in $(pwd) display [$DISPLAY]"; cat\n')
    made.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "DISPLAY": ":9"}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, timeout=30, stdin=subprocess.PIPE)
    assert done.stdout.strip() == f"make test in {ROOT} display []", done.stderr
