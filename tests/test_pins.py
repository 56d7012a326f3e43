"""Dependency ranges that keep known bad releases out, and exact pins that fit the ranges."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDS = {r.name: r for r in map(Requirement, PROJECT["dependencies"])}
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = dict(line.split("==") for line in LINES if line and not line.startswith("#"))


@pytest.mark.parametrize("stolen", ["2.6.2", "2.6.3"])
def test_the_malicious_lightning_releases_are_refused(stolen):
    assert stolen not in NEEDS["pytorch-lightning"].specifier
    assert PINS["pytorch-lightning"] != stolen
    assert version("pytorch-lightning") != stolen


@pytest.mark.parametrize("name", ["lightning", "flow_matching", "flow-matching"])
def test_packages_that_must_not_come_in(name):
    assert name not in NEEDS
    assert name not in PINS


@pytest.mark.parametrize(
    ("name", "refused"),
    [("gradio", "6.30.0"), ("av", "19.0.0"), ("torch", "2.10.0"), ("torchaudio", "2.10.0"), ("numpy", "2.4.0")],
)
def test_ranges_refuse(name, refused):
    assert refused not in NEEDS[name].specifier


def test_every_pin_is_exact_and_comes_from_an_index():
    for name, pin in PINS.items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name), name
        assert re.fullmatch(r"[0-9][0-9A-Za-z.]*", pin), f"{name}=={pin}"  # no local build, no path, no address


@pytest.mark.parametrize("needed", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]])
def test_pins_lie_in_the_ranges(needed):
    requirement = Requirement(needed)
    assert PINS[requirement.name] in requirement.specifier


def test_version_is_the_packages_own():
    import genmm

    assert PROJECT["version"] == genmm.__version__
