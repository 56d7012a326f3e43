"""What a visitor reads when something goes wrong: our own errors in full, everything else as a number to quote."""

from __future__ import annotations

import asyncio
import html
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
from gradio.context import LocalContext

from genmm.core.errors import Cancelled, GenmmError

__all__ = ["escape", "latest_problem", "plain_message", "reported"]

log = logging.getLogger(__name__)

VISITORS = 1000
"""Visitors whose latest problem is kept, so that it can still be read when the browser's message has gone."""
_latest: OrderedDict[str, str] = OrderedDict()
_PATH = re.compile(r"(?<![\w/])(?:[A-Za-z]:\\|/|\\\\)(?:[^\s:;,'\"<>|()]+[/\\])+[^\s:;,'\"<>|()]*")

_TEMPLATE_MARKS = str.maketrans({mark: f"&#{ord(mark)};" for mark in "{}$`"})


@contextmanager
def reported(task: str) -> Iterator[None]:
    """Turn errors inside the block into messages for the visitor.

    A GenmmError becomes a gr.Error with its text, paths shortened to their last part. Anything else is logged under a
    random id, and the visitor sees only the id. Cancelled and gr.Error pass unchanged.
    """
    try:
        yield
        _latest.pop(_visitor(), None)
    except (gr.Error, Cancelled, asyncio.CancelledError, GeneratorExit):
        raise
    except GenmmError as error:
        raise _told(_without_folders(str(error)), "Please check") from error
    except Exception as error:
        number = secrets.token_hex(4)
        log.exception("%s failed, error %s", task, number)
        text = f"Something went wrong on the server (error {number}). The server's log has the details under this id."
        if _out_of_memory(error):
            text = "The device ran out of memory. Use a shorter text or fewer takes, or a smaller model."
        raise _told(text, "Not done") from error


def _told(text: str, title: str) -> gr.Error:
    """The error for the browser; its text is also kept for the visitor's page."""
    if visitor := _visitor():
        _latest[visitor] = text
        _latest.move_to_end(visitor)
        while len(_latest) > VISITORS:
            _latest.popitem(last=False)
    return gr.Error(html.escape(text, quote=False), title=title, print_exception=False)


def _visitor() -> str:
    """Session of the event that is being handled; empty outside of events."""
    request = LocalContext.request.get(None)
    return "" if request is None else str(request.session_hash)


def latest_problem(session: str) -> str:
    """What `reported` last said to a visitor, as plain text; empty when all has gone well since."""
    return _latest.get(session, "")


def plain_message(text: str) -> str:
    """Take folders out of an error text, and markup, because the browser shows messages as HTML."""
    return html.escape(_without_folders(text), quote=False)


def _without_folders(text: str) -> str:
    return _PATH.sub(lambda match: re.split(r"[/\\]", match.group().rstrip("/\\"))[-1], text)


def escape(text: object) -> str:
    """Make any text safe inside HTML, attribute values, and the two template languages of gr.HTML."""
    return html.escape(str(text), quote=True).translate(_TEMPLATE_MARKS)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
