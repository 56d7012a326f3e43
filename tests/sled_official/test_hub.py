"""Pulling published models from a hub on this machine: everything works, or nothing is there afterwards."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

import genmm
from genmm.core.checkpoint import load_tensors, read_config
from genmm.core.errors import Cancelled, CheckpointError, UsageError
from genmm.core.events import CancelToken, Progress
from genmm.core.paths import genmm_home, models_home
from genmm.hub import RECIPES, DownloadError, find_recipe, install, plan_pull, pull, run_pull

ROOT = Path(__file__).resolve().parents[2]
SLED, STREAMING, ENCODEC = (
    "ICTNLP/SLED-TTS-Libriheavy",
    "ICTNLP/SLED-TTS-Streaming-Libriheavy",
    "facebook/encodec_24khz",
)
WEIGHTS = f"{SLED}/model.safetensors"


def registered():
    return [info.name for info in genmm.models() if info.source == "pulled"]


def leftovers(home):
    """Every file below the home but those of registered models."""
    return sorted(
        str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and "models/sled" not in str(path)
    )


@pytest.mark.parametrize(("streaming", "name"), [(False, "sled-libriheavy"), (True, "sled-streaming-libriheavy")])
def test_pull_registers_a_model_with_licence_and_origin(client, home, streaming, name, official_folders):
    client.licences[ENCODEC] = "mit"
    shown, events = [], []
    info = pull("sled", streaming=streaming, confirm=lambda plan: not shown.append(plan), on_event=events.append)
    assert registered() == [name] == [info.name]
    assert info.source == "pulled" and info.system == "sled" and not info.problem and info.parameters > 10_000
    assert "encodec_24khz: mit" in info.licence and "Libriheavy: not stated" in info.licence
    origin = read_config(info.path)["origin"]
    assert origin == {repo: client.commits[repo] for repo in (STREAMING if streaming else SLED, ENCODEC)}
    official = load_file(official_folders["streaming" if streaming else "offline"] / "model.safetensors")
    assert torch.equal(load_tensors(info.path)["z_proj.weight"], official["z_proj.weight"])
    text = shown[0].describe()
    assert "not stated" in text and "mit" in text and "model.safetensors" in text and " kB" in text
    done = [event.done for event in events if event.unit == "bytes"]
    assert done == sorted(done) and done[-1] == shown[0].size
    assert leftovers(home) == [f"downloads/{name}.lock"]


def test_nothing_is_fetched_without_agreement(client, home):
    with pytest.raises(UsageError, match="yes=True"):
        pull("sled")
    with pytest.raises(Cancelled):
        pull("sled", confirm=lambda plan: False)
    assert all(path.startswith("/api/") for _, path, _ in client.requests) and not home.exists()


def test_a_second_pull_fetches_nothing_and_a_new_commit_replaces(client, home):
    pull("sled", yes=True)
    before = len(client.ranges(""))
    events = []
    info = pull("sled", yes=True, on_event=events.append)
    assert [path for _, path, _ in client.requests[before:] if "resolve" in path] == [] and "already" in events[
        -1
    ].message
    client.commits[SLED] = "b" * 40
    assert not plan_pull("sled").is_installed
    assert read_config(pull("sled", yes=True).path)["origin"][SLED] == "b" * 40
    assert registered() == [info.name] and leftovers(home) == ["downloads/sled-libriheavy.lock"]


@pytest.mark.parametrize("fault", ["cut", "ignore range", 503, 429])
def test_passing_faults_are_outlived(client, home, fault):
    client.faults[WEIGHTS] = ["cut", fault, fault, fault]
    assert pull("sled", yes=True).name == "sled-libriheavy"
    ranges = client.ranges("Libriheavy/resolve/" + client.commits[SLED] + "/model.safetensors")
    assert ranges[0] == "" and ranges[1].startswith("bytes=") and ranges[1] != "bytes=0-"


def test_a_dead_connection_keeps_what_arrived_and_the_next_pull_goes_on(client, home):
    client.faults[WEIGHTS] = ["cut", *[503] * 20]
    with pytest.raises(DownloadError, match=r"(?s)goes on.*genmm convert sled SLED-TTS-Libriheavy"):
        pull("sled", yes=True)
    assert registered() == []
    part = next((home / "downloads").rglob("*.part"))
    half = part.stat().st_size
    assert half == (client.repos[SLED] / "model.safetensors").stat().st_size // 2
    client.faults.clear()
    client.requests.clear()
    pull("sled", yes=True)
    assert client.ranges(f"{client.commits[SLED]}/model.safetensors") == [f"bytes={half}-"]
    assert client.ranges(f"{client.commits[SLED]}/config.json") == []  # already here, checked by its checksum


@pytest.mark.parametrize(
    ("faults", "announced", "message"),
    [
        ({WEIGHTS: ["flip"]}, {}, "damaged"),
        ({WEIGHTS: ["long"]}, {}, "damaged|longer"),
        ({f"{SLED}/vocab.json": ["flip"]}, {}, "damaged"),
        ({}, {WEIGHTS: (100, None)}, "longer than announced|damaged"),
        ({}, {WEIGHTS: (10**6, None)}, "ended after"),
        ({}, {f"{ENCODEC}/config.json": (None, None)}, "no size"),
        ({f"{SLED}/config.json": [404]}, {}, "404"),
    ],
)
def test_wrong_content_is_refused_and_nothing_is_registered(client, home, faults, announced, message):
    client.faults.update(faults)
    client.announced.update(announced)
    with pytest.raises(DownloadError, match=message):
        pull("sled", yes=True)
    assert registered() == []
    assert not list(home.rglob("*/model.safetensors")) or "safetensors" not in str(list(faults))


def test_a_damaged_part_from_an_earlier_run_is_fetched_again(client, home):
    client.faults[WEIGHTS] = ["cut", *[503] * 20]
    with pytest.raises(DownloadError):
        pull("sled", yes=True)
    part = next((home / "downloads").rglob("*.part"))
    part.write_bytes(bytes(part.stat().st_size))
    client.faults.clear()
    assert pull("sled", yes=True).problem == ""


def test_checkpoints_that_do_not_fit_are_not_registered(client, home, tmp_path):
    damaged = shutil.copytree(client.repos[SLED], tmp_path / "damaged")
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    client.repos[SLED] = damaged
    with pytest.raises(CheckpointError, match="missing"):
        pull("sled", yes=True)
    assert registered() == [] and not list(home.glob("models/*"))


def test_a_failed_update_leaves_the_old_model(client, home, tmp_path):
    old = pull("sled", yes=True)
    marks = {path: path.stat().st_mtime_ns for path in old.path.rglob("*")}
    client.commits[SLED] = "c" * 40
    client.faults[WEIGHTS] = ["flip"]
    (home / "downloads" / "sled-libriheavy").mkdir(exist_ok=True)
    with pytest.raises(DownloadError):
        pull("sled", yes=True)
    assert registered() == [old.name] and marks == {path: path.stat().st_mtime_ns for path in old.path.rglob("*")}


def test_cancel_stops_a_download(client, home):
    token, seen = CancelToken(), []

    def watch(event: Progress) -> None:
        seen.append(event)
        token.cancel()

    with pytest.raises(Cancelled):
        pull("sled", yes=True, on_event=watch, cancel=token)
    assert len(seen) <= 2 and registered() == []


def test_two_pulls_at_once_are_refused(client, home):
    from filelock import FileLock

    plan = plan_pull("sled")
    (home / "downloads").mkdir(parents=True)
    with FileLock(home / "downloads" / "sled-libriheavy.lock"), pytest.raises(UsageError, match="another genmm"):
        run_pull(plan)


def test_a_small_disk_is_said_before_anything_is_fetched(client, home, monkeypatch):
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    plan = plan_pull("sled")
    client.requests.clear()
    with pytest.raises(UsageError, match="GENMM_HOME"):
        run_pull(plan)
    assert client.requests == []


@pytest.mark.parametrize(("repo", "change"), [(SLED, "absent"), (ENCODEC, "no weights")])
def test_repositories_that_changed_are_named(client, home, tmp_path, repo, change):
    if change == "absent":
        del client.repos[repo]
    else:
        client.repos[repo] = shutil.copytree(client.repos[repo], tmp_path / "copy")
        (client.repos[repo] / "model.safetensors").rename(client.repos[repo] / "pytorch_model.bin")
    with pytest.raises(DownloadError, match=repo):
        plan_pull("sled")


def test_what_is_no_hub_is_told_apart(client, home, monkeypatch):
    monkeypatch.setattr(client, "listing", lambda repo: ["welcome to the hotel network"])
    with pytest.raises(DownloadError, match="no hub"):
        plan_pull("sled")


@pytest.mark.parametrize("kind", ["switched off", "no server"])
def test_offline_says_what_to_fetch_by_hand(client, home, monkeypatch, kind):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", kind == "switched off")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError) as caught:
        pull("sled", streaming=True, yes=True)
    text = str(caught.value)
    for part in (STREAMING, ENCODEC, "model.safetensors", "vocab.json", "genmm convert sled", "--layout streaming"):
        assert part in text
    assert str(models_home() / "sled-streaming-libriheavy") in text and ("HF_HUB_OFFLINE" in text) == (
        kind != "no server"
    )
    assert not home.exists()


def test_recipes_are_complete():
    names = [recipe.model for recipe in RECIPES]
    assert len(set(names)) == len(names)
    for recipe in RECIPES:
        assert find_recipe(recipe.system, recipe.variant) is recipe
        assert recipe.by_hand.format("a", "b", out="c").startswith("genmm convert ")
    with pytest.raises(UsageError, match="sled --streaming"):
        find_recipe("whisper")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_the_middle_it_goes_on(hub, home):
    """A process of its own, with the plain client settings, killed while the weights are half there."""
    command = [sys.executable, "-m", "app.cli", "pull", "sled", "--yes"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "GENMM_HOME": str(home)}
    hub.faults[WEIGHTS] = ["stall"]
    half = (hub.repos[SLED] / "model.safetensors").stat().st_size // 2
    first = subprocess.Popen(command, env=environment, cwd=ROOT)
    try:
        deadline = time.monotonic() + 300
        while not any(part.stat().st_size == half for part in home.rglob("*.part")):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert registered() == []
    hub.release.set()
    second = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert second.stdout == "sled-libriheavy\n", second.stderr
    assert hub.ranges(f"{hub.commits[SLED]}/model.safetensors") == ["", f"bytes={half}-"]
    assert registered() == ["sled-libriheavy"] and genmm_home() == home
