"""The pipeline as its callers use it: events, batches, voices, recipes, folders, mistakes."""

import json

import numpy as np
import pytest
import torch

from genmm.core.errors import Cancelled, CheckpointError, GenerationError, UsageError
from genmm.core.events import CancelToken, Finished, PartialAudio, Progress
from genmm.core.results import read_recipe
from genmm.media.audio import read_audio
from genmm.systems.sled.pipeline import SledPipeline
from genmm.systems.sled.request import SpeechRequest
from genmm.systems.sled.text import TextRules
from genmm.systems.sled.voice import Voice

SHORT = {"max_s": 0.6, "retries": 0, "stop_threshold": 1.0}
VOICES = {"voice_channels": 12}


def voice(transcript: str | None = "hello there.", channels: int = 6) -> Voice:
    latents = torch.randn(30, channels, generator=torch.Generator().manual_seed(2))
    return Voice(name="anna", latents=latents, frame_rate=12.5, transcript=transcript)


@pytest.fixture(scope="module")
def speaking(make_pipeline):
    """A pipeline that clones by statistics and by continuation, with one voice."""
    return make_pipeline(sizes=VOICES, voices={"anna": voice()})


def collect(events):
    pieces, progress, result = {}, [], None
    for event in events:
        if isinstance(event, PartialAudio):
            pieces.setdefault(event.take, []).append(event.samples)
        elif isinstance(event, Progress):
            progress.append(event)
        elif isinstance(event, Finished):
            result = event.result
    return pieces, progress, result


def test_live_pieces_join_to_the_result_and_to_generate(speaking):
    options = {"voice": "anna", "seed": 3, "takes": 2, "settings": SHORT}
    pieces, progress, live = collect(speaking.events("Seven 4", first_piece_s=0.1, piece_s=0.2, **options))
    whole = speaking.generate("Seven 4", **options)
    assert live.text_spoken == whole.text_spoken == "Seven four."
    assert live.seeds == whole.seeds and len(set(live.seeds)) == 2
    for take in range(2):
        assert len(pieces[take]) > 2
        np.testing.assert_array_equal(np.concatenate(pieces[take]), live.samples[take])
        np.testing.assert_allclose(live.samples[take], whole.samples[take], atol=1e-4)
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert live.timings["first_audio_s"] < live.timings["total_s"]


def test_long_text_is_spoken_in_parts_live_and_at_once(speaking):
    text = "One two three four five six seven. " * 3
    options = {"seed": 1, "settings": {**SHORT, "chunk_chars": 40}}
    pieces, _, live = collect(speaking.events(text, **options))
    whole = speaking.generate(text, **options)
    np.testing.assert_array_equal(np.concatenate(pieces[0]), live.samples[0])
    np.testing.assert_allclose(live.samples[0], whole.samples[0], atol=1e-4)
    assert any("3 parts" in note for note in whole.notes)


@pytest.mark.parametrize("sizes", [VOICES, {"stream_n": 2, "stream_m": 3}], ids=["offline", "streaming"])
def test_a_batch_gives_what_single_runs_give(make_pipeline, sizes):
    pipeline = make_pipeline(sizes=sizes, voices={"anna": voice()})
    requests = [
        SpeechRequest(text="seven four one", voice="anna", seed=1, settings={**SHORT, "cloning": "continuation"}),
        SpeechRequest(text="hello there, this is a test", seed=2, guidance=1.0, settings=SHORT),
        SpeechRequest(text="one", seed=3, takes=2, temperature=0.5, settings={**SHORT, "max_s": 0.3}),
    ]
    together = pipeline.generate_batch(requests, batch_size=3)
    for request, result in zip(requests, together, strict=True):
        alone = pipeline.generate_batch([request])[0]
        assert alone.seeds == result.seeds
        for mine, other in zip(alone.samples, result.samples, strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-4)


def test_one_bad_request_does_not_spoil_a_batch(speaking):
    requests = [SpeechRequest(text="one", seed=1, settings=SHORT), SpeechRequest(text="two", voice="nobody")]
    found = speaking.generate_batch([*requests, SpeechRequest(text="...")], errors="return")
    assert [type(one).__name__ for one in found] == ["SpeechResult", "UsageError", "UsageError"]
    with pytest.raises(UsageError, match="it has: anna"):
        speaking.generate_batch(requests)


def test_a_line_that_does_not_end_is_tried_again_with_another_seed(speaking):
    tried = speaking.generate("one", seed=1, settings={**SHORT, "retries": 2})
    assert tried.stop_reasons == ("length",)
    assert any("3 attempts" in note for note in tried.notes)
    assert any("another seed" in note for note in tried.notes)
    assert tried.seeds == (1,)


def test_cancel_ends_both_ways_of_speaking(speaking):
    token = CancelToken()
    events = speaking.events("one two three", seed=1, cancel=token, settings={**SHORT, "max_s": 5.0})
    next(events)
    token.cancel()
    with pytest.raises(Cancelled):
        list(events)
    with pytest.raises(Cancelled):
        speaking.generate("one two three", seed=1, cancel=token)


def test_a_closed_stream_leaves_the_pipeline_usable(speaking):
    events = speaking.events("one two three", seed=1, settings=SHORT)
    next(events)
    events.close()
    assert torch.is_inference_mode_enabled() is False
    speaking.generate("one", seed=1, settings=SHORT)


def test_voices_change_the_speech_and_statistics_need_no_transcript(speaking):
    silent = voice(transcript=None)
    by_name = speaking.generate("one", voice="anna", seed=1, settings=SHORT)
    by_object = speaking.generate("one", voice=silent, seed=1, settings=SHORT)
    without = speaking.generate("one", voice="", seed=1, settings=SHORT)
    np.testing.assert_array_equal(by_name.samples[0], by_object.samples[0])
    assert np.abs(by_name.samples[0] - without.samples[0]).max() > 1e-3
    with pytest.raises(UsageError, match="give the transcript"):
        speaking.generate("one", voice=silent, seed=1, settings={**SHORT, "cloning": "continuation"})


def test_the_default_voice_comes_from_the_settings(make_pipeline):
    pipeline = make_pipeline(sizes=VOICES, voices={"anna": voice()})
    pipeline.defaults = pipeline.defaults.changed({"voice": "anna"})
    assert pipeline.generate("one", seed=1, settings=SHORT).settings["voice"] == "anna"
    assert pipeline.generate("one", voice="", seed=1, settings=SHORT).settings["voice"] == ""


def test_a_voice_of_another_codec_is_refused(speaking, make_pipeline):
    with pytest.raises(UsageError, match="another codec"):
        speaking.generate("one", voice=voice(channels=5), settings=SHORT)
    with pytest.raises(UsageError, match="knows no voice statistics"):
        make_pipeline().generate("one", settings={"cloning": "statistics"})


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_saving_writes_sound_and_recipe_that_makes_it_again(speaking, tmp_path, suffix):
    result = speaking.generate("Seven four", voice="anna", seed=3, settings=SHORT)
    sound, recipe_path = result.save(tmp_path / f"out.{suffix}")
    assert (sound.name, recipe_path.name) == (f"out.{suffix}", "out.json")
    assert read_audio(sound).sample_rate == speaking.sample_rate
    recipe = read_recipe(sound)
    assert recipe["task"] == "speech" and recipe["settings"]["text"] == "Seven four"
    settings = {
        name: value for name, value in recipe["settings"].items() if name not in ("text", "voice", "takes", "precision")
    }
    again = speaking.generate(
        recipe["settings"]["text"], voice=recipe["settings"]["voice"], seeds=recipe["seeds"], settings=settings
    )
    np.testing.assert_array_equal(again.samples[0], result.samples[0])


def test_every_take_has_its_own_recipe(speaking, tmp_path):
    result = speaking.generate("one", seed=3, takes=2, settings=SHORT)
    paths = result.save(tmp_path / "out.wav")
    assert [path.name for path in paths] == ["out_1.wav", "out_2.wav", "out_1.json", "out_2.json"]
    second = json.loads(paths[3].read_text())
    assert second["seeds"] == [result.seeds[1]]
    again = speaking.generate("one", seed=second["seeds"][0], settings=SHORT)
    np.testing.assert_allclose(again.samples[0], result.samples[1], atol=1e-4)


def test_a_folder_brings_everything_back(make_pipeline, tmp_path):
    rules = TextRules(lower_case=True, leading_space=True)
    pipeline = make_pipeline(sizes=VOICES, voices={"anna": voice()}, text_rules=rules, about={"licence": "CC0"})
    pipeline.defaults = pipeline.defaults.changed({**SHORT, "guidance": 1.5})
    folder = pipeline.save(tmp_path / "mine")
    back = SledPipeline.from_folder(folder, device="cpu", dtype="float32")
    assert (back.name, back.text_rules, back.defaults) == ("mine", rules, pipeline.defaults)
    assert back.info["voices"] == ["anna"] and back.info["licence"] == "CC0"
    assert len(back.model["fingerprint"]) == 16
    first, second = (one.generate("Seven 4", voice="anna", seed=3) for one in (pipeline, back))
    np.testing.assert_allclose(first.samples[0], second.samples[0], atol=2e-3)  # voices are stored in float16
    assert first.text_spoken == second.text_spoken == "seven four."


def test_precision_changes_little_and_is_in_the_recipe(make_pipeline):
    pipeline = make_pipeline(sizes=VOICES)
    plain = pipeline.generate("one", seed=3, settings=SHORT)
    packed = pipeline.to(packing="float16").generate("one", seed=3, settings=SHORT)
    assert packed.settings["precision"] == "float32 float16"
    np.testing.assert_allclose(packed.samples[0], plain.samples[0], atol=0.05)
    small = pipeline.to(dtype="bfloat16").generate("one", seed=3, settings=SHORT)
    assert small.settings["precision"] == "bfloat16 live" and np.isfinite(small.samples[0]).all()
    with pytest.raises(UsageError, match="CUDA device"):
        pipeline.to(graphs=True)


@pytest.mark.fbgemm
def test_float16_checkpoints_are_packed_because_that_loses_nothing(make_pipeline, tmp_path):
    pipeline = make_pipeline(sizes=VOICES)
    whole = SledPipeline.from_folder(pipeline.save(tmp_path / "whole"), device="cpu")
    assert whole.engine.packing == "split"
    half = SledPipeline.from_folder(pipeline.save(tmp_path / "half", dtype=torch.float16), device="cpu")
    assert half.engine.packing == "float16"
    packed = half.generate("one", seed=3, settings=SHORT)
    live = half.to(packing="live").generate("one", seed=3, settings=SHORT)
    np.testing.assert_allclose(packed.samples[0], live.samples[0], atol=0.05)
    half.network.requires_grad_(True)
    assert half.to().engine.packing == "live"


def test_parts_that_do_not_fit_are_refused(make_network, tiny_codec, tiny_tokenizer):
    with pytest.raises(CheckpointError, match="channels"):
        SledPipeline(make_network(vae_embed_dim=7), tiny_codec, tiny_tokenizer)
    with pytest.raises(CheckpointError, match="voice_channels must be 0 or 12"):
        SledPipeline(make_network(voice_channels=5), tiny_codec, tiny_tokenizer)
    with pytest.raises(CheckpointError, match="tokenizer"):
        SledPipeline(make_network(vocab_size=100), tiny_codec, tiny_tokenizer)


def test_mistakes_are_explained(speaking, make_pipeline):
    with pytest.raises(UsageError, match="empty"):
        speaking.generate("  ")
    with pytest.raises(UsageError, match="nothing to say"):
        speaking.generate("?!")
    with pytest.raises(UsageError, match="unknown speech settings: speed"):
        speaking.generate("one", settings={"speed": 2})
    with pytest.raises(UsageError, match="streaming model"):
        list(speaking.events(iter(["one"])))


def test_speech_that_ends_before_it_begins_is_an_error(make_pipeline, make_network):
    network = make_network()
    pipeline = make_pipeline(network=network)
    with pytest.raises(GenerationError, match="before it began"):
        pipeline.generate("one", seed=1, settings={"stop_threshold": 1e-9})


def test_words_can_be_spoken_while_they_are_written(make_pipeline):
    pipeline = make_pipeline(sizes={"stream_n": 2, "stream_m": 3})
    written = []

    def writer():
        for word in ("seven ", "four ", "one ", "hello ", "there"):
            written.append(word)
            yield word

    settings = {**SHORT, "max_s": 2.0}
    heard_after = None
    for event in pipeline.events(writer(), seed=1, settings=settings):
        if isinstance(event, PartialAudio) and heard_after is None:
            heard_after = len(written)
        if isinstance(event, Finished):
            result = event.result
    assert heard_after < 5  # sound came before the last word was written
    assert result.text_spoken == result.settings["text"] == "seven four one hello there"
    rules = pipeline.text_rules
    pipeline.text_rules = TextRules(expand=False, final_stop=False)
    whole = pipeline.generate("seven four one hello there", seed=1, settings=settings)
    pipeline.text_rules = rules
    np.testing.assert_allclose(result.samples[0], whole.samples[0], atol=1e-4)
