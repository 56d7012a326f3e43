"""Frame encoders: our vision transformer, SigLIP through transformers, or any function.

An encoder is a callable `frames [T, H, W, 3] uint8 -> features [T, h, w, D]` with `width` (D) and `fingerprint`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmm.core.errors import CheckpointError, MissingDependencyError, ShapeError, UsageError
from genmm.nn.vit import PATCH, VisionTransformer

__all__ = ["CHUNK_FRAMES", "FunctionEncoder", "SiglipEncoder", "VisionEncoder", "frame_size", "siglip_pixels"]

CHUNK_CELLS = 16_384
"""Tokens that go through the own encoder at a time; bounds its memory."""
CHUNK_FRAMES = 8
"""Frames that go through SigLIP at a time."""


def _digest(start: str, module: nn.Module) -> str:
    total = hashlib.sha256(start.encode())
    for name, tensor in module.state_dict().items():
        total.update(name.encode())
        total.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def frame_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Size that a frame is scaled to: the area of a square of that side, its shape kept, sides multiples of 8."""
    if height < 1 or width < 1:
        raise ShapeError(f"a frame needs at least one pixel, got {height} x {width}")
    ratio = math.sqrt(min(16.0, max(1 / 16, height / width)))
    return tuple(max(PATCH, PATCH * round(side * r / PATCH)) for r in (ratio, 1 / ratio))  # type: ignore[return-value]


class VisionEncoder:
    """Our transformer with the scaling before it."""

    def __init__(self, vision: VisionTransformer, side: int) -> None:
        self.vision, self.side = vision, side
        self.width = vision.config.width

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of the weights and the side."""
        return _digest(str(self.side), self.vision)

    def __call__(self, frames: np.ndarray | Tensor) -> Tensor:
        """Features [T, h, w, D] float32 on the device of the weights."""
        weight = self.vision.norm.weight
        pictures = torch.as_tensor(np.ascontiguousarray(frames) if isinstance(frames, np.ndarray) else frames)
        if pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise ShapeError(f"frames must be [T, H, W, 3], got {tuple(pictures.shape)}")
        size = frame_size(*pictures.shape[1:3], self.side)
        cells = (size[0] // PATCH) * (size[1] // PATCH)
        parts = []
        with torch.inference_mode():
            for part in pictures.split(max(1, CHUNK_CELLS // cells)):
                x = part.to(weight.device).permute(0, 3, 1, 2).float()
                if x.shape[2:] != size:
                    x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
                parts.append(self.vision((x / 127.5 - 1.0).to(weight.dtype)).float())
        return torch.cat(parts).clone()  # a normal tensor, not one of inference mode


class SiglipEncoder(nn.Module):
    """SigLIP from a folder of the user's, as the published model reads it: the last layer but one, before the norm.

    Frames are scaled to the model's square, aspect not kept, as published.
    """

    def __init__(self, tower: nn.Module, image_size: int, patch: int) -> None:
        super().__init__()
        self.tower, self.image_size, self.grid = tower, image_size, image_size // patch
        self.width = tower.config.hidden_size

    @classmethod
    def from_folder(cls, folder: str | Path) -> SiglipEncoder:
        """Load a transformers folder with safetensors weights; needs the extra `official`. Nothing is downloaded."""
        try:
            from transformers import SiglipVisionModel
        except ImportError as error:
            raise MissingDependencyError("SigLIP needs transformers: pip install 'genmm[official]'") from error
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} holds no SigLIP: config.json is missing")
        model = SiglipVisionModel.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
        config = getattr(model.config, "vision_config", model.config)
        return cls(model.eval().requires_grad_(False), config.image_size, config.patch_size)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of the weights."""
        return _digest("", self.tower)

    def forward(self, frames: np.ndarray | Tensor) -> Tensor:
        """Features [T, g, g, D] float32."""
        weight, parts = next(self.tower.parameters()), []
        with torch.no_grad():
            for part in torch.as_tensor(frames).split(CHUNK_FRAMES):  # all layers of a part are kept at once
                out = self.tower(siglip_pixels(part, self.image_size, weight), output_hidden_states=True)
                parts.append(out.hidden_states[-2].float())
        return torch.cat(parts).unflatten(1, (self.grid, self.grid))


def siglip_pixels(frames: Tensor, side: int, weight: Tensor) -> Tensor:
    """What SigLIP reads: frames [T, H, W, 3] uint8 scaled to a square, -1 to 1, [T, 3, side, side] like the weight."""
    x = frames.to(weight.device).permute(0, 3, 1, 2).float()
    x = F.interpolate(x, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return (x.clamp(0, 255) / 127.5 - 1.0).to(weight.dtype)


class FunctionEncoder:
    """Any function frames [T, H, W, 3] uint8 -> [T, h, w, D]; `name` tells its index entries from others."""

    def __init__(self, function: Callable[[Any], Tensor], width: int, name: str) -> None:
        if not name:
            raise UsageError("an encoder of your own needs a name, so that its tokens are not mixed with others")
        self.function, self.width, self.fingerprint = function, width, f"own-{name}"

    def __call__(self, frames: np.ndarray) -> Tensor:
        features = self.function(frames)
        if features.ndim != 4 or features.shape[0] != len(frames) or features.shape[-1] != self.width:
            shape = tuple(features.shape)
            raise ShapeError(f"the encoder must give [{len(frames)}, h, w, {self.width}], it gave {shape}")
        return features
