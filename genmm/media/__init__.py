"""Audio, pictures and video: reading within limits, writing whole or not at all. See the modules for each.

Names are imported when first used, so that importing this package loads neither FFmpeg nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "audio": ("Audio", "read_audio"),
    "audio_write": ("as_samples", "encode_audio_bytes", "write_audio"),
    "channels": ("downmix",),
    "figures": ("mel_picture", "sound_picture", "waveform_picture"),
    "image": ("encode_image_bytes", "read_image", "write_image"),
    "loudness": ("integrated_loudness", "integrated_loudness_torch", "normalise"),
    "resampling": ("resample", "resampled_length"),
    "silence": ("sound_bounds", "trim_silence"),
    "tag_reader": ("read_tags",),
    "media_info": ("MediaInfo", "probe"),
    "video": ("Frame", "FrameReader", "Video", "iter_frames", "read_video"),
    "video_write": ("write_video",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Audio",
    "Frame",
    "FrameReader",
    "MediaInfo",
    "Video",
    "as_samples",
    "downmix",
    "encode_audio_bytes",
    "encode_image_bytes",
    "integrated_loudness",
    "integrated_loudness_torch",
    "iter_frames",
    "mel_picture",
    "normalise",
    "probe",
    "read_audio",
    "read_image",
    "read_tags",
    "read_video",
    "resample",
    "resampled_length",
    "sound_bounds",
    "sound_picture",
    "trim_silence",
    "waveform_picture",
    "write_audio",
    "write_image",
    "write_video",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"genmm.media.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'genmm.media' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
