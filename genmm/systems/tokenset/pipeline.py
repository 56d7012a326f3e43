"""TokenSet from wishes to pictures and back: what the page, the command line, the batch runner and scripts call."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from genmm.core.checkpoint import load_into, load_tensors, save_checkpoint
from genmm.core.devices import choose_device, choose_dtype
from genmm.core.errors import CheckpointError, GenmmError, ShapeError, UsageError
from genmm.core.events import CancelToken, Event, Finished, Progress, drain
from genmm.core.limits import DEFAULT_LIMITS, Limits
from genmm.core.pipelines import CheckpointPipeline
from genmm.quantizers.multiset import TokenSet, check_counts, to_counts, to_tokens
from genmm.samplers.fixed_sum_official import deficit_fill
from genmm.systems.tokenset.checkpoint import TOKENIZER, load_tokenizer, save_tokenizer
from genmm.systems.tokenset.config import CountNetworkConfig
from genmm.systems.tokenset.editing import SetEditing
from genmm.systems.tokenset.network import CountNetwork
from genmm.systems.tokenset.pictures import as_pixels, as_tensor, read_square
from genmm.systems.tokenset.request import PictureRequest, PictureSettings, read_wish
from genmm.systems.tokenset.result import ImageResult
from genmm.systems.tokenset.sampling import Row, sample_rows
from genmm.systems.tokenset.tokenizer import SetTokenizer

DECODE_BATCH = 64
"""Pictures decoded or tokenised together."""
Picture = str | os.PathLike[str] | bytes | np.ndarray | Tensor | Any
"""A file, its bytes, a stream, an array or a PIL picture."""


class TokenSetPipeline(SetEditing, CheckpointPipeline):
    """Pictures from text and labels, token sets from pictures, and edits between them. Threads may share one."""

    system = "tokenset"
    title = "TokenSet"

    def __init__(
        self,
        tokenizer: SetTokenizer,
        network: CountNetwork | None = None,
        *,
        defaults: PictureSettings | None = None,
        name: str = "tokenset",
        folder: Path | None = None,
        about: Mapping[str, Any] | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """Put the parts together; without a network pictures can be tokenised and decoded, not drawn.

        Raises: CheckpointError when the parts do not fit each other.
        """
        if network is not None:
            _check_fit(tokenizer, network.config)
        super().__init__(name=name, folder=folder, about=about, limits=limits)
        self.tokenizer, self.generator = tokenizer.eval(), network
        self.defaults = defaults or PictureSettings()

    # ------------------------------------------------------------ folders and devices

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> TokenSetPipeline:
        """Load a model folder, or a tokenizer folder alone. Raises: CheckpointError, ConfigError."""
        folder = Path(folder)
        config = cls._read_config(folder)
        network = None
        if "network" in config:
            with torch.device("meta"):  # no random start for weights that are about to be read
                network = CountNetwork(CountNetworkConfig.from_dict(config.get("network")))
            network = network.to_empty(device="cpu").eval().requires_grad_(False)
            load_into(network, load_tensors(folder))
        pipeline = cls(
            load_tokenizer(folder),
            network,
            defaults=PictureSettings.from_dict(config.get("defaults", {})),
            **cls._identity(folder, config),
        )
        return pipeline.to(device, dtype)

    def to(self, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None) -> TokenSetPipeline:
        """Move to a device and number format, in place; the tokenizer stays float32. None keeps what there is."""
        place = self.device if device is None else choose_device(device)
        self.tokenizer.to(place, torch.float32)
        if self.generator is not None:
            number = self.generator.pos_embed.dtype if dtype is None else choose_dtype(dtype, place)
            self.generator.to(place, number)
        return self

    def save(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
        """Write a model folder with network and tokenizer; gives back the folder."""
        folder = Path(folder)
        if self.generator is None:
            return save_tokenizer(self.tokenizer, folder, dtype=dtype, about=self.about)
        config = {
            "system": self.system,
            "network": self.generator.config.to_dict(),
            "defaults": dataclasses.asdict(self.defaults),
            **self.about,
        }
        save_tokenizer(self.tokenizer, folder / TOKENIZER, dtype=dtype)
        return save_checkpoint(folder, config, self.generator.state_dict(), dtype=dtype, extra_files=self._card())

    @property
    def network(self) -> CountNetwork:
        """The network that draws. Raises: UsageError when the checkpoint is a tokenizer alone."""
        if self.generator is None:
            raise UsageError(f"model {self.name} is a tokenizer alone: it turns pictures into sets and back, no more")
        return self.generator

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.tokenizer.latent_tokens.device

    @property
    def image_size(self) -> int:
        """Height and width of all pictures, in pixels."""
        return self.tokenizer.config.image_size

    @property
    def codes(self) -> int:
        """Size C of the codebook."""
        return self.tokenizer.config.codes

    @property
    def tokens(self) -> int:
        """Tokens M of a drawn picture, else of the largest set."""
        return self.generator.config.tokens if self.generator is not None else self.tokenizer.config.tokens

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """What pictures can be asked for besides text: field -> values."""
        return {} if self.generator is None else self.generator.config.labels

    @property
    def reads_text(self) -> bool:
        """Whether a text can be drawn."""
        return self.generator is not None and self.generator.config.text_rows > 0

    def _parts(self) -> Iterable[torch.nn.Module]:
        return [self.tokenizer, *([self.generator] if self.generator is not None else [])]

    def _facts(self) -> dict[str, Any]:
        return {
            "image_size": self.image_size,
            "codes": self.codes,
            "tokens": self.tokens,
            "set_sizes": list(self.tokenizer.config.set_sizes),
            "labels": {name: list(values) for name, values in self.labels.items()},
            "reads_text": self.reads_text,
        }

    # ------------------------------------------------------------ drawing

    def generate(
        self,
        text: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        count: int = 1,
        seed: int | None = None,
        seeds: Sequence[int] = (),
        settings: PictureSettings | Mapping[str, Any] | None = None,
        cancel: CancelToken | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> ImageResult:
        """Draw pictures. See `PictureRequest` for the arguments.

        Raises: UsageError for what cannot be drawn; Cancelled within one step after `cancel` was asked to.
        """
        more = {"text": text, "labels": labels, "count": count, "seed": seed, "seeds": seeds, "settings": settings}
        return drain(self.events(**more, cancel=cancel), on_event)

    def events(
        self,
        text: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        count: int = 1,
        seed: int | None = None,
        seeds: Sequence[int] = (),
        settings: PictureSettings | Mapping[str, Any] | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Event]:
        """Draw pictures and say how far it is: Progress, at last Finished with an ImageResult."""
        request = PictureRequest(
            text=text, labels=labels or {}, count=count, seed=seed, seeds=tuple(seeds), settings=settings or {}
        )
        rows, how = self._rows(request)
        yield from self.made(rows, how, {"operation": "draw", **_wished(request)}, cancel=cancel)

    def generate_batch(
        self,
        requests: Sequence[PictureRequest],
        *,
        batch_size: int = 16,
        errors: Literal["raise", "return"] = "raise",
        cancel: CancelToken | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> list[Any]:
        """Draw many wishes together: one ImageResult for each request, in order.

        Rows with equal settings share batches of at most `batch_size`. With errors="return" the GenmmError of a request
        takes the place of its result. Raises: as `generate`.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        started, plans = time.perf_counter(), []
        for request in requests:
            try:
                plans.append(self._rows(request))
            except GenmmError as error:
                if errors == "raise":
                    raise
                plans.append(error)
        jobs = [
            (number, row, plan[1]) for number, plan in enumerate(plans) if isinstance(plan, tuple) for row in plan[0]
        ]
        made: dict[int, list[Tensor]] = {}
        for how in dict.fromkeys(how for _, _, how in jobs):
            own = [(number, row) for number, row, other in jobs if other == how]
            for first in range(0, len(own), batch_size):
                part = own[first : first + batch_size]
                counts = self._last(sample_rows(self.network, [row for _, row in part], how, cancel=cancel), on_event)
                for (number, _), row_counts in zip(part, counts, strict=True):
                    made.setdefault(number, []).append(row_counts)
        return [
            self._result(torch.stack(made[number]), plan[0], plan[1], _drawn_how(request), started)
            if isinstance(plan, tuple)
            else plan
            for number, (plan, request) in enumerate(zip(plans, requests, strict=True))
        ]

    def made(
        self, rows: Sequence[Row], how: PictureSettings, about: Mapping[str, Any], *, cancel: CancelToken | None = None
    ) -> Iterator[Event]:
        """Make rows that share settings, in batches: Progress, at last Finished with an ImageResult."""
        started, counts = time.perf_counter(), []
        parts = [rows[first : first + DECODE_BATCH] for first in range(0, len(rows), DECODE_BATCH)]
        for number, part in enumerate(parts):
            for event in sample_rows(self.network, part, how, cancel=cancel):
                if isinstance(event, Tensor):
                    counts.append(event)
                else:
                    total = event.total * len(parts) if event.total else None
                    yield Progress(event.done + number * (event.total or 0), total, event.unit, event.message)
        yield Finished(self._result(torch.cat(counts), rows, how, about, started))

    def _rows(self, request: PictureRequest) -> tuple[list[Row], PictureSettings]:
        how = self.checked(request)
        reads = self.network.config.text_rows > 0
        wish = read_wish(request.text, request.labels, self.labels, reads_text=reads, limits=self.limits)
        return [Row(wish, seed) for seed in request.picture_seeds()], how

    def checked(self, request: PictureRequest) -> PictureSettings:
        """The settings of a request. Raises: UsageError for a noise process that the network was not trained with."""
        how = request.resolved(self.defaults)
        if how.process != self.defaults.process:
            raise UsageError(
                f"model {self.name} was trained with the noise process {self.defaults.process}, got {how.process}; "
                "leave process out"
            )
        return how

    def _last(self, events: Iterator[Progress | Tensor], on_event: Callable[[Event], None] | None) -> Tensor:
        counts = torch.empty(0)
        for event in events:
            if isinstance(event, Tensor):
                counts = event
            elif on_event is not None:
                on_event(event)
        return counts

    def _result(
        self, counts: Tensor, rows: Sequence[Row], how: PictureSettings, about: Mapping[str, Any], started: float
    ) -> ImageResult:
        drawn = time.perf_counter()
        notes = []
        if how.engine == "official":
            wrong = int((counts.sum(-1) != self.tokens).sum())
            if wrong:
                notes = [f"{wrong} of {len(rows)} sets did not have {self.tokens} tokens and were filled up or cut"]
                counts = to_counts(deficit_fill(counts.float(), self.tokens), self.codes)
        sets = tuple(TokenSet.from_counts(row) for row in counts.cpu())
        images = tuple(self.decode(sets))
        ended = time.perf_counter()
        precision = str(self.network.pos_embed.dtype).removeprefix("torch.")
        wish = rows[0].wish
        return ImageResult(
            settings={
                **dataclasses.asdict(how), **about, "read_as": {"text": wish.text, "labels": dict(wish.labels)},
                "count": len(rows), "precision": precision,
            },
            seeds=tuple(row.seed for row in rows),
            model=self.model,
            timings={"drawing_s": drawn - started, "decoding_s": ended - drawn, "total_s": ended - started},
            notes=tuple(notes),
            images=images,
            sets=sets,
        )  # fmt: skip

    # ------------------------------------------------------------ pictures <-> sets

    def read(self, picture: Picture) -> np.ndarray:
        """A picture as the model sees it: [H, H, 3] uint8, upright, on white, its middle square, scaled.

        Raises: MediaError, LimitError for what is no usable picture.
        """
        return read_square(picture, self.image_size, self.limits)

    @torch.inference_mode()
    def tokenize(self, pictures: Sequence[Picture], tokens: int | None = None) -> list[TokenSet]:
        """The token set of each picture, with `tokens` tokens each (None: as many as drawn pictures have).

        Raises: UsageError for a set size that the tokenizer does not make; MediaError, LimitError for bad pictures.
        """
        if isinstance(pictures, str | bytes | os.PathLike):
            raise UsageError("tokenize takes a list of pictures; put the one into brackets")
        size = self.tokens if tokens is None else tokens
        found: list[TokenSet] = []
        for first in range(0, len(pictures), DECODE_BATCH):
            images = as_tensor([self.read(picture) for picture in pictures[first : first + DECODE_BATCH]])
            ids = self.tokenizer.encode(images.to(self.device), size).cpu()
            found += [TokenSet.from_tokens(row, self.codes) for row in ids]
        return found

    @torch.inference_mode()
    def decode(self, sets: Sequence[TokenSet | Sequence[int]] | Tensor) -> list[np.ndarray]:
        """Pictures [H, H, 3] uint8 of token sets, lists of tokens in any order, or count vectors [N, C].

        Raises: UsageError for codes outside the codebook, empty sets and sets that are too large.
        """
        whole = [self._as_set(one) for one in sets]
        pictures: list[np.ndarray] = []
        for first in range(0, len(whole), DECODE_BATCH):
            pictures += as_pixels(self.decoded(whole[first : first + DECODE_BATCH]))
        return pictures

    @torch.inference_mode()
    def decoded(self, sets: Sequence[TokenSet]) -> Tensor:
        """Pictures [N, 3, H, H] float32, nominally in [-1, 1], of sets that may differ in size."""
        tokens, keep = to_tokens(torch.stack([one.counts for one in sets]))
        same = bool(keep.all())
        return self.tokenizer.decode(tokens.to(self.device), None if same else keep.to(self.device))

    def _as_set(self, one: TokenSet | Sequence[int] | Tensor) -> TokenSet:
        if isinstance(one, Tensor):
            if one.shape != (self.codes,):
                raise ShapeError(f"a count vector must be [{self.codes}], got {tuple(one.shape)}")
            one = TokenSet.from_counts(check_counts(one))
        elif not isinstance(one, TokenSet):
            one = TokenSet.from_tokens(one, self.codes)
        if one.codes != self.codes:
            raise UsageError(f"the set belongs to a codebook of {one.codes} codes, this model has {self.codes}")
        if not 1 <= len(one) <= self.tokenizer.config.tokens:
            raise UsageError(f"a set has 1 to {self.tokenizer.config.tokens} tokens here, this one has {len(one)}")
        return one


def _wished(request: PictureRequest) -> dict[str, Any]:
    return {"text": request.text, "labels": dict(request.labels)}


def _drawn_how(request: PictureRequest) -> dict[str, Any]:
    return {"operation": "draw", **_wished(request)}


def _check_fit(tokenizer: SetTokenizer, network: CountNetworkConfig) -> None:
    if tokenizer.config.codes != network.codes:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.config.codes} codes, the network counts {network.codes}; they do not belong "
            "together"
        )
    if network.tokens not in tokenizer.config.set_sizes:
        raise CheckpointError(
            f"the network makes sets of {network.tokens} tokens, the tokenizer knows {tokenizer.config.set_sizes}"
        )
