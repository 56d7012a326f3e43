import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from genmm.core import checkpoint as cp
from genmm.core.errors import CheckpointError, UsageError

CONFIG = {"system": "sled", "network": {"hidden_size": 4, "ratio": 0.5}}


@pytest.fixture
def module():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture
def folder(tmp_path, module):
    return cp.save_checkpoint(tmp_path / "model", CONFIG, module.state_dict(), extra_files={"vocab.json": b"{}"})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_config(folder, text):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())


def test_modules_for_stored_weights_are_built_without_drawing_random_ones(folder, module):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.arange(5.0), persistent=False)
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
            self.words = nn.Embedding(7, 2)

    state = torch.get_rng_state()
    with cp.UnsetWeights():
        net = Net()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(net.table, torch.arange(5.0))
    cp.load_into(net.layers, cp.load_tensors(folder))
    assert all(torch.equal(a, b) for a, b in zip(net.layers.parameters(), module.parameters(), strict=True))
    nn.Linear(3, 4)
    assert not torch.equal(torch.get_rng_state(), state)  # outside the block it would have been drawn


def test_a_module_survives_the_folder(folder, module):
    assert names(folder) == ["config.json", "model.safetensors", "vocab.json"]
    config = cp.read_config(folder)
    assert config["format_version"] == 1
    assert {key: config[key] for key in CONFIG} == CONFIG
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    cp.load_into(other, cp.load_tensors(folder))
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path, module):
    tensors = {"w": torch.randn(1000), "n": torch.tensor(3)}
    cp.save_checkpoint(tmp_path, CONFIG, tensors, dtype=torch.float16)
    assert (tmp_path / "model.safetensors").stat().st_size < 2500
    back = cp.load_tensors(tmp_path)
    assert torch.equal(back["w"], tensors["w"].half().float())
    assert torch.equal(back["n"], tensors["n"])
    assert cp.load_tensors(tmp_path, dtype=None)["w"].dtype == torch.float16


def test_what_was_loaded_can_be_saved_again_with_the_same_fingerprint(tmp_path, folder):
    again = cp.save_checkpoint(
        tmp_path / "again", cp.read_config(folder), cp.load_tensors(folder), extra_files={"vocab.json": b"{}"}
    )
    assert cp.fingerprint(again) == cp.fingerprint(folder)


def test_other_files_in_the_folder_stay(folder, module):
    (folder / "README.md").write_text("card")
    cp.save_checkpoint(folder, CONFIG, module.state_dict())
    assert (folder / "README.md").read_text() == "card"
    assert (folder / "vocab.json").exists()


def test_views_and_tied_weights_are_stored_whole(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    cp.save_checkpoint(tmp_path, CONFIG, {"a": base, "b": base, "c": base.T, "d": base[1:, ::2]})
    back = cp.load_tensors(tmp_path)
    assert torch.equal(back["b"], base)
    assert torch.equal(back["c"], base.T)
    assert torch.equal(back["d"], base[1:, ::2])


@pytest.mark.parametrize(
    "config", [{}, {"system": 1}, {"system": "../x"}, {"system": "Sled"}, {**CONFIG, "format_version": 2}]
)
def test_a_config_without_valid_system_or_version_is_not_saved(tmp_path, config):
    with pytest.raises(UsageError):
        cp.save_checkpoint(tmp_path / "m", config, {})
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("value", [float("nan"), torch.zeros(2), b"x"])
def test_a_config_that_json_cannot_hold_is_not_saved(tmp_path, value):
    with pytest.raises(UsageError):
        cp.save_checkpoint(tmp_path / "m", {**CONFIG, "value": value}, {})


@pytest.mark.parametrize("name", ["../a", "/a", "config.json", "model.safetensors", "", "a/../../b"])
def test_extra_files_stay_inside(tmp_path, name):
    with pytest.raises(UsageError, match="relative name inside"):
        cp.save_checkpoint(tmp_path / "m", CONFIG, {}, extra_files={name: b""})


def test_extra_files_may_lie_in_subfolders(tmp_path):
    cp.save_checkpoint(tmp_path, CONFIG, {}, extra_files={"voices/anna.json": b"{}"})
    assert (tmp_path / "voices" / "anna.json").read_bytes() == b"{}"


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), None), (float("inf"), None), (1e30, torch.float16)])
def test_weights_that_are_not_finite_are_not_saved(folder, value, dtype):
    before = cp.fingerprint(folder)
    with pytest.raises(CheckpointError, match="'w' holds NaN or infinity.*nothing was saved"):
        cp.save_checkpoint(folder, CONFIG, {"w": torch.tensor([value])}, dtype=dtype)
    assert cp.fingerprint(folder) == before
    assert names(folder) == ["config.json", "model.safetensors", "vocab.json"]


# ---------------------------------------------------------------- interrupted and failing saves


def exit_code_of_child(work):
    """Run `work` in a forked process; gives back 0, 1 after an exception, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def save_until_killed(folder, replaced):
    """Save a new checkpoint in a process that is killed after `replaced` files have reached their place."""

    def work():
        plain, calls = os.replace, []

        def killed(source, target):
            if len(calls) == replaced:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(target)
            plain(source, target)

        os.replace = killed
        cp.save_checkpoint(folder, {"system": "sled", "new": True}, {"w": torch.ones(2)}, extra_files={"x.txt": b"x"})

    assert exit_code_of_child(work) == -signal.SIGKILL


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")


@needs_fork
@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_kill_while_saving_over_a_checkpoint_never_leaves_a_mixture(tmp_path, replaced):
    cp.save_checkpoint(tmp_path, CONFIG, {"w": torch.zeros(2)})
    save_until_killed(tmp_path, replaced)
    assert cp.read_config(tmp_path)["network"] == CONFIG["network"]
    if replaced < 2:
        assert torch.equal(cp.load_tensors(tmp_path)["w"], torch.zeros(2))
    else:
        with pytest.raises(CheckpointError, match="two different saves"):
            cp.load_tensors(tmp_path)
    cp.save_checkpoint(tmp_path, CONFIG, {"w": torch.full((2,), 3.0)})
    assert cp.load_tensors(tmp_path)["w"].tolist() == [3.0, 3.0]


@needs_fork
def test_kill_while_saving_a_new_checkpoint_leaves_none(tmp_path):
    save_until_killed(tmp_path, 2)
    with pytest.raises(CheckpointError, match="config.json is missing"):
        cp.read_config(tmp_path)


@needs_fork
def test_a_disk_error_leaves_the_old_checkpoint_and_no_leftovers(folder):
    work = textwrap.dedent(
        f"""
        import os, resource, torch
        from genmm.core import checkpoint
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            checkpoint.save_checkpoint({str(folder)!r}, {CONFIG!r}, {{"w": torch.zeros(100_000)}})
        except OSError:
            os._exit(7)
        """
    )
    before = cp.fingerprint(folder)
    # A process of its own: torch's threads do not survive a fork.
    assert subprocess.run([sys.executable, "-c", work], check=False).returncode == 7
    assert cp.fingerprint(folder) == before
    assert names(folder) == ["config.json", "model.safetensors", "vocab.json"]


# ---------------------------------------------------------------- folders from elsewhere


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "must hold an object"),
        ("null", "must hold an object"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": NaN}', "NaN"),
        ('{"format_version": 1}', "names no valid system"),
        ('{"format_version": 1, "system": "../../etc"}', "names no valid system"),
        ('{"format_version": 1, "system": "os.system"}', "names no valid system"),
        ('{"format_version": 1, "system": ["sled"]}', "names no valid system"),
        ('{"format_version": 2, "system": "sled"}', "install a newer genmm"),
        ('{"format_version": true, "system": "sled"}', "no valid format_version"),
        ('{"format_version": "1", "system": "sled"}', "no valid format_version"),
        ('{"system": "sled"}', "no valid format_version"),
        ('{"architectures": ["SpeechLlamaForCausalLM"]}', "genmm convert"),
        ('{"x": "' + "y" * 1_000_000 + '"}', "larger than"),
    ],
)
def test_hostile_configs_are_checkpoint_errors(folder, text, message):
    write_config(folder, text)
    with pytest.raises(CheckpointError, match=message):
        cp.read_config(folder)
    with pytest.raises(CheckpointError):
        cp.load_tensors(folder)


def test_what_is_missing_is_named(tmp_path, folder):
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        cp.read_config(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        cp.load_tensors(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, which genmm does not load.*genmm convert"):
        cp.load_tensors(folder)


def test_a_truncated_weight_file_is_refused(folder):
    data = (folder / "model.safetensors").read_bytes()
    for share in (0, 7, len(data) // 2, len(data) - 1):
        (folder / "model.safetensors").write_bytes(data[:share])
        with pytest.raises(CheckpointError):
            cp.load_tensors(folder)


def test_weights_of_another_save_are_refused(tmp_path, folder):
    other = cp.save_checkpoint(tmp_path / "other", CONFIG, {"w": torch.ones(1)})
    os.replace(other / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="two different saves"):
        cp.load_tensors(folder)


def test_weights_written_by_other_programs_are_read(folder):
    save_file({"w": torch.ones(1)}, folder / "model.safetensors")
    assert cp.load_tensors(folder)["w"].item() == 1.0


def test_a_folder_where_a_file_should_be(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="is not a file"):
        cp.load_tensors(folder)


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_that_lead_out_of_the_folder_are_refused(tmp_path, folder, name):
    outside = tmp_path / "outside"
    os.replace(folder / name, outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        cp.load_tensors(folder)


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_links_inside_the_folder_and_to_the_folder_are_fine(tmp_path, folder):
    os.replace(folder / "model.safetensors", folder / "blob")
    (folder / "model.safetensors").symlink_to("blob")
    (tmp_path / "link").symlink_to(folder)
    assert cp.load_tensors(tmp_path / "link")


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_link_in_a_circle_is_a_checkpoint_error(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")
    with pytest.raises(CheckpointError):
        cp.read_config(folder)


# ---------------------------------------------------------------- fitting weights to a module


def test_missing_unexpected_and_reshaped_entries_are_all_named(module):
    tensors = dict(module.state_dict())
    del tensors["0.bias"], tensors["2.weight"]
    tensors["decoder.extra"] = torch.zeros(1)
    tensors["2.bias"] = torch.zeros(9)
    with pytest.raises(CheckpointError) as caught:
        cp.load_into(module, tensors)
    text = str(caught.value)
    assert "2 missing: 0.bias, 2.weight" in text
    assert "1 unexpected: decoder.extra" in text
    assert "1 of another shape: 2.bias (here (2,), in the file (9,))" in text


def test_a_refused_load_changes_nothing(module):
    before = {name: value.clone() for name, value in module.state_dict().items()}
    changed = {name: value + 1 for name, value in before.items() if name != "0.bias"}
    with pytest.raises(CheckpointError):
        cp.load_into(module, changed)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_long_differences_are_cut_by_group(module):
    tensors = {**module.state_dict(), **{f"layers.{i}": torch.zeros(1) for i in range(100)}}
    with pytest.raises(CheckpointError, match="100 unexpected: .* and 95 more in layers"):
        cp.load_into(module, tensors)


def test_the_module_keeps_its_dtype(module):
    tensors = {name: value.clone() for name, value in module.state_dict().items()}
    module.to(torch.bfloat16)
    cp.load_into(module, tensors)
    assert module[0].weight.dtype == torch.bfloat16


# ---------------------------------------------------------------- fingerprints


def test_a_fingerprint_sees_config_weights_and_inner_checkpoints_only(folder):
    seen = [cp.fingerprint(folder)]
    assert len(seen[0]) == 16
    (folder / "README.md").write_text("card")
    (folder / "voices").mkdir()
    (folder / "voices" / "anna.json").write_text("{}")
    assert cp.fingerprint(folder) == seen[0]
    cp.save_checkpoint(folder / "codec", {"system": "codec"}, {"w": torch.ones(2)})
    seen.append(cp.fingerprint(folder))
    cp.save_checkpoint(folder / "codec", {"system": "codec"}, {"w": torch.zeros(2)})
    seen.append(cp.fingerprint(folder))
    (folder / "vocab.json").write_text('{"a": 1}')
    seen.append(cp.fingerprint(folder))
    config = json.loads((folder / "config.json").read_text())
    write_config(folder, json.dumps({**config, "defaults": {"guidance": 2}}))
    seen.append(cp.fingerprint(folder))
    assert len(set(seen)) == len(seen)


def test_a_fingerprint_does_not_depend_on_the_place(tmp_path, folder):
    before = cp.fingerprint(folder)
    os.replace(folder, tmp_path / "elsewhere")
    assert cp.fingerprint(tmp_path / "elsewhere") == before


def test_a_folder_without_config_has_no_fingerprint(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        cp.fingerprint(tmp_path)
