"""What a visitor reads when something goes wrong: our own errors in full, everything else as a number to quote."""

from __future__ import annotations

import asyncio
import html
import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from genmm.core.errors import Cancelled, GenmmError

__all__ = ["escape", "plain_message", "reported"]

log = logging.getLogger(__name__)

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
    except (gr.Error, Cancelled, asyncio.CancelledError, GeneratorExit):
        raise
    except GenmmError as error:
        raise gr.Error(plain_message(str(error)), title="Please check", print_exception=False) from error
    except Exception as error:
        number = secrets.token_hex(4)
        log.exception("%s failed, error %s", task, number)
        text = f"Something went wrong on the server (error {number}). The server's log has the details under this id."
        if _out_of_memory(error):
            text = "The device ran out of memory. Use a shorter text or fewer takes, or a smaller model."
        raise gr.Error(text, title="Not done", print_exception=False) from error


def plain_message(text: str) -> str:
    """Take folders out of an error text, and markup, because the browser shows messages as HTML."""
    text = _PATH.sub(lambda match: re.split(r"[/\\]", match.group().rstrip("/\\"))[-1], text)
    return html.escape(text, quote=False)


def escape(text: object) -> str:
    """Make any text safe inside HTML, attribute values, and the two template languages of gr.HTML."""
    return html.escape(str(text), quote=True).translate(_TEMPLATE_MARKS)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
