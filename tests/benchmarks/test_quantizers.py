from __future__ import annotations

import json

import pytest
import torch

from benchmarks import quantizers_instructions, quantizers_search
from benchmarks.quantizers_instructions import (
    PATHS,
    TOLERANCE,
    count_instructions,
    here,
    instructions_section,
    missing_tools,
)
from benchmarks.quantizers_kmeans import kmeans_section
from benchmarks.quantizers_search import drawn, library_quantizer, residual_section, search_section, sums_section
from benchmarks.run import main
from genmm.quantizers.nearest import nearest_codes


def test_the_library_measured_beside_ours_searches_the_same_codebook():
    x, codes = drawn((200, 8, 50), torch.device("cpu"))
    library = library_quantizer(8, codes, torch.device("cpu"))
    assert torch.equal(library(x.unsqueeze(0))[1][0], nearest_codes(x, codes).indices)


def test_every_size_has_a_row_for_each_peer_and_the_product_as_limit():
    rows = search_section(runs=1, quick=True).rows
    assert {"cdist + argmin", "vector-quantize-pytorch"} <= {row.peer_name for row in rows}
    assert all(row.limit > 0 and row.unit == "ms" for row in rows)


def test_sizes_too_large_for_a_matrix_of_scores_have_no_such_peer(monkeypatch):
    monkeypatch.setattr(quantizers_search, "MATRIX_SCORES", 100)
    monkeypatch.setattr(quantizers_search, "find_faiss", lambda: None)
    section = search_section(runs=1, quick=True)
    assert [row.peer for row in section.rows] == [None] and "faiss: not measured (not installed" in section.method


def test_the_other_sections_measure(monkeypatch):
    device = torch.device("cpu")
    assert residual_section(device, runs=1, quick=True).rows[0].ratio > 0
    assert sums_section(device, runs=1, quick=True).rows[0].ratio > 0
    section = kmeans_section(device, runs=1, quick=True)
    assert section.rows and "flash-kmeans: not measured (no CUDA device)" in section.method


def test_what_is_missing_is_said(monkeypatch, capsys):
    monkeypatch.setattr(quantizers_instructions.shutil, "which", lambda tool: None)
    assert main(["quantizers", "--quick", "--device", "cpu", "--only", "gpu", "instructions"]) == 0
    shown = capsys.readouterr().out
    assert "Not measured: no CUDA device" in shown and "Not measured: valgrind, callgrind_control" in shown


def test_counts_of_another_torch_are_no_reference(monkeypatch, tmp_path):
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({"torch": "0.0", "instructions": dict.fromkeys(PATHS, 1)}))
    monkeypatch.setattr(quantizers_instructions, "REFERENCE", path)
    monkeypatch.setattr(quantizers_instructions, "count_instructions", lambda statement: 2e6)
    monkeypatch.setattr(quantizers_instructions, "missing_tools", lambda: "")
    section = instructions_section(quick=False)
    assert "No counts are stored" in section.method and all(row.peer is None for row in section.rows)
    path.write_text(json.dumps({**here(), "instructions": dict.fromkeys(PATHS, 1_000_000)}))
    assert [row.is_met for row in instructions_section(quick=False).rows] == [False] * len(PATHS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [name for name in PATHS if name.startswith(("search, ", "sums"))])
def test_no_path_of_the_cpu_executes_more_than_it_did(name):
    if missing := missing_tools():
        pytest.skip(f"needs valgrind: {missing}")
    stored = quantizers_instructions.stored_counts()
    if name not in stored:
        pytest.skip(f"no count is stored for {' on '.join(here().values())}")
    assert count_instructions(PATHS[name]) <= TOLERANCE * stored[name]
    assert torch.is_grad_enabled()  # the setup of the measurement does not outlive it
