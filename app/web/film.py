"""Videos on their way to the browser: a player for uploads and for finished files."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.data_classes import FileData

__all__ = ["Film"]


class Film(gr.Video):
    """gr.Video that serves a file as it is, under its own name; Gradio's would run ffmpeg over it.

    A file that the browser cannot play may still be read here, so page.js and style.css put a plain sentence in the
    place of Gradio's error.
    """

    is_template = True  # the browser side is that of gr.Video

    def postprocess(self, value: str | Path | None) -> FileData | None:
        """A path of a video, or None."""
        return None if value is None else FileData(path=str(value), orig_name=Path(value).name)
