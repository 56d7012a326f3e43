"""The Status tab: machine, memory, models and how to get more of them, and who is waiting."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

import genmm
from app.web.messages import reported
from app.web.status_view import cards_html, models_html, more_html
from app.web.tab import DEVICE, SILENT, Page, Receiver, Server
from genmm.core.devices import choose_device, choose_dtype, describe_machine, memory_bytes

__all__ = ["StatusTab", "health", "status"]


def status(server: Server) -> dict[str, Any]:
    """Everything that the tab shows, as JSON; holds no paths."""
    machine = describe_machine()
    device = choose_device(server.settings.device)
    item_bytes = choose_dtype(server.settings.dtype, device).itemsize
    return {
        "genmm": genmm.__version__,
        "device": str(device),
        "device_name": _device_name(machine, device.type, device.index or 0),
        "device_memory_bytes": memory_bytes(device),
        "used_memory_bytes": _used_memory(device),
        "cpu_cores": machine["cpu_cores"],
        "torch": machine["torch"],
        "models": [
            {
                "name": info.name,
                "system": info.system,
                "source": info.source,
                "parameters": info.parameters,
                "size_bytes": info.size_bytes,
                "memory_bytes": info.memory_bytes(item_bytes),
                "licence": info.licence,
                "description": info.description,
                "problem": bool(info.problem),
            }
            for info in server.pool.infos()
        ],
        "loaded": [model.name for model in server.pool.loaded()],
        "disk_bytes": server.storage.used_bytes(),
        "disk_limit_bytes": server.settings.quota_bytes,
    }


def health(server: Server, waiting: int) -> dict[str, Any]:
    """A short answer for monitoring: cheap, and without anything about visitors."""
    return {
        "status": "ok",
        "genmm": genmm.__version__,
        "model_loaded": bool(server.pool.loaded()),
        "models_loaded": [model.name for model in server.pool.loaded()],
        "running": len(server.runs.active()),
        "queue_length": waiting,
        "queue_max": server.settings.queue_max,
        "memory_bytes": _resident_bytes(),
        "device_memory_bytes": _used_memory(choose_device(server.settings.device)),
    }


class StatusTab:
    """Shows `status` and refreshes it while the tab is open."""

    key = "status"
    title = "Status"

    def build(self, page: Page) -> None:
        """Draw the tab; `/status` gives the same as JSON."""
        server = page.server
        self.cards = gr.HTML()
        self.models = gr.HTML()
        with gr.Row(elem_classes=["gm-actions", "gm-left"]):
            again = gr.Button("Refresh", size="sm", min_width=120)
            unload = gr.Button("Unload models", size="sm", min_width=120)
        gr.HTML(more_html())

        def show() -> tuple[str, str]:
            with reported("status"):
                facts = status(server)
                return cards_html(facts, server, page.waiting()), models_html(facts)

        def free() -> tuple[str, str]:
            if server.runs.active():
                raise gr.Error("A model is at work; unload when nobody is waiting.", print_exception=False)
            gr.Info(f"{server.pool.unload()} models unloaded. The next run loads its model again.")
            return show()

        def facts() -> dict[str, Any]:
            """Machine, models and queue of this server."""
            with reported("status"):
                return {**status(server), **health(server, page.waiting())}

        outputs = [self.cards, self.models]
        again.click(show, outputs=outputs, **SILENT)
        unload.click(free, outputs=outputs, api_visibility="private", show_progress="hidden", **DEVICE)
        self.show, self.outputs = show, outputs
        gr.api(facts, api_name="status", queue=False)

    def receivers(self) -> Sequence[Receiver]:
        """The tab takes nothing."""
        return ()


# ---------------------------------------------------------------- numbers


def _device_name(machine: dict[str, Any], kind: str, index: int) -> str:
    if kind == "cuda" and index < len(machine["gpus"]):
        return machine["gpus"][index]["name"]
    return "Apple GPU" if kind == "mps" else machine["cpu"]


def _used_memory(device: Any) -> int:
    if device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated(device)
    return _resident_bytes()


def _resident_bytes() -> int:
    """Memory of this process, 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0
