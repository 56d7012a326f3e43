import json
import platform
from pathlib import Path

import pytest
import torch

from genmm.core.devices import choose_device, choose_dtype, describe_machine, memory_bytes, multiplies_bfloat16
from genmm.core.errors import UsageError

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="checks a machine without CUDA")


def test_cpu_is_always_there():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(torch.device("cpu")) == torch.device("cpu")


@NO_CUDA
def test_auto_without_accelerator_is_the_cpu():
    assert choose_device().type in ("cpu", "mps")


@NO_CUDA
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_missing_cuda_says_what_to_do(device):
    with pytest.raises(UsageError, match="no CUDA device is visible.*--device auto"):
        choose_device(device)


def test_too_high_cuda_index_says_how_many_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda") == torch.device("cuda:0")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="it has 2"):
        choose_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "", "meta", "cuda:x", "xla"])
def test_unknown_devices_are_refused(device):
    with pytest.raises(UsageError, match="device must be auto"):
        choose_device(device)


@pytest.mark.parametrize("name", ["float32", "bfloat16", torch.float32, "torch.bfloat16"])
def test_named_dtypes(name):
    assert str(choose_dtype(name, "cpu")).removeprefix("torch.") in str(name)


def test_auto_dtype_on_the_cpu_is_float32():
    assert choose_dtype("auto", "cpu") is torch.float32


@pytest.mark.parametrize("name", ["float64", "int8", "half", ""])
def test_other_dtypes_are_refused(name):
    with pytest.raises(UsageError, match="dtype must be auto"):
        choose_dtype(name, "cpu")


def test_float16_on_the_cpu_is_refused():
    with pytest.raises(UsageError, match="does not run well on the CPU"):
        choose_dtype("float16", "cpu")


def test_machine_description_is_json_and_has_the_versions():
    machine = json.loads(json.dumps(describe_machine()))
    assert machine["torch"] == torch.__version__
    assert machine["cpu_cores"] >= 1
    assert machine["memory_bytes"] == memory_bytes("cpu") > 2**28


def test_bfloat16_is_called_fast_only_where_it_is_multiplied():
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if platform.machine() == "x86_64" and flags:
        assert multiplies_bfloat16() == ("avx512bw" in flags or "avx_ne_convert" in flags)
    assert not multiplies_bfloat16("meta")


@pytest.mark.gpu
def test_auto_takes_the_gpu():
    assert choose_device() == torch.device("cuda:0")
    assert choose_dtype("auto", "cuda") in (torch.bfloat16, torch.float32)
    assert choose_dtype("float16", "cuda") is torch.float16
    assert memory_bytes("cuda") > 2**30
