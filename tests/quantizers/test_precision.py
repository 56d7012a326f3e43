"""Searches are made in real float32 whatever is set for the process: both of torch's settings, autocast, threads."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from genmm.quantizers.adaptive import nest
from genmm.quantizers.kmeans import spherical_kmeans
from genmm.quantizers.nearest import full_precision, nearest_codes
from genmm.samplers.fixed_sum import sample_fixed_sum
from genmm.samplers.fixed_sum_noise import RowNoise


@pytest.mark.parametrize("name", ["backends.cuda.matmul", "backends", "backends.mkldnn.matmul"])
def test_the_newer_setting_of_torch_is_kept_and_does_not_stop_a_search(name):
    code = f"""
import torch
from genmm.quantizers.kmeans import spherical_kmeans
from genmm.quantizers.nearest import full_precision, nearest_codes
torch.{name}.fp32_precision = "tf32" if "mkldnn" not in "{name}" else "bf16"
parts = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
before = [part.fp32_precision for part in parts]
nearest_codes(torch.randn(9, 4), torch.randn(3, 4)), spherical_kmeans(torch.randn(1, 9, 4), 2)
with full_precision(torch.device("cpu")):
    assert [part.fp32_precision for part in parts] == ["ieee", "ieee"]
assert [part.fp32_precision for part in parts] == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_threads_that_leave_at_different_times_restore_what_was_set(monkeypatch):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    inside, leave, seen = threading.Event(), threading.Event(), []

    def hold() -> None:
        with full_precision(torch.device("cpu")):
            inside.set()
            leave.wait(30)
            seen.append(torch.get_float32_matmul_precision())

    thread = threading.Thread(target=hold)
    try:
        thread.start()
        inside.wait(30)
        with full_precision(torch.device("cpu")):
            pass
        leave.set()
        thread.join(30)
        assert seen == ["highest"] and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_autocast_changes_neither_clusters_nor_counts():
    torch.manual_seed(0)
    rows = torch.randn(2, 300, 16)
    log_p = torch.randn(4, 40, 9).log_softmax(-1)

    def made():
        found = spherical_kmeans(rows, 8)
        draws = [sample_fixed_sum(log_p, 60, RowNoise([1, 2, 3, 4]), engine=e) for e in ("exact", "repair")]
        return found.sums, found.distortion, nest(found).distortion, nest(found).silhouette, *draws

    plain = made()
    with torch.autocast("cpu", torch.bfloat16):
        cast = made()
        assert nearest_codes(rows[0], rows[1]).indices.equal(nearest_codes(rows[0].clone(), rows[1]).indices)
    assert all(torch.equal(one, other) for one, other in zip(plain, cast, strict=True))
