import io
import json
import os
import pickle
import struct
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from genmm.core.errors import CheckpointError
from genmm.core.weights import WeightLimits, read_header, read_tensors


def raw(table, data=b"", size=None):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(shape=(2,), dtype="F32", span=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


@pytest.fixture
def tensors():
    return {"a.weight": torch.randn(3, 4), "a.count": torch.tensor([1, 2]), "half": torch.randn(5).half()}


def test_what_was_saved_comes_back(tmp_path, tensors):
    save_file(tensors, tmp_path / "w", metadata={"format": "pt"})
    header = read_header(tmp_path / "w")
    assert header.shapes == {"a.weight": (3, 4), "a.count": (2,), "half": (5,)}
    assert header.dtypes["half"] == "F16"
    assert header.parameters == 19
    assert header.metadata == {"format": "pt"}
    back = read_tensors(tmp_path / "w")
    assert all(torch.equal(back[name], tensors[name]) and back[name].dtype == tensors[name].dtype for name in tensors)


def test_only_floating_point_is_converted(tmp_path, tensors):
    save_file(tensors, tmp_path / "w")
    back = read_tensors(tmp_path / "w", dtype=torch.float32)
    assert back["half"].dtype == torch.float32
    assert back["a.count"].dtype == torch.int64


def test_a_tensor_may_be_empty_or_a_single_number(tmp_path):
    save_file({"none": torch.empty(0, 3), "one": torch.tensor(2.0)}, tmp_path / "w")
    back = read_tensors(tmp_path / "w")
    assert back["none"].shape == (0, 3)
    assert back["one"].item() == 2.0


BOMBS = {
    "header of 2**63 bytes": (raw({}, size=2**63 - 1), "header claims"),
    "header above the limit": (raw({}, size=10_000_001), "limit is 10000000"),
    "header longer than the file": (raw({}, size=5000), "cut short"),
    "empty file": (b"", "only 0 bytes"),
    "seven bytes": (b"\0" * 7, "only 7 bytes"),
    "no json": (raw(b"not json"), "not a safetensors file"),
    "a list": (raw([1]), "not an object"),
    "deep nesting": (raw(b"[" * 200_000), "nested too deeply"),
    "bytes that are not text": (raw(b"\xff" * 40), "not UTF-8"),
    "metadata of numbers": (raw({"__metadata__": {"a": 1}}), "metadata are not texts"),
    "entry is a number": (raw({"a": 1}), "makes no sense"),
    "entry without span": (raw({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "makes no sense"),
    "negative shape": (raw({"a": entry((-2,))}, bytes(8)), "makes no sense"),
    "shape of floats": (raw({"a": entry((2.0,))}, bytes(8)), "makes no sense"),
    "shape of booleans": (raw({"a": entry((True, 2))}, bytes(8)), "makes no sense"),
    "huge shape": (raw({"a": entry((2**62, 2**62))}, bytes(8)), "makes no sense"),
    "huge empty shape": (raw({"a": entry((0, 2**62), span=(0, 0))}), "makes no sense"),
    "rank of 1000": (raw({"a": entry([1] * 1000, span=(0, 4))}, bytes(4)), "makes no sense"),
    "unknown format": (raw({"a": entry(dtype="F31")}, bytes(8)), "unknown format"),
    "span behind the end": (raw({"a": entry()}), "cut short"),
    "backward span": (raw({"a": entry(span=(8, 0))}, bytes(8)), "makes no sense"),
    "overlap": (raw({"a": entry(), "b": entry(span=(4, 12))}, bytes(12)), "gap or an overlap"),
    "gap": (raw({"a": entry(), "b": entry(span=(16, 24))}, bytes(24)), "gap or an overlap"),
    "hidden tail": (raw({"a": entry()}, bytes(80)), "longer than its header says"),
    "zip": (b"PK\x03\x04" + bytes(100), "is a pickle"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_header_bombs_are_refused_at_once(tmp_path, name):
    data, text = BOMBS[name]
    (tmp_path / "w").write_bytes(data)
    start = time.thread_time()
    with pytest.raises(CheckpointError, match=text):
        read_tensors(tmp_path / "w")
    assert time.thread_time() - start < 2.0


def test_too_many_entries_are_refused(tmp_path):
    table = {f"t{i}": entry((0,), span=(0, 0)) for i in range(20_001)}
    (tmp_path / "w").write_bytes(raw(table))
    with pytest.raises(CheckpointError, match="20001 tensors, the limit is 20000"):
        read_header(tmp_path / "w")


def test_limits_can_be_set(tmp_path, tensors):
    save_file(tensors, tmp_path / "w")
    with pytest.raises(CheckpointError, match="the limit for a weight file is 50"):
        read_header(tmp_path / "w", WeightLimits(file_bytes=50))
    with pytest.raises(CheckpointError, match="3 tensors, the limit is 2"):
        read_header(tmp_path / "w", WeightLimits(entries=2))


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["GENMM_BOMB"],)


@pytest.mark.parametrize("kind", ["pickle", "torch zip", "torch old"])
def test_a_renamed_pickle_is_refused_and_not_run(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("GENMM_BOMB", str(tmp_path / "exploded"))
    stream = io.BytesIO()
    if kind == "pickle":
        pickle.dump(Bomb(), stream)
    else:
        torch.save(Bomb(), stream, _use_new_zipfile_serialization=kind == "torch zip")
    (tmp_path / "model.safetensors").write_bytes(stream.getvalue())
    with pytest.raises(CheckpointError, match="is a pickle"):
        read_tensors(tmp_path / "model.safetensors")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(tmp_path, bad, dtype):
    save_file({"fine": torch.ones(3), "bad.weight": torch.tensor([1.0, bad], dtype=dtype)}, tmp_path / "w")
    with pytest.raises(CheckpointError, match="'bad.weight' holds NaN or infinity"):
        read_tensors(tmp_path / "w")


def test_weights_that_do_not_fit_the_wanted_format_are_refused(tmp_path):
    save_file({"a": torch.tensor([1e30])}, tmp_path / "w")
    assert read_tensors(tmp_path / "w")["a"].item() == pytest.approx(1e30)
    with pytest.raises(CheckpointError, match="infinity as torch.float16"):
        read_tensors(tmp_path / "w", dtype=torch.float16)


def test_a_missing_file_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read_header(tmp_path / "w")


GOOD = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4)}, metadata={"k": "v"})


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(0, len(GOOD) - 1))
def test_every_cut_is_refused(tmp_path, cut):
    (tmp_path / "w").write_bytes(GOOD[:cut])
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path / "w")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_give_tensors_or_a_checkpoint_error(tmp_path, flips):
    data = bytearray(GOOD)
    for place, value in flips:
        data[place] = value
    (tmp_path / "w").write_bytes(bytes(data))
    try:
        back = read_tensors(tmp_path / "w")
    except CheckpointError:
        return
    assert sum(tensor.numel() * tensor.element_size() for tensor in back.values()) <= len(GOOD)
