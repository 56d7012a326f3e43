"""The page's folder: private, swept by age and by size, sends nothing from outside."""

from __future__ import annotations

import os
import stat
import time

import pytest

from app.web.storage import GRACE_S, Storage
from genmm.core.errors import UsageError


@pytest.fixture
def storage():
    storage = Storage(keep_s=3600, quota_bytes=1_000_000)
    yield storage
    storage.close()


def aged(folder, size: int, age_s: float):
    """Put a file of this size and age into a run folder."""
    path = folder / "sound.wav"
    path.write_bytes(b"\0" * size)
    then = time.time() - age_s
    for entry in (path, folder):
        os.utime(entry, (then, then))
    return path


def test_folders_are_private_and_unguessable(storage):
    first, second = storage.run_folder(), storage.run_folder()
    assert first != second
    assert len(first.name) >= 20
    for folder in (storage.root, storage.files, first):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_old_results_go_and_new_ones_stay(storage):
    old, new = aged(storage.run_folder(), 10, 3700), aged(storage.run_folder(), 10, 1000)
    assert storage.sweep() == 1
    assert not old.parent.exists()
    assert new.exists()


def test_beyond_the_quota_the_oldest_go_first(storage):
    folders = [storage.run_folder() for _ in range(4)]
    files = [aged(folder, 400_000, age) for folder, age in zip(folders, (900, 1200, 600, 300), strict=True)]
    storage.sweep()
    assert [path.exists() for path in files] == [False, False, True, True]
    assert storage.used_bytes() <= 1_000_000


def test_what_is_being_written_is_never_swept(storage):
    path = aged(storage.run_folder(), 5_000_000, GRACE_S / 2)
    storage.sweep()
    assert path.exists()


def test_only_plain_files_inside_may_be_sent(storage, tmp_path):
    inside = storage.run_folder() / "sound.wav"
    inside.write_bytes(b"x")
    hidden = inside.with_name(".hidden")
    hidden.write_bytes(b"x")
    outside = tmp_path / "secret.txt"
    outside.write_text("secret")
    link = inside.with_name("link.wav")
    link.symlink_to(outside)
    assert storage.holds(inside)
    refused = [hidden, outside, link, inside.parent, inside.parent / "none", inside.parent / ".." / ".." / ".." / "x"]
    assert not any(storage.holds(path) for path in (*refused, "/etc/passwd", "", "\0"))


def test_only_run_folders_can_be_removed(storage, tmp_path):
    with pytest.raises(UsageError):
        storage.remove(tmp_path)
    with pytest.raises(UsageError):
        storage.remove(storage.files)
    folder = storage.run_folder()
    storage.remove(folder)
    storage.remove(folder)
    assert not folder.exists()


def test_closing_leaves_nothing(storage):
    aged(storage.run_folder(), 10, 0)
    storage.close()
    assert not storage.root.exists()
