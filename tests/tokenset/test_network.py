"""The network over counts, its conditions and its loss."""

import pytest
import torch

from genmm.core.errors import ConfigError, ShapeError, UsageError
from genmm.losses.fixed_sum import clean_count_loss, loss_per_time
from genmm.samplers.fixed_sum import RowNoise, sample_fixed_sum
from genmm.samplers.fixed_sum_guidance import GuidanceSchedule, guided
from genmm.systems.tokenset.config import CountNetworkConfig
from genmm.systems.tokenset.network import Condition, CountNetwork
from genmm.systems.tokenset.text import MOST_PIECES, text_pieces, text_rows


def some_counts(rows: int = 3) -> torch.Tensor:
    counts = torch.zeros(rows, 32, dtype=torch.int64)
    counts.scatter_add_(1, torch.randint(0, 32, (rows, 8)), torch.ones(rows, 8, dtype=torch.int64))
    return counts


def wanted(rows: int = 3) -> Condition:
    labels = {"style": torch.zeros(rows, dtype=torch.int64), "group": torch.full((rows,), 2)}
    return Condition(labels, text_rows([text_pieces("red heart", 64)] * rows))


@pytest.mark.parametrize("group", [1, 4, 8])
def test_every_code_gets_its_logits(pipeline, group):
    network = CountNetwork(CountNetworkConfig(codes=32, tokens=8, width=16, depth=1, heads=2, group=group))
    logits = network(some_counts(), torch.full((3,), 0.5))
    assert logits.shape == (3, 32, 9)


def test_the_condition_matters_and_none_is_the_null_of_every_part(pipeline):
    network, counts, t = pipeline.network, some_counts(), torch.full((3,), 0.4)
    plain = network(counts, t)
    null = Condition({"style": torch.full((3,), 2), "group": torch.full((3,), 3)}, torch.zeros(3, 5, dtype=torch.int64))
    torch.testing.assert_close(network(counts, t, null), plain)
    assert float((network(counts, t, wanted()) - plain).abs().max()) > 1e-3


def test_padding_of_texts_changes_nothing(pipeline):
    pieces = text_rows([text_pieces("red heart", 64), text_pieces("a much longer text about many things", 64)])
    labels = {"style": torch.tensor([0, 0]), "group": torch.tensor([1, 1])}
    both = pipeline.network(some_counts(2), torch.tensor([0.3, 0.3]), Condition(labels, pieces))
    assert both.isfinite().all()
    counts = some_counts(1)
    short = Condition({name: ids[:1] for name, ids in labels.items()}, text_rows([text_pieces("red heart", 64)]))
    padded = Condition(short.labels, pieces[:1])
    one = pipeline.network(counts, torch.tensor([0.3]), short)
    torch.testing.assert_close(pipeline.network(counts, torch.tensor([0.3]), padded), one)


def test_training_drops_conditions(pipeline):
    network = CountNetwork(CountNetworkConfig(**{**pipeline.network.config.to_dict(), "dropout": 0.5}))
    torch.manual_seed(0)
    dropped = network.dropped(wanted(400))
    assert 0.6 < float((dropped.labels["style"] == 2).float().mean()) < 0.9
    assert 0.6 < float((dropped.text == 0).all(-1).float().mean()) < 0.9


def test_loss_is_the_likelihood_of_the_clean_counts():
    logits = torch.randn(2, 5, 4)
    clean = torch.randint(0, 4, (2, 5))
    p = logits.softmax(-1).gather(-1, clean[..., None])[..., 0]
    torch.testing.assert_close(clean_count_loss(logits, clean), -p.log())
    by_time = loss_per_time(torch.tensor([1.0, 3.0]), torch.tensor([0.1, 0.95]))
    assert {name: float(value) for name, value in by_time.items()} == {"t0": 1.0, "t4": 3.0}
    with pytest.raises(ShapeError):
        clean_count_loss(logits, clean[:, :4])


def test_what_the_network_cannot_read_is_refused(pipeline):
    with pytest.raises(ShapeError):
        pipeline.network(torch.zeros(1, 31, dtype=torch.int64), torch.tensor([0.5]))
    with pytest.raises(UsageError, match="below 9"):
        pipeline.network(torch.full((1, 32), 9), torch.tensor([0.5]))
    for bad in ({"group": 3}, {"heads": 5}, {"tokens": 64}, {"dropout": 1.0}, {"count_rows": 8}):
        with pytest.raises(ConfigError):
            CountNetworkConfig(**{"codes": 32, "tokens": 8, "width": 16, "heads": 2, **bad})
    with pytest.raises(ConfigError, match="unknown fields"):
        CountNetworkConfig.from_dict({"hidden": 3})


def test_guidance_schedules():
    schedule = GuidanceSchedule.parse("4_50_55")
    assert [schedule.at(t) for t in (0.0, 0.32, 0.34, 0.65, 0.67, 1.0)] == [4, 4, 50, 50, 55, 55]
    assert str(schedule) == "4_50_55"
    assert GuidanceSchedule.parse(1).is_off
    for bad in ("", "4_x", -1, "nan", True, None):
        with pytest.raises(UsageError):
            GuidanceSchedule.parse(bad)


@pytest.mark.parametrize("space", ["log", "probability"])
def test_guidance_of_one_is_the_conditional_prediction(space):
    one, other = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(guided(one, other, 1.0, space).exp(), one.softmax(-1), atol=1e-6, rtol=1e-4)
    strong = guided(one, other, 3.0, space).exp()
    torch.testing.assert_close(strong.sum(-1), torch.ones(2, 3))


def test_what_strong_guidance_cuts_off_stays_a_last_resort():
    """Every count above 0 is cut for every code; a set with the right sum must be found all the same."""
    one, other = torch.tensor([4.0, 0.0, 0.0]).expand(1, 6, 3), torch.zeros(1, 6, 3)
    log_p = guided(one, other, 1000.0, "probability")
    assert bool(log_p.isfinite().all())
    assert float(log_p[..., 1:].exp().max()) < 1e-20
    assert int(sample_fixed_sum(log_p, 4, RowNoise([0])).sum()) == 4


def test_texts_become_pieces():
    assert text_pieces("Red  HEART!", 64) == text_pieces("red heart", 64)
    assert set(text_pieces("heart red", 4096)) == set(text_pieces("red heart", 4096))
    assert set(text_pieces("hearts", 4096)) & set(text_pieces("heart", 4096))
    assert all(0 < row < 64 for row in text_pieces("red heart", 64))
    assert len(text_pieces("word " * 300 + "".join(map(chr, range(97, 123))), 4096)) <= MOST_PIECES
    assert text_rows([[], [3, 4]]).tolist() == [[0, 0], [3, 4]]
    with pytest.raises(UsageError, match="empty"):
        text_pieces("  ", 64)
