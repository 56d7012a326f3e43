"""Guidance, noise, choice of draws and stop rules on plain numbers."""

import math

import pytest
import torch

from genmm.core.errors import ShapeError, UsageError
from genmm.samplers.autoregressive import NOISE_BLOCK, NoiseStream, StopRule, StopTracker, guide, medoid


def run(rule: StopRule, probabilities: list[float], movements: list[float] | None = None) -> StopTracker:
    tracker = StopTracker(rule)
    for step, probability in enumerate(probabilities):
        if tracker.reason is None:
            tracker.update(probability, movements[step] if movements else 1.0)
    return tracker


def test_guidance_one_is_conditional_and_zero_unconditional():
    conditional, unconditional = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    assert torch.equal(guide(conditional, unconditional, 1.0), conditional)
    assert torch.equal(guide(conditional, unconditional, 0.0), unconditional)
    assert torch.equal(guide(conditional, unconditional, torch.tensor([[2.0]])), torch.tensor([[-1.0, 5.0]]))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_noise_of_a_row_depends_on_its_own_seed_alone():
    alone, together = NoiseStream(generators(7), 5), NoiseStream(generators(3, 7, 9), 5)
    blocks_alone = [alone.next_block() for _ in range(3)]
    blocks = [together.next_block()]
    together.keep([1, 2])
    blocks += [together.next_block() for _ in range(2)]
    assert blocks[0].shape == (NOISE_BLOCK, 3, 5)
    for step, row in enumerate((1, 0, 0)):
        assert torch.equal(blocks[step][:, row], blocks_alone[step][:, 0])


def test_given_noise_is_used_as_it_is_and_its_end_is_not_finite():
    given = torch.arange(20.0 * 3).view(20, 3)
    stream = NoiseStream([given], 3)
    noise = torch.cat((stream.next_block(), stream.next_block()))[:, 0]
    assert torch.equal(noise[:20], given)
    assert noise[20:].isnan().all()


def test_temperature_scales_the_variance():
    plain, calm = NoiseStream(generators(1), 4), NoiseStream(generators(1), 4, temperature=0.49)
    torch.testing.assert_close(calm.next_block(), 0.7 * plain.next_block())


def test_bad_noise_is_refused():
    with pytest.raises(UsageError, match="temperature"):
        NoiseStream(generators(1), 4, temperature=-1.0)
    with pytest.raises(ShapeError, match=r"\[steps, 4\]"):
        NoiseStream([torch.zeros(3, 5)], 4)


def test_medoid_is_the_most_central_draw():
    draws = torch.tensor([[[0.0], [9.0]], [[1.0], [5.0]], [[5.0], [4.0]]])  # [M, B, D]
    assert medoid(draws).flatten().tolist() == [1.0, 5.0]
    assert torch.equal(medoid(draws[:2]), draws[0])


def test_the_frame_of_the_stopping_step_is_dropped():
    tracker = run(StopRule(threshold=0.8), [0.1, 0.2, 0.8, 0.1])
    assert (tracker.frames, tracker.reason) == (2, "stop")


def test_a_stop_before_the_shortest_length_is_ignored():
    tracker = run(StopRule(min_frames=3), [0.9, 0.9, 0.9, 0.9, 0.1])
    assert (tracker.frames, tracker.reason) == (3, "stop")


def test_several_steps_in_a_row_must_agree():
    tracker = run(StopRule(consecutive=2), [0.9, 0.1, 0.9, 0.9, 0.9])
    assert (tracker.frames, tracker.reason) == (3, "stop")


@pytest.mark.parametrize("extra", [1, 3])
def test_extra_frames_follow_the_stop(extra):
    tracker = run(StopRule(extra_frames=extra), [0.1, 0.9, 0.1, 0.1, 0.1, 0.1])
    assert (tracker.frames, tracker.reason) == (1 + extra, "stop")


def test_the_longest_length_cuts():
    tracker = run(StopRule(max_frames=4), [0.0] * 9)
    assert (tracker.frames, tracker.reason) == (4, "length")


def test_a_value_that_is_not_finite_ends_at_once():
    tracker = run(StopRule(), [0.1, math.nan])
    assert (tracker.frames, tracker.reason) == (1, "not finite")


def test_latents_that_freeze_are_a_collapse():
    rule = StopRule(collapse_frames=5)
    frozen = run(rule, [0.0] * 40, [1.0] * 15 + [0.01] * 25)
    assert (frozen.frames, frozen.reason) == (20, "collapse")
    assert run(rule, [0.0] * 40, [1.0, 0.01] * 20).reason is None
    assert run(StopRule(), [0.0] * 40, [1.0] * 15 + [0.01] * 25).reason is None


@pytest.mark.parametrize(
    "bad", [{"threshold": 0.0}, {"threshold": 1.1}, {"consecutive": 0}, {"max_frames": 0}, {"collapse_ratio": 1.0}]
)
def test_bad_rules_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad)).split("_")[-1]):
        StopRule(**bad)
