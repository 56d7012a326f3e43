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

PROBLEMS = 1000
"""Latest problems that are kept, so that they can still be read when the browser's message has gone."""
_latest: OrderedDict[tuple[str, str], str] = OrderedDict()
"""(session, task) -> what was said; a task that goes well says nothing about the others."""
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
        _latest.pop((_visitor(), task), None)
    except (gr.Error, Cancelled, asyncio.CancelledError, GeneratorExit):
        raise
    except GenmmError as error:
        raise _told(task, _without_folders(str(error)), "Please check") from error
    except Exception as error:
        number = secrets.token_hex(4)
        log.exception("%s failed, error %s", task, number)
        text = f"Something went wrong on the server (error {number}). The server's log has the details under this id."
        if _out_of_memory(error):
            text = "The device ran out of memory. Use a shorter text or fewer takes, or a smaller model."
        raise _told(task, text, "Not done") from error


def _told(task: str, text: str, title: str) -> gr.Error:
    """The error for the browser; its text is also kept for the visitor's page."""
    if visitor := _visitor():
        _latest[visitor, task] = text
        _latest.move_to_end((visitor, task))
        while len(_latest) > PROBLEMS:
            _latest.popitem(last=False)
    return gr.Error(html.escape(text, quote=False), title=title, print_exception=False)


def _visitor() -> str:
    """Session of the event that is being handled; empty outside of events."""
    request = LocalContext.request.get(None)
    return "" if request is None else str(request.session_hash)


def latest_problem(session: str, task: str) -> str:
    """What `reported` last said to a visitor about a task, as plain text; empty when it has gone well since."""
    return _latest.get((session, task), "")


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
