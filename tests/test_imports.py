"""Imports point one way: a floor of the house never imports one above it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("genmm", "models", "datamodules", "app")
LAYERS = {
    "genmm.core": 0,
    "genmm.media": 1,
    "genmm.nn": 1,
    "genmm.quantizers": 2,
    "genmm.samplers": 2,
    "genmm.losses": 2,
    "genmm.metrics": 2,
    "genmm.systems": 3,
    "genmm.registry": 4,
    "genmm.hub": 4,
    "genmm.batch": 5,
    "models": 6,
    "datamodules": 6,
    "app": 7,
}
TRAINER_AND_PAGE = {"pytorch_lightning", "lightning", "lightning_fabric", "gradio", "gradio_client"}


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int | None:
    """Layer of a module of ours, None for a foreign one; the bare name genmm (lazy front door) is never too high."""
    parts = module.split(".")
    if parts[0] == "genmm":
        return LAYERS.get(".".join(parts[:2]), 0 if len(parts) == 1 else None)
    return LAYERS.get(parts[0])


def imported(path: Path) -> list[str]:
    """Every module that a file imports, wherever in the file, relative and importlib ones too."""
    own = module_of(path)
    package = own if path.name == "__init__.py" else own.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            names += [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    return names


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_there_is_something_to_check():
    assert {module_of(path) for path in sources()} >= {"genmm.core.errors", "genmm.registry", "app"}


def test_every_module_has_a_floor():
    homeless = [module_of(p) for p in sources() if layer_of(module_of(p)) is None]
    assert not homeless, f"name a floor for these in LAYERS: {homeless}"


def test_imports_point_down():
    bad = []
    for path in sources():
        if path == ROOT / "genmm" / "__init__.py":  # the front door opens the registry lazily
            continue
        own = layer_of(module_of(path))
        bad += [(module_of(path), name) for name in imported(path) if (layer_of(name) or 0) > own]
    assert not bad


def test_systems_do_not_import_each_other():
    bad = []
    for path in sorted((ROOT / "genmm" / "systems").glob("*/**/*.py")):
        own = ".".join(module_of(path).split(".")[:3])
        others = [n for n in imported(path) if n.startswith("genmm.systems.") and n.count(".") >= 2]
        bad += [(module_of(path), name) for name in others if ".".join(name.split(".")[:3]) != own]
    assert not bad


def test_models_and_datamodules_do_not_import_each_other():
    bad = [
        (module_of(path), name)
        for package, other in (("models", "datamodules"), ("datamodules", "models"))
        for path in (ROOT / package).rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] == other
    ]
    assert not bad


def test_the_library_knows_neither_trainer_nor_page():
    files = sorted((ROOT / "genmm").rglob("*.py"))
    bad = [(module_of(path), name) for path in files for name in imported(path)]
    assert not [pair for pair in bad if pair[1].split(".")[0] in TRAINER_AND_PAGE]


def test_only_the_app_knows_the_page():
    files = [path for package in ("models", "datamodules") for path in sorted((ROOT / package).rglob("*.py"))]
    bad = [(module_of(path), name) for path in files for name in imported(path)]
    assert not [pair for pair in bad if pair[1].split(".")[0] in ("gradio", "gradio_client")]


@pytest.mark.parametrize(
    "code",
    [
        "from genmm.registry import load",
        "from genmm import registry",
        "from ..registry import load",
        "from .. import registry",
        "def f():\n    import genmm.registry",
        "import importlib\nimportlib.import_module('genmm.registry')",
    ],
)
def test_the_walk_sees_every_kind_of_import(tmp_path, monkeypatch, code):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "genmm" / "core" / "probe.py"
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert max(layer_of(name) or 0 for name in imported(path)) == LAYERS["genmm.registry"]


def loaded_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


HEAVY = {"torch", "numpy", "scipy", "pytorch_lightning", "gradio", "transformers", "av", "huggingface_hub"}


def test_importing_genmm_is_light():
    assert not loaded_after("import genmm") & HEAVY


def test_listing_modules_without_torch():
    light = "import genmm.core.errors, genmm.core.events, genmm.core.files, genmm.core.limits, genmm.core.results"
    assert not loaded_after(f"{light}\nimport genmm.core.paths, genmm.registry") & HEAVY


def test_the_command_line_starts_without_torch():
    assert not loaded_after("import app.cli") & HEAVY


@pytest.mark.timeout(300)  # a machine under full load takes a minute to import torch
def test_importing_every_core_module_touches_nothing():
    """No thread, no seeded generator, no GPU: what the style guide promises of imports."""
    code = """
import random, threading, torch
before = (torch.get_rng_state().sum().item(), random.getstate(), threading.active_count(), torch.get_num_threads())
import genmm.core.checkpoint, genmm.core.devices, genmm.core.seeds, genmm.core.weights, genmm.registry
after = (torch.get_rng_state().sum().item(), random.getstate(), threading.active_count(), torch.get_num_threads())
assert before == after and not torch.cuda.is_initialized()
"""
    assert "torch" in loaded_after(code)
