"""What README.md, docs and the model cards tell people to type really exists: commands, options, files, Python."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from code_blocks import code_blocks, run_python

import genmm
from app.cli import PASS_THROUGH, build_parser
from genmm.media.audio import write_audio

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "genmm").rglob("README.md"))]
PICTURE_BYTES = 200_000
"""Largest picture of a page."""


def lines(page: Path) -> Iterator[str]:
    """The command lines of the shell blocks, continued lines joined."""
    for block in code_blocks(page, "sh"):
        yield from (line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip())


def named(pages: list[Path], kind) -> list:
    """Test parameters (page, text) with a readable name."""
    return [pytest.param(page, text, id=f"{page.parent.name}-{text[:60]}") for page in pages for text in kind(page)]


def commands(page: Path) -> list[str]:
    return [line for line in lines(page) if line.startswith("genmm ")]


def mentions(page: Path) -> list[str]:
    """Commands inside sentences, without those that stand for any command."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"`(genmm [^`]+)`", text)
    return sorted({" ".join(words) for line in found if (words := line.split())[1].islower()})


def leaf(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of the innermost subcommand that the words name, and the words after it."""
    parser, rest = build_parser(), list(words)
    while rest and (below := [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]):
        assert rest[0] in below[0].choices, f"there is no {' '.join(words)}; there are {', '.join(below[0].choices)}"
        parser = below[0].choices[rest.pop(0)]
    return parser, rest


def check_training(words: list[str], monkeypatch, capsys) -> None:
    """The trainer itself reads the configuration and all keys, and says what they come to."""
    from app.train import run_training

    monkeypatch.chdir(ROOT)
    assert run_training(words[0], [*words[1:], "--print_config"]) == 0, capsys.readouterr().err
    assert "class_path" in capsys.readouterr().out


def check_benchmark(words: list[str], monkeypatch) -> None:
    from benchmarks import run as bench

    monkeypatch.setattr(bench, "_measure", lambda module, name, args: 0)
    assert bench.main(words[1:]) == 0


@pytest.mark.parametrize(("page", "line"), named(PAGES, commands))
def test_every_command_line_parses(page, line, monkeypatch, capsys):
    words = shlex.split(line, comments=True)[1:]
    words = words[: next((i for i, word in enumerate(words) if word in ("|", "<")), None)]  # the rest is the shell's
    if words[0] in ("export", "resume"):
        assert len(words) == {"export": 3, "resume": 2}[words[0]]
    elif words[0] == "bench":
        check_benchmark(words, monkeypatch)
    elif words[0] in PASS_THROUGH:
        configs = [Path(value) for option, value in zip(words, words[1:], strict=False) if option == "--config"]
        assert configs and all((ROOT / config).is_file() for config in configs)
    else:
        build_parser(words[0]).parse_args(words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "line"), named(PAGES, lambda page: [line for line in commands(page) if line.startswith("genmm fit ")])
)
def test_every_training_line_is_read_by_the_trainer(page, line, monkeypatch, capsys):
    check_training(shlex.split(line, comments=True)[1:], monkeypatch, capsys)


@pytest.mark.parametrize(("page", "mention"), named(PAGES, mentions))
def test_every_command_in_a_sentence_exists(page, mention):
    parser, rest = leaf(shlex.split(mention)[1:])
    if parser._option_string_actions:  # pass-through commands know their options themselves
        unknown = [w for w in rest if w.startswith("--") and w.split("=")[0] not in parser._option_string_actions]
        assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_make_target_exists(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in lines(page):
        if line.startswith("make "):
            wanted = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word]
            assert set(wanted) <= set(targets)


@pytest.mark.parametrize(("page", "code"), named(PAGES, lambda page: code_blocks(page, "python")))
def test_every_python_block_names_what_exists(page, code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "genmm":
            assert hasattr(genmm, node.attr)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not any(model.source == "embedded" and model.name == "sled" for model in genmm.models()):
        pytest.skip("needs the embedded speech model")
    time_s = np.arange(32_000) / 16_000
    voice = np.sin(2 * np.pi * 150 * time_s) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time_s))
    write_audio(tmp_path / "me.wav", 0.3 * voice.astype(np.float32), 16_000)
    known = run_python(ROOT / "README.md")
    assert min((tmp_path / name).stat().st_size for name in ("out.wav", "mine.wav")) > 1000
    assert (tmp_path / "out.json").is_file()
    assert known["score"].shape == (5,)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_links_and_pictures_are_there_and_small(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target or target.startswith("#"):
            continue
        path = page.parent / target.partition("#")[0]
        assert path.exists(), f"{page.name} links to {target}, which is not there"
        if path.suffix in (".png", ".webp", ".jpg"):
            assert path.stat().st_size <= PICTURE_BYTES
