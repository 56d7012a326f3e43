"""What visitors read, and what they do not."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.context import LocalContext

from app.web import messages
from app.web.controls import failed_html
from app.web.messages import escape, latest_problem, plain_message, reported
from genmm.core.errors import Cancelled, UsageError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/tmp/genmm-web-x/files/runs/abc/voice.wav is silent", "voice.wav is silent"),
        ("cannot read C:\\Users\\ann\\data\\in.jsonl: gone", "cannot read in.jsonl: gone"),
        ("guidance must be from 0 to 10", "guidance must be from 0 to 10"),
        ("give 3/4 or and/or", "give 3/4 or and/or"),
        ("choose <b>one</b>", "choose &lt;b&gt;one&lt;/b&gt;"),
    ],
)
def test_paths_and_markup_are_taken_out(text, shown):
    assert plain_message(text) == shown


def test_escaped_text_is_inert_in_html_and_in_templates():
    text = escape("<img src=x onerror='a()'> {{value}} ${1+1} \"&")
    assert not set(text) & set("<>\"'{}$")


def test_our_errors_are_shown_in_full():
    with pytest.raises(gr.Error) as caught, reported("speech"):
        raise UsageError("the text is empty; write at least one word")
    assert caught.value.message == "the text is empty; write at least one word"


def test_the_latest_problem_of_a_visitor_is_kept_for_the_page(monkeypatch):
    monkeypatch.setattr(messages, "PROBLEMS", 2)
    for visitor in ("ann", "ben", "eve"):
        token = LocalContext.request.set(SimpleNamespace(session_hash=visitor))
        with pytest.raises(gr.Error), reported("speech"):
            raise UsageError(f"/tmp/x/{visitor}.wav holds <b>no</b> sound")
        LocalContext.request.reset(token)
    assert [latest_problem(visitor, "speech") for visitor in ("ann", "ben")] == ["", "ben.wav holds <b>no</b> sound"]
    assert "&lt;b&gt;" in failed_html(latest_problem("eve", "speech"))
    token = LocalContext.request.set(SimpleNamespace(session_hash="eve"))
    with reported("status"):
        pass
    assert latest_problem("eve", "speech")  # another task that went well says nothing about this one
    with reported("speech"):
        pass
    LocalContext.request.reset(token)
    assert latest_problem("eve", "speech") == ""


def test_other_errors_show_an_id_that_the_log_has(caplog):
    with caplog.at_level(logging.ERROR), pytest.raises(gr.Error) as caught, reported("speech"):
        raise RuntimeError("secret /etc/shadow")
    message = caught.value.message
    assert "secret" not in message
    number = message.partition("error ")[2][:8]
    assert len(number) == 8
    assert number in caplog.text
    assert "secret" in caplog.text


def test_running_out_of_memory_is_said_plainly():
    with pytest.raises(gr.Error, match="out of memory"), reported("speech"):
        raise MemoryError


@pytest.mark.parametrize("passing", [Cancelled(), gr.Error("x"), asyncio.CancelledError(), GeneratorExit()])
def test_cancelling_passes_unchanged(passing):
    with pytest.raises(type(passing)), reported("speech"):
        raise passing
