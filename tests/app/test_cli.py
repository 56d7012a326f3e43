"""The command as a whole: help at once, exit codes, one message instead of a traceback."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from app import cli
from genmm.core.errors import CheckpointError, GenmmError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "gradio", "pytorch_lightning", "numpy", "rich", "av", "soundfile", "transformers", "matplotlib")
OWN_HELP = [
    [], ["app"], ["speak"], ["batch"], ["batch", "speech"], ["doctor"], ["bench"], ["fit"], ["validate"], ["test"],
    ["export"], ["models"], ["pull"], ["convert"],
]  # fmt: skip


@pytest.fixture
def fake_command(monkeypatch):
    """Replace `genmm doctor` by whatever a test wants to happen."""

    def install(run):
        def add_parser(subparsers):
            subparsers.add_parser("doctor")

        monkeypatch.setattr(cli, "command_modules", lambda word: [SimpleNamespace(add_parser=add_parser, run=run)])

    return install


def raising(error: BaseException):
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


def test_no_command_imports_anything_heavy_for_its_help():
    code = (
        "import sys, contextlib, io\n"
        "from app.cli import main\n"
        f"for words in {OWN_HELP!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.redirect_stderr(io.StringIO()):\n"
        "        code = main([*words, '--help'])\n"
        "    assert code == 0, (words, code)\n"
        "    assert 'usage: genmm' in text.getvalue() or words == [], words\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [["--help"], ["speak", "--help"]])
def test_help_takes_little_processor_time(words):
    before = os.times()
    subprocess.run([sys.executable, "-m", "app.cli", *words], cwd=ROOT, capture_output=True, check=True)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    bare_before = os.times()
    subprocess.run([sys.executable, "-c", "import argparse, logging, dataclasses"], check=True)
    bare_after = os.times()
    bare = bare_after.children_user + bare_after.children_system
    bare -= bare_before.children_user + bare_before.children_system
    assert spent - bare < 0.5, f"{spent:.2f} s of processor time, of which Python itself takes {bare:.2f} s"


def test_help_lists_every_command_with_an_explanation(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for words in OWN_HELP[1:]:
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{words[0]} "))
        assert len(line.split()) > 2, line


@pytest.mark.parametrize("words", [["speak"], ["batch", "speech"], ["doctor"], ["app"]])
def test_help_explains_every_option(capsys, words):
    assert cli.main([*words, "--help"]) == 0
    assert "example" in capsys.readouterr().out
    parser = cli.build_parser()
    for word in words:
        action = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = action.choices[word]
    for action in parser._actions:
        assert action.help, action.option_strings
        if action.option_strings and action.nargs != 0 and action.type in (int, float):
            assert any(character.isdigit() for character in action.help), f"{action.option_strings} names no range"


def test_an_unknown_option_gets_the_usage_of_its_command_and_a_guess(capsys):
    assert cli.main(["speak", "hi", "--mdel", "x"]) == 2
    said = capsys.readouterr().err
    assert "usage: genmm speak" in said
    assert "did you mean --model?" in said
    assert cli.main(["batch", "speech", "--manifest", "a", "--out", "b", "--batchsize=3"]) == 2
    said = capsys.readouterr().err
    assert "usage: genmm batch speech" in said
    assert "did you mean --batch-size?" in said


@pytest.mark.parametrize(
    ("words", "guess"),
    [(["speek", "hi"], "speak"), (["batch", "speach"], "speech"), (["convert", "sledd"], "sled")],
)
def test_a_mistyped_word_gets_a_guess(capsys, words, guess):
    assert cli.main(words) == 2
    assert f"did you mean {guess}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["speak", "one", "--model", "sleed"], "did you mean sled?"),
        (["speak", " "], "the text is empty"),
        (["speak", "one", "--seed", "-1"], "a seed is a whole number"),
        (["speak", "one", "-o", "pyproject.toml/a.wav"], "is a file, not a folder"),
        (["batch", "speech", "--manifest", "m", "--out", "o", "--model", "sleed"], "did you mean sled?"),
        (["batch", "speech", "--manifest", "m", "--out", "o", "--seed", "-1"], "a seed is a whole number"),
        (["fit", "--config", "none.yaml"], "none.yaml does not exist"),
    ],
)
def test_simple_mistakes_are_found_before_anything_heavy_is_imported(words, text):
    code = (
        "import sys\n"
        "from app.cli import main\n"
        f"code = main({words!r})\n"
        f"print(code, [name for name in {HEAVY[:3]!r} if name in sys.modules])\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.stdout.strip() == "2 []", answer.stderr
    assert text in answer.stderr


def test_an_index_is_listed_and_pruned_without_anything_heavy(tmp_path):
    entry = dict(zip(("bytes", "modified_ns", "seconds", "moments", "tokens"), (9, 9, 2.5, 1, 4), strict=True))
    video = {"id": "0" * 20, "path": str(tmp_path / "one.mp4"), "budget": "adaptive/4", **entry}
    (tmp_path / "index.json").write_text(json.dumps({"version": 1, "encoder": "0123", "videos": [video]}))
    (tmp_path / f"{video['id']}.safetensors").write_bytes(b"tokens")
    code = (
        "import sys\n"
        "from app.cli import main\n"
        f"index = ['--index', {str(tmp_path)!r}]\n"
        f"assert main(['index', 'list', *index]) == main(['index', 'remove', {video['path']!r}, *index]) == 0\n"
        "assert main(['index', 'list', *index]) == 0\n"
        f"print([name for name in {HEAVY[:3]!r} if name in sys.modules])\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "1 video, 1 moment, 4 tokens, 6 bytes" in answer.stdout, answer.stderr
    assert answer.stdout.splitlines()[-2:] == ["0 videos, 0 moments, 0 tokens, 0 bytes", "[]"]
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_description_may_stand_behind_the_options():
    for words in (["edit", "in.flac", "--strength", "0.8", "organ"], ["extend", "in.flac", "--seconds", "4", "organ"]):
        args = cli.build_parser(words[0]).parse_args(words)
        assert (args.source, args.text) == ("in.flac", "organ")
        assert cli.build_parser(words[0]).parse_args(words[:-1]).text is None
    with pytest.raises(SystemExit):
        cli.build_parser("edit").parse_args(["edit", "in.flac", "organ", "--strength", "0.8", "choir"])


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("genmm 0.")


@pytest.mark.parametrize(
    "words",
    [[], ["sing"], ["speak", "--loud"], ["speak", "a", "--takes", "x"], ["speak", "a", "--tak", "2"],
     ["batch"], ["batch", "music"], ["batch", "speech"], ["doctor", "now"]],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2_without_a_traceback(capsys, words):
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "usage: genmm" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("error", "code", "text"), [
    (GenmmError("no such thing"), 2, "genmm: no such thing"),
    (CheckpointError("damaged"), 2, "genmm: damaged"),
    (KeyboardInterrupt(), 130, "genmm: interrupted"),
    (PermissionError(13, "Permission denied", "/x/out.wav"), 2, "genmm: /x/out.wav: Permission denied"),
    (RuntimeError("CUDA out of memory. Tried to allocate"), 3, "genmm: memory ran out"),
    (SystemExit(3), 3, ""),
    (SystemExit(None), 0, ""),
])  # fmt: skip
def test_errors_become_one_message_and_a_code(capsys, fake_command, monkeypatch, error, code, text):
    monkeypatch.delenv("GENMM_DEBUG", raising=False)
    fake_command(raising(error))
    assert cli.main(["doctor"]) == code
    said = capsys.readouterr().err
    assert said.startswith(text)
    assert "Traceback" not in said


def test_debug_shows_the_traceback(capsys, fake_command, monkeypatch):
    monkeypatch.setenv("GENMM_DEBUG", "1")
    fake_command(raising(GenmmError("no such thing")))
    assert cli.main(["doctor"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_ours_is_not_hidden(fake_command):
    fake_command(raising(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


def test_trainer_commands_hand_the_whole_line_on(monkeypatch):
    calls = []
    monkeypatch.setattr("app.train.run_training", lambda name, argv: calls.append((name, list(argv))) or 7)
    assert cli.main(["fit", "--config", "a.yaml", "--trainer.max_steps", "3"]) == 7
    assert cli.main(["test", "--help"]) == 7
    assert calls == [("fit", ["--config", "a.yaml", "--trainer.max_steps", "3"]), ("test", ["--help"])]


def test_bench_says_where_measurements_come_from(monkeypatch, capsys, tmp_path):
    import app.commands.bench as bench

    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert cli.main(["bench", "speech"]) == 2
    assert "clone the repository" in capsys.readouterr().err
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "run.py").write_text("def main(argv):\n    print(argv)\n    return 3\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert cli.main(["bench", "speech", "--quick"]) == 3
    assert "['speech', '--quick']" in capsys.readouterr().out
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


def test_app_checks_its_options_before_loading_the_page(monkeypatch, capsys):
    monkeypatch.delenv("GENMM_AUTH", raising=False)
    assert cli.main(["app", "--port", "70000"]) == 2
    assert cli.main(["app", "--queue", "0"]) == 2
    assert cli.main(["app", "--auth", "ann"]) == 2
    assert "USER:PASSWORD" in capsys.readouterr().err


def test_app_hands_its_options_to_the_page(monkeypatch):
    calls = []
    page = SimpleNamespace(serve=lambda *args, **more: calls.append((args, more)))
    monkeypatch.setitem(sys.modules, "app.web.main", page)
    monkeypatch.setenv("GENMM_AUTH", "ann:se:cret bob:x")
    assert cli.main(["app", "--port", "8080", "--model", "mine", "--open", "--queue", "3"]) == 0
    expected = {"insecure": False, "model": "mine", "queue_max": 3, "open_browser": True, "device": "auto"}
    assert calls == [(("127.0.0.1", 8080), {"auth": [("ann", "se:cret"), ("bob", "x")], **expected})]
    monkeypatch.delenv("GENMM_AUTH")
    assert cli.main(["app", "--auth", "a:b", "--host", "0.0.0.0"]) == 0
    assert (calls[1][0], calls[1][1]["auth"]) == (("0.0.0.0", 7860), [("a", "b")])


def test_a_closed_pipe_ends_quietly():
    line = f"{sys.executable} -m app.cli --help | true; echo ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert answer.stdout.strip() == "0"
    assert "Traceback" not in answer.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_sigterm_ends_any_command_with_143_and_runs_its_cleanup(tmp_path):
    code = (
        "import sys, time\nfrom types import SimpleNamespace\nfrom app import cli\n"
        "def run(args):\n"
        "    try:\n        print('ready', flush=True); time.sleep(60)\n"
        "    finally:\n        print('cleaned', flush=True)\n"
        "def add(subparsers): subparsers.add_parser('doctor')\n"
        "cli.command_modules = lambda word: [SimpleNamespace(add_parser=add, run=run)]\n"
        "sys.exit(cli.main(['doctor']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.terminate()
    assert process.stdout.read() == "cleaned\n"
    assert process.wait() == 143
