"""Published TokenSet weights -> one checkpoint folder of ours, checked, or nothing at all.

The authors publish set_tokenizer_128_4096.pth (a state dictionary), fsdd_small_128_4096.pth and fsdd_base_128_4096.pth
(dictionaries with model, ema, opt and args; their sampler uses ema). Safetensors files with the same names work too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from genmm.core.checkpoint import load_into, save_checkpoint
from genmm.core.errors import CheckpointError, UsageError
from genmm.core.events import Progress
from genmm.core.staging import check_target, staged_folder
from genmm.core.weights import read_tensors
from genmm.systems.tokenset.archive import read_archive, stored_tensors
from genmm.systems.tokenset.checkpoint import TOKENIZER, save_tokenizer
from genmm.systems.tokenset.network import CountNetwork
from genmm.systems.tokenset.official import from_official, network_config_of, tokenizer_config_of
from genmm.systems.tokenset.pipeline import TokenSetPipeline
from genmm.systems.tokenset.tokenizer import SetTokenizer

Size = Literal["small", "base"]
FILES = {"tokenizer": "set_tokenizer_128_4096", "small": "fsdd_small_128_4096", "base": "fsdd_base_128_4096"}
"""Names of the published files, without suffix."""
WHERE = "the Google Drive folder that github.com/Gengzigang/TokenSet links to under pretrained models"
"""Where the authors publish them; not on a hub, so that they have to be fetched with a browser."""
DEFAULTS = {
    "steps": 25, "guidance": "4_50_55", "guidance_space": "probability", "engine": "repair", "top_p": 0.8,
    "sigma_slope": 100.0, "sigma_end": 0.8,
}  # fmt: skip
"""The released sampler's settings, with an engine that keeps the sum."""


def convert_tokenset(
    official: Path | str,
    out: Path | str,
    *,
    size: Size = "small",
    licence: str = "",
    origin: Mapping[str, str] | None = None,
    overwrite: bool = False,
    on_event: Callable[[Progress], None] | None = None,
) -> Path:
    """Convert the published tokenizer together with the small or base generator into the new folder `out`.

    official: folder with the tokenizer and the generator, as .pth (read as data, never run) or .safetensors. Without a
    generator file the folder holds a tokenizer alone. `out` appears whole or not at all; gives it back.
    Raises: CheckpointError when a file is missing, damaged or of another model; UsageError when `out` is taken.
    """
    official, out, say = Path(official), Path(out), on_event or (lambda event: None)
    if size not in ("small", "base"):
        raise UsageError(f"size must be small or base, got {size!r}")
    check_target(out, overwrite=overwrite)
    say(Progress(0, 4, "steps", "reading the tokenizer"))
    tensors = _read(_found(official, "tokenizer"), ("ema", "model", "state_dict"))
    tokenizer = _built(SetTokenizer, tokenizer_config_of(tensors), tensors)
    network = None
    try:
        path = _found(official, size)
    except CheckpointError:
        if any((official / f"{FILES[other]}{suffix}").exists() for other in ("small", "base") for suffix in SUFFIXES):
            raise
    else:
        say(Progress(1, 4, "steps", f"reading the {size} generator"))
        tensors = _read(path, ("ema", "model"))
        network = _built(CountNetwork, network_config_of(tensors), from_official(tensors))
    about = _about(size, network is not None, licence, origin or {})
    with staged_folder(out, overwrite=overwrite) as stage:
        say(Progress(2, 4, "steps", "writing"))
        _write(stage, tokenizer, network, about)
        say(Progress(3, 4, "steps", "trying it"))
        try_checkpoint(stage)
    say(Progress(4, 4, "steps", "done"))
    return out


SUFFIXES = (".safetensors", ".pth")


def _found(folder: Path, part: str) -> Path:
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; name the folder with the files from {WHERE}")
    for suffix in SUFFIXES:
        path = folder / f"{FILES[part]}{suffix}"
        if path.is_file():
            return path
    raise CheckpointError(f"{folder} has no {FILES[part]}.pth; fetch it from {WHERE}")


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of a published file; of the first of `keys` that it has, if it has several sets of them."""
    if path.suffix == ".safetensors":
        return read_tensors(path)
    whole = read_archive(path)
    if isinstance(whole, Mapping):
        whole = next((whole[key] for key in keys if isinstance(whole.get(key), Mapping)), whole)
    tensors = {name: stored.load() for name, stored in stored_tensors(whole, path).items()}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; it is another file than {path.name} as published")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: tensor {name!r} holds NaN or infinity; the file is damaged")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _built(kind: type[nn.Module], config: Any, tensors: Mapping[str, Tensor]) -> Any:
    with torch.device("meta"):
        module = kind(config)
    module = module.to_empty(device="cpu").eval().requires_grad_(False)
    load_into(module, tensors)
    return module


def _write(stage: Path, tokenizer: SetTokenizer, network: CountNetwork | None, about: Mapping[str, Any]) -> None:
    if network is None:
        save_tokenizer(tokenizer, stage, about=about)
        return
    config = {"system": "tokenset", "network": network.config.to_dict(), "defaults": DEFAULTS, **about}
    save_tokenizer(tokenizer, stage / TOKENIZER)
    save_checkpoint(stage, config, network.state_dict(), extra_files={"README.md": _card(about).encode()})


def try_checkpoint(folder: Path) -> None:
    """Load a converted folder as any user would, tokenise a grey picture, decode it, predict once."""
    pipeline = TokenSetPipeline.from_folder(folder, device="cpu", dtype="float32")
    grey = torch.full((pipeline.image_size, pipeline.image_size, 3), 127, dtype=torch.uint8)
    one = pipeline.tokenize([grey.numpy()], pipeline.tokenizer.config.tokens)[0]
    pipeline.decode([one])
    if pipeline.generator is not None:
        logits = pipeline.generator(one.counts[None], torch.tensor([0.5]))
        if not bool(logits.isfinite().all()):
            raise CheckpointError("the converted generator gives NaN or infinity; its file is damaged")


def _about(size: str, draws: bool, licence: str, origin: Mapping[str, str]) -> dict[str, Any]:
    what = f"official TokenSet-{size[0].upper()}, ImageNet classes at 256x256" if draws else "official set tokenizer"
    return {"description": what, "licence": licence or "see the authors' repository", "origin": dict(origin)}


def _card(about: Mapping[str, Any]) -> str:
    return f"""---
license: {json.dumps(about["licence"])}
description: {json.dumps(about["description"])}
---
# Converted TokenSet checkpoint

{about["description"]}. Made by `genmm convert tokenset` from the files that the authors publish.
Method: Tokenize Image as a Set (arXiv 2503.16425). The weights are the authors'; their licence applies.
Labels are the 1000 ImageNet classes by number.
"""
