"""The page in a real browser: type, hear it begin before the end, cancel, load a recipe, fit a phone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.web import speech
from app.web.main import TABS
from genmm.core.events import PartialAudio

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TEXT = "#speech-text textarea"
HEARD_S = "document.querySelector('#speech-live audio').currentTime"
PATIENCE_MS = 300_000
"""What takes longer hangs; a busy machine is no reason to fail."""


@pytest.fixture
def tab(browser, page) -> Iterator:
    """A browser tab on the page; fails at the end when the page talked to another server or threw an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    tab = context.new_page()
    foreign, broken, segments = [], [], []

    def note(request) -> None:
        if not request.url.startswith((page.rstrip("/"), "data:", "blob:")):
            foreign.append(request.url)
        if request.url.endswith(".aac"):
            segments.append(request.url)

    tab.on("request", note)
    tab.on("pageerror", lambda error: broken.append(str(error)))
    tab.segments = segments
    tab.goto(page)
    tab.wait_for_selector(TEXT)
    yield tab
    context.close()
    assert foreign == []
    assert broken == []


def press(tab, name: str) -> None:
    tab.get_by_role("button", name=name, exact=True).first.click()


@pytest.fixture
def held(monkeypatch) -> Iterator[threading.Event]:
    """Every speech lasts at least 6 s and stops after 3 s of sound until the event is set or somebody cancels."""
    go_on, plain = threading.Event(), speech.speak_events

    def hold(form, *rest):
        work = plain(replace(form, more={"min_s": 6.0, "max_s": 8.0}), *rest)

        def events(token):
            made_s = 0.0
            for event in work(token):
                yield event
                if isinstance(event, PartialAudio):
                    made_s += event.samples.shape[-1] / event.sample_rate
                while made_s > 3.0 and not go_on.wait(0.02):
                    token.check()

        return events

    monkeypatch.setattr(speech, "speak_events", hold)
    yield go_on
    go_on.set()


def test_sound_starts_before_the_sentence_is_finished(tab, held, until):
    tab.fill(TEXT, "one two three four five six seven eight nine ten " * 8)
    press(tab, "Speak")
    until(lambda: _tick(tab) or bool(tab.segments), "a piece of sound to be fetched")
    until(lambda: _tick(tab) or tab.evaluate(HEARD_S) > 0.2, "sound to play")
    assert tab.locator(".gm-note-done").count() == 0
    held.set()
    tab.wait_for_selector(".gm-note-done")
    assert tab.locator("#speech-result").is_visible()
    shown = tab.locator(".gm-picture:visible")
    assert shown.count() == 1
    assert "nine ten" in tab.locator(".gm-list").inner_text()


def test_cancel_stops_and_the_next_run_works(tab, held, server, until):
    tab.fill(TEXT, "one two three four five six seven eight nine ten " * 8)
    press(tab, "Speak")
    until(lambda: _tick(tab) or bool(server.runs.active()), "the run to start")
    press(tab, "Cancel")
    tab.wait_for_selector(".gm-note-stopped")
    until(lambda: _tick(tab) or not server.runs.active(), "the run to end")
    held.set()
    tab.fill(TEXT, "one")
    press(tab, "Speak")
    tab.wait_for_selector(".gm-note-done")


def test_cancel_takes_a_waiting_run_out_of_the_line(tab, held, browser, page, server, until):
    other = browser.new_context().new_page()
    other.set_default_timeout(PATIENCE_MS)
    other.goto(page)
    other.wait_for_selector(TEXT)
    tab.fill(TEXT, "one two three four five six seven eight nine ten " * 8)
    press(tab, "Speak")
    until(lambda: _tick(tab) or bool(server.runs.active()), "the run to start")
    other.fill(TEXT, "one")
    press(other, "Speak")
    other.wait_for_selector(".gm-progress:has-text('Waiting for 1 job')")
    press(other, "Cancel")
    other.wait_for_selector(".gm-note-stopped")
    assert len(server.runs.active()) == 1  # the other visitor's run goes on
    press(tab, "Cancel")
    held.set()
    press(other, "Speak")
    other.wait_for_selector(".gm-note-done")
    other.context.close()


@pytest.mark.parametrize(("text", "said"), [("", "the text is empty"), ("seven " * 900, "the limit is 2000")])
def test_a_mistake_is_said_before_anything_starts(tab, text, said):
    tab.fill(TEXT, text)
    press(tab, "Speak")
    tab.wait_for_selector(".toast-body")
    assert said in tab.locator(".toast-body").first.inner_text()
    assert said in tab.locator(".gm-note-problem:visible").inner_text()  # stays when the message has gone
    assert tab.get_by_role("button", name="Speak", exact=True).first.is_enabled()


def test_after_a_failed_run_the_reason_stays_and_the_next_run_works(tab, tmp_path):
    (tmp_path / "voice.wav").write_text("this is no sound")
    tab.get_by_label("Voice").first.click()
    tab.get_by_role("option", name="Own recording").click()
    tab.locator("#speech-recording input[type=file]").set_input_files(str(tmp_path / "voice.wav"))
    tab.wait_for_selector("#speech-recording audio", state="attached")
    tab.fill(TEXT, "one")
    press(tab, "Speak")
    tab.wait_for_selector(".gm-note-problem")
    assert "voice.wav cannot be read" in tab.locator(".gm-note-problem").inner_text()
    tab.get_by_label("Voice").first.click()
    tab.get_by_role("option").first.click()
    press(tab, "Speak")
    tab.wait_for_selector(".gm-note-done")


def _tick(tab) -> bool:
    """Let the browser's events be handled while waiting."""
    tab.wait_for_timeout(20)
    return False


def _width(tab) -> int:
    """Pixels that the page would need to show everything without scrolling sideways."""
    return tab.evaluate("document.documentElement.scrollWidth")


def open_tab(tab, name: str) -> None:
    """Bring a tab to the front; those for which there is no room are in a menu."""
    button = tab.get_by_role("tab", name=name, exact=True)
    if button.count() and button.is_visible():
        button.click()
        return
    tab.locator(".overflow-menu > button").click()
    tab.locator(".overflow-dropdown button").filter(has_text=name).click()


def test_a_recipe_brings_the_settings_back(tab, tmp_path: Path):
    recipe = {
        "genmm": "0.1.0",
        "task": "speech",
        "model": {"name": "tiny", "system": "sled", "fingerprint": "x"},
        "settings": {"text": "four five six", "voice": "anna", "guidance": 3.5, "temperature": 0.5, "pause_s": 0.4},
        "seeds": [12, 34],
    }
    path = tmp_path / "speech.json"
    path.write_text(json.dumps(recipe))
    tab.locator(".gm-flat button").first.click()
    tab.locator("input[type=file][accept^='.json']").set_input_files(str(path))
    tab.wait_for_function(f"document.querySelector('{TEXT}').value === 'four five six'")
    assert tab.get_by_label("Seed").first.input_value() == "12, 34"
    assert tab.get_by_label("Voice").first.input_value() == "Anna"
    assert "pause_s = 0.4" in tab.locator("body").inner_text()
    press(tab, "Speak")
    tab.wait_for_selector(".gm-note-done")
    assert "in 2 takes" in tab.locator(".gm-note-done").inner_text()


def test_markup_in_the_text_is_shown_as_text(tab):
    tab.fill(TEXT, "<img src=x onerror=window.hacked=1> {{value}} ${6*7} one")
    press(tab, "Speak")
    tab.wait_for_selector(".gm-note-done")
    tab.get_by_role("tab", name="History").click()
    tab.locator(".gm-gallery button").first.click()
    said = tab.locator(".gm-said")
    said.wait_for()
    assert "${6*7}" in said.inner_text()
    assert "{{value}}" in said.inner_text()
    assert tab.evaluate("window.hacked") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_both_colour_schemes(browser, page, scheme, until):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE_MS)
    tab = context.new_page()
    tab.goto(page)
    tab.wait_for_selector(TEXT)
    for name in [*(made.title for made in TABS), "History", "Status"]:
        open_tab(tab, name)
        tab.locator("[role=tab][aria-selected=true]", has_text=name).first.wait_for(state="attached")
        tab.wait_for_selector("[role=tabpanel]:visible")
        tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # drawn
        until(lambda: _tick(tab) or _width(tab) <= 390, f"{name} to be no wider than a phone")
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(int(part) for part in background.partition("(")[2].rstrip(")").split(",")[:3]) / 3
    assert lightness > 200 if scheme == "light" else lightness < 60
    context.close()
