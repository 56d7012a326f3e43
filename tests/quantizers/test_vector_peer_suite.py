"""The package's own tests run against our classes with only the import changed.

The tests are not part of this project, nor of the package's release; GENMM_VQ_TESTS names a folder that holds them
(tests/ of the package's repository). Where the package's README.md lies in it too, its examples are tests as well. Only
tests whose own code names VectorQuantize or ResidualVQ count. Tests that fail with the installed release too (newer
ones test what it does not do yet) are left out; one that our classes refuse by name is listed with what is refused.
"""

import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
import vector_quantize_pytorch as package

FOLDER = os.environ.get("GENMM_VQ_TESTS", "")
ROOT = Path(__file__).resolve().parents[2]
SWAPPED = """from vector_quantize_pytorch import *
from genmm.quantizers import ResidualVQ, VectorQuantize
"""
CONFTEST = """
import inspect
import re

import pytest
import torch

from genmm.core.errors import ConfigError


def pytest_collection_modifyitems(items):
    names = re.compile(r"\\b(VectorQuantize|ResidualVQ)\\b")
    items[:] = [item for item in items if names.search(inspect.getsource(item.function))]


@pytest.fixture(autouse=True)
def same_draws():
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    if call.excinfo is not None and call.excinfo.errisinstance(ConfigError):
        item.user_properties.append(("refused", str(call.excinfo.value)))
    return (yield)
"""
ARGUMENTS = {
    name for cls in (package.VectorQuantize, package.ResidualVQ) for name in inspect.signature(cls).parameters
} - {"dim", "kwargs", "vq_kwargs"}


@dataclass(frozen=True)
class Outcome:
    """Names of tests: those that passed, those that failed, and what was said where our classes refused."""

    passed: set[str]
    failed: set[str]
    refused: dict[str, str]


def sources(folder: Path) -> dict[str, str]:
    """The test files to run, by name, with a function for each example of a README."""
    files = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("test_*.py"))}
    readme = folder / "README.md"
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        files["test_examples_of_the_readme.py"] = "\n\n".join(
            f"def test_line_{text[: block.start()].count(chr(10)) + 1}():\n{textwrap.indent(block[1], ' ' * 4)}"
            for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        )
    return {name: text for name, text in files.items() if re.search(r"import .*\b(VectorQuantize|ResidualVQ)\b", text)}


def outcome(folder: Path) -> Outcome:
    """Run the tests in a folder."""
    report = folder / "report.xml"
    paths = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "--rootdir=.", "."],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        timeout=1500,
        check=False,
    )
    passed, failed, refused = set(), set(), {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        broken = any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        (failed if broken else passed).add(name)
        for said in case.iterfind("properties/property[@name='refused']"):
            words = sorted(ARGUMENTS & set(re.findall(r"\w+", said.get("value", ""))))
            if broken and words:
                refused[name] = f"{', '.join(words)} ({said.get('value')})"
    return Outcome(passed, failed, refused)


def compare(folder: Path, place: Path) -> tuple[Outcome, Outcome]:
    """Run the tests of a folder with the package's classes and with ours, in new folders at `place`."""
    theirs, ours = place / "theirs", place / "ours"
    for one in (theirs, ours):
        one.mkdir()
        (one / "swapped.py").write_text(SWAPPED)
        (one / "conftest.py").write_text(CONFTEST)
    for name, text in sources(folder).items():
        (theirs / name).write_text(text)
        (ours / name).write_text(text.replace("from vector_quantize_pytorch import", "from swapped import"))
    return outcome(theirs), outcome(ours)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not FOLDER, reason="GENMM_VQ_TESTS must name the tests/ folder of vector-quantize-pytorch")
def test_what_passes_with_the_package_passes_with_ours_or_is_refused_by_name(tmp_path):
    theirs, ours = compare(Path(FOLDER), tmp_path)
    assert theirs.passed, f"no test in {FOLDER} passes with the package itself"
    refused = {name: said for name, said in ours.refused.items() if name in theirs.passed}
    print(f"\n{len(theirs.passed & ours.passed)} pass with both, {len(refused)} refused by name")
    for name, said in refused.items():
        print(f"refused: {name}: {said}")
    print(f"{len(theirs.failed)} fail with the package, {len(theirs.failed & ours.passed)} of these pass with ours")
    for test, cases in Counter(name.partition("[")[0] for name in sorted(theirs.failed)).items():
        mended = sum(name.partition("[")[0] == test for name in theirs.failed & ours.passed)
        print(f"fails with the package: {test}: {cases}, of which {mended} pass with ours")
    assert not theirs.passed - ours.passed - set(refused)


@pytest.mark.slow
def test_a_difference_is_told_from_a_refusal(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    (given / "test_three.py").write_text(
        "from vector_quantize_pytorch import FSQ, VectorQuantize\n"
        "def test_same(): VectorQuantize(dim=4, codebook_size=8)\n"
        "def test_refused(): VectorQuantize(dim=4, codebook_size=8, decay=1.5)\n"
        "def test_other(): assert VectorQuantize.__module__.startswith('vector_quantize_pytorch')\n"
        "def test_of_another_class(): FSQ([8, 5])\n"
    )
    (given / "README.md").write_text(
        "# Usage\n```python\n"
        "from vector_quantize_pytorch import VectorQuantize\n\nVectorQuantize(dim=4, codebook_size=8)\n```\n"
    )
    theirs, ours = compare(given, tmp_path)
    same, refused, other = (f"test_three::test_{name}" for name in ("same", "refused", "other"))
    example = "test_examples_of_the_readme::test_line_2"
    assert theirs.passed == {same, refused, other, example} and not theirs.failed
    assert ours.passed == {same, example} and ours.failed == {refused, other}
    assert list(ours.refused) == [refused] and ours.refused[refused].startswith("decay (VectorQuantize:")
