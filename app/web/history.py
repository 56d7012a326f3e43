"""This visitor's results: thumbnails to choose from, settings to load again, and ways to use a result in a tab."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from app.web.controls import idle_html
from app.web.film import Film
from app.web.messages import escape, reported
from app.web.sound import Sound
from app.web.storage import Storage
from app.web.tab import QUICK, SILENT, Page, Receiver
from genmm.core.errors import UsageError
from genmm.core.files import read_json

__all__ = ["Entry", "History", "Visit"]

MAX_ENTRIES = 60
"""Results kept per visitor; the oldest go first."""
TITLE_CHARS = 80


@dataclass(frozen=True)
class Entry:
    """One result. The files lie in a run folder of the storage, which several takes of one run may share."""

    task: str
    """What was done ("speech")."""
    media: str
    """audio, image or video."""
    title: str
    """What the visitor asked for, as text."""
    path: Path
    """The media file."""
    recipe: Path
    """The recipe beside it."""
    thumbnail: Path
    """A small picture."""
    facts: str = ""
    """One line: length, seed, model."""
    source: Path | None = None
    """What it was made of, where other tabs go on with that: the video below a map drawn over it."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    """Names it within the visit."""
    created: float = field(default_factory=time.time)
    """Seconds since the epoch."""

    @property
    def caption(self) -> str:
        """Title, shortened to one line."""
        line = " ".join(self.title.split())
        return line if len(line) <= TITLE_CHARS else line[: TITLE_CHARS - 1] + "…"

    @property
    def original(self) -> Path:
        """What other tabs take: the source where there is one, else the result. Raises: UsageError when it is gone."""
        path = self.source or self.path
        if not path.is_file():
            raise UsageError(f"{path.name} is gone; uploads and results are kept for some hours only, so give it again")
        return path


@dataclass(frozen=True)
class Visit:
    """All results of one session, newest first."""

    entries: tuple[Entry, ...] = ()

    def find(self, name: str | None) -> Entry:
        """The entry with this id. Raises: UsageError when it is gone."""
        for entry in self.entries:
            if entry.id == name:
                return entry
        raise UsageError("choose a result first; it may have been removed meanwhile")


class History:
    """The state of a visit and the tab that shows it. Components are made at once and drawn by `build`."""

    key = "history"
    title = "History"

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.visit = gr.State(Visit(), delete_callback=self._forget)
        self.chosen = gr.State(None)
        self.gallery = gr.Gallery(
            label="Results of this session",
            show_label=False,
            columns=3,
            height="auto",
            allow_preview=False,
            object_fit="cover",
            buttons=[],
            interactive=False,
            render=False,
            visible=False,
            elem_classes=["gm-gallery"],
        )
        self.empty = gr.HTML(idle_html("Results of this session appear here, newest first.", wave=True), render=False)

    # ------------------------------------------------------------ for tabs

    def added(self, visit: Visit, entries: Sequence[Entry]) -> Visit:
        """The visit with new entries at the front; what exceeds MAX_ENTRIES is removed from disk."""
        return self._kept(visit, (*entries, *visit.entries)[:MAX_ENTRIES])

    @property
    def shown(self) -> list[Any]:
        """Outputs of `refresh`."""
        return [self.gallery, self.empty]

    def refresh(self, visit: Visit) -> tuple[Any, Any]:
        """Values for `shown`: the thumbnails that still exist."""
        pictures = [(str(entry.thumbnail), entry.caption) for entry in visit.entries if entry.thumbnail.is_file()]
        return gr.update(value=pictures, selected_index=None, visible=bool(pictures)), gr.update(visible=not pictures)

    # ------------------------------------------------------------ the tab

    def build(self, page: Page, receivers: Sequence[Receiver]) -> None:
        """Draw the gallery and the chosen result, with one button per receiver."""
        with gr.Row(elem_classes=["gm-columns"]):
            with gr.Column(scale=5, min_width=300):
                self.empty.render()
                self.gallery.render()
                clear = gr.Button("Remove all", size="sm", elem_classes=["gm-quiet"])
            with gr.Column(scale=4, min_width=300, visible=False) as panel:
                facts = gr.HTML()
                self._players = _draw_players()
                with gr.Row(elem_classes=["gm-actions"]):
                    buttons = [gr.Button(receiver.label, size="sm", min_width=120) for receiver in receivers]
                hints = gr.HTML()
                for receiver, button in zip(receivers, buttons, strict=True):
                    self._connect(page, receiver, button)
                with gr.Row(elem_classes=["gm-actions"]):
                    media = gr.DownloadButton("Download", size="sm", min_width=120)
                    recipe = gr.DownloadButton("Download recipe", size="sm", min_width=120)
                    remove = gr.Button("Remove", size="sm", min_width=120)
                with gr.Accordion("Recipe", open=False):
                    shown_recipe = gr.JSON(show_label=False, container=False, max_height=320)
        self._receivers = list(receivers)
        detail = [panel, facts, *self._players.values(), media, recipe, shown_recipe, hints, *buttons]
        self.gallery.select(self._select, self.visit, [self.chosen, *detail], **QUICK)
        remove.click(self._remove, [self.visit, self.chosen], [self.visit, panel, *self.shown], **SILENT)
        clear.click(self._clear, self.visit, [self.visit, panel, *self.shown], **SILENT)

    def _connect(self, page: Page, receiver: Receiver, button: gr.Button) -> None:
        def send(visit: Visit, chosen: str | None) -> list[Any]:
            with reported("history"):
                return [page.select_tab(receiver.tab), *receiver.apply(visit.find(chosen))]

        button.click(
            send,
            [self.visit, self.chosen],
            [page.tabs, *receiver.outputs],
            **QUICK,
        )

    def _select(self, visit: Visit, picked: gr.SelectData) -> list[Any]:
        with reported("history"):
            present = [entry for entry in visit.entries if entry.thumbnail.is_file()]
            index = picked.index[0] if isinstance(picked.index, list | tuple) else picked.index
            if not isinstance(index, int) or not 0 <= index < len(present):
                raise UsageError("this result is gone; results are kept for some hours only")
            entry = present[index]
            media = str(entry.path) if entry.path.is_file() else None
            return [
                entry.id,
                gr.update(visible=True),
                _facts_html(entry),
                *[
                    gr.update(value=media if kind == entry.media else None, visible=kind == entry.media)
                    for kind in self._players
                ],
                gr.update(value=media),
                gr.update(value=str(entry.recipe) if entry.recipe.is_file() else None),
                read_json(entry.recipe) if entry.recipe.is_file() else None,
                _hints_html([receiver for receiver in self._receivers if receiver.accepts(entry)]),
                *[gr.update(visible=receiver.accepts(entry)) for receiver in self._receivers],
            ]

    def _remove(self, visit: Visit, chosen: str | None) -> list[Any]:
        rest = self._kept(visit, tuple(entry for entry in visit.entries if entry.id != chosen))
        return [rest, gr.update(visible=False), *self.refresh(rest)]

    def _clear(self, visit: Visit) -> list[Any]:
        rest = self._kept(visit, ())
        return [rest, gr.update(visible=False), *self.refresh(rest)]

    # ------------------------------------------------------------ disk

    def _kept(self, visit: Visit, entries: tuple[Entry, ...]) -> Visit:
        """The visit with these entries; run folders that nothing points to any more are deleted."""
        folders = {entry.path.parent for entry in entries}
        for folder in {entry.path.parent for entry in visit.entries} - folders:
            self.storage.remove(folder)
        return Visit(entries)

    def _forget(self, visit: Visit) -> None:
        """Called by Gradio an hour after the visitor has left."""
        self._kept(visit, ())


def _draw_players() -> dict[str, Any]:
    """What shows a result, for each kind that `Entry.media` can be."""
    picture = gr.Image(
        label="Result", show_label=False, interactive=False, buttons=[], container=False, type="filepath",
        visible=False, elem_id="history-picture", elem_classes=["gm-picture"],
    )  # fmt: skip
    film = Film(label="Result", interactive=False, buttons=[], visible=False, height=280, elem_id="history-film")
    sound = Sound(label="Result", interactive=False, buttons=[], visible=False, elem_id="history-sound")
    return {"audio": sound, "image": picture, "video": film}


def _hints_html(receivers: Sequence[Receiver]) -> str:
    """What the buttons above it do."""
    lines = "".join(f"<li><b>{escape(one.label)}</b>: {escape(one.hint)}</li>" for one in receivers)
    return f'<ul class="gm-hints gm-dim">{lines}</ul>'


def _facts_html(entry: Entry) -> str:
    when = time.strftime("%H:%M", time.localtime(entry.created))
    return (
        f'<div class="gm-facts"><p class="gm-said">{escape(entry.title)}</p>'
        f'<p class="gm-dim">{escape(entry.facts)} · {escape(entry.task)} at {when}</p></div>'
    )
