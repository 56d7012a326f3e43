from __future__ import annotations

import pytest
import torch

from genmm.core.errors import ShapeError, UsageError
from genmm.losses.energy import calibration_ratio, energy_score
from genmm.metrics.calibration import CalibrationMeter


def normal(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_draws_from_the_source_of_the_data_are_calibrated():
    meter = CalibrationMeter()
    meter.update(normal(8, 4000, 12, seed=0), normal(4000, 12, seed=1), torch.rand(4000))
    report = meter.report()
    assert report.ratio == pytest.approx(1.0, abs=0.01)
    assert all(r == pytest.approx(1.0, abs=0.03) for r in (*report.ratio_by_group, *report.ratio_by_time))
    assert (report.frames, report.draws) == (4000, 8)


def test_collapse_and_excess_show_where_they_are():
    scale = torch.ones(12)
    scale[:3], scale[9:] = 0.0, 2.0
    meter = CalibrationMeter(channel_groups=4)
    meter.update(normal(4, 2000, 12, seed=0) * scale, normal(2000, 12, seed=1), torch.rand(2000))
    groups = meter.report().ratio_by_group
    assert groups[0] < 0.01
    assert groups[1] == pytest.approx(1.0, abs=0.05) and groups[2] == pytest.approx(1.0, abs=0.05)
    assert groups[3] > 1.2


def test_time_is_split_by_position():
    target, position = normal(3000, 6, seed=1), torch.linspace(0, 1, 3000)
    draws = normal(4, 3000, 6, seed=0) * (position < 0.5)[:, None]
    by_time = CalibrationMeter(time_parts=2)
    by_time.update(draws, target, position)
    early, late = by_time.report().ratio_by_time
    assert early == pytest.approx(1.0, abs=0.05) and late == 0.0


def test_two_draws_agree_with_the_training_formulas():
    draws, target = normal(2, 50, 8, seed=0), normal(50, 8, seed=1)
    meter = CalibrationMeter()
    meter.update(draws, target, torch.zeros(50))
    report = meter.report()
    assert report.ratio == pytest.approx(float(calibration_ratio(draws[0], draws[1], target)), rel=1e-5)
    assert report.energy_score == pytest.approx(float(energy_score(draws, target).mean()), rel=1e-5)
    assert report.ratio_by_time[1:] == (None, None, None)


def test_batching_changes_nothing():
    draws, target, position = normal(4, 90, 8, seed=0), normal(90, 8, seed=1), torch.rand(90)
    whole, parts = CalibrationMeter(beta=1.5), CalibrationMeter(beta=1.5)
    whole.update(draws, target, position)
    for rows in torch.arange(90).split(37):
        parts.update(draws[:, rows], target[rows], position[rows])
    one, other = whole.report(), parts.report()
    assert one.energy_score == pytest.approx(other.energy_score, rel=1e-6)
    assert one.ratio_by_group == pytest.approx(other.ratio_by_group, rel=1e-6)


def test_wrong_shapes_and_an_empty_set_are_refused():
    meter = CalibrationMeter()
    with pytest.raises(UsageError, match="empty"):
        meter.report()
    with pytest.raises(ShapeError):
        meter.update(torch.zeros(1, 5, 8), torch.zeros(5, 8), torch.zeros(5))
    with pytest.raises(ShapeError):
        meter.update(torch.zeros(2, 5, 3), torch.zeros(5, 3), torch.zeros(5))
