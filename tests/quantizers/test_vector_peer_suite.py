"""The package's own tests run against our classes with only the import changed.

The tests are not part of this project, nor of the package's release; GENMM_VQ_TESTS names a folder that holds them
(tests/ of the package's repository). Newer tests than the installed release fail there too and are left out.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

FOLDER = os.environ.get("GENMM_VQ_TESTS", "")
ROOT = Path(__file__).resolve().parents[2]
NAMES = """from vector_quantize_pytorch import *
from genmm.quantizers import ResidualVQ, VectorQuantize
"""


def passed(folder: Path) -> set[str]:
    """Names of the tests in a folder that pass."""
    report = folder / "report.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "--rootdir=.", "."],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        timeout=1500,
        check=False,
    )
    cases = ElementTree.parse(report).iter("testcase")
    return {f"{case.get('classname')}::{case.get('name')}" for case in cases if not len(case)}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not FOLDER, reason="GENMM_VQ_TESTS must name the tests/ folder of vector-quantize-pytorch")
def test_what_passes_with_the_package_passes_with_ours(tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for place in (theirs, ours):
        place.mkdir()
        (place / "swapped.py").write_text(NAMES)
    for path in sorted(Path(FOLDER).glob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if re.search(r"import .*\b(VectorQuantize|ResidualVQ)\b", text):
            (theirs / path.name).write_text(text)
            (ours / path.name).write_text(text.replace("from vector_quantize_pytorch import", "from swapped import"))
    expected, found = passed(theirs), passed(ours)
    print(f"{len(expected)} tests pass with the package, {len(found)} with ours")
    assert expected, f"no test in {FOLDER} passes with the package itself"
    assert not expected - found
