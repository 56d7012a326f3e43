"""From a video file to tokens: windows, seeds, folders, files, answers, and what is said about unusable input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import genmm
from datamodules.video_qa import QuestionClips, make_clip, render_clip
from genmm.core.errors import Cancelled, DataError, LimitError, MediaError, UsageError
from genmm.core.events import CancelToken, Finished, Progress
from genmm.core.limits import Limits
from genmm.core.results import read_recipe
from genmm.media.video import read_video, write_video
from genmm.quantizers.adaptive import AdaptiveK
from genmm.systems.vqtoken import sampling
from genmm.systems.vqtoken.encoders import FunctionEncoder, frame_size
from genmm.systems.vqtoken.overlay import overlay, overlay_frame, smoothed, token_colours
from genmm.systems.vqtoken.pipeline import VqTokenPipeline, budget_of, end_of, stored_budget
from genmm.systems.vqtoken.reduced import ReducedVideo, from_map
from genmm.systems.vqtoken.reducer import reduce
from genmm.systems.vqtoken.windows import WindowMerger


def test_a_video_becomes_the_tokens_asked_for(pipeline, clip):
    made = pipeline.tokenize(clip, tokens=6)
    assert made.tokens == 6 and made.map.shape == (6, 7, 10)  # 64 x 96 pixels at the area of 64 x 64
    assert made.times_s.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    assert 0 < made.lost < 1 and made.cells == 420 and made.source_bytes == clip.stat().st_size
    again = pipeline.tokenize(clip.read_bytes(), tokens=6)
    torch.testing.assert_close(again.reduced.tokens, made.reduced.tokens)
    assert made.facts()["code_bits"] == 6 * 16 * 16 + 420 * 3


def test_an_adaptive_budget_has_a_curve(pipeline, clip):
    made = pipeline.tokenize(clip, tokens="adaptive")
    assert 4 <= made.tokens <= 64
    curve = made.reduced.curve[0]
    assert (curve.diff() <= 1e-3).all() and made.settings["tokens"] == "adaptive"
    assert made.lost_curve[0] == pytest.approx(1, rel=1e-3)  # one mean loses all of the variance
    assert pipeline.tokenize(clip, tokens=5).lost_curve == []
    by_members = pipeline.tokenize(clip, tokens=5, method="k_center")
    assert len(by_members.lost_curve) == 5 and by_members.lost_curve[-1] == pytest.approx(by_members.lost, rel=1e-3)


def test_long_videos_go_through_windows_and_keep_the_budget(pipeline, long_clip):
    events = list(pipeline.events(long_clip, tokens=8))
    made = events[-1].result
    assert isinstance(events[-1], Finished) and sum(isinstance(e, Progress) for e in events) == 4
    assert made.tokens == 8 and made.map.shape[0] == 24
    assert made.reduced.stats["windows"] == 3
    assert made.reduced.counts[0].tolist() == torch.bincount(made.reduced.index_map.flatten(), minlength=8).tolist()


def test_windows_lose_little_against_one_clustering():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(7, 12, generator=generator)
    features = centres[torch.randint(7, (12, 5, 6), generator=generator)]
    features = features + 0.1 * torch.randn(features.shape, generator=generator)
    merger = WindowMerger(7)
    for part in features.split(4):
        merger.add(part)
    merged = merger.finish()
    whole = VqTokenPipeline.reduce(_Bare(), features, 7)
    assert merged.mask.sum() == 7
    flat_a, flat_b = merged.index_map.flatten().tolist(), whole.index_map.flatten().tolist()
    assert flat_a == flat_b  # numbered by first cell, so equal partitions have equal names
    torch.testing.assert_close(merged.codebook, whole.codebook, atol=1e-4, rtol=1e-4)
    assert abs(merged.stats["distortion"] - float(whole.stats["distortion"])) < 0.05


def test_windows_of_k_center_keep_real_tokens_and_every_small_thing():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(6, 12, generator=generator)
    which = torch.randint(5, (12, 5, 6), generator=generator)
    which[9, 2, 3] = 5  # in one cell of 360
    features = centres[which] + 0.05 * torch.randn(12, 5, 6, 12, generator=generator)
    merger = WindowMerger(6, clustering="k_center")
    for part in features.split(4):
        merger.add(part)
    merged = merger.finish()
    assert int((merged.index_map == merged.index_map[0, 9, 2, 3]).sum()) == 1
    every = features.flatten(0, 2)
    assert all((every == row).all(1).any() for row in merged.codebook[0])
    unit = torch.nn.functional.normalize
    lost = (unit(every, dim=-1) - unit(merged.decode()[0].flatten(0, 2), dim=-1)).square().sum()
    assert merged.stats["distortion"] == pytest.approx(float(lost), rel=1e-3)
    assert merged.counts[0].tolist() == torch.bincount(merged.index_map.flatten(), minlength=6).tolist()


@pytest.mark.parametrize("clustering", ["kmeans", "k_center"])
@pytest.mark.parametrize("explained", [0.2, 0.5, 0.8])
def test_the_curve_of_windows_says_what_is_lost(clustering, explained):
    generator = torch.Generator().manual_seed(2)
    merger = WindowMerger(AdaptiveK(rule="explained", explained=explained, least=2, most=24), clustering=clustering)
    themes = torch.randn(30, 12, generator=generator)
    for _ in range(7):
        part = themes[torch.randint(30, (2, 5, 6), generator=generator)]
        merger.add(part + 0.2 * torch.randn(part.shape, generator=generator))
    merged = merger.finish()
    tokens = int(merged.num_tokens[0])
    assert 2 <= tokens < 24
    assert float(merged.curve[0, tokens - 1]) == pytest.approx(merged.stats["distortion"], rel=1e-4)


@pytest.mark.parametrize("clustering", ["kmeans", "k_center"])
def test_windows_that_all_look_the_same_give_few_tokens(clustering):
    merger = WindowMerger(8, clustering=clustering)
    still = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))[torch.arange(24) % 3].view(1, 4, 6, 12)
    for _ in range(30):
        merger.add(still)
    merged = merger.finish()
    assert (merged.counts > 0).sum() == 3 and merged.counts.sum() == 720
    assert merged.stats["distortion"] == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("clustering", ["kmeans", "k_center"])
def test_windows_without_any_usable_token_are_refused(clustering):
    merger = WindowMerger(4, clustering=clustering)
    merger.add(torch.full((2, 3, 3, 8), float("nan")))
    with pytest.raises(UsageError, match="nothing to reduce"):
        merger.finish()


@pytest.mark.parametrize("tokens", [8, "adaptive"])
@pytest.mark.parametrize("method", ["kmeans", "k_center"])
def test_a_clustering_can_be_asked_for_by_name(pipeline, long_clip, method, tokens):
    made = pipeline.tokenize(long_clip, tokens=tokens, method=method)
    assert made.settings["method"] == method and made.reduced.stats["windows"] == 3
    assert made.tokens == 8 or tokens == "adaptive"
    if method == "kmeans":
        usual = pipeline.tokenize(long_clip, tokens=tokens)
        assert torch.equal(usual.reduced.index_map, made.reduced.index_map)


class _Bare:
    """A pipeline without weights, for `reduce` alone."""

    class config:  # noqa: N801
        class block:  # noqa: N801
            codebook_scale, clustering = "raw", "kmeans"

    def _fitting_block(self, features):
        return None


def test_a_part_of_a_video(pipeline, long_clip):
    made = pipeline.tokenize(long_clip, tokens=4, start_s=2.0, end_s=3.0)
    assert made.times_s.tolist() == [2.0, 2.25, 2.5, 2.75] and made.seconds == pytest.approx(1.0)


def test_no_more_seconds_than_the_video_has(pipeline, clip):
    for options, seconds in (
        ({"fps": 0.001}, 1.5),
        ({"fps": 0.001, "end_s": 1.0}, 1.0),
        ({"fps": 0.001, "end_s": 9.0}, 1.5),
        ({"fps": 0.8}, 1.5),
        ({"fps": 2.0, "start_s": 0.9}, 0.5),
        ({}, 1.5),
    ):
        assert pipeline.tokenize(clip, tokens=3, **options).seconds == pytest.approx(seconds, abs=0.01)
    assert end_of(2.0, 0.5, None, None) == 2.5
    assert end_of(2.0, 0.5, 1.0, None) == 2.5  # a header that is wrong


def test_an_adaptive_number_that_stops_at_its_most_says_what_it_holds(pipeline, clip):
    noise = torch.randn(6, 7, 10, 16, generator=torch.Generator().manual_seed(0))
    other = VqTokenPipeline.fresh(pipeline.config).use_encoder(FunctionEncoder(lambda frames: noise, 16, "noise"))
    made = other.tokenize(clip, tokens="adaptive")
    (note,) = made.notes
    held = 100 * (1 - made.lost)
    assert held < 80 and note.startswith(f"64 tokens, the most that adaptive takes, hold {held:.0f} % of the variance")
    assert other.tokenize(clip, tokens=64).notes == ()


def test_the_reader_of_frames_for_language_models_tells_what_it_sees(clip):
    events, notes = [], []
    sampling.sample_frames(clip, 4, max_side=32, on_event=events.append, on_notes=notes.append)
    assert events[-1].message == "1 s of video" and notes == [()]


def test_folders_hold_everything(pipeline, clip, tmp_path):
    folder = pipeline.save(tmp_path / "model")
    loaded = genmm.load(str(folder), device="cpu")
    a, b = (p.tokenize(clip, tokens=5) for p in (pipeline, loaded))
    torch.testing.assert_close(a.reduced.tokens, b.reduced.tokens)
    assert loaded.info["block"] == "occupancy" and loaded.encoder_fingerprint == pipeline.encoder_fingerprint
    assert b.model["fingerprint"] != "unsaved"


def test_files_and_recipe(pipeline, clip, tmp_path):
    made = pipeline.tokenize(clip, tokens=5)
    path, recipe = made.save(tmp_path / "out.safetensors")
    stored = load_file(path)
    assert stored["index_map"].shape == (6, 7, 10) and stored["tokens"].shape == (5, 16)
    told = read_recipe(path)
    assert told["task"] == "video" and told["facts"]["tokens"] == 5 and recipe.name == "out.json"
    packed, _ = made.save(tmp_path / "out.gmvq")
    assert torch.equal(ReducedVideo.from_bytes(packed.read_bytes()).index_map, made.reduced.index_map)
    with pytest.raises(UsageError, match="safetensors"):
        made.save(tmp_path / "out.txt")


def test_the_overlay_is_a_video_of_the_same_length(pipeline, clip, tmp_path):
    made = pipeline.tokenize(clip, tokens=5)
    heard = []
    shown = read_video(made.save_overlay(clip, tmp_path / "map.mp4", on_progress=heard.append), sound=False)
    assert heard == sorted(heard) and heard[0] == 0.0 and 0.8 <= heard[-1] < 1.6
    assert shown.seconds == pytest.approx(1.5, abs=0.15) and shown.frames.shape[1:3] == (64, 96)
    plain = read_video(clip, fps=12, sound=False)
    assert np.abs(shown.frames[0].astype(int) - plain.frames[0]).mean() > 10
    picture = made.save_overlay(clip, tmp_path / "map.png")
    assert picture.is_file()


def slides(path: Path) -> Path:
    """A black, a red and a white picture of four seconds each, at one frame a second."""
    frames = np.zeros((12, 48, 48, 3), np.uint8)
    frames[4:8, ..., 0], frames[8:] = 255, 255
    return write_video(path, frames, 1, preset="ultrafast")


def test_the_overlay_shows_the_part_that_was_tokenized(pipeline, tmp_path):
    source = slides(tmp_path / "slides.mp4")
    made = pipeline.tokenize(source, tokens=3, start_s=5.0, end_s=7.0)
    shown = read_video(made.save_overlay(source, tmp_path / "map.mp4", strength=0.0), sound=False)
    assert shown.seconds == pytest.approx(2.0, abs=0.15)
    inner = shown.frames[:, 10:38, 10:38].mean((1, 2))
    assert (inner[:, 0] > 200).all() and (inner[:, 1] < 130).all()  # red; what is not red are the lines between tokens


def test_a_picture_is_the_frame_that_is_shown_then(pipeline, tmp_path):
    source = slides(tmp_path / "slides.mp4")
    made = pipeline.tokenize(source, tokens=3)
    for at_s, colour in ((3.75, (0, 0, 0)), (4.25, (255, 0, 0)), (11.75, (255, 255, 255))):
        picture = made.picture(source, at_s=at_s, strength=0.0)
        assert np.abs(np.median(picture.reshape(-1, 3), 0) - colour).max() < 40
    write_video(tmp_path / "one.mp4", np.full((1, 48, 48, 3), 90, np.uint8), 0.25, preset="ultrafast")
    still = pipeline.tokenize(tmp_path / "one.mp4", tokens=3)
    assert still.save_overlay(tmp_path / "one.mp4", tmp_path / "one.png").is_file()


def test_overlays_keep_to_limits_that_are_given(pipeline, clip, tmp_path):
    made = pipeline.tokenize(clip, tokens=3)
    with pytest.raises(LimitError):
        made.save_overlay(clip, tmp_path / "map.mp4", limits=Limits(file_bytes=100))
    assert not (tmp_path / "map.mp4").exists()
    assert pipeline.limits.video_s >= 12 * 3600 and pipeline.limits.file_bytes > 20 * 2**30


@pytest.mark.parametrize("method", ["kmeans", "k_center", "pool"])
def test_unusable_cells_are_no_part_of_what_is_lost(tiny_config, clip, method):
    def features(frames: np.ndarray) -> torch.Tensor:
        generator = torch.Generator().manual_seed(7)
        made = torch.randn(4, 1, 16, generator=generator) + 0.5 * torch.randn(
            len(frames), 4, 4, 16, generator=generator
        )
        made[0, 0], made[1, 0] = float("nan"), 0.0
        return made

    eyes = VqTokenPipeline.fresh(tiny_config).use_encoder(FunctionEncoder(features, 16, "holes"))
    made = eyes.tokenize(clip, tokens=4, method=method)
    usable = features(np.zeros((6, 1, 1, 3)))
    unit = torch.nn.functional.normalize(usable[~usable.isnan().any(-1) & (usable.norm(dim=-1) > 0)], dim=-1)
    assert made.variance == pytest.approx(float((unit - unit.mean(0)).square().sum()), rel=1e-4)
    assert 0.05 < made.lost < (1 if method != "pool" else 1.01)


def test_a_code_comes_back_with_the_tokens_of_the_block(pipeline, clip):
    made = pipeline.tokenize(clip, tokens=5)
    back = pipeline.unpack(made.reduced.to_bytes())
    torch.testing.assert_close(back.tokens, made.reduced.tokens, atol=2e-2, rtol=2e-2)
    assert not torch.allclose(back.tokens, back.codebook, atol=1e-2)
    other = VqTokenPipeline.reduce(_Bare(), torch.randn(2, 3, 3, 7), 4)
    with pytest.raises(UsageError, match="width 7"):
        pipeline.unpack(other.to_bytes())
    with pytest.raises(UsageError, match="of width 16 from the model.s own encoder, these have 7"):
        pipeline.answers(other, ["how many squares are there"])


def test_a_code_of_a_long_map_comes_back_with_the_same_tokens(pipeline):
    torch.manual_seed(0)
    merger = WindowMerger(5, block=pipeline.block, scale=pipeline.config.block.codebook_scale)
    themes = torch.randn(6, 16)
    for start in range(3):
        walk = (torch.arange(400) // 37 + start) % 6
        merger.add(themes[walk].view(400, 1, 1, 16) + 0.3 * torch.randn(400, 2, 3, 16))
    made = merger.finish()
    assert made.index_map.shape[1] == 1200
    back = pipeline.unpack(made.to_bytes())
    torch.testing.assert_close(back.tokens, made.tokens, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    "change",
    [{"shape": [0, 4, 4]}, {"bits": 0}, {"bits": 5}, {"width": 0}, {"shape": [1 << 14, 1 << 7, 1 << 7]}, "nested"],
)
def test_codes_whose_header_no_code_has_are_refused(change):
    code = reduce(torch.randn(1, 2, 4, 4, 7), 3).to_bytes()
    start = code.index(b"{")
    end = code.index(b"}") + 1
    header = b"[" * 9990 if change == "nested" else json.dumps({**json.loads(code[start:end]), **change}).encode()
    with pytest.raises(DataError):
        ReducedVideo.from_bytes(code[: start - 4] + len(header).to_bytes(4, "little") + header + code[end:])


@pytest.mark.parametrize("lie_s", [None, 0.01, 3600.0])
def test_frames_are_spread_evenly_whatever_the_file_says_of_its_length(tmp_path, monkeypatch, lie_s):
    frames = [np.full((32, 32, 3), n, np.uint8) for n in range(240)]
    path = write_video(tmp_path / "ramp.mp4", frames, 24, preset="ultrafast")
    facts = dataclasses.replace(sampling.probe(path), duration_s=lie_s)
    monkeypatch.setattr(sampling, "probe", lambda *a, **k: facts)
    held: list[int] = []
    monkeypatch.setattr(sampling.np, "stack", lambda pictures: held.append(len(pictures)) or np.array(pictures))
    seen = sampling.sample_frames(path, 4, max_side=32)
    assert held == [4]
    assert np.abs(seen.mean((1, 2, 3)) - [0, 80, 160, 239]).max() < 40


@pytest.mark.parametrize("clustering", ["kmeans", "k_center"])
@pytest.mark.parametrize("noise", [0.3, 3e-3])
def test_the_distortion_of_merged_windows_is_that_of_their_rows(clustering, noise):
    torch.manual_seed(0)
    groups = F.normalize(torch.randn(3, 24), dim=-1)
    windows = [groups[torch.randint(3, (40, 3, 3))] + noise * torch.randn(40, 3, 3, 24) for _ in range(4)]
    merger = WindowMerger(3, clustering=clustering)
    for window in windows:
        merger.add(window)
    made = merger.finish()
    unit = F.normalize(torch.cat(windows).double(), dim=-1).flatten(0, 2)
    labels = made.index_map.flatten()
    means = torch.stack([unit[labels == k].mean(0) for k in range(3)])
    rows = means if clustering == "kmeans" else F.normalize(made.codebook[0].double(), dim=-1)
    exact = float((unit - rows[labels]).square().sum())
    assert made.stats["distortion"] == pytest.approx(exact, rel=1e-4)


def test_a_small_code_takes_no_memory_that_its_header_alone_asks_for():
    import resource

    code = from_map(torch.ones(1, 1000, 1), torch.arange(200_000).view(1, -1, 1, 1) % 1000).to_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert ReducedVideo.from_bytes(code).index_map.shape == (1, 200_000, 1, 1)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 200  # MiB; a table of 1,000 tokens x 200,000 frames alone has 1,600


def test_a_video_too_long_for_a_baseline_is_refused_before_it_is_read(pipeline, tmp_path, monkeypatch):
    frames = [np.full((32, 32, 3), n, np.uint8) for n in range(160)]
    path = write_video(tmp_path / "long.mp4", frames, 4, preset="ultrafast")
    monkeypatch.setattr(pipeline, "features", lambda frames: pytest.fail("a frame was encoded"))
    most = pipeline.config.frames.most_frames
    with pytest.raises(UsageError, match=f"at most {most} frames of a video at once, these are about 160; take a part"):
        pipeline.tokenize(path, method="pool")
    monkeypatch.undo()
    assert pipeline.tokenize(path, method="pool", tokens=4, end_s=1.0).tokens == 4


def test_every_row_of_a_long_map_counts_for_the_positions():
    ids = torch.randn(2, 8, generator=torch.Generator().manual_seed(8))
    merger = WindowMerger(2)
    for start in range(0, 700, 100):
        features = ids[0].expand(100, 1, 1, 8).clone()
        if start == 600:
            features[51] = ids[1]  # frame 651, which a map of every second frame leaves out
        merger.add(features)
    reduced = merger.finish()
    rare = int(reduced.counts[0].argmin())
    assert reduced.counts[0].tolist()[rare] == 1
    assert reduced.positions[0, rare].tolist() == pytest.approx([651.5 / 700, 0.5, 0.5], abs=1e-4)


def test_overlay_colours_and_smoothing():
    ids = np.array([[0, 0, 0], [0, 1, 0], [0, 0, -1]])
    assert smoothed(ids)[1, 1] == 0
    frame = np.full((9, 9, 3), 100, np.uint8)
    drawn = overlay_frame(frame, ids, strength=0.5)
    assert drawn[1, 1].tolist() == [round(50 + c / 2) for c in token_colours(1)[0].astype(float)]
    assert drawn[8, 8].tolist() == [50, 50, 50]
    assert len(np.unique(token_colours(64), axis=0)) == 64


def test_an_overlay_lightens_lines_and_darkens_other_tokens_in_every_frame():
    frame, ids = np.full((8, 12, 3), 200, np.uint8), np.array([[0, 1, 1], [0, 1, 2]])
    plain = overlay_frame(frame, ids, strength=0.0)
    line = round(0.4 * 200 + 0.6 * 255)
    lines = plain[..., 0] == line
    assert lines[:, 4].all() and lines[4, 8:].all() and lines[4:, 8].all() and lines.sum() == 8 + 4 + 3
    assert (plain[~lines] == 200).all()
    for drawn in overlay([(0.0, frame), (0.1, frame), (0.6, frame)], np.stack([ids, ids]), np.array([0.0, 0.5]),
                         tokens=(n for n in [1]), strength=0.0):  # fmt: skip
        assert drawn[1, 1].tolist() == [70, 70, 70] and drawn[1, 6].tolist() == [200, 200, 200]


def test_cancel_stops_within_a_frame(pipeline, long_clip):
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        pipeline.tokenize(long_clip, cancel=cancel)


def test_baselines_take_short_videos_only(pipeline, clip, long_clip):
    made = pipeline.tokenize(clip, tokens=4, method="pool")
    assert made.tokens == 4 and made.settings["method"] == "pool"
    with pytest.raises(UsageError, match="at most 8 frames"):
        pipeline.tokenize(long_clip, tokens=4, method="pool")


def test_one_frame_odd_sizes_and_few_colours(pipeline, tmp_path):
    path = tmp_path / "odd.mp4"
    write_video(path, [np.full((33, 71, 3), 80, np.uint8)], 5, preset="ultrafast")
    made = pipeline.tokenize(path, tokens=30)
    assert made.map.shape[0] == 1 and 1 <= made.tokens <= 30
    assert made.tokens == 30 or any("distinct tokens" in note for note in made.notes)


def test_what_cannot_be_read_is_said(pipeline, tmp_path):
    import soundfile

    sound = tmp_path / "sound.wav"
    soundfile.write(sound, np.zeros(800, np.float32), 8000)
    with pytest.raises(MediaError):
        pipeline.tokenize(sound)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    with pytest.raises(MediaError):
        pipeline.tokenize(broken)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"fps": "4"}, "fps must be a finite number"),
        ({"fps": float("nan")}, "fps must be a finite number"),
        ({"fps": 1e9}, "fps must be at most 240 "),
        ({"start_s": 10**400}, "start_s must be at most 1,000,000 "),
        ({"end_s": "end"}, "end_s must be a finite number"),
    ],
)
def test_times_are_numbers(pipeline, clip, given, text):
    with pytest.raises(UsageError, match=text):
        pipeline.tokenize(clip, **given)


def test_an_overlay_can_be_cancelled(pipeline, clip, tmp_path):
    made, token = pipeline.tokenize(clip, tokens=4), CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        made.save_overlay(clip, tmp_path / "map.mp4", cancel=token)
    assert list(tmp_path.iterdir()) == []


def test_budgets():
    for budget in (12, "adaptive", "knee", AdaptiveK(rule="explained", least=2, most=9, explained=0.5)):
        stored = json.loads(json.dumps(stored_budget(budget_of(budget))))
        assert budget_of(stored) == budget_of(budget)
    for bad in ({"least": "a"}, {"size": 3}):
        with pytest.raises(UsageError, match="adaptive budget"):
            budget_of(bad)
    assert budget_of("12").tokens == 12 and budget_of("adaptive").most == 64
    for bad in (0, "many", -3, 5000, True, 2.5):
        with pytest.raises(UsageError):
            budget_of(bad)


def test_an_encoder_of_ones_own(tiny_config, clip):
    own = VqTokenPipeline.fresh(tiny_config)
    own.use_encoder(FunctionEncoder(lambda f: torch.from_numpy(f[:, ::16, ::16].astype(np.float32)), 3, "grid"))
    made = own.tokenize(clip, tokens=3)
    assert made.reduced.codebook.shape == (1, 3, 3) and own.encoder_fingerprint == "own-grid"


def test_frame_sizes_keep_shape_and_area():
    assert frame_size(100, 100, 128) == (128, 128)
    height, width = frame_size(480, 854, 128)
    assert (height % 8, width % 8) == (0, 0) and abs(width / height - 854 / 480) < 0.15
    assert frame_size(32, 1920, 128)[0] >= 8


# ---------------------------------------------------------------- questions


def test_answers_come_with_their_probability(pipeline, clip):
    answer = pipeline.answer(clip, "Where is the red circle at the end?")
    assert answer.text in pipeline.answerer.config.answers and 0 < answer.confidence <= 1
    assert answer.confidence >= answer.others[0][1]
    with pytest.raises(UsageError, match="does not know: why"):
        pipeline.answer(clip, "why is the circle red")


def test_questions_are_about_one_video_and_there_is_one(pipeline):
    two = pipeline.reduce(torch.randn(2, 2, 4, 4, pipeline.config.vision.width), 4)
    with pytest.raises(UsageError, match="about one video, these are 2"):
        pipeline.answer(two, "what colour is the circle")
    with pytest.raises(UsageError, match="ask at least one"):
        pipeline.answers(two.clip(0), [])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_number_format_are_reduced(pipeline, dtype):
    features = torch.randn(1, 3, 4, 4, pipeline.config.vision.width)
    made = pipeline.reduce(features.to(dtype), 4)
    torch.testing.assert_close(made.tokens, pipeline.reduce(features.to(dtype).float(), 4).tokens, atol=0.05, rtol=0.05)


def test_an_answer_does_not_depend_on_other_questions(pipeline, clip):
    made = pipeline.tokenize(clip, tokens=6)
    together = pipeline.answers(made, ["how many objects are there", "which way does the red circle move"])
    alone = pipeline.answers(made, ["how many objects are there"])
    assert together[0].confidence == pytest.approx(alone[0].confidence, abs=1e-5)


def test_questions_follow_from_the_scene():
    for number in range(12):
        scene, ask = make_clip(number)
        frames, asked = render_clip(number, fps=2.0, side=32)
        assert [q.kind for q in asked] == ["what", "where", "direction", "count", "order"]
        shapes = {m.shape for m in scene.movers} | {m.colour for m in scene.movers}
        assert asked[0].answer in shapes and asked[4].answer in {m.colour for m in scene.movers}
        mover = next(m for m in scene.movers if f"the {m.name} move" in asked[2].text)
        assert mover.motion == asked[2].answer
        assert frames.shape == (8, 32, 32, 3)
        first = min((m for m in scene.movers if m.name in asked[4].text), key=lambda m: m.start_s)
        assert first.colour == asked[4].answer


def test_question_sets_repeat_and_differ():
    one, same, other = QuestionClips(6), QuestionClips(6), QuestionClips(6, first=100)
    assert all(torch.equal(a, b) for a, b in zip(one.targets(), same.targets(), strict=True))
    assert not torch.equal(one.targets()[1], other.targets()[1])
    json.dumps([q.__dict__ for q in one.questions(0)])
    words, answers = one.targets(turns=3)
    assert words.shape[:2] == answers.shape == (6, 15)
    length = one.targets()[0].shape[2]
    assert torch.equal(words[:, :5, :length], one.targets()[0]) and torch.equal(answers[:, :5], one.targets()[1])
    assert not torch.equal(answers[:, 5:10], answers[:, :5])
