"""Figures about pictures, against closed forms and torchmetrics."""

import pytest
import torch

from genmm.core.errors import CheckpointError, ShapeError, UsageError
from genmm.metrics.image_features import PictureFeatures, load_features, perceptual_distance, save_features
from genmm.metrics.image_quality import frechet_distance, nearest_pictures, precision_recall, psnr, ssim


def pictures(number: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(number, 3, 24, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_and_ssim_agree_with_torchmetrics():
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    one = pictures()
    other = (one + 0.2 * torch.randn(one.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    for row in range(3):
        expected = peak_signal_noise_ratio((other[row] + 1) / 2, (one[row] + 1) / 2, data_range=1.0)
        torch.testing.assert_close(psnr(other, one)[row], expected, atol=1e-3, rtol=1e-4)
    expected = structural_similarity_index_measure((other + 1) / 2, (one + 1) / 2, data_range=1.0)
    torch.testing.assert_close(ssim(other, one).mean(), expected, atol=5e-3, rtol=0)
    assert float(ssim(one, one).min()) > 0.9999


def test_frechet_distance_of_gaussians_in_closed_form():
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(40_000, 3, generator=generator)
    other = 2.0 * torch.randn(40_000, 3, generator=generator) + torch.tensor([1.0, 0.0, 0.0])
    assert abs(frechet_distance(one, other) - (1.0 + 3 * (2.0 - 1.0) ** 2)) < 0.1
    assert frechet_distance(one, one) < 1e-6
    with pytest.raises(ShapeError):
        frechet_distance(one, other[:, :2])


def test_precision_and_recall_of_known_clouds():
    generator = torch.Generator().manual_seed(0)
    real = torch.cat([torch.randn(60, 2, generator=generator), 50 + torch.randn(60, 2, generator=generator)])
    half = torch.randn(60, 2, generator=generator)
    found = precision_recall(real, half)
    assert found.precision > 0.85
    assert 0.4 < found.recall < 0.6
    far = precision_recall(real, real + 1000)
    assert (far.precision, far.recall) == (0.0, 0.0)
    with pytest.raises(UsageError):
        precision_recall(real[:3], half)


def test_the_nearest_picture_is_found():
    others = pictures(8)
    index, distance = nearest_pictures(others[[5, 2]], others)
    assert index.tolist() == [5, 2]
    assert float(distance.max()) < 1e-3
    _, apart = nearest_pictures(torch.ones(1, 3, 4, 4), -torch.ones(1, 3, 4, 4))
    assert float(apart) == pytest.approx(1.0)


def test_features_are_kept_and_measure_differences(tmp_path):
    torch.manual_seed(0)
    features = PictureFeatures((8, 16)).eval()
    again = load_features(save_features(features, tmp_path / "f"))
    assert again(pictures()).shape == (3, 32)
    one = pictures()
    assert float(perceptual_distance(again, one, one)) < 1e-6
    small = perceptual_distance(again, one + 0.05 * torch.randn_like(one), one)
    assert float(small) < float(perceptual_distance(again, pictures(seed=5), one))
    (tmp_path / "f" / "config.json").write_text('{"format_version": 1, "system": "tokenset"}')
    with pytest.raises(CheckpointError):
        load_features(tmp_path / "f")
