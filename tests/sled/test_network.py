"""Teacher forcing: what a frame may depend on, dropping of text, the voice, losses in training mode."""

import pytest
import torch

from genmm.core.errors import ShapeError
from genmm.systems.sled.interleave import previous_real, streaming_order
from genmm.systems.sled.network import SledNetwork, draw_text_drop
from genmm.systems.sled.objective import sled_losses, stop_loss, stop_targets


def batch(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 300, (2, 5), generator=generator)
    ids[:, -1] = 2
    text = torch.tensor([[True] * 5, [False, False, True, True, True]])
    latents = torch.randn(2, 7, 6, generator=generator)
    frames = torch.arange(7) < torch.tensor([[7], [4]])
    return ids, text, latents, frames


def test_a_frame_is_predicted_from_earlier_frames_only(make_network):
    network = make_network()
    ids, text, latents, frames = batch()
    before = network.teacher_forcing(ids, text, latents, frames)
    changed = latents.clone()
    changed[:, 3:] += 1.0
    after = network.teacher_forcing(ids, text, changed, frames)
    torch.testing.assert_close(after.z[:, :4], before.z[:, :4])  # frame 3 is predicted from frames 0 to 2
    assert not torch.allclose(after.z[0, 4], before.z[0, 4])
    torch.testing.assert_close(after.stop_logits[:, :4], before.stop_logits[:, :4])


@pytest.mark.parametrize("sizes", [{}, {"stream_n": 2, "stream_m": 3}])
def test_padding_of_frames_and_batch_mates_change_nothing(make_network, sizes):
    network = make_network(**sizes)
    ids, text, latents, frames = batch()
    if sizes:  # text of the streaming layout is padded on the right, and interleaving follows padded lengths
        text = text.flip(1)
        ids = torch.where(text, ids, 1)
    both = network.teacher_forcing(ids, text, latents, frames)
    noisy = torch.where(frames[..., None], latents, 99.0)
    other = network.teacher_forcing(ids, text, noisy, frames)
    torch.testing.assert_close(other.z[frames], both.z[frames])
    alone = network.teacher_forcing(ids[:1], text[:1], latents[:1], frames[:1])
    torch.testing.assert_close(alone.z, both.z[:1], atol=1e-5, rtol=1e-4)


def test_dropped_text_is_not_seen(make_network):
    network = make_network()
    ids, text, latents, frames = batch()
    other = ids.clone()
    other[:, :-1] = 50
    drop = torch.tensor([True, False])
    first = network.teacher_forcing(ids, text, latents, frames, drop_text=drop)
    second = network.teacher_forcing(other, text, latents, frames, drop_text=drop)
    torch.testing.assert_close(first.z[0], second.z[0])
    assert not torch.allclose(first.z[1], second.z[1])


def test_text_is_dropped_in_training_only_and_by_its_generator(make_network):
    network = make_network(training_cfg=0.5)
    ids, text, latents, frames = batch()
    assert bool(network.teacher_forcing(ids, text, latents, frames).joint_mask[0].all())
    network.train()
    generator = torch.Generator().manual_seed(1)
    expected = draw_text_drop(2, 0.5, torch.Generator().manual_seed(1))
    forced = network.teacher_forcing(ids, text, latents, frames, generator=generator)
    assert torch.equal(~forced.joint_mask[:, 3], expected)
    many = draw_text_drop(4000, 0.1, torch.Generator().manual_seed(0))
    assert many.float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_a_missing_voice_is_a_zero_voice(make_network):
    network = make_network(voice_channels=12)
    ids, text, latents, frames = batch()
    silent = network.teacher_forcing(ids, text, latents, frames)
    zero = network.teacher_forcing(ids, text, latents, frames, voice=torch.zeros(2, 12))
    other = network.teacher_forcing(ids, text, latents, frames, voice=torch.ones(2, 12))
    torch.testing.assert_close(silent.z, zero.z)
    assert not torch.allclose(other.z, zero.z)
    with pytest.raises(ShapeError, match=r"\[2, 12\]"):
        network.teacher_forcing(ids, text, latents, frames, voice=torch.ones(2, 11))
    with pytest.raises(ShapeError, match="takes no voice"):
        make_network().teacher_forcing(ids, text, latents, frames, voice=torch.ones(2, 12))


def test_noise_is_added_to_what_is_fed_and_not_to_targets(make_network):
    network = make_network()
    ids, text, latents, frames = batch()
    noise = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(5))
    noisy = network.teacher_forcing(ids, text, latents, frames, input_noise=noise)
    fed = network.teacher_forcing(ids, text, latents + noise, frames)
    torch.testing.assert_close(noisy.z, fed.z)


def test_wrong_shapes_are_named(make_network):
    ids, text, latents, frames = batch()
    with pytest.raises(ShapeError, match="latents"):
        make_network().teacher_forcing(ids, text, latents[..., :5], frames)


@pytest.mark.parametrize(
    ("text", "frames", "n", "m", "expected"),
    [
        (5, 7, 2, 3, [0, 1, 5, 6, 7, 2, 3, 8, 9, 10, 4, 11]),
        (7, 3, 2, 3, [0, 1, 7, 8, 9, 2, 3, 4, 5, 6]),
        (1, 4, 2, 3, [0, 1, 2, 3, 4]),
        (4, 2, 2, 3, [0, 1, 4, 5, 2, 3]),
    ],
)
def test_streaming_order(text, frames, n, m, expected):
    assert streaming_order(text, frames, n, m).tolist() == expected


def test_previous_real_skips_padding():
    mask = torch.tensor([[True, False, False, True, True], [False, True, True, False, True]])
    assert previous_real(mask).tolist() == [[-1, 0, 0, 0, 3], [-1, -1, 1, 2, 2]]


def test_real_positions_close_the_gaps_of_dropped_text(make_network):
    """With stream_positions="real", an unconditional training row is the sequence that generation sees."""
    network = make_network(stream_n=2, stream_m=3, stream_positions="real")
    ids, text, latents, frames = batch()
    dropped = network.teacher_forcing(ids, text.flip(1), latents, frames, drop_text=torch.tensor([True, True]))
    plain = make_network(stream_n=0, stream_m=0)  # the same weights; </s> and all frames, one after the other
    alone = plain.teacher_forcing(torch.full((2, 1), 2), torch.ones(2, 1, dtype=torch.bool), latents, frames)
    torch.testing.assert_close(dropped.z[frames], alone.z[frames], atol=1e-5, rtol=1e-4)


def test_stop_targets_and_weight():
    frames = torch.tensor([[True, True, False], [True, True, True]])
    labels, counted = stop_targets(frames)
    assert labels.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]
    assert counted.tolist() == [[True, True, True, False], [True] * 4]
    logits = torch.zeros(2, 4)
    expected = torch.log(torch.tensor(2.0)) * (100 * 2 + 5) / 7
    torch.testing.assert_close(stop_loss(logits, frames), expected)


def test_a_fresh_network_learns_from_the_first_step(make_network):
    """Both draws coincide at the start, where badly written norms give NaN."""
    config = make_network(voice_channels=12).config
    torch.manual_seed(0)
    network = SledNetwork(config).train()
    ids, text, latents, frames = batch()
    forced = network.teacher_forcing(ids, text, latents, frames)
    losses = sled_losses(network, forced, latents, frames, generator=torch.Generator().manual_seed(0))
    assert losses.calibration.item() == 0.0
    losses.total.backward()
    grads = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert all(grad.isfinite().all() for grad in grads.values())
    assert grads["scoreloss.net.final_layer.linear.weight"].abs().sum() > 0


def test_training_lowers_the_loss_in_bfloat16(make_network):
    network = make_network(seed=1).train().requires_grad_(True)
    ids, text, latents, frames = batch()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    generator, values = torch.Generator().manual_seed(0), []
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            forced = network.teacher_forcing(ids, text, latents, frames)
            losses = sled_losses(network, forced, latents, frames, generator=generator, head_repeats=2)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        values.append(losses.total.item())
    assert losses.total.dtype == torch.float32
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


def test_head_repeats_use_every_hidden_state_again(make_network):
    network = make_network()
    ids, text, latents, frames = batch()
    forced = network.teacher_forcing(ids, text, latents, frames)
    losses = sled_losses(network, forced, latents, frames, head_repeats=3)
    assert losses.draw_1.shape == (3 * int(frames.sum()), 6)


def test_the_stop_weight_in_official_files_is_ignored(make_network):
    network = make_network()
    state = {**network.state_dict(), "bceloss.pos_weight": torch.tensor([100.0])}
    assert not network.load_state_dict(state).unexpected_keys
