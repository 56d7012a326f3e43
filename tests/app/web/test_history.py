"""The history of a visit: what it keeps, what it removes from disk."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest

from app.web.history import MAX_ENTRIES, Entry, History, Visit
from app.web.storage import Storage
from genmm.core.errors import UsageError


@pytest.fixture
def storage():
    storage = Storage()
    yield storage
    storage.close()


@pytest.fixture
def history(storage):
    with gr.Blocks():
        return History(storage)


def entries(storage: Storage, title: str = "hello", takes: int = 1) -> list[Entry]:
    folder = storage.run_folder()
    made = []
    for take in range(takes):
        paths = [folder / f"{take}.{suffix}" for suffix in ("wav", "json", "png")]
        for path in paths:
            path.write_bytes(b"x")
        made.append(Entry("speech", "audio", title, *paths))
    return made


def test_the_newest_come_first(history, storage):
    visit = history.added(history.added(Visit(), entries(storage, "old")), entries(storage, "new", takes=2))
    assert [entry.title for entry in visit.entries] == ["new", "new", "old"]
    pictures, hint = history.refresh(visit)
    assert [caption for _, caption in pictures["value"]] == ["new", "new", "old"]
    assert hint["visible"] is False


def test_removing_one_take_keeps_the_files_of_the_other(history, storage):
    visit = history.added(Visit(), entries(storage, takes=2))
    first, second = visit.entries
    rest = history._remove(visit, first.id)[0]
    assert rest.entries == (second,)
    assert second.path.is_file()
    assert history._remove(rest, second.id)[0].entries == ()
    assert not second.path.exists()


def test_beyond_the_limit_the_oldest_go_from_disk_too(history, storage):
    visit = Visit()
    for number in range(MAX_ENTRIES + 2):
        visit = history.added(visit, entries(storage, str(number)))
    assert len(visit.entries) == MAX_ENTRIES
    assert len(list((storage.files / "runs").iterdir())) == MAX_ENTRIES


def test_a_visit_that_ended_leaves_nothing(history, storage):
    history._forget(history.added(Visit(), entries(storage, takes=3)))
    assert list((storage.files / "runs").iterdir()) == []


def test_results_swept_meanwhile_are_not_shown(history, storage):
    visit = history.added(Visit(), entries(storage, "gone") + entries(storage, "here"))
    storage.remove(visit.entries[0].path.parent)
    assert [caption for _, caption in history.refresh(visit)[0]["value"]] == ["here"]
    with pytest.raises(UsageError):
        visit.find("nothing")


def test_captions_are_one_short_line(storage):
    (entry,) = entries(storage, "a\nb  " + "c" * 200)
    assert entry.caption.startswith("a b c")
    assert len(entry.caption) == 80


@pytest.mark.parametrize("media", ["audio", "image", "video"])
def test_every_kind_of_result_is_shown_by_its_own_player(history, storage, media):
    with gr.Blocks():
        history.build(None, [])
    (entry,) = entries(storage)
    entry.recipe.write_text("{}")
    visit = history.added(Visit(), [replace(entry, media=media)])
    values = history._select(visit, SimpleNamespace(index=0))
    players = dict(zip(history._players, values[3:6], strict=True))
    assert {kind: player["visible"] for kind, player in players.items()} == {kind: kind == media for kind in players}
    assert {kind: player["value"] for kind, player in players.items() if player["value"]} == {media: str(entry.path)}


def test_other_tabs_take_what_a_result_was_made_of(storage, tmp_path):
    (entry,) = entries(storage)
    assert entry.original == entry.path
    upload = tmp_path / "upload.mp4"
    upload.write_bytes(b"x")
    made = replace(entry, source=upload)
    assert made.original == upload
    upload.unlink()
    with pytest.raises(UsageError, match="upload.mp4 is gone"):
        _ = made.original
