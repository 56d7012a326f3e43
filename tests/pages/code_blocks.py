"""Code that stands in pages: the fenced blocks of a Markdown file, and what its Python comes to."""

from __future__ import annotations

import re
from pathlib import Path


def code_blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of one language in a page, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_python(page: Path) -> dict:
    """Run all Python blocks of a page, one after another as a reader would; gives back the names that they define."""
    known: dict = {}
    found = code_blocks(page, "python")
    assert found, f"{page} shows no Python"
    for code in found:
        exec(compile(code, page.name, "exec"), known)  # noqa: S102 - our own page, run on purpose
    return known
