"""A short clip of moving shapes, for visitors who have no video at hand; the example questions are about it."""

from __future__ import annotations

import threading
from pathlib import Path

from app.web.storage import Storage
from datamodules.rendered_video import Background, Mover, Scene, Shot, render_scene
from genmm.media.video import write_video

__all__ = ["SampleClip"]

FPS, SIDE = 12.0, 240
SCENE = Scene(
    seconds=4.0,
    shots=(Shot(background=Background(kind="gradient", colour="grey", contrast=0.1)),),
    movers=(
        Mover(shape="circle", colour="red", place=(0.2, 0.2), size=0.3, motion="right", speed=0.14),
        Mover(shape="star", colour="blue", start_s=2 / 3, place=(0.82, 0.85), size=0.3, motion="up", speed=0.13),
        Mover(shape="square", colour="yellow", start_s=4 / 3, place=(0.2, 0.8), size=0.3),
    ),
)
"""Length and sizes as in the clips that the answerer was trained on."""


class SampleClip:
    """The clip as a file of the storage, drawn when somebody first asks for it and again when it was swept."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._path: Path | None = None
        self._lock = threading.Lock()

    def path(self) -> Path:
        """The file."""
        with self._lock:
            if self._path is None or not self._path.is_file():
                frames, _, _ = render_scene(SCENE, fps=FPS, side=SIDE, sample_rate=100)
                self._path = write_video(self._storage.run_folder() / "moving shapes.mp4", frames, FPS)
            return self._path
