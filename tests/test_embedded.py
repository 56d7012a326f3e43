"""What is shipped as embedded models: sizes, cards, number format."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from genmm.registry import SYSTEMS, embedded_home

MIB = 1024 * 1024
LARGEST_FILE, LARGEST_SUM = 12 * MIB, 40 * MIB
FOLDERS = sorted(path for path in embedded_home().iterdir() if path.is_dir())


def files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def test_all_of_them_together_stay_small():
    sizes = {path: path.stat().st_size for folder in FOLDERS for path in files(folder)}
    too_large = {str(path): size for path, size in sizes.items() if size > LARGEST_FILE}
    assert not too_large
    assert sum(sizes.values()) <= LARGEST_SUM


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_model_has_a_card_with_licence_data_and_figures(folder):
    assert folder.name in SYSTEMS
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense:")
    for heading in ("## Training", "## Measured", "## Limits", "## Licence"):
        assert heading in card
    assert f"configs/{folder.name}/" in card and "seed" in card and "steps" in card


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_large_tensors_are_half_precision(folder):
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - not a dict
                tensor = stored.get_tensor(name)
                if tensor.dtype == torch.float32:
                    assert tensor.numel() < 20_000, f"{path}: {name}"
