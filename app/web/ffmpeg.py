"""Where the ffmpeg program comes from that encodes sound while it is being streamed to the browser."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

__all__ = ["provide_ffmpeg"]

log = logging.getLogger(__name__)


def provide_ffmpeg(folder: Path) -> bool:
    """Make a program named ffmpeg reachable through PATH; says whether there is one.

    An installed ffmpeg is used as it is. Else the one inside the imageio-ffmpeg package is linked (or copied) into
    `folder` under that name and the folder is put on this process's PATH. Without either, sound is sent whole.
    """
    if shutil.which("ffmpeg"):
        return True
    try:
        import imageio_ffmpeg

        source = Path(imageio_ffmpeg.get_ffmpeg_exe())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = folder / ("ffmpeg.exe" if os.name == "nt" else "ffmpeg")
        if not target.exists():
            _place(source, target)
    except (ImportError, OSError, RuntimeError) as error:
        log.warning("no ffmpeg program, so sound is not streamed but sent whole: %s", error)
        return False
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
    return shutil.which("ffmpeg") is not None


def _place(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
