"""Pages that are served inside the test process, several of them one after another."""

from __future__ import annotations

from typing import Any

SERVED: dict[str, Any] = {}
"""Address -> page."""


def serve(demo: Any) -> str:
    """Serve a page of `app.web.main.build`; gives back its address."""
    from app.web.main import launch

    url = launch(demo)
    SERVED[url] = demo
    return url


def end(demo: Any) -> None:
    """Stop a page and remove what it stored."""
    demo.genmm_server.runs.cancel_all()
    demo.close(verbose=False)
    demo.genmm_server.storage.close()
