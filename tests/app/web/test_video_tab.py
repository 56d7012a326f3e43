"""The Video tab: its endpoints through a client, and in a real browser on a real clip."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import av
import pytest
import torch
from PIL import Image
from pressing import press_and_save, press_and_wait
from safetensors.torch import load_file
from served import end, serve

from app.web.pool import ModelPool
from app.web.storage import Storage
from app.web.video_moments import similar_moments
from app.web.video_recipe import lost_settings, recipe_values
from app.web.video_sample import SampleClip
from app.web.video_view import (
    answer_html,
    captions,
    counted,
    curve_html,
    facts_html,
    moments_html,
    summary,
    title_html,
)
from app.web.video_work import Seen, VideoForm, question_events, tokenize_events
from datamodules.rendered_video import Background, Mover, Scene, Shot, render_scene
from datamodules.video_qa import ANSWERS, WORDS
from genmm.core.errors import Cancelled, UsageError
from genmm.core.events import CancelToken, Progress, drain
from genmm.core.limits import Limits
from genmm.core.results import read_recipe
from genmm.media.video import probe, read_video, write_video
from genmm.nn.vit import VisionConfig
from genmm.systems.vqtoken import overlay as overlay_module
from genmm.systems.vqtoken.config import AnswererConfig, BlockConfig, FrameConfig, VqTokenConfig
from genmm.systems.vqtoken.overlay import smoothed
from genmm.systems.vqtoken.pipeline import VqTokenPipeline, stored_budget
from genmm.systems.vqtoken.reduced import ReducedVideo
from genmm.systems.vqtoken.result import VideoAnswer

PATIENCE_MS = 240_000
"""Longest wait for anything; a busy machine is slow, a broken page never gets there."""


@pytest.fixture(scope="module")
def video_model(tmp_path_factory) -> Path:
    """A tiny untrained video model in a folder of models."""
    torch.manual_seed(0)
    config = VqTokenConfig(
        vision=VisionConfig(width=16, depth=1, heads=2, inner=24, stem=(6, 8)),
        frames=FrameConfig(fps=4.0, side=64, most_frames=24),
        block=BlockConfig(heads=2, bins=4, grid=3),
        answerer=AnswererConfig(width=16, heads=2, latents=2, layers=1, tokens=4, words=WORDS, answers=ANSWERS),
    )
    return VqTokenPipeline.fresh(config).save(tmp_path_factory.mktemp("models") / "tiny-video")


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    mover = Mover(shape="circle", colour="red", place=(0.2, 0.5), size=0.4, motion="right", speed=0.2)
    scene = Scene(seconds=2.0, shots=(Shot(background=Background(kind="stripes")),), movers=(mover,))
    path = tmp_path_factory.mktemp("films") / "red circle.mp4"
    write_video(path, render_scene(scene, fps=8, side=(64, 96))[0], 8, preset="ultrafast")
    return path


@pytest.fixture(scope="module")
def video_page(video_model: Path) -> Iterator[str]:
    """Address of a page whose first video model is the tiny one."""
    from app.web.main import build
    from app.web.settings import WebSettings

    demo = build(WebSettings(port=0, model=str(video_model), device="cpu", limits=Limits(file_bytes=9_000_000)))
    yield serve(demo)
    end(demo)


@pytest.fixture
def client(video_page: str, tmp_path: Path) -> Iterator:
    from gradio_client import Client

    made = Client(video_page, verbose=False, download_files=tmp_path / "client", httpx_kwargs={"timeout": 120})
    yield made
    made.close()


def test_a_program_gets_tokens_code_overlay_and_recipe(client, film):
    from gradio_client import handle_file

    files, facts = client.predict(video=handle_file(film), tokens="6", api_name="/tokenize")
    kinds = {Path(path).suffix: Path(path) for path in files}
    assert set(kinds) == {".safetensors", ".gmvq", ".mp4", ".json"}
    assert facts["tokens"] == 6 and facts["code_bytes"] == kinds[".gmvq"].stat().st_size
    stored = load_file(kinds[".safetensors"])
    code = ReducedVideo.from_bytes(kinds[".gmvq"].read_bytes())
    assert torch.equal(stored["index_map"], code.index_map[0])
    assert read_video(kinds[".mp4"], sound=False).seconds == pytest.approx(2.0, abs=0.2)


def test_a_program_asks_and_reads_mistakes(client, film, tmp_path):
    from gradio_client import handle_file

    told = client.predict(video=handle_file(film), question="how many objects are there", api_name="/ask_video")
    assert told["answer"] in ANSWERS
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    for given, text in (
        ({"video": handle_file(film), "tokens": "900"}, "1 to 64 tokens, got 900; the command line makes more"),
        ({"video": handle_file(film), "tokens": "0"}, "1 to 64 tokens, got 0$"),
        ({"video": handle_file(film), "tokens": "a few"}, "adaptive"),
        ({"video": handle_file(film), "method": "magic"}, "no reducer"),
        ({"video": handle_file(film), "tokens": "adaptive", "method": "pool"}, "only vqtoken"),
        ({"video": handle_file(broken)}, "broken.mp4"),
    ):
        with pytest.raises(Exception, match=text):
            client.predict(**given, api_name="/tokenize")


def noted_budgets(monkeypatch) -> list[int]:
    """The budgets of all readings of videos from now on."""
    read, budgets = VqTokenPipeline.events, []

    def events(self, source, **options):
        budgets.append(options["tokens"])
        return read(self, source, **options)

    monkeypatch.setattr(VqTokenPipeline, "events", events)
    return budgets


def test_a_question_is_read_before_the_video_and_the_video_once(video_model, film, tmp_path, monkeypatch):
    pool = ModelPool(first=str(video_model), device="cpu")
    form = VideoForm(video=str(film), tokens=6)
    told = []
    seen = drain(tokenize_events(form, pool, lambda: tmp_path, Limits())(CancelToken()), told.append)
    drawing = [event for event in told if isinstance(event, Progress) and "Drawing" in event.message]
    assert drawing and {event.total for event in drawing} == {max(1, round(seen.made.seconds))}
    budgets = noted_budgets(monkeypatch)

    def ask(question: str, token: CancelToken | None = None):
        return drain(question_events(form, question, pool, Limits(), seen)(token or CancelToken()))

    with pytest.raises(UsageError, match="does not know: serious"):
        ask("how serious")
    assert budgets == []
    stopped = CancelToken()
    stopped.cancel()
    with pytest.raises(Cancelled):
        ask("how many objects are there", stopped)
    first = ask("how many objects are there")
    assert ask("how many objects are there") == first and first.text in ANSWERS
    assert budgets == [4, 4]  # the cancelled reading and one more; the answerer of this model takes 4 tokens


def test_a_cancelled_drawing_stops_and_leaves_no_folder(video_model, film, tmp_path, monkeypatch):
    pool, token, drawn = ModelPool(first=str(video_model), device="cpu"), CancelToken(), []

    def folder() -> Path:
        made = tmp_path / "run"
        made.mkdir()
        return made

    def slow(*args, **options):
        drawn.append(1)
        token.cancel()
        return smoothed(*args, **options)

    monkeypatch.setattr(overlay_module, "smoothed", slow)
    with pytest.raises(Cancelled):
        drain(tokenize_events(VideoForm(video=str(film), tokens=4), pool, folder, Limits())(token))
    assert len(drawn) == 1 and list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def seen(video_model, film, tmp_path_factory) -> Seen:
    """The film with 6 tokens and an index of 8 moments of a quarter second."""
    pool, folder = ModelPool(first=str(video_model), device="cpu"), tmp_path_factory.mktemp("seen")
    form = VideoForm(video=str(film), tokens=6)
    return drain(tokenize_events(form, pool, lambda: folder, Limits())(CancelToken()))


@pytest.mark.parametrize(("at_s", "start_s"), [(0.0, 0.0), (0.7, 0.5), (1.0, 1.0), (1.9, 1.5), (99.0, 1.5)])
def test_moments_begin_with_the_one_that_holds_the_time_and_go_on_with_others(seen, at_s, start_s):
    own, *others = similar_moments(seen, at_s, Limits())
    assert (own.start_s, own.end_s) == (start_s, start_s + 0.5)
    assert own.score == pytest.approx(1.0)
    assert sorted(one.start_s for one in (own, *others)) == [0.0, 0.5, 1.0, 1.5]
    assert [one.score for one in others] == sorted((one.score for one in others), reverse=True)
    assert own.picture.shape == (64, 96, 3)
    names = [name for _, name in captions([own, *others])]
    assert names[0] == f"{start_s:.1f} to {start_s + 0.5:.1f} s" and names[1].startswith(f"{others[0].start_s:.1f} to ")
    assert f"the moment asked about, {names[0]}" in moments_html([own, *others])


def test_as_many_other_moments_are_shown_as_there_is_room_for(seen, monkeypatch):
    monkeypatch.setattr("app.web.video_moments.MOMENTS", 2)
    assert len(similar_moments(seen, 0.0, Limits())) == 3


def test_the_curve_is_a_drawing_of_the_numbers():
    drawn = curve_html([1.0, 0.5, 0.25, 0.2], 3)
    assert "25 per cent at 3" in drawn and drawn.count(",") > 4 and curve_html([1.0], 1) == ""
    numbers = re.findall(r'">(\d+)</span>', curve_html([0.5] * 33, 3).partition("gm-ticks")[2])
    assert numbers == ["1", "8", "16", "24", "33"]  # 32 would touch 33
    assert "3 are used" in drawn and "1 is used" in curve_html([1.0, 0.5], 1)


def test_a_result_names_its_video_and_counts_in_words(seen):
    assert summary(seen, 1.0).startswith("Done: red circle.mp4, 2.0 s in 6 tokens (")
    assert "red circle.mp4" in title_html(seen) and "8 frames of" in facts_html(seen)
    assert [counted(number, "frame") for number in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]


def test_the_answer_says_what_it_can_be_trusted_with():
    assert "about other footage it guesses" in answer_html("how many", VideoAnswer("two", 0.6, (("one", 0.4),)))


def test_a_recipe_brings_the_settings_back_and_says_what_the_page_lacks(seen, video_model):
    pool = ModelPool(first=str(video_model), device="cpu")
    recipe = read_recipe(seen.recipe)
    assert recipe_values(recipe, pool) == [6, False, "vqtoken", "tiny-video"] and lost_settings(recipe, 4.0) == ""
    by_need = VideoForm(video="", tokens=20, adaptive=True).budget()
    recipe["settings"] |= {"tokens": stored_budget(by_need), "method": "kmeans"}
    assert recipe_values(recipe, pool)[:3] == [20, True, "kmeans"] and lost_settings(recipe, 4.0) == ""
    recipe["settings"] |= {"tokens": 900, "fps": 2.0, "start_s": 1.5}
    recipe["seeds"] = [7]
    assert lost_settings(recipe, 4.0) == "start_s 1.5, fps 2.0, seed 7, tokens 900"
    with pytest.warns(UserWarning, match="no control for start_s 1.5"):
        assert recipe_values(recipe, pool)[0] == 64
    recipe["settings"]["method"] = "magic"
    with pytest.raises(UsageError, match="no reducer 'magic'"):
        recipe_values(recipe, pool)


def test_the_sample_clip_is_drawn_once_and_again_when_it_was_swept():
    storage = Storage()
    sample = SampleClip(storage)
    first = sample.path()
    assert sample.path() == first and storage.holds(first)
    assert probe(first).duration_s == pytest.approx(4.0, abs=0.1)
    storage.remove(first.parent)
    assert sample.path().is_file()
    storage.close()


# ---------------------------------------------------------------- browser


def in_a_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Marks of a test that needs Chromium and minutes."""
    for mark in (pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)):
        test = mark(test)
    return test


@pytest.fixture
def open_tab(browser, video_page) -> Iterator[Callable[..., Any]]:
    """Opens the Video tab in a new browser tab; fails at the end when the page threw an error."""
    contexts, broken = [], []

    def make(**options: Any) -> Any:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **options}))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(PATIENCE_MS)
        tab.on("pageerror", lambda error: broken.append(str(error)))
        tab.goto(video_page)
        tab.wait_for_selector("#speech-text textarea")
        video = tab.get_by_role("tab", name="Video", exact=True)
        if not video.is_visible():
            tab.locator(".overflow-menu > button").click()
            video = tab.locator(".overflow-dropdown button").filter(has_text="Video")
        video.click()
        return tab

    yield make
    for context in contexts:
        context.close()
    assert broken == []


def give(tab, path: Path) -> None:
    """Upload a video in place of the one before."""
    clear = tab.locator("#video-upload button[aria-label='Clear']")
    if clear.count():
        clear.click()
    tab.locator("#video-upload input[type=file]").set_input_files(str(path))
    tab.wait_for_selector("#video-upload video", state="attached")


def tokenize(tab) -> None:
    press_and_wait(tab, tab.get_by_role("button", name="Tokenize", exact=True).first)
    tab.wait_for_selector("#video-map video")


def ask(tab, question: str) -> None:
    tab.fill("#video-question input, #video-question textarea", question)
    tab.get_by_role("button", name="Ask", exact=True).last.click()


def shown_name(tab, place: str) -> str:
    """File name of the video that a player shows."""
    tab.wait_for_function("place => document.querySelector(place + ' video')?.src", arg=place)
    return unquote(tab.evaluate("place => document.querySelector(place + ' video').src", place)).rpartition("/")[2]


@in_a_browser
def test_from_the_history_the_video_itself_and_its_settings_go_on(open_tab, film, tmp_path):
    tab = open_tab(accept_downloads=True)
    give(tab, film)
    tab.fill("#video-tokens input[type=number]", "5")
    tokenize(tab)
    tab.fill("#video-tokens input[type=number]", "9")
    tab.locator("#video-upload button[aria-label='Clear']").click()

    tab.get_by_role("tab", name="History").click()
    tab.locator(".gm-gallery:visible button").first.click()
    tab.wait_for_selector("#history-film video")
    tab.wait_for_function("document.querySelector('#history-film video').duration > 1")
    assert "_map.mp4" in shown_name(tab, "#history-film")
    press_and_save(tab, "Download", tmp_path / "kept.mp4")
    assert probe(tmp_path / "kept.mp4").duration_s == pytest.approx(2.0, abs=0.2)

    tab.locator("button:visible", has_text="Load settings").click()
    tab.wait_for_function("document.querySelector('#video-tokens input[type=number]').value === '5'")
    tab.get_by_role("tab", name="History").click()
    tab.locator("button:visible", has_text="Find its highlights").click()
    assert shown_name(tab, "#highlights-video") == film.name
    tab.get_by_role("tab", name="History").click()
    tab.locator("button:visible", has_text="Tokenize").click()
    assert shown_name(tab, "#video-upload") == film.name
    tokenize(tab)


@in_a_browser
@pytest.mark.parametrize("kind", ["avi", "gif"])
def test_what_the_browser_cannot_play_is_tokenized_all_the_same(open_tab, film, tmp_path, kind):
    frames = read_video(film, sound=False).frames
    path = tmp_path / f"old.{kind}"
    if kind == "gif":
        first, *others = (Image.fromarray(frame) for frame in frames)
        first.save(path, save_all=True, append_images=others, duration=125)
    else:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    tab = open_tab()
    if kind == "gif":
        tab.locator("input[type=file][accept='.gif']").set_input_files(str(path))
    else:
        give(tab, path)
    tab.wait_for_selector("#video-upload video.gm-unplayable", state="attached")
    said = tab.evaluate("getComputedStyle(document.querySelector('#video-upload'), '::after').content")
    assert "This browser cannot play this video" in said
    assert not tab.locator("#video-upload .mirror-wrap + .controls").is_visible()
    assert tab.locator(".toast-body").count() == 0 and tab.locator("#video-upload .error").count() == 0
    tokenize(tab)
    assert tab.locator("#video-name").inner_text() == path.name
    give(tab, film)
    tab.wait_for_function("document.querySelector('#video-upload video').duration > 1")
    assert tab.locator("video.gm-unplayable").count() == 0


@in_a_browser
def test_result_and_answer_are_never_those_of_before(open_tab, film, tmp_path):
    tab = open_tab()
    give(tab, film)
    tokenize(tab)
    ask(tab, "how many objects are there")
    tab.wait_for_selector("#video-answer .gm-said")
    ask(tab, "how serious")
    tab.wait_for_selector("#video-answer .gm-note-problem")
    assert "does not know: serious" in tab.locator("#video-answer").inner_text()
    assert tab.locator("#video-answer .gm-said").count() == 0

    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    give(tab, broken)
    assert tab.locator("#video-name").inner_text() == film.name  # the result says whose it is
    tab.get_by_role("button", name="Tokenize", exact=True).first.click()
    tab.wait_for_selector(".gm-note-problem:has-text('broken.mp4'):visible")
    tab.wait_for_selector("#video-map", state="hidden")
    give(tab, film)
    tokenize(tab)
    assert tab.locator("#video-answer").inner_text() == ""


@in_a_browser
def test_a_visitor_without_a_video_asks_about_the_sample_and_goes_to_a_moment(open_tab):
    tab = open_tab()
    tab.get_by_role("button", name="Take a sample clip").click()
    assert shown_name(tab, "#video-upload") == "moving shapes.mp4"
    tokenize(tab)
    tab.get_by_role("button", name="how many squares are there").click()
    tab.get_by_role("button", name="Ask", exact=True).last.click()
    tab.wait_for_selector("#video-answer .gm-said")
    assert "about other footage it guesses" in tab.locator("#video-answer").inner_text()

    tab.get_by_role("button", name="Moments").click()
    tab.get_by_role("button", name="Find similar moments").click()
    tab.wait_for_selector("#video-similar .thumbnail-item >> nth=6")
    captions = tab.locator("#video-similar .caption-label").all_inner_texts()
    assert captions[0] == "1.5 to 2.0 s" and len(captions) == 7 and "1.5 to 2.0 s, " not in " ".join(captions[1:])
    tab.locator("#video-similar .thumbnail-item").nth(3).click()
    start_s = float(captions[3].split(" to ")[0])
    tab.wait_for_function(
        "t => Math.abs(document.querySelector('#video-map video').currentTime - t) < 0.05", arg=start_s
    )


CONTRAST = """place => {
  const numbers = (text) => text.match(/[0-9.]+/g).map(Number);
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => {
    const v = c[i] / 255;
    return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }, 0);
  const style = getComputedStyle(document.querySelector(place));
  const ground = numbers(style.backgroundColor);
  if (ground.length > 3 && ground[3] < 1) return 0;
  const [a, b] = [light(numbers(style.color)), light(ground)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""
"""Contrast of a text to its own ground as WCAG 2 counts it; 0 when what lies below shines through."""


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_over_films_and_numbers_of_the_curve_are_readable_on_a_phone(open_tab, film, scheme):
    tab = open_tab(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    give(tab, film)
    tab.get_by_label("As many as it needs").check()
    tokenize(tab)
    for place in ("#video-upload", "#video-map"):
        assert tab.evaluate(CONTRAST, f"{place} label") > 4.5
    tab.wait_for_selector("#video-curve svg")
    heights = tab.evaluate("[...document.querySelectorAll('#video-curve span')].map(s => s.getBoundingClientRect())")
    assert len(heights) > 6 and min(box["height"] for box in heights) >= 12
    ticks = tab.evaluate("[...document.querySelectorAll('.gm-ticks span')].map(s => s.getBoundingClientRect())")
    assert all(one["right"] < other["left"] for one, other in itertools.pairwise(ticks))
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


@in_a_browser
def test_a_real_clip_becomes_a_map_that_plays(open_tab, shared_data):
    clip = shared_data / "video_clips" / "chaplin_10s.mp4"
    if not clip.is_file():
        pytest.skip(f"needs {clip.name} in the shared folder video_clips")
    tab = open_tab()
    give(tab, clip)
    tab.get_by_label("As many as it needs").check()
    tokenize(tab)
    tab.wait_for_selector("#video-curve svg polyline")
    assert "tokens" in tab.locator(".gm-note-done:visible").first.inner_text()
    tab.wait_for_function("document.querySelector('#video-map video').duration > 5")  # known once its header is read
    ask(tab, "how many objects are there")
    tab.wait_for_selector("#video-answer .gm-said")
    assert tab.locator("#video-answer .gm-said").inner_text() in ANSWERS
    tab.get_by_role("button", name="Moments").click()
    tab.get_by_role("button", name="Find similar moments").click()
    tab.wait_for_selector("#video-similar .thumbnail-item >> nth=6")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280
