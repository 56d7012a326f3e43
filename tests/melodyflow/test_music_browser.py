"""The Music tab in a real browser: describe, make, download, edit the result, mark a region and make it anew."""

from __future__ import annotations

import pytest
from pressing import press_and_save, press_and_wait
from tiny_music import chirp

from genmm.media.audio import read_audio, write_audio

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]
PATIENCE_MS = 240_000
"""Longest wait for anything; a busy machine is slow, a broken page never gets there."""


def test_make_edit_and_patch(browser, page, tmp_path):
    context = browser.new_context(viewport={"width": 1280, "height": 1400}, accept_downloads=True)
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE_MS)
    broken: list[str] = []
    tab.on("pageerror", lambda error: broken.append(str(error)))
    tab.goto(page)
    tab.get_by_role("tab", name="Music").click()
    tab.fill("#music-text textarea", "calm piano in A minor, 90 bpm, no drums, zither")
    tab.wait_for_function("document.querySelector('#music-understood').innerText.includes('not understood: zither')")
    tab.get_by_role("button", name="Make music").click()
    tab.wait_for_selector(".gm-note-done:visible")
    assert "network calls" in tab.locator(".gm-note-done:visible").inner_text()
    press_and_save(tab, "Download flac", tmp_path / "made.flac")
    assert read_audio(tmp_path / "made.flac").seconds == pytest.approx(10.0)

    write_audio(tmp_path / "in.wav", chirp(2.0).samples, 8000)
    tab.get_by_label("Make a part anew").check()
    tab.locator("#music-source input[type=file]").set_input_files(str(tmp_path / "in.wav"))
    tab.wait_for_selector("#music-wave img")
    image = tab.locator("#music-wave img")
    box = image.bounding_box()
    image.click(position={"x": box["width"] * 0.25, "y": box["height"] / 2})
    tab.wait_for_function("() => Math.abs(document.querySelectorAll('input[type=number]').length) > 0")
    start = tab.get_by_label("Start (s)")
    tab.wait_for_function("element => Math.abs(Number(element.value) - 0.5) < 0.05", arg=start.element_handle())
    press_and_wait(tab, tab.get_by_role("button", name="Make music"))
    tab.wait_for_selector("#music-before:visible")
    for one, other in (("before", "result"), ("result", "before")):  # A/B: one plays at a time, from the same place
        tab.locator(f"#music-hear-{one}").click()
        tab.wait_for_selector(f"#music-hear-{one}[aria-pressed=true]")
        assert tab.locator(f"#music-hear-{other}[aria-pressed=true]").count() == 0

    tab.get_by_label("Edit a recording").check()  # one description a line: a list of edits, each against the recording
    tab.fill("#music-text textarea", "organ\ndark choir, zither")
    tab.wait_for_function(
        "/^1: understood[^]*\\n2: [^]*not understood: zither/i"
        ".test(document.querySelector('#music-understood').innerText)"
    )
    press_and_wait(tab, tab.get_by_role("button", name="Make music"))
    assert "2 edits from one inversion" in tab.locator(".gm-note-done:visible").inner_text()
    files = []
    for label in ("1: organ", "2: dark choir, zither"):
        tab.locator("#music-takes").get_by_label(label).check()
        tab.locator(".gm-list dd:visible", has_text=label[3:]).first.wait_for()
        tab.locator("#music-hear-result").click()
        tab.wait_for_selector("#music-hear-result[aria-pressed=true]")
        files.append(tab.evaluate("window.genmmPair.urls[1]"))
        assert tab.evaluate("window.genmmPair.sounds.map((sound) => sound.paused)") == [True, False]
        tab.locator("#music-hear-before").click()
        tab.wait_for_selector("#music-hear-before[aria-pressed=true]")
    assert "edit_1_organ" in files[0] and "edit_2_dark_choir_zither" in files[1]
    assert broken == []
    context.close()
