"""Step-by-step generation against whole-sequence recomputation, and the promises of a batch."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from genmm.core.errors import Cancelled, LimitError, ShapeError, UsageError
from genmm.core.events import CancelToken
from genmm.samplers.autoregressive import StopRule, guide
from genmm.systems.sled.engine import DecodeEngine
from genmm.systems.sled.generation import SamplingOptions, StepTrace, generate_latents
from genmm.systems.sled.interleave import streaming_order
from genmm.systems.sled.joint import Utterance

NEVER = StopRule(threshold=1.0, max_frames=9)
STREAM = {"stream_n": 2, "stream_m": 3}


def noise(seed: int, steps: int = 40, channels: int = 5) -> torch.Tensor:
    return torch.randn(steps, channels, generator=torch.Generator().manual_seed(seed))


def prompt(frames: int, seed: int = 9) -> torch.Tensor:
    return torch.randn(frames, 6, generator=torch.Generator().manual_seed(seed))


def exact(network):
    """The network in float64: rounding, which a random network amplifies from step to step, plays no part."""
    return network.double()


def say(network, utterances, *, packing="live", **options):
    """All frames and the reason of each utterance."""
    engine = DecodeEngine(network, packing)
    on_step = options.pop("on_step", None)
    frames, reasons = [[] for _ in utterances], {}
    for written in generate_latents(engine, utterances, SamplingOptions(**options), on_step=on_step):
        for row, latents in written.frames.items():
            frames[row].append(latents)
        reasons |= written.ended
    return [torch.cat(parts) if parts else torch.zeros(0, 6) for parts in frames], reasons


def recompute(network, ids, first, steps, scale, noise_rows, text_mask, order=None):
    """Oracle: the whole sequence again for every frame, through `SledNetwork.forward` alone; one utterance."""
    latents = first
    for step in range(steps):
        count = len(latents)
        z = []
        for is_conditional in (True, False):
            tokens, mask = torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool)
            if not is_conditional and text_mask == "last":
                mask[:, :-1] = False
            if not is_conditional and text_mask == "alone":
                tokens, mask = torch.tensor([[2]]), torch.ones(1, 1, dtype=torch.bool)
            parts = torch.cat((network.embed_text(tokens), network.embed_speech(latents[None])), dim=1)
            mask = torch.cat((mask, torch.ones(1, count, dtype=torch.bool)), dim=1)
            if order is not None and is_conditional:
                place = order(len(ids), count)
                parts, mask = parts[:, place], mask[:, place]
            z.append(network(network.join(parts, None), mask)[:, -1])
        guided = guide(z[0], z[1], scale)
        latents = torch.cat((latents, network.head(guided, noise_rows[step : step + 1])))
    return latents[len(first) :]


@pytest.mark.parametrize("packing", ["live", "split", "float16"])
def test_offline_steps_equal_recomputation(make_network, packing):
    network, ids, start = make_network(), [0, 9, 30, 2], prompt(3)
    utterance = Utterance(ids=ids, noise=noise(1), prompt=start, guidance=2.0, stop=NEVER)
    (frames,), reasons = say(network, [utterance], packing=packing)
    with torch.no_grad():
        expected = recompute(network, ids, start, 9, 2.0, noise(1), "last")
    close = {"live": 1e-4, "split": 1e-4, "float16": 0.05}[packing]
    torch.testing.assert_close(frames, expected, atol=close, rtol=close)
    assert reasons == {0: "length"}


def feeding_order(text: int, frames: int) -> torch.Tensor:
    """What the streaming state machine has read when `frames` frames are written and the next is due."""
    n, m = STREAM["stream_n"], STREAM["stream_m"]
    read = min(text, n * (frames // m + 1))
    order = streaming_order(text, frames, n, m)
    return torch.tensor([place for place in order.tolist() if place >= text or place < read])


def test_streaming_steps_equal_recomputation(make_network):
    network, ids = make_network(**STREAM), [0, 9, 30, 40, 2]
    utterance = Utterance(ids=ids, noise=noise(2), guidance=1.7, stop=NEVER)
    (frames,), _ = say(network, [utterance])
    with torch.no_grad():
        expected = recompute(network, ids, torch.zeros(0, 6), 9, 1.7, noise(2), "alone", feeding_order)
    torch.testing.assert_close(frames, expected, atol=1e-4, rtol=1e-4)


def three() -> list[Utterance]:
    """Utterances of different text, prompt, guidance and length."""
    return [
        Utterance(ids=[0, 9, 30, 2], noise=noise(1), prompt=prompt(3), guidance=2.0, stop=NEVER),
        Utterance(ids=[0, 7, 8, 9, 10, 11, 2], noise=noise(2), guidance=1.0, stop=replace(NEVER, max_frames=4)),
        Utterance(ids=[0, 2], noise=noise(3), prompt=prompt(1, 4), guidance=3.0, stop=replace(NEVER, max_frames=6)),
    ]


@pytest.mark.parametrize("sizes", [{}, STREAM], ids=["offline", "streaming"])
@pytest.mark.parametrize("options", [{}, {"sync_every": 4}, {"static": True}, {"static": True, "sync_every": 3}])
def test_batch_mates_and_ways_of_running_change_nothing(make_network, sizes, options):
    network, utterances = exact(make_network(**sizes)), three()
    together, reasons = say(network, utterances, **options)
    assert reasons == dict.fromkeys(range(3), "length")
    for utterance, frames in zip(utterances, together, strict=True):
        (alone,), _ = say(network, [utterance])
        torch.testing.assert_close(frames, alone)


@pytest.mark.parametrize("sizes", [{}, STREAM], ids=["offline", "streaming"])
@pytest.mark.parametrize("until_its_end", [True, False])
def test_caches_go_with_the_run_and_do_not_wait_for_the_collector(make_network, sizes, until_its_end):
    engine = DecodeEngine(make_network(**sizes))
    caches, plain = [], engine.new_cache

    def new_cache(*sizes, **options):
        cache = plain(*sizes, **options)
        caches.append(weakref.ref(cache))
        return cache

    engine.new_cache = new_cache
    gc.disable()
    try:
        run = generate_latents(engine, three(), SamplingOptions())
        next(run)
        if until_its_end:
            for _ in run:
                pass
        run.close()
        del run
        assert caches
        assert [cache() for cache in caches] == [None] * len(caches)
    finally:
        gc.enable()


def test_a_seed_gives_the_same_speech_in_any_batch_and_sync(make_network):
    network = exact(make_network())

    def speak(seeds, **options):
        rows = [
            Utterance(ids=[0, 5, 2], noise=torch.Generator().manual_seed(seed), stop=replace(NEVER, max_frames=40))
            for seed in seeds
        ]
        return say(network, rows, **options)[0]

    alone = speak([7])[0]
    torch.testing.assert_close(speak([1, 7, 2], sync_every=5)[1], alone)
    assert not torch.allclose(speak([8])[0], alone)


def test_no_guidance_costs_no_second_branch(make_network):
    engine = DecodeEngine(make_network())
    rows = []
    plain_cache = engine.new_cache
    engine.new_cache = lambda count, *rest, **named: rows.append(count) or plain_cache(count, *rest, **named)
    for guidance in (1.0, 2.0):
        list(generate_latents(engine, [Utterance(ids=[0, 2], noise=noise(1), guidance=guidance, stop=NEVER)]))
    assert rows == [1, 2]


def test_ended_rows_leave_the_batch(make_network):
    widths: list[int] = []

    def count(trace: StepTrace) -> None:
        widths.append(len(trace.rows))

    say(make_network(), three(), on_step=count)
    assert widths == [3] * 4 + [2] * 2 + [1] * 3


def test_stop_probability_is_that_of_the_conditional_state(make_network):
    """The stop head must not see the guided state."""
    network, traces = make_network(), []
    say(network, [Utterance(ids=[0, 9, 2], noise=noise(1), guidance=3.0, stop=NEVER)], on_step=traces.append)
    plain: list[StepTrace] = []
    say(network, [Utterance(ids=[0, 9, 2], noise=noise(1), guidance=1.0, stop=NEVER)], on_step=plain.append)
    torch.testing.assert_close(traces[0].stop, plain[0].stop)
    assert not torch.allclose(traces[0].z, plain[0].z)


def test_text_that_arrives_late_gives_the_same_speech(make_network):
    network = make_network(**STREAM)
    ids = [0, 9, 30, 40, 41, 2]
    whole, _ = say(network, [Utterance(ids=ids, noise=noise(1), stop=NEVER)])
    late, _ = say(network, [Utterance(ids=iter(ids), noise=noise(1), stop=NEVER)])
    assert torch.equal(whole[0], late[0])
    with pytest.raises(UsageError, match="streaming network"):
        say(make_network(), [Utterance(ids=iter(ids), noise=noise(1), stop=NEVER)])


def test_text_is_read_no_earlier_than_its_turn(make_network):
    read: list[int] = []

    def source():
        for token in [0, 9, 30, 40, 41, 2]:
            read.append(token)
            yield token

    engine = DecodeEngine(make_network(**STREAM))
    counts = []
    for _ in generate_latents(engine, [Utterance(ids=source(), noise=noise(1), stop=NEVER)]):
        counts.append(len(read))
    # Two tokens open; two more are read after every third frame, that is before the fourth frame is drawn.
    assert counts == [2, 2, 2, 4, 4, 4, 6, 6, 6]


def test_cancel_stops_within_one_step(make_network):
    token, seen = CancelToken(), []
    utterance = Utterance(ids=[0, 9, 2], noise=noise(1), stop=NEVER)
    with pytest.raises(Cancelled):
        for written in generate_latents(DecodeEngine(make_network()), [utterance], cancel=token):
            seen.append(written)
            if len(seen) == 2:
                token.cancel()
    assert len(seen) == 2


def test_a_number_that_is_not_finite_ends_its_row_alone(make_network):
    bad = noise(1).clone()
    bad[3] = float("nan")
    rows = [Utterance(ids=[0, 9, 2], noise=source, stop=NEVER) for source in (bad, noise(2))]
    frames, reasons = say(exact(make_network()), rows)
    assert reasons == {0: "not finite", 1: "length"}
    assert len(frames[0]) == 3 and frames[0].isfinite().all()
    torch.testing.assert_close(frames[1], say(exact(make_network()), rows[1:])[0][0])


def test_temperature_zero_has_no_variety_and_draws_have_less(make_network):
    network = make_network()

    def spread(**options) -> float:
        channels = 5 * options.get("draws", 1)
        rows = [Utterance(ids=[0, 9, 2], noise=noise(seed, channels=channels), stop=NEVER) for seed in range(12)]
        return torch.stack(say(network, rows, **options)[0])[:, 0].std(0).mean().item()

    assert spread(temperature=0.0) < 1e-5
    usual = spread()
    assert spread(temperature=0.3) < usual
    assert spread(draws=7) < usual
    assert spread(draws=7, draw_merge="mean") < spread(draws=7)
    assert spread(draws=1, shift_scale=1.0) == usual


def test_a_network_with_voices_is_moved_by_them(make_network):
    network = make_network(voice_channels=12)
    voices = [None, torch.zeros(12), torch.ones(12)]
    rows = [Utterance(ids=[0, 9, 2], noise=noise(1), voice=voice, stop=NEVER) for voice in voices]
    # One by one: rows of one batch take different paths through a matrix product, which adds rounding of its own.
    frames = [say(network, [row])[0][0] for row in rows]
    torch.testing.assert_close(frames[0], frames[1], atol=2e-5, rtol=1e-4)
    assert not torch.allclose(frames[0], frames[2], atol=1e-2)
    with pytest.raises(ShapeError, match="takes no voice"):
        say(make_network(), rows[1:])


def test_the_context_is_a_hard_limit(make_network):
    network = make_network(max_position_embeddings=20)
    roomy = StopRule(threshold=1.0, max_frames=500)
    (frames,), _ = say(network, [Utterance(ids=[0, 9, 2], noise=noise(1), prompt=prompt(7), stop=roomy)])
    assert len(frames) == 10
    with pytest.raises(LimitError, match="23 of 20 positions"):
        say(network, [Utterance(ids=[0, 9, 2], noise=noise(1), prompt=prompt(20), stop=roomy)])


def test_wrong_prompts_and_options_are_named(make_network):
    with pytest.raises(ShapeError, match=r"\[frames, 6\]"):
        say(make_network(), [Utterance(ids=[0, 2], noise=noise(1), prompt=torch.zeros(3, 5))])
    with pytest.raises(UsageError, match="draws"):
        SamplingOptions(draws=0)
    with pytest.raises(UsageError, match="draw_merge"):
        SamplingOptions(draw_merge="median")
    with pytest.raises(UsageError, match="sync_every"):
        SamplingOptions(sync_every=0)
    assert say(make_network(), []) == ([], {})


@pytest.mark.gpu
@pytest.mark.parametrize("sizes", [{}, STREAM], ids=["offline", "streaming"])
def test_cuda_graphs_equal_the_plain_steps(make_network, sizes):
    network = make_network(**sizes).cuda()
    plain, _ = say(network, three())
    for sync_every in (1, 8):
        graphs, reasons = say(network, three(), static=True, sync_every=sync_every)
        assert reasons == dict.fromkeys(range(3), "length")
        for one, other in zip(graphs, plain, strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
