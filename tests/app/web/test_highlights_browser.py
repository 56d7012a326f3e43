"""The Highlights tab in a real browser: upload, curve, seek, edit, cut again, switch streams, download."""

from __future__ import annotations

from pathlib import Path

import pytest
from pressing import press_and_save, press_and_wait

from genmm.media.video import probe

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]
PATIENCE_MS = 240_000
"""Longest wait for anything; a busy machine is slow, a broken page never gets there."""


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Ten seconds with sound: a shape flashes from 4 to 7 s."""
    from datamodules.rendered_video import Mover, Scene, Sound, render_scene
    from genmm.media.video_write import write_video

    scene = Scene(
        seconds=10.0,
        movers=(Mover(shape="star", colour="red", start_s=4.0, end_s=7.0, size=0.5, flash_hz=1.5),),
        sounds=(Sound(kind="clap", start_s=4.0, end_s=7.0), Sound(kind="hum", level=0.02)),
    )
    frames, samples, _ = render_scene(scene, fps=5, side=(96, 128))
    return write_video(tmp_path_factory.mktemp("video") / "game.mp4", frames, 5.0, audio=(samples, 16_000))


def test_from_upload_to_an_edited_reel(browser, page, video, tmp_path):
    context = browser.new_context(viewport={"width": 1280, "height": 1100}, accept_downloads=True)
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE_MS)
    broken: list[str] = []
    tab.on("pageerror", lambda error: broken.append(str(error)))
    tab.goto(page)
    tab.get_by_role("tab", name="Highlights").click()
    tab.get_by_role("button", name="Find highlights").click()
    tab.wait_for_selector(".gm-note-problem:visible:has-text('choose a video first')")
    tab.locator("#highlights-video input[type=file]").set_input_files(str(video))
    tab.wait_for_selector("#highlights-video video")
    tab.fill("#highlights-amount input", "4")
    tab.get_by_role("button", name="Find highlights").click()
    tab.wait_for_selector(".gm-note-done:visible")
    assert "segment" in tab.locator(".gm-note-done:visible").inner_text()

    tab.wait_for_selector("#highlights-moments img")
    tile, picture = (tab.locator(f"#highlights-moments {part}").first.bounding_box() for part in ("button", "img"))
    assert tile["y"] <= picture["y"] and picture["y"] + picture["height"] <= tile["y"] + tile["height"]
    assert 60 < picture["height"] < 200  # few pictures are not blown up

    chart = tab.locator("#highlights-curve svg")
    assert chart.locator(".gm-kept").count() >= 1
    box = chart.bounding_box()
    tab.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 20)
    tab.wait_for_function("document.querySelector('#highlights-video video').currentTime > 4")
    tab.wait_for_function("Number(document.querySelector('#highlights-curve .gm-playhead').getAttribute('x1')) > 400")

    bands = chart.locator("polyline").nth(2).get_attribute("points")
    tab.get_by_label("Picture only").check()
    tab.wait_for_function(
        "before => document.querySelectorAll('#highlights-curve polyline')[2].getAttribute('points') !== before",
        arg=bands,
    )
    press_and_wait(tab, tab.get_by_role("button", name="Cut the reel again"))
    press_and_save(tab, "Download reel", tmp_path / "reel.mp4")
    assert probe(tmp_path / "reel.mp4").duration_s == pytest.approx(4.0, abs=0.5)
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.wait_for_function("document.documentElement.clientWidth <= 390")
    tab.wait_for_function("document.documentElement.scrollWidth <= 390")
    assert broken == []
    context.close()
