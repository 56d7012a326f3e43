"""The Image tab: what its parts do, what programs can ask for, and the whole of it in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pressing import press_and_save, press_and_wait
from served import end, serve

from app.web.image import enlarged, facts_html, lost_settings, needed_controls, parse_codes, read_canvas
from app.web.image_work import OPERATIONS, Drawn, ImageForm, Take, check_form, image_events, model_facts
from app.web.pool import ModelPool
from genmm.core.errors import LimitError, UsageError
from genmm.core.events import CancelToken, Finished
from genmm.core.results import read_recipe
from genmm.systems.tokenset.config import CountNetworkConfig, SetTokenizerConfig
from genmm.systems.tokenset.network import CountNetwork
from genmm.systems.tokenset.pipeline import TokenSetPipeline
from genmm.systems.tokenset.request import PictureSettings
from genmm.systems.tokenset.tokenizer import SetTokenizer

PATIENCE_MS = 240_000
"""Longest wait for anything; a busy machine is slow, a broken page never gets there."""
SIDE = 16


@pytest.fixture(scope="module")
def image_model(tmp_path_factory) -> Path:
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    tokenizer = SetTokenizer(
        SetTokenizerConfig(
            image_size=SIDE, patch_size=4, tokens=8, sizes=(4, 8), codes=32, code_width=4, width=32, depth=1, heads=2,
            features=8, pixels="shuffle", pixel_channels=8, res_blocks=1, legacy_mixing=False,
        )
    )  # fmt: skip
    tokenizer.quantize.embedding.weight.normal_()
    labels = {"style": ("noto", "twemoji"), "group": ("flags", "objects")}
    network = CountNetwork(
        CountNetworkConfig(codes=32, tokens=8, width=32, depth=1, heads=2, group=4, labels=labels, text_rows=64)
    )
    pipeline = TokenSetPipeline(tokenizer, network, defaults=PictureSettings(steps=4))
    return pipeline.save(tmp_path_factory.mktemp("image-models") / "tiny-image")


@pytest.fixture(scope="module")
def pool(image_model) -> ModelPool:
    return ModelPool(first=str(image_model), device="cpu", dtype="auto", capacity=2)


@pytest.fixture
def picture() -> np.ndarray:
    drawn = np.full((32, 48, 3), 255, np.uint8)
    drawn[6:24, 10:30] = (200, 40, 60)
    return drawn


def made(form: ImageForm, pool: ModelPool, folder: Path) -> Drawn:
    check_form(form)
    events = list(image_events(form, pool, lambda: folder)(CancelToken()))
    assert isinstance(events[-1], Finished)
    return events[-1].result


def test_drawing_writes_pictures_recipes_and_thumbnails(pool, tmp_path):
    drawn = made(ImageForm(text="red heart", labels={"style": "noto"}, count=2, seeds=(3,)), pool, tmp_path)
    assert len(drawn.takes) == 2
    assert all(take.path.is_file() and take.thumbnail.is_file() for take in drawn.takes)
    assert read_recipe(drawn.takes[1].recipe)["seeds"] == [drawn.takes[1].seed]


@pytest.mark.parametrize("operation", ["redraw", "vary", "clean", "fewer", "mix", "swap", "map"])
def test_every_operation_works(pool, tmp_path, picture, operation):
    region = np.zeros(picture.shape[:2], bool)
    region[:, :24] = True
    form = ImageForm(
        operation=operation, picture=picture, region=region, second=255 - picture, count=3, strength=0.8, tokens=4
    )
    drawn = made(form, pool, tmp_path)
    assert len(drawn.takes) == {"redraw": 3, "vary": 3, "mix": 3, "swap": 2}.get(operation, 1)
    assert (drawn.heat is not None) == (operation in ("redraw", "map"))
    assert drawn.takes[0].tokens == (4 if operation == "fewer" else 8)
    if operation == "map":
        assert sum(times for _, times, _ in drawn.table) == 8
        assert str(drawn.table[0][0]) in facts_html(drawn, 0)


def test_named_tokens_are_redrawn_and_all_others_kept(pool, tmp_path, picture):
    own = pool.get(None, "tokenset").tokenize([picture])[0]
    codes = [code for code, _ in own.pairs]
    drawn = made(ImageForm(operation="redraw", picture=picture, free=tuple(codes[:2]), count=2), pool, tmp_path)
    for take in drawn.takes:
        tokens = read_recipe(take.recipe)["tokens"][0]
        assert all(tokens.count(code) == times for code, times in own.pairs if code not in codes[:2])
    assert parse_codes(" 17, 203,17 ") == (17, 203)
    assert parse_codes(None) == ()
    with pytest.raises(UsageError, match="whole numbers"):
        parse_codes("17; 203")
    with pytest.raises(UsageError, match="holds no"):
        foreign = next(code for code in range(32) if code not in own)
        made(ImageForm(operation="redraw", picture=picture, free=(foreign,)), pool, tmp_path / "no")


def test_settings_without_a_control_are_named():
    start = PictureSettings()
    assert lost_settings(start.changed({"steps": 5, "engine": "repair"}), start) == ""
    assert lost_settings(start.changed({"top_p": 0.9, "guidance_space": "probability"}), start) == (
        "guidance_space probability, top_p 0.9"
    )


def test_an_operation_shows_the_controls_that_it_reads():
    shown = {name: [update["visible"] for update in needed_controls(name)] for name in OPERATIONS}
    assert shown["redraw"] == [True, False, True, False]
    assert shown["swap"] == shown["mix"] == [False, True, False, False]
    assert shown["fewer"] == [False, False, False, True]
    assert shown["map"] == [False] * 4


def test_forms_are_checked_before_they_wait(picture):
    for form, message in (
        (ImageForm(operation="vary"), "picture on the canvas"),
        (ImageForm(operation="redraw", picture=picture), "mark a part"),
        (ImageForm(operation="mix", picture=picture), "second picture"),
        (ImageForm(operation="melt", picture=picture), "no operation"),
        (ImageForm(count=9), "from 1 to 8"),
        (ImageForm(settings={"steps": 0}), "steps"),
    ):
        with pytest.raises(UsageError, match=message):
            check_form(form)
    with pytest.raises(LimitError):
        check_form(ImageForm(text="a" * 3000))


def test_canvas_gives_picture_and_marked_part():
    ground = np.zeros((8, 10, 4), np.uint8)
    ground[2:4, 2:4] = (255, 0, 0, 255)
    layer = np.zeros((8, 10, 4), np.uint8)
    layer[:3, :5, 3] = 255
    picture, region = read_canvas({"background": ground, "layers": [layer], "composite": None})
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture[2, 2].tolist() == [255, 0, 0]
    assert int(region.sum()) == 15
    assert read_canvas(None) == (None, None)
    assert enlarged(picture).shape == (38 * 8, 38 * 10, 3)


def test_facts_of_a_model_are_read_without_loading_it(pool):
    labels, start, sizes = model_facts(pool, None)
    assert labels["style"] == ("noto", "twemoji")
    assert (start.steps, sizes) == (4, (4, 8))


def test_facts_escape_what_was_typed(tmp_path):
    take = Take(tmp_path, tmp_path, tmp_path, 1, 8)
    assert "<b>" not in facts_html(Drawn((take,), "<b>heart</b>", "m", "draw", 1.0), 0)


# ---------------------------------------------------------------- a running page


@pytest.fixture(scope="module")
def image_page(image_model) -> Iterator[str]:
    from app.web.main import build
    from app.web.settings import WebSettings

    demo = build(WebSettings(port=0, model=str(image_model), device="cpu"))
    yield serve(demo)
    end(demo)


@pytest.fixture
def client(image_page, tmp_path):
    from gradio_client import Client

    client = Client(image_page, verbose=False, download_files=tmp_path, httpx_kwargs={"timeout": 60})
    yield client
    client.close()


@pytest.fixture
def upload(tmp_path, picture) -> Path:
    Image.fromarray(picture).save(tmp_path / "own.png")
    return tmp_path / "own.png"


@pytest.mark.timeout(600)
def test_programs_draw_edit_and_tokenize(client, upload):
    from gradio_client import handle_file

    files, recipe = client.predict(text="red heart", count=2, seed="5", labels={"style": "noto"}, api_name="/draw")
    assert len(files) == 2
    assert recipe["settings"]["labels"] == {"style": "noto"}
    again, _ = client.predict(text="red heart", seed="5", labels={"style": "noto"}, api_name="/draw")
    assert np.array_equal(np.asarray(Image.open(again[0])), np.asarray(Image.open(files[0])))
    given = {"picture": handle_file(str(upload)), "operation": "redraw", "region": [0, 0, 24, 32], "seed": "1"}
    edited, about = client.predict(**given, text="flag", api_name="/edit_image")
    assert len(edited) == 2  # the picture and the heat map
    kept = [code for code in about["settings"]["source"] if code not in about["settings"]["free"]]
    assert all(about["pictures"][0]["tokens"].count(code) == kept.count(code) for code in kept)
    found = client.predict(picture=handle_file(str(upload)), tokens=4, api_name="/tokenize_image")
    assert len(found["tokens"]) == 4 == sum(found["counts"].values())


@pytest.mark.timeout(600)
def test_programs_get_plain_messages(client, upload):
    from gradio_client import handle_file

    for name, given, message in (
        ("/draw", {"text": "heart", "labels": {"style": "oil"}}, "no style"),
        ("/draw", {"text": "heart", "settings": {"steps": -1}}, "steps"),
        ("/edit_image", {"picture": handle_file(str(upload)), "operation": "redraw"}, "mark a part"),
        ("/edit_image", {"picture": handle_file(str(upload)), "operation": "redraw", "region": [9, 9]}, "region"),
    ):
        with pytest.raises(Exception, match=message):
            client.predict(api_name=name, **given)


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tab_in_a_browser(browser, image_page, upload, tmp_path):
    tab = browser.new_context(viewport={"width": 1280, "height": 1400}, accept_downloads=True).new_page()
    tab.set_default_timeout(PATIENCE_MS)
    broken: list[str] = []
    tab.on("pageerror", lambda error: broken.append(str(error)))
    tab.goto(image_page)
    tab.get_by_role("tab", name="Image", exact=True).click()
    tab.fill("#image-text textarea, #image-text input", "red heart")
    tab.get_by_role("button", name="Draw", exact=True).click()
    tab.wait_for_selector("#image-gallery img")
    tab.wait_for_selector(".gm-note-done:visible")
    assert tab.locator("#image-gallery img").count() >= 4
    press_and_save(tab, "Download picture", tmp_path / "drawn.png")
    assert Image.open(tmp_path / "drawn.png").size == (SIDE, SIDE)

    tab.get_by_role("button", name="Change this one").click()  # opens the part of the form that changes pictures
    tab.wait_for_selector("#image-canvas canvas")
    tab.get_by_label("What to do").click()
    tab.get_by_role("option", name="Show where it spends its tokens").click()
    tab.locator("#image-apply").click()
    tab.wait_for_selector(".gm-table:visible")

    tab.get_by_label("What to do").click()
    tab.get_by_role("option", name="Redraw the marked part").click()
    canvas = tab.locator("#image-canvas canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.mouse.move(middle[0] - 30, middle[1])
    tab.mouse.down()
    tab.mouse.move(middle[0] + 30, middle[1], steps=8)
    tab.mouse.up()
    press_and_wait(tab, tab.locator("#image-apply"))
    assert "Share in the marked part" in tab.locator(".gm-table:visible").first.inner_text()
    assert tab.locator("#image-gallery img").count() >= 4
    assert not broken
