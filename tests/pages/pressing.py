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
    """Press the download button `name` and save what comes as `path`.

    Headless Chromium cancels a download now and then when the machine is busy. Then the file is fetched from the
    address that the button led to, so that the page is tested and not the browser.
    """
    with tab.expect_download() as started:
        tab.get_by_role("button", name=name).or_(tab.get_by_role("link", name=name)).first.click()
    if started.value.failure() != "canceled":
        started.value.save_as(path)
        return path
    answer = tab.request.get(started.value.url)
    assert answer.ok, f"{started.value.url}: {answer.status} {answer.status_text}"
    path.write_bytes(answer.body())
    return path
