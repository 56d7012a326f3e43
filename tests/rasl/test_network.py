"""The branches and the objective: shapes, masks, windows, and that learning finds what belongs together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genmm.core.errors import ConfigError, ShapeError
from genmm.systems.rasl.config import ObjectiveConfig, RaslConfig
from genmm.systems.rasl.fitting import Fit, FitConfig, held_out_losses
from genmm.systems.rasl.inputs import Inputs, network_inputs
from genmm.systems.rasl.objective import hidden_spans, rasl_losses
from genmm.systems.rasl.windows import fit_statistics, stack_windows, window_of


@pytest.mark.parametrize("reading", ["energy", "channel_topk", "gate"])
def test_padding_changes_nothing(network, reading):
    net = network(reading=reading)
    x = torch.randn(1, 12, 304)
    mask = torch.ones(1, 12, dtype=torch.bool)
    alone = net("visual", x, mask)
    padded = net("visual", torch.cat([x, 9 * torch.ones(1, 5, 304)], 1), torch.arange(17)[None] < 12)
    torch.testing.assert_close(padded.activation[:, :12], alone.activation, atol=1e-5, rtol=1e-4)
    assert padded.activation[:, 12:].abs().sum() == 0
    assert (alone.latents >= 0).all() and (alone.activation >= 0).all()
    torch.testing.assert_close(alone.embedding.norm(dim=-1), torch.ones(1, 12))
    assert alone.reconstruction.shape == x.shape


def test_hidden_steps_are_not_seen(network):
    net = network()
    x, mask = torch.randn(1, 10, 304), torch.ones(1, 10, dtype=torch.bool)
    hide = torch.arange(10)[None] == 4
    changed = x.clone()
    changed[:, 4] = 7.0
    torch.testing.assert_close(net("visual", x, mask, hide).latents, net("visual", changed, mask, hide).latents)


def test_a_span_bounds_what_a_step_sees(network):
    net = network(span=2)
    x, mask = torch.randn(1, 12, 304), torch.ones(1, 12, dtype=torch.bool)
    far = x.clone()
    far[:, 8:] += 1.0
    one, other = net("visual", x, mask).activation, net("visual", far, mask).activation
    torch.testing.assert_close(one[:, :6], other[:, :6])
    assert not torch.allclose(one[:, 6], other[:, 6])  # one layer, two steps away


def test_wrong_sizes_are_named(network):
    with pytest.raises(ShapeError, match="304"):
        network()("visual", torch.zeros(1, 4, 5), torch.ones(1, 4, dtype=torch.bool))
    for bad in ({"width": 30, "heads": 4}, {"window": 2}, {"top_channels": 999}, {"reading": "sum"}, {"layers": 0}):
        with pytest.raises(ConfigError):
            RaslConfig(**bad)
    with pytest.raises(ConfigError, match="unknown fields: depth"):
        RaslConfig.from_dict({"depth": 3})
    with pytest.raises(ConfigError, match="mask_share"):
        ObjectiveConfig(mask_share=0.0)


def test_hidden_spans_are_runs_of_about_the_share():
    mask = torch.ones(200, 64, dtype=torch.bool)
    hide = hidden_spans(mask, 0.3, 4, torch.Generator().manual_seed(0))
    assert hide.any(1).all()
    assert 0.2 < float(hide.float().mean()) < 0.36


def batch_of(tables, length=16, **more):
    generator = torch.Generator().manual_seed(0)
    return stack_windows([window_of(network_inputs(t), length, generator, **more) for t in tables], 196)


def test_windows_of_short_and_silent_videos(make_table):
    batch = batch_of([make_table(30), make_table(5, seed=1), make_table(20, seed=2, sound=False)])
    assert batch["visual"].shape == (3, 16, 304)
    assert batch["mask"].sum(1).tolist() == [16, 5, 16]
    assert batch["audio_mask"].sum(1).tolist() == [16, 5, 0]
    assert "audio" not in batch_of([make_table()], sound=False)


@pytest.mark.parametrize("sound", [True, False])
def test_all_parts_of_the_loss_are_finite_and_train_both_branches(network, make_table, sound):
    net = network().train()
    batch = batch_of([make_table(30, seed=i, sound=i != 1) for i in range(4)], sound=sound)
    terms = rasl_losses(net, batch, ObjectiveConfig(), torch.Generator().manual_seed(0))
    assert set(terms) == {"loss", "reconstruction", "masked", "spread", "contrast", "k_point"}
    assert all(bool(torch.isfinite(value)) for value in terms.values())
    terms["loss"].backward()
    assert net.branches["visual"].read.weight.grad.abs().sum() > 0
    assert (net.branches["audio"].read.weight.grad is not None) == sound


def test_a_batch_without_any_sound_is_trained_on(network, make_table):
    net = network().train()
    batch = batch_of([make_table(30, seed=i, sound=False) for i in range(3)])
    terms = rasl_losses(net, batch, ObjectiveConfig())
    terms["loss"].backward()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert float(terms["contrast"].detach()) == 0.0


def test_the_anti_collapse_term_punishes_constant_activations():
    from genmm.systems.rasl.objective import _spread

    mask = torch.ones(1, 8, dtype=torch.bool)
    config = ObjectiveConfig(sparsity=0.0, rareness=0.0)
    flat, lively = torch.ones(1, 8), torch.tensor([[0.0, 2.0] * 4])
    assert float(_spread(flat, mask, config)) == pytest.approx(0.2, abs=1e-4)
    assert float(_spread(lively, mask, config)) == 0.0


def test_active_moments_are_taken_to_be_rare():
    from genmm.systems.rasl.objective import _spread

    mask = torch.ones(1, 8, dtype=torch.bool)
    config = ObjectiveConfig(sparsity=0.0, rareness=1.0, least_skew=1.0)
    rare, common = torch.tensor([[0.0] * 7 + [3.0]]), torch.tensor([[3.0] * 7 + [0.0]])
    assert float(_spread(rare, mask, config)) == 0.0  # its skewness is 2.27
    assert float(_spread(common, mask, config)) == pytest.approx(1.0 + 2.268, abs=1e-2)
    level = common.clone().requires_grad_(True)
    _spread(level, mask, config).backward()
    assert torch.isfinite(level.grad).all()


@pytest.mark.parametrize(("sound", "weight"), [(True, 0.0), (False, 1.0)])
def test_anti_collapse_acts_where_there_is_no_sound(network, make_table, sound, weight):
    batch = batch_of([make_table(30, seed=i, sound=sound) for i in range(3)])
    own, given = (
        rasl_losses(network(), batch, ObjectiveConfig(spread=spread), torch.Generator().manual_seed(0))
        for spread in (None, weight)
    )
    assert own["spread"] > 0
    assert own["loss"].item() == pytest.approx(given["loss"].item())
    with pytest.raises(ConfigError, match="spread -1"):
        ObjectiveConfig(spread=-1.0)


def paired_videos(count: int, seed: int) -> tuple[list[Inputs], list[np.ndarray]]:
    """Noise in which some steps carry a pattern in both streams, and as many a pattern in one stream only."""
    rng = np.random.default_rng(seed)
    look, fake = np.random.default_rng(1).standard_normal((2, 304)) * 1.5
    sound = np.random.default_rng(2).standard_normal(196) * 1.5
    videos, labels = [], []
    for _ in range(count):
        order = rng.permutation(32)
        events, decoys = order[:5], order[5:10]
        visual, audio = 0.5 * rng.standard_normal((32, 304)), 0.5 * rng.standard_normal((32, 196))
        visual[events] += look
        audio[events] += sound
        visual[decoys] += fake
        yes = np.ones(32, bool)
        videos.append(Inputs(visual.astype(np.float32), audio.astype(np.float32), yes, yes))
        labels.append(np.isin(np.arange(32), events))
    return videos, labels


def test_sound_teaches_pictures_which_moments_count(network):
    """Decoys look as striking as events; only the sound tells them apart, and it is not there at the end."""
    videos, _ = paired_videos(24, 0)
    net = network(width=32, projection=16)
    fit_statistics(net, videos)
    fit = Fit(net, videos, FitConfig(steps=60, batch_size=12, window=32, learning_rate=4e-3, warmup_steps=5))
    losses = [terms["loss"] for terms in fit.run()]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    test_videos, labels = paired_videos(8, 7)
    mask = torch.ones(1, 32, dtype=torch.bool)
    better = []
    for video, label in zip(test_videos, labels, strict=True):
        with torch.no_grad():
            score = net("visual", torch.from_numpy(video.visual)[None], mask).activation[0].numpy()
        better.append(score[label].mean() > score[~label].mean())
    assert np.mean(better) > 0.8
    assert set(held_out_losses(net, test_videos, fit.config)) >= {"loss", "k_point"}


def test_an_interrupted_fit_goes_on_exactly(network, tmp_path):
    videos, _ = paired_videos(4, 3)
    config = FitConfig(steps=6, batch_size=4, window=16, warmup_steps=2)
    straight = Fit(network(), videos, config)
    list(straight.run())
    first = Fit(network(), videos, config)
    running = first.run()
    for _ in range(3):
        next(running)
    first.save(tmp_path / "fit.safetensors")
    second = Fit(network(), videos, config)
    second.load(tmp_path / "fit.safetensors")
    assert second.step == 3
    list(second.run())
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
    with pytest.raises(Exception, match="other settings"):
        Fit(network(), videos, FitConfig(steps=7)).load(tmp_path / "fit.safetensors")
