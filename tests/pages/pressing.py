"""Buttons as a person presses them: wait for what comes of it, press again when the browser gave up."""

from __future__ import annotations

from pathlib import Path

ATTEMPTS = 3
MARK_NOTES = "document.querySelectorAll('.gm-note-done').forEach(note => note.dataset.old = 'yes')"
NEW_NOTE = ".gm-note-done:not([data-old]):visible"
"""Each run draws its note anew; one from the run before carries the mark."""


def press_and_wait(tab, button) -> None:
    """Press the button of a run and wait for the note that says that this run is done."""
    tab.evaluate(MARK_NOTES)
    button.click()
    tab.wait_for_selector(NEW_NOTE)


def press_and_save(tab, name: str, path: Path) -> Path:
    """Press the download button `name` and save what comes as `path`.

    Chromium cancels a download whose button is drawn anew in the same moment, as happens while results still arrive.
    """
    for attempt in range(ATTEMPTS):
        with tab.expect_download() as started:
            tab.get_by_role("button", name=name).or_(tab.get_by_role("link", name=name)).first.click()
        if started.value.failure() != "canceled" or attempt == ATTEMPTS - 1:
            break
        tab.wait_for_timeout(500)
    started.value.save_as(path)
    return path
