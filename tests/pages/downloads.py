"""Downloads as a person makes them: press, and press again when the browser gave up."""

from __future__ import annotations

from pathlib import Path

ATTEMPTS = 3


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
