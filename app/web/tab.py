"""How a tab plugs into the page: one file, one class with a key, a title and `build`; main.py lists the classes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from app.web.pool import ModelPool
from app.web.runs import RunBook
from app.web.settings import WebSettings
from app.web.storage import Storage

if TYPE_CHECKING:
    from app.web.history import Entry, History

__all__ = ["DEVICE", "QUICK", "SILENT", "Page", "Receiver", "Server", "Tab"]

DEVICE: Mapping[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1}
"""Arguments of every event that uses a model: such events of all visitors wait in one line."""

QUICK: Mapping[str, Any] = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "hidden"}
"""Arguments of events that answer at once and may have a message for the visitor (the browser shows messages of
queued events only; nobody waits in this queue)."""

SILENT: Mapping[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
"""Arguments of events that answer at once and never fail."""


@dataclass(frozen=True)
class Server:
    """What belongs to the server and not to one visitor."""

    settings: WebSettings
    pool: ModelPool
    runs: RunBook
    storage: Storage


@dataclass(frozen=True)
class Page:
    """What a tab can reach while it is drawn."""

    server: Server
    history: History
    """This visitor's results: add to them with `history.added`, show them with `history.refresh`."""
    cancel: Callable[[str, str], Awaitable[int]]
    """Stops the work of a session for a task, what runs within one step, what waits at once; says how many waited."""
    waiting: Callable[[], int]
    """Jobs of all visitors that wait for the device."""
    select_tab: Callable[[str], Any]
    """Gives the update that brings a tab to the front; its output is `tabs`."""
    tabs: Any
    """The gr.Tabs component."""


@dataclass(frozen=True)
class Receiver:
    """Something a tab can do with a result from the history, offered there as a button."""

    label: str
    """Text of the button, such as "Use as voice"."""
    hint: str
    """What it does, one sentence."""
    tab: str
    """Key of the tab that comes to the front."""
    accepts: Callable[[Entry], bool]
    """Which results it can take."""
    outputs: Sequence[Any]
    """Components that `apply` gives new values to."""
    apply: Callable[[Entry], Sequence[Any]]
    """One value per output. Raises: GenmmError with a message for the visitor."""


class Tab(Protocol):
    """One tab. `build` is called once inside the gr.Tab context."""

    key: str
    """Short name, used in addresses and messages ("speech")."""
    title: str
    """What the tab says ("Speech")."""

    def build(self, page: Page) -> None:
        """Draw the components and connect their events."""
        ...

    def receivers(self) -> Sequence[Receiver]:
        """What the tab can do with results of any tab; called after all tabs are drawn."""
        ...
