"""Reading back the tags that the writers put into audio, video and picture files."""

from __future__ import annotations

from typing import Any

from PIL import Image

from genmm.core.errors import MediaError
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.media.containers import open_container
from genmm.media.image import is_picture, open_picture
from genmm.media.source import MediaInput, open_source
from genmm.media.tags import unpack_tags

__all__ = ["read_tags"]


def read_tags(source: MediaInput, *, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """The tags of an audio, video or picture file; empty when it has none.

    Raises: MediaError when the file cannot be read at all.
    """
    with open_source(source, limits) as media:
        if is_picture(media.head):
            with open_picture(media) as picture:
                return unpack_tags(_picture_fields(picture))
        with open_container(media) as container:
            fields: dict[str, str] = {}
            for held in [*(stream.metadata for stream in container.streams), container.metadata]:
                fields.update({str(key).lower(): str(value) for key, value in held.items()})
        return unpack_tags(fields)


def _picture_fields(picture: Image.Image) -> dict[str, str]:
    try:
        picture.load()  # text may stand behind the pixels
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise MediaError(f"the tags of the picture cannot be read: {error}") from error
    return {str(key).lower(): str(value) for key, value in picture.info.items() if isinstance(value, str)}
