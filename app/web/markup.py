"""Pieces of HTML that several tabs use. Texts are escaped here unless a parameter says that it holds HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from app.web.messages import escape

__all__ = ["chip_html", "table_html"]


def table_html(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways on narrow screens; the cells of `rows` hold HTML that is safe already."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    table = f'<table class="gm-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="gm-scroll">{table}</div>'


def chip_html(text: str, kind: Literal["good", "bad", "plain"]) -> str:
    """A word on a coloured ground."""
    return f'<span class="gm-chip gm-chip-{kind}">{escape(text)}</span>'
