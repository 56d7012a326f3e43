"""A folder that is being made appears whole or not at all, and an old one is never lost."""

import os

import pytest

from genmm.core.errors import UsageError
from genmm.core.staging import check_target, staged_folder


def entries(folder):
    return sorted(os.listdir(folder))


@pytest.fixture
def target(tmp_path):
    """An old checkpoint folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("old")
    return folder


def test_the_folder_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "model"
    with staged_folder(target) as stage:
        (stage / "config.json").write_text("new")
        assert not target.exists()
        assert stage.parent == target.parent
    assert (target / "config.json").read_text() == "new"
    assert entries(target.parent) == ["model"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "model") as stage:
        (stage / "config.json").write_text("new")
        raise KeyboardInterrupt
    assert entries(tmp_path) == []


def test_an_existing_folder_is_replaced_only_when_told(target, tmp_path):
    with pytest.raises(UsageError, match="--overwrite"), staged_folder(target) as stage:
        (stage / "config.json").write_text("new")
    assert (target / "config.json").read_text() == "old"
    (target / "stale.txt").touch()
    with staged_folder(target, overwrite=True) as stage:
        (stage / "config.json").write_text("new")
    assert entries(target) == ["config.json"]
    assert (target / "config.json").read_text() == "new"
    assert entries(tmp_path) == ["model"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_links_and_foreign_folders_are_never_replaced(target, tmp_path, overwrite):
    file, link, foreign = tmp_path / "file", tmp_path / "link", tmp_path / "diary"
    file.write_text("mine")
    link.symlink_to(target)
    foreign.mkdir()
    (foreign / "diary.txt").touch()
    for place in (file, link, foreign):
        with pytest.raises(UsageError, match="name a|another folder"):
            check_target(place, overwrite=overwrite)
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty", overwrite=overwrite)
    check_target(tmp_path / "missing", overwrite=overwrite)


def test_a_failed_replacement_brings_the_old_folder_back(target, tmp_path, monkeypatch):
    rename = os.rename
    monkeypatch.setattr(
        "pathlib.Path.rename",
        lambda self, to: (_ for _ in ()).throw(OSError("disk")) if ".partial" in self.name else rename(self, to),
    )
    with pytest.raises(OSError, match="disk"), staged_folder(target, overwrite=True) as stage:
        (stage / "config.json").write_text("new")
    assert (target / "config.json").read_text() == "old" and entries(tmp_path) == ["model"]
