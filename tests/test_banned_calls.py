"""Calls that turn a file or a text into code, open a shell, or decode media outside the guarded readers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("genmm", "models", "datamodules", "app", "benchmarks")
TORCH_LOAD_ALLOWED = "models/checkpointing.py"
"""The one file that may call torch.load: training state that we wrote ourselves, with weights_only=True."""

BANNED_CALLS = {
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "eval", "exec", "compile",
    "__import__", "torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.hub.download_url_to_file",
    "torchaudio.load", "torchaudio.save", "torchaudio.info", "torch.jit.load", "torch.package.PackageImporter",
    "numpy.lib.format.read_array", "yaml.load", "yaml.unsafe_load", "tempfile.mktemp", "shutil.unpack_archive",
}  # fmt: skip
BANNED_MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "torch.hub", "torchvision.io",
}  # fmt: skip
BANNED_METHODS = {"extractall", "load_from_checkpoint"}


def full_names(tree: ast.AST) -> dict[str, str]:
    """Local name -> what it was imported as."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """The imported name behind `a.b.c`, or "" for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


def is_true(call: ast.Call, keyword: str) -> bool:
    given = [k.value for k in call.keywords if k.arg == keyword]
    return any(not (isinstance(value, ast.Constant) and value.value in (False, None)) for value in given)


def call_faults(call: ast.Call, names: dict[str, str], where: str) -> list[str]:
    name = dotted(call.func, names)
    faults = [f"calls {name}"] if name in BANNED_CALLS else []
    if isinstance(call.func, ast.Attribute) and call.func.attr in BANNED_METHODS:
        faults.append(f"calls .{call.func.attr}")
    faults += [f"passes {flag}" for flag in ("shell", "allow_pickle", "trust_remote_code") if is_true(call, flag)]
    if name == "torch.load":
        safe = any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in call.keywords)
        if where != TORCH_LOAD_ALLOWED or not safe:
            faults.append(f"calls torch.load; only {TORCH_LOAD_ALLOWED} may, with weights_only=True")
    return faults


def faults_of(code: str, where: str) -> list[str]:
    tree = ast.parse(code)
    names = full_names(tree)
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules = base + [".".join([*base, alias.name]) for alias in node.names]
            found += [f"imports {m}" for m in modules if any(m == b or m.startswith(b + ".") for b in BANNED_MODULES)]
        elif isinstance(node, ast.Call):
            found += call_faults(node, names, where)
        elif isinstance(node, ast.Attribute) and dotted(node, names) in BANNED_MODULES:
            found.append(f"uses {dotted(node, names)}")
    return found


def test_nothing_banned_is_used():
    bad = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            where = path.relative_to(ROOT).as_posix()
            bad += [f"{where}: {fault}" for fault in faults_of(path.read_text(encoding="utf-8"), where)]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess as s\nflag = True\ns.Popen('ls', shell=flag)",
        "from os import system\nsystem('ls')",
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec('1')",
        "import torch\ntorch.load('x', weights_only=True)",
        "from torch import load as read\nread('x')",
        "import torch.hub",
        "import torch\ntorch.hub.load('a', 'b')",
        "from torch import hub",
        "import torchaudio\ntorchaudio.load('x.wav')",
        "from torchaudio import save",
        "import torchvision\ntorchvision.io.read_image('x')",
        "from torchvision.io import read_video",
        "archive.extractall('/tmp')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "Model.load_from_checkpoint('x')",
    ],
)
def test_the_check_finds(code):
    called = code if "import save" not in code else code + "\nsave('x', y, 1)"
    assert faults_of(called, "genmm/probe.py")


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "import re\nre.compile('a')",
        "import torch\ntorch.compile(f)",
        "import subprocess\nsubprocess.run(['/bin/ls'], shell=False)",
        "from torchaudio.functional import resample\nresample(x, 1, 2)",
    ],
)
def test_the_check_lets_pass(code):
    assert not faults_of(code, "genmm/probe.py")


def test_the_allowed_file_must_load_weights_only():
    assert not faults_of("import torch\ntorch.load('x', weights_only=True)", TORCH_LOAD_ALLOWED)
    assert faults_of("import torch\ntorch.load('x', weights_only=False)", TORCH_LOAD_ALLOWED)
    assert faults_of("import torch\ntorch.load('x')", TORCH_LOAD_ALLOWED)
