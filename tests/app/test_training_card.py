"""The card that an export writes: facts of the run, and never over somebody's own words."""

from __future__ import annotations

import yaml

from app.training.card import MARK, add_card, validation_values

CONFIG = {
    "seed_everything": 3,
    "model": {"class_path": "models.toy.ToyTask", "init_args": {"width": 4}},
    "data": {"class_path": "datamodules.toy.ToyData"},
    "trainer": {"precision": "bf16-mixed"},
}


def test_a_card_tells_the_facts_of_the_run(tmp_path):
    text = add_card(tmp_path, CONFIG, 20, {"val/loss": 0.25}).read_text()
    for row in ("| Task | ToyTask |", "| Data | ToyData |", "| Optimizer steps | 20 |", "| Seed | 3 |", "bf16-mixed"):
        assert row in text
    assert "| val/loss | 0.25 |" in text
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "genmm"
    settings = text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(settings)["model"] == CONFIG["model"]


def test_the_next_export_writes_it_anew_but_never_over_a_persons_card(tmp_path):
    path = add_card(tmp_path, CONFIG, 20)
    assert "| Optimizer steps | 40 |" in add_card(tmp_path, CONFIG, 40).read_text()
    path.write_text(path.read_text().replace(MARK + "\n", "Mine. "))
    assert "| Optimizer steps | 40 |" in add_card(tmp_path, CONFIG, 60).read_text()


def test_a_configuration_that_says_nothing_is_no_hindrance(tmp_path):
    assert "not stated" in add_card(tmp_path, {}, 1).read_text()


def test_only_validation_values_count():
    assert validation_values({"val/loss": 1, "train/loss": 2.0}) == {"val/loss": 1.0}
