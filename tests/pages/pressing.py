"""Buttons as a person presses them: wait for what comes of it."""

from __future__ import annotations

from pathlib import Path

MARK_NOTES = "document.querySelectorAll('.gm-note-done').forEach(note => note.dataset.old = 'yes')"
NEW_NOTE = ".gm-note-done:not([data-old]):visible"
"""Each run draws its note anew; one from the run before carries the mark."""


def press_and_wait(tab, button) -> None:
    """Press the button of a run and wait for the note that says that this run is done."""
    tab.evaluate(MARK_NOTES)
    button.click()
    tab.wait_for_selector(NEW_NOTE)


def press_and_save(tab, name: str, path: Path) -> Path:
    """Press the download button `name` and save what comes as `path`."""
    with tab.expect_download() as started:
        tab.get_by_role("button", name=name).or_(tab.get_by_role("link", name=name)).first.click()
    failure = started.value.failure()
    if failure:  # Chromium says "canceled" whatever the reason; the server tells it
        answer = tab.request.get(started.value.url)
        raise AssertionError(f"{failure}: {started.value.url} is answered by {answer.status} {answer.status_text}")
    started.value.save_as(path)
    return path
