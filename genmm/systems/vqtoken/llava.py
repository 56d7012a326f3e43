"""LLaVA-OneVision with the reducer in place of its pooling: free questions about a video, answered word by word.

Letters: T frames, D width of the language model, K tokens, S positions of the prompt.
Source: VQToken (arXiv 2503.16980), sections 3.1 to 3.6; the network is transformers' (extra `official`).
The clip becomes K tokens after the projector, one learned newline vector follows them, and K + 1 embeddings take the
place of the picture in a ChatML prompt.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genmm.core.checkpoint import load_into, load_tensors, save_checkpoint
from genmm.core.devices import choose_device, choose_dtype
from genmm.core.errors import CheckpointError, ConfigError, MissingDependencyError, UsageError
from genmm.core.events import Progress
from genmm.core.limits import LONG_FOOTAGE, clean_text
from genmm.core.pipelines import CheckpointPipeline
from genmm.media.source import MediaInput
from genmm.quantizers.adaptive import AdaptiveK
from genmm.systems.vqtoken.blocks import make_block
from genmm.systems.vqtoken.config import BlockConfig, FrameConfig, VqTokenConfig
from genmm.systems.vqtoken.encoders import CHUNK_FRAMES, siglip_pixels
from genmm.systems.vqtoken.methods import BlockName, Clustering
from genmm.systems.vqtoken.pipeline import VqTokenPipeline, budget_of, stored_budget
from genmm.systems.vqtoken.reduced import ReducedVideo, splice
from genmm.systems.vqtoken.reducer import Budget
from genmm.systems.vqtoken.result import TokenizedVideo
from genmm.systems.vqtoken.sampling import sample_frames

__all__ = ["LlavaPipeline", "build_llava", "prompt_parts"]

SYSTEM_LINE = "You are a helpful assistant."
END = "<|im_end|>"
PLAIN = BlockConfig(kind="none", codebook_scale="unit")
"""Tokens as the released code gives them to its language model: means of unit tokens, no block."""
RELEASED = AdaptiveK(rule="silhouette", least=12, most=32)
"""Tokens of a clip unless a number is given: the bounds of the published search, with a rule that works."""


def prompt_parts(question: str) -> tuple[str, str]:
    """What stands before and behind the video in the prompt (ChatML, as published)."""
    before = f"<|im_start|>system\n{SYSTEM_LINE}{END}\n<|im_start|>user\n"
    return before, f"\n{question}{END}\n<|im_start|>assistant\n"


def build_llava(config: Mapping[str, Any]) -> nn.Module:
    """The untrained network of a stored transformers configuration. Raises: MissingDependencyError."""
    try:
        from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
    except ImportError as error:
        raise MissingDependencyError("this model needs transformers: pip install 'genmm[official]'") from error
    return LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig.from_dict(dict(config))).eval()


def _tower_layers(network: nn.Module) -> nn.ModuleList:
    """The encoder layers of the vision tower."""
    tower = network.model.vision_tower
    inner = getattr(tower, "vision_model", tower)
    return inner.encoder.layers


class LlavaEncoder:
    """Frames -> grid tokens in the space of the language model: tower up to its last layer, then the projector."""

    def __init__(self, network: nn.Module, fingerprint: str) -> None:
        self.network, self.fingerprint = network, fingerprint
        self._hooked = threading.Lock()  # the hook sits on a layer that all threads share
        vision = network.config.vision_config
        self.image_size, self.grid = vision.image_size, vision.image_size // vision.patch_size
        self.width = network.config.text_config.hidden_size

    def __call__(self, frames: np.ndarray | Tensor) -> Tensor:
        """[T, g, g, D] float32 of frames [T, H, W, 3] uint8, scaled to a square, aspect not kept, as published."""
        with torch.no_grad():
            return self.features(frames)

    def features(self, frames: np.ndarray | Tensor) -> Tensor:
        """The same with gradients, for training."""
        parts = torch.as_tensor(frames).split(CHUNK_FRAMES)
        seen = [self.network.model.multi_modal_projector(self._before_norm(part)).float() for part in parts]
        return torch.cat(seen).unflatten(1, (self.grid, self.grid))

    def _before_norm(self, frames: Tensor) -> Tensor:
        """What the last layer of the tower gives, which transformers does not hand out without its norm."""
        caught: list[Tensor] = []
        layer = _tower_layers(self.network)[-1]
        with self._hooked:
            hook = layer.register_forward_hook(lambda _m, _i, out: caught.append(out))
            try:
                pixels = siglip_pixels(frames, self.image_size, self.network.model.image_newline)
                self.network.model.vision_tower(pixels)
            finally:
                hook.remove()
        (out,) = caught
        return out[0] if isinstance(out, tuple) else out


class LlavaPipeline(VqTokenPipeline):
    """Videos to tokens and to answers in words, with the published weights or with some trained on from them.

    `block` is the attention block of the checkpoint, `runs_block` whether it is run unless something else is asked for:
    the published code holds one and takes the bare codebook. `budget` is the number of tokens that the language model
    is used to, `frames` that of the frames it is shown.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Any,
        *,
        block: BlockConfig = PLAIN,
        runs_block: bool = False,
        budget: Budget = RELEASED,
        frames: int = 32,
        name: str = "vqtoken-llava",
        folder: Path | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.network, self.tokenizer, self.frames, self.budget = network, tokenizer, frames, budget
        CheckpointPipeline.__init__(self, name=name, folder=folder, about=about, limits=LONG_FOOTAGE)
        self.answerer, self._encoder_fingerprint = None, None
        self._frames = FrameConfig(fps=1.0, side=network.config.vision_config.image_size, most_frames=frames)
        self.encoder = LlavaEncoder(network, f"llava-{self.model['fingerprint']}")
        self._use_block(block, runs=runs_block)

    def _use_block(self, block: BlockConfig, *, runs: bool) -> None:
        cells = self.encoder.grid**2
        if block.kind == "official" and block.cells != cells:
            raise ConfigError(f"the published block reads {block.cells} cells a frame, this vision tower gives {cells}")
        sizes = {"bins": block.bins, "grid": block.grid}
        self.block = make_block(block.kind, self.encoder.width, block.heads, cells, **sizes, zero_start=True)
        self.runs_block = runs and block.kind != "none"
        self.config = VqTokenConfig(frames=self._frames, block=block)

    def prepare(self, kind: BlockName, clustering: Clustering, budget: Budget) -> None:
        """Make it a model to be trained: it runs the block of this kind from now on, the one it has or a new one.

        A new block of the kind occupancy begins as the identity, so the language model sees at first what it knows.
        """
        own = self.config.block
        if kind == own.kind:
            self.config = replace(self.config, block=replace(own, clustering=clustering))
            self.runs_block = kind != "none"
        else:
            cells = self.encoder.grid**2 if kind == "official" else 0
            self._use_block(
                BlockConfig(kind=kind, heads=8, cells=cells, codebook_scale="unit", clustering=clustering), runs=True
            )
            self.block.to(self.device)
        self.budget, self.folder, self._fingerprint = budget, None, None  # no longer the model of that folder
        said = f"with the attention block {kind}" if kind != "none" else "without an attention block"
        self.about["description"] = (
            f"LLaVA-OneVision trained on few tokens a video, {said}: free questions about videos"
        )

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike[str], *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
    ) -> LlavaPipeline:
        """Load a folder that `genmm convert vqtoken` made. Raises: CheckpointError, MissingDependencyError."""
        folder = Path(folder)
        config = cls._read_config(folder)
        if config.get("kind") != "llava":
            raise CheckpointError(f"{folder} holds no language model; load it with genmm.load")
        tensors = load_tensors(folder, dtype=None)
        network = build_llava(config["llava"])
        own = {n.removeprefix("llava."): t for n, t in tensors.items() if n.startswith("llava.")}
        network.to(next(iter(own.values())).dtype)
        load_into(network, own)
        block = {n.removeprefix("block."): t for n, t in tensors.items() if n.startswith("block.")}
        pipeline = cls(
            network.requires_grad_(False),
            load_tokenizer(folder / "tokenizer"),
            block=_block_config(config, block),
            runs_block=config.get("runs_block", False),
            budget=budget_of(config["tokens"]) if "tokens" in config else RELEASED,
            frames=config.get("frames", 32),
            **cls._identity(folder, config),
        )
        load_into(pipeline.block, block)
        pipeline.block.eval().requires_grad_(False)
        return pipeline.to(device, dtype)

    def to(self, device: Any = None, dtype: Any = None) -> LlavaPipeline:
        """Move to a device and number format, in place."""
        weight = self.network.model.image_newline
        place = weight.device if device is None else choose_device(device)
        self.network.to(place, weight.dtype if dtype is None else choose_dtype(dtype, place))
        self.block.to(place, torch.float32)
        return self

    def save(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
        """Write a checkpoint folder; gives back the folder."""
        folder = Path(folder)
        self.tokenizer.save_pretrained(str(folder / "tokenizer"))
        extra = self._card()
        return save_checkpoint(folder, self._stored_config(), self._stored_tensors(), dtype=dtype, extra_files=extra)

    def _stored_config(self) -> dict[str, Any]:
        stored = {"system": self.system, "kind": "llava", "llava": self.network.config.to_dict()}
        block = {
            "block": asdict(self.config.block),
            "runs_block": self.runs_block,
            "tokens": stored_budget(self.budget),
        }
        return {**stored, "frames": self.frames, **block, **self.about}

    def _stored_tensors(self) -> dict[str, Tensor]:
        own = {f"llava.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return own | {f"block.{name}": tensor for name, tensor in self.block.state_dict().items()}

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.network.model.image_newline.device

    def _parts(self) -> Iterable[nn.Module]:
        return [self.network, self.block]

    def _facts(self) -> dict[str, Any]:
        own = self.config.block
        kind = own.kind if self.runs_block else "none"
        return {"width": self.encoder.width, "block": kind, "clustering": own.clustering}

    def _fitting_block(self, features: Tensor) -> nn.Module | None:
        fits = self.runs_block and features.shape[-1] == self.encoder.width
        return self.block if fits else None

    # ------------------------------------------------------------ answers in words

    def watch(
        self,
        source: MediaInput,
        *,
        tokens: int | str | Budget | None = None,
        block: str | None = None,
        on_event: Callable[[Progress], None] | None = None,
        on_notes: Callable[[tuple[str, ...]], None] | None = None,
    ) -> ReducedVideo:
        """Reduce a video for the language model: frames spread evenly over it, as published.

        `block` is "none" for the bare codebook, which is the path that the released code takes, or the kind that the
        checkpoint holds ("official" gives max(T, K) tokens); by default what the checkpoint was trained with.
        `on_event` and `on_notes` are those of `sample_frames`.
        Raises: UsageError for a block that the checkpoint does not hold.
        """
        kind = self.config.block.kind
        if block not in (None, "none", kind):
            held = f"none or {kind}" if kind != "none" else "none: this checkpoint holds no other"
            raise UsageError(f"block is {held}; got {block!r}")
        runs = self.runs_block if block is None else block != "none"
        budget = self.budget if tokens is None else RELEASED if tokens == "adaptive" else budget_of(tokens)
        frames = self._sampled(source, on_event=on_event, on_notes=on_notes)
        features = self.encoder(frames).unsqueeze(0)
        return self.reduce(features, budget, block=self.block if runs else None)

    def _sampled(self, source: MediaInput, **heard: Any) -> np.ndarray:
        return sample_frames(source, self.frames, max_side=2 * self.config.frames.side, limits=self.limits, **heard)

    def prompt(self, question: str, reduced: ReducedVideo) -> Tensor:
        """Embeddings [1, S, D] of the whole prompt with K + 1 positions for the video."""
        before, behind = (self._ids(text) for text in prompt_parts(clean_text(question, self.limits)))
        words = self.network.get_input_embeddings()(torch.cat([before, before[:, :1], behind], 1))
        newline = self.network.model.image_newline
        return splice(words, before.shape[1], reduced, newline=newline)[0]

    def _ids(self, text: str) -> Tensor:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([ids], device=self.device)

    def answer_stream(
        self,
        video: MediaInput | ReducedVideo | TokenizedVideo,
        question: str,
        *,
        tokens: int | str | Budget | None = None,
        block: str | None = None,
        max_new_tokens: int = 128,
    ) -> Iterator[str]:
        """Pieces of the answer while it is written (greedy, so the same video always gets the same answer).

        Raises: UsageError for tokens or block with a video that has its tokens already; as `watch`.
        """
        if max_new_tokens < 1:
            raise UsageError(f"an answer has at least 1 word, got {max_new_tokens}")
        if isinstance(video, ReducedVideo | TokenizedVideo):
            if tokens is not None or block is not None:
                raise UsageError("tokens and block are for videos; this one has its tokens already")
            reduced = video if isinstance(video, ReducedVideo) else video.reduced
        else:
            reduced = self.watch(video, tokens=tokens, block=block)
        ids: list[int] = []
        said = ""
        for number in self._greedy(self.prompt(question, reduced), max_new_tokens):
            ids.append(number)
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            if not text.endswith("\ufffd"):  # half of a character waits for its other half
                yield text[len(said) :]
                said = text

    def answer_words(self, video: MediaInput | ReducedVideo | TokenizedVideo, question: str, **options: Any) -> str:
        """The whole answer."""
        return "".join(self.answer_stream(video, question, **options)).strip()

    def _greedy(self, embeds: Tensor, most: int) -> Iterator[int]:
        """Token ids until the end mark, one forward pass each."""
        network, past = self.network, None
        ends = {self.tokenizer.convert_tokens_to_ids(END), self.tokenizer.eos_token_id}
        for _ in range(most):
            with torch.no_grad():
                out = network.model.language_model(inputs_embeds=embeds, past_key_values=past, use_cache=True)
                token = int(network.lm_head(out.last_hidden_state[:, -1]).argmax(-1))
            if token in ends:
                return
            yield token
            past = out.past_key_values
            embeds = network.get_input_embeddings()(torch.tensor([[token]], device=self.device))


def _block_config(config: Mapping[str, Any], block: Mapping[str, Tensor]) -> BlockConfig:
    """What block a folder holds; folders that were converted before they said so hold the published one or none."""
    if "block" in config:
        try:
            return BlockConfig(**config["block"])
        except TypeError as error:
            raise CheckpointError(f"the checkpoint describes a block that this genmm does not know: {error}") from error
    if not block:
        return PLAIN
    cells = block["to_q_proj.weight"].shape[1]
    return BlockConfig(kind="official", heads=config.get("block_heads", 8), cells=cells, codebook_scale="unit")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder. Raises: CheckpointError when it is missing."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder.parent} is no complete checkpoint: its folder tokenizer is missing")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
