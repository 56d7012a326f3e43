"""Every way of making music, on a tiny untrained model: lengths, seeds, what stays exact, recipes, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_music import chirp

from genmm.core.errors import Cancelled, CheckpointError, LimitError, MediaError, UsageError
from genmm.core.events import CancelToken, Progress
from genmm.media.audio import Audio, read_audio
from genmm.systems.melodyflow.pipeline import MelodyFlowPipeline

TEXT = "calm piano in A minor, 90 bpm, no drums"


def same(first, second, tolerance=1e-5):
    return first.shape == second.shape and float(np.abs(first - second).max()) < tolerance


def test_generate_gives_the_length_and_what_was_understood(pipeline):
    events = []
    result = pipeline.generate(TEXT, duration_s=1.3, seed=3, on_event=events.append)
    assert result.samples[0].shape == (2, 10400) and result.sample_rate == 8000
    assert result.captions[0]["tonic"] == "A" and result.captions[0]["drums"] == "none"
    assert "piano" in result.understood[0] and "chosen for you" in result.understood[0]
    done = [event.done for event in events if isinstance(event, Progress)]
    assert done == [2, 4] and result.network_calls == 4
    assert np.abs(result.samples[0]).max() <= 1.0


def test_takes_are_remade_alone_from_their_seeds(pipeline):
    both = pipeline.generate(TEXT, duration_s=1.0, seed=3, takes=2)
    alone = pipeline.generate(TEXT, duration_s=1.0, seed=both.seeds[1])
    assert same(both.samples[1], alone.samples[0]) and not same(both.samples[0], both.samples[1])
    assert alone.captions[0] == both.captions[1]


def test_guidance_negative_text_and_text_matter(pipeline):
    plain = pipeline.generate(TEXT, duration_s=1.0, seed=1)
    for change in (
        {"settings": {"guidance": 3.0}},
        {"negative_text": "busy organ"},
        {"bpm": 150.0},
        {"key": "C major"},
    ):
        assert not same(plain.samples[0], pipeline.generate(TEXT, duration_s=1.0, seed=1, **change).samples[0]), change


def test_long_music_is_sampled_in_joint_windows_and_follows_several_texts(pipeline):
    result = pipeline.long_form([TEXT, "busy organ, 90 bpm"], duration_s=9.0, seed=2)
    assert result.samples[0].shape == (2, 72000)
    assert any("windows" in note for note in result.notes) and " / " in result.understood[0]
    assert result.network_calls > 4


def test_strength_zero_returns_the_source_and_more_moves_away(pipeline):
    source = chirp()
    untouched = pipeline.edit(source, "organ", strength=0.0, seed=1)
    assert np.array_equal(untouched.samples[0], source.samples) and untouched.network_calls == 0
    edited = pipeline.edit(source, "organ", strength=0.8, seed=1)
    assert edited.samples[0].shape == source.samples.shape
    assert edited.network_calls == 3 * 4 + 3  # inversion with four inner iterations a step, and the way back
    assert pipeline.edit(source, "organ", strength=0.8, seed=1, method="plain").network_calls == 3 + 3


def test_one_inversion_serves_many_descriptions_like_single_edits(pipeline):
    inversion = pipeline.invert(chirp(), strength=0.7, seed=4)
    together = pipeline.edit(inversion, ["organ melody", "dark choir"])
    single = pipeline.edit(chirp(), "dark choir", strength=0.7, seed=4)
    assert len(together.samples) == 2 and same(together.samples[1], single.samples[0], 1e-4)
    assert together.only(1).recipe()["settings"]["texts"] == ["dark choir"]


def test_what_an_edit_leaves_open_stays_as_the_source_was_said_to_be(pipeline):
    result = pipeline.edit(chirp(), "guitar", source_text="calm piano, 90 bpm, D major", strength=0.5, seed=1)
    caption = result.captions[0]
    assert (caption["lead"], caption["tempo_bpm"], caption["tonic"]) == ("guitar", 90.0, "D")
    assert "kept from the source: calm, D major, 90 bpm" in result.understood[0]


def test_new_parts_go_on_in_the_tempo_and_key_of_the_source(pipeline):
    said = "calm piano, 90 bpm, D major"
    for result in (
        pipeline.inpaint(chirp(), [(0.5, 1.0)], "guitar", source_text=said, seed=1),
        pipeline.continue_(chirp(), 1.0, "guitar", source_text=said, seed=1),
    ):
        caption = result.captions[0]
        assert (caption["lead"], caption["tempo_bpm"], caption["tonic"]) == ("guitar", 90.0, "D")
        assert result.settings["source_text"] == said


def test_inpainting_keeps_every_sample_outside_the_region(pipeline):
    source = chirp(3.0)
    result = pipeline.inpaint(source, [(1.0, 1.6)], TEXT, seed=5)
    out = result.samples[0]
    assert out.shape == source.samples.shape
    assert np.array_equal(out[:, :8000], source.samples[:, :8000])
    assert np.array_equal(out[:, 12800:], source.samples[:, 12800:])
    assert not np.allclose(out[:, 9000:12000], source.samples[:, 9000:12000], atol=1e-3)
    assert result.settings["spans"] == [[1.0, 1.6]]


def test_extending_keeps_the_source_and_adds_the_length(pipeline):
    source = chirp(2.0)
    out = pipeline.continue_(source, 1.0, TEXT, seed=5).samples[0]
    assert out.shape == (2, 24000) and np.array_equal(out[:, :15840], source.samples[:, :15840])


def test_every_description_is_heard_in_a_piece_that_one_window_could_hold(pipeline):
    """The window of this model lasts 4 s, so each of three parts of 3 s needs a shorter one of its own."""
    texts = ["piano, 90 bpm, C major", "organ", "choir"]
    first = pipeline.long_form(texts, duration_s=3.0, seed=2).samples[0]
    for part in range(3):
        other = [text if index != part else "busy strings, 150 bpm" for index, text in enumerate(texts)]
        assert not same(first, pipeline.long_form(other, duration_s=3.0, seed=2).samples[0]), part
    with pytest.raises(UsageError, match="too short for 8 descriptions"):
        pipeline.long_form(["organ"] * 8, duration_s=1.0, seed=2)


@pytest.mark.parametrize("bars", [1, 4])
def test_loops_have_whole_bars_in_one_window_or_several(pipeline, bars):
    result = pipeline.loop("bright organ", bars=bars, bpm=100.0, seed=6)
    tempo = result.settings["loop_bpm"]
    assert abs(tempo / 100.0 - 1) < 0.02
    assert result.seconds[0] == pytest.approx(bars * 4 * 60 / tempo, abs=1e-3)
    assert any("windows" in note for note in result.notes) == (bars == 4)


@pytest.mark.parametrize("bars", [1, 4])
def test_takes_of_a_loop_are_remade_alone(pipeline, bars):
    both = pipeline.loop("bright organ", bars=bars, bpm=100.0, seed=6, takes=2)
    alone = pipeline.loop("bright organ", bars=bars, bpm=100.0, seed=both.seeds[1])
    assert same(both.samples[1], alone.samples[0]) and not same(both.samples[0], both.samples[1])


@pytest.mark.parametrize("bars", [1, 4])
def test_no_place_of_a_loop_is_a_seam(pipeline, bars):
    """A loop played twice is what its latents twice over decode to; from end to start is a step like any other."""
    studio = pipeline._studio(pipeline.job("loop", "organ"), None)
    frames = 30 * bars
    latents = studio.noise([3], frames)
    whole = studio.decode(latents, is_circular=True)[0]
    row, around = pipeline.network.denormalise(latents), min(frames, studio.window_frames)
    row = torch.cat((row[..., -around:], row, row, row[..., :around]), -1)
    twice = pipeline.codec.decode(row, cycle=frames)[0][:, around * pipeline.codec.hop_samples :]
    torch.testing.assert_close(whole.repeat(1, 2), twice[:, : 2 * whole.shape[1]], atol=1e-4, rtol=1e-4)
    loop = pipeline.loop("bright organ", bars=bars, bpm=100.0, seed=6).samples[0]
    steps = np.abs(np.diff(np.concatenate([loop, loop[:, :1]], 1)))
    assert steps[:, -1].max() <= np.quantile(steps, 0.999) * 1.5


def test_negative_text_works_without_any_other(pipeline):
    settings = {"plan": False, "guidance": 3.0}
    one, other = (
        pipeline.generate("", duration_s=1.0, seed=1, negative_text=text, settings=settings).samples[0]
        for text in ("", "busy organ, 150 bpm")
    )
    assert not same(one, other)


def test_the_adaptive_solver_makes_music_and_agrees_with_many_small_steps(pipeline):
    made = {"settings": {"solver": "adaptive", "tolerance": 1e-4}, "duration_s": 1.0, "seed": 3}
    result = pipeline.generate(TEXT, **made)
    fine = pipeline.generate(TEXT, duration_s=1.0, seed=3, settings={"steps": 256})
    assert result.network_calls > 6 and same(result.samples[0], fine.samples[0], 2e-2)
    patched = pipeline.inpaint(chirp(3.0), [(1.0, 1.6)], TEXT, seed=5, settings=made["settings"]).samples[0]
    assert np.array_equal(patched[:, :8000], chirp(3.0).samples[:, :8000])


def test_saving_writes_sound_and_recipe(pipeline, tmp_path):
    paths = pipeline.generate(TEXT, duration_s=0.6, seed=1, takes=2).save(tmp_path / "music.flac")
    assert [path.name for path in paths] == ["music_1.flac", "music_2.flac", "music_1.json", "music_2.json"]
    recipe = json.loads(paths[2].read_text())
    assert recipe["task"] == "music" and recipe["settings"]["texts"] == [TEXT] and recipe["settings"]["takes"] == 1
    assert read_audio(paths[0]).samples.shape == (2, 4800)


def test_folders_round_trip(pipeline, model_folder, tmp_path):
    again = MelodyFlowPipeline.from_folder(pipeline.save(tmp_path / "copy"), device="cpu", dtype="float32")
    a, b = (p.generate(TEXT, duration_s=0.6, seed=9).samples[0] for p in (pipeline, again))
    assert same(a, b) and again.info["text"] == "captions" and again.info["window_s"] == 4.0
    with pytest.raises(CheckpointError):
        MelodyFlowPipeline.from_folder(model_folder / "codec")


def test_cancelling_stops_within_a_step(pipeline):
    token, seen = CancelToken(), []

    def stop(event):
        seen.append(event)
        token.cancel()

    with pytest.raises(Cancelled):
        pipeline.generate(TEXT, duration_s=1.0, seed=1, cancel=token, on_event=stop)
    assert len(seen) == 1


SILENT = Audio(np.zeros((2, 16000), np.float32), 8000)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda p: p.edit(SILENT, "organ"), MediaError),
        (lambda p: p.edit(chirp(0.1), "organ"), UsageError),
        (lambda p: p.edit(chirp(), "organ", strength=1.5), UsageError),
        (lambda p: p.edit(chirp(), "organ", strength=-0.1), UsageError),
        (lambda p: p.edit(chirp(), "organ", method="magic"), UsageError),
        (lambda p: p.edit(chirp(), "organ", settings={"keep": 0}), UsageError),
        (lambda p: p.edit(chirp(), "organ", settings={"keep": 5}), UsageError),
        (lambda p: p.edit(chirp(), "organ", settings={"edit_solver": "midpoint", "edit_steps": 4}), UsageError),
        (lambda p: p.edit(chirp(), ["a", "b"], takes=2), UsageError),
        (lambda p: p.generate(TEXT, settings={"steps": 5}), UsageError),
        (lambda p: p.generate(TEXT, settings={"steps": 5, "solver": "heun"}), UsageError),
        (lambda p: p.generate(TEXT, settings={"speed": 1}), UsageError),
        (lambda p: p.generate(TEXT, settings={"solver": "magic"}), UsageError),
        (lambda p: p.generate(TEXT, settings={"solver": "adaptive", "tolerance": 0.0}), UsageError),
        (lambda p: p.generate(TEXT, settings={"solver": "adaptive"}, takes=2), UsageError),
        (lambda p: p.loop(TEXT, bars=1, settings={"solver": "adaptive"}), UsageError),
        (lambda p: p.generate(TEXT, duration_s=0.1), UsageError),
        (lambda p: p.generate(TEXT, duration_s=float("nan")), UsageError),
        (lambda p: p.generate(TEXT, duration_s=9000), LimitError),
        (lambda p: p.generate(TEXT, bpm=400.0), UsageError),
        (lambda p: p.generate(TEXT, key="H flat"), UsageError),
        (lambda p: p.generate(TEXT, takes=99), UsageError),
        (lambda p: p.generate(7), (UsageError, TypeError)),
        (lambda p: p.generate("x" * 5000), LimitError),
        (lambda p: p.generate(TEXT, colour="red"), UsageError),
        (lambda p: p.inpaint(chirp(), [(1.5, 1.0)]), UsageError),
        (lambda p: p.inpaint(chirp(), [(9.0, 9.5)]), UsageError),
        (lambda p: p.inpaint(chirp(), [(0.0, 2.0)]), UsageError),
        (lambda p: p.inpaint(chirp(), []), UsageError),
        (lambda p: p.continue_(chirp(), 9999.0), LimitError),
        (lambda p: p.edit(np.zeros((2, 100)), "organ"), UsageError),
    ],
)
def test_what_cannot_be_done_is_refused_in_plain_words(pipeline, call, error):
    with pytest.raises(error) as caught:
        call(pipeline)
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize("audio", [chirp(1.0, 8000, 1), chirp(1.0, 44100, 6), chirp(1.0, 192000, 2)])
def test_any_rate_and_number_of_channels_is_taken_and_said(pipeline, audio):
    result = pipeline.edit(audio, "", strength=0.4, seed=1, method="plain")
    assert result.samples[0].shape == (2, 8000)
    assert (audio.channels == 2) == (not any("channel" in note for note in result.notes))


@pytest.mark.parametrize("text", ["", "   ", "zxcv qwrt"])
def test_empty_and_unknown_texts_leave_the_choice_to_the_model(pipeline, text):
    result = pipeline.generate(text, duration_s=0.6, seed=1)
    assert "nothing, so the model chooses" in result.understood[0]
    assert ("zxcv" in result.understood[0]) == ("zxcv" in text)


def test_longer_edits_use_joint_windows_for_the_way_back_and_forth(pipeline):
    source = chirp(6.0)
    result = pipeline.edit(source, "organ", strength=0.5, seed=1, method="plain")
    assert result.samples[0].shape == source.samples.shape and result.network_calls > 6


def test_sampling_leaves_the_global_random_state_alone(pipeline):
    before = torch.get_rng_state()
    pipeline.edit(chirp(1.0), "organ", strength=0.5, seed=1)
    assert torch.equal(before, torch.get_rng_state())
