"""Highlights of any video: the object that the page, the command line, the batch runner and scripts all call."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from genmm.core.checkpoint import load_into, load_tensors, save_checkpoint
from genmm.core.devices import choose_device, choose_dtype
from genmm.core.errors import CheckpointError, UsageError
from genmm.core.events import CancelToken, Event, Finished, Progress, drain
from genmm.core.limits import LONG_FOOTAGE, Limits
from genmm.core.pipelines import CheckpointPipeline
from genmm.media.source import MediaInput
from genmm.systems.rasl.config import RaslConfig
from genmm.systems.rasl.extraction import extraction_events
from genmm.systems.rasl.extractors import HANDCRAFTED, VisualExtractor
from genmm.systems.rasl.feature_table import FeatureTable
from genmm.systems.rasl.network import RaslNetwork
from genmm.systems.rasl.request import HighlightSettings
from genmm.systems.rasl.result import HighlightResult
from genmm.systems.rasl.scoring import heuristic_scores, model_scores, score_curves
from genmm.systems.rasl.segments import choose_segments

__all__ = ["RaslPipeline"]


class RaslPipeline(CheckpointPipeline):
    """Highlight detection with one checkpoint, or without any. Several threads may use one pipeline."""

    system = "rasl"
    title = "RASL"

    def __init__(
        self,
        network: RaslNetwork | None,
        *,
        defaults: HighlightSettings | None = None,
        scorer: str = "model",
        extractor: VisualExtractor = HANDCRAFTED,
        name: str = "rasl",
        folder: Path | None = None,
        about: Mapping[str, Any] | None = None,
        limits: Limits = LONG_FOOTAGE,
    ) -> None:
        """Put the parts together; `scorer` is what "auto" means for this checkpoint.

        Raises: CheckpointError when the network takes other features than the extractor gives.
        """
        if scorer not in ("model", "heuristic"):
            raise CheckpointError(f"the default scorer of a checkpoint is model or heuristic, got {scorer!r}")
        if network is not None and network.config.visual_size != extractor.size:
            raise CheckpointError(
                f"this model reads {network.config.visual_size} visual features, the extractor {extractor.name} gives "
                f"{extractor.size}; pass the extractor that the model was trained with"
            )
        super().__init__(name=name, folder=folder, about=about, limits=limits)
        self.network, self.scorer, self.extractor = network, scorer if network is not None else "heuristic", extractor
        self.defaults = defaults or HighlightSettings()

    # ------------------------------------------------------------ folders and devices

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "float32",
        extractor: VisualExtractor = HANDCRAFTED,
    ) -> RaslPipeline:
        """Load a checkpoint folder. Raises: CheckpointError or ConfigError when something in it does not fit."""
        folder = Path(folder)
        config = cls._read_config(folder)
        if config.get("extractor", extractor.name) != extractor.name:
            raise CheckpointError(
                f"{folder} was trained on features of {config['extractor']!r}, not {extractor.name}; pass its extractor"
            )
        network = RaslNetwork(RaslConfig.from_dict(config.get("network"))).eval().requires_grad_(False)
        load_into(network, load_tensors(folder))
        pipeline = cls(
            network,
            defaults=HighlightSettings.from_dict(config.get("defaults", {})),
            scorer=config.get("scorer", "model"),
            extractor=extractor,
            **cls._identity(folder, config),
        )
        return pipeline.to(device, dtype)

    @classmethod
    def heuristic(cls, *, limits: Limits = LONG_FOOTAGE) -> RaslPipeline:
        """A pipeline without a model: movement, typicality, loudness, onsets and position."""
        return cls(None, scorer="heuristic", name="heuristic", limits=limits)

    def to(self, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None) -> RaslPipeline:
        """Move to a device, in place; the network stays float32, in which it is fast enough everywhere."""
        if self.network is not None:
            place = self.device if device is None else choose_device(device)
            if dtype is not None and dtype != "auto":
                choose_dtype(dtype, place)  # says what is wrong with an impossible one
            self.network.to(place, torch.float32)
        return self

    def save(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
        """Write a checkpoint folder. Raises: UsageError for a pipeline without a model."""
        if self.network is None:
            raise UsageError("the heuristic preset has no weights to save")
        config = {
            "system": self.system,
            "network": self.network.config.to_dict(),
            "extractor": self.extractor.name,
            "scorer": self.scorer,
            "defaults": {k: v for k, v in dataclasses.asdict(self.defaults).items() if v is not None},
            **self.about,
        }
        return save_checkpoint(folder, config, self.network.state_dict(), dtype=dtype, extra_files=self._card())

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.network.parameters()).device if self.network is not None else torch.device("cpu")

    def _parts(self) -> Iterable[torch.nn.Module]:
        return [] if self.network is None else [self.network]

    def _facts(self) -> dict[str, Any]:
        return {"scorer": self.scorer, "features": self.extractor.name}

    # ------------------------------------------------------------ highlights

    def highlights(
        self,
        video: MediaInput,
        *,
        seconds: float | None = None,
        share: float | None = None,
        count: int | None = None,
        modality: str | None = None,
        scorer: str | None = None,
        settings: HighlightSettings | Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        cancel: CancelToken | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> HighlightResult:
        """Find the highlights of a video or a sound file. See `HighlightSettings` for the arguments.

        Raises: UsageError for settings that are not allowed; MediaError for what cannot be read; LimitError past the
        limits; Cancelled within about a second of footage after `cancel` was asked to.
        """
        events = self.events(
            video,
            seconds=seconds,
            share=share,
            count=count,
            modality=modality,
            scorer=scorer,
            settings=settings,
            limits=limits,
            cancel=cancel,
        )
        return drain(events, on_event)

    generate = highlights

    def events(
        self,
        video: MediaInput,
        *,
        seconds: float | None = None,
        share: float | None = None,
        count: int | None = None,
        modality: str | None = None,
        scorer: str | None = None,
        settings: HighlightSettings | Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        cancel: CancelToken | None = None,
    ) -> Iterator[Event]:
        """The same, as events: Progress while the video is read, at last Finished with the result."""
        given = {"seconds": seconds, "share": share, "count": count, "modality": modality, "scorer": scorer}
        chosen = self.settings(settings, {name: value for name, value in given.items() if value is not None})
        started = time.perf_counter()
        table: FeatureTable | None = None
        limits = limits or self.limits
        for event in extraction_events(video, extractor=self.extractor, limits=limits, cancel=cancel):
            if isinstance(event, Finished):
                table = event.result
            else:
                yield event
        read_s = time.perf_counter() - started
        assert table is not None
        yield Progress(int(table.duration_s), int(table.duration_s), "seconds", "choosing the best moments")
        yield Finished(self.score(table, chosen, media=video, limits=limits, timings={"reading_s": read_s}))

    def score(
        self,
        table: FeatureTable,
        settings: HighlightSettings | Mapping[str, Any] | None = None,
        *,
        media: MediaInput | None = None,
        limits: Limits | None = None,
        timings: Mapping[str, float] | None = None,
    ) -> HighlightResult:
        """The highlights of a video whose features are known, such as again with other settings; takes milliseconds."""
        chosen = self.settings(settings, {})
        started = time.perf_counter()
        scorer = self.scorer if chosen.scorer == "auto" else chosen.scorer
        curves = score_curves(
            table,
            chosen.modality,
            self._scorer(scorer, chosen.position),
            clip_s=chosen.clip_s,
            audio_weight=chosen.audio_weight,
        )
        segments = choose_segments(curves.times_s, curves.scores, table.cuts_s, chosen.budget())
        notes = [*table.notes, *curves.notes]
        if chosen.seconds is not None and chosen.seconds > table.duration_s + 0.05:
            notes.append(f"the video is shorter than the {chosen.seconds:g} s to keep, so all of it is kept")
        return HighlightResult(
            settings={**dataclasses.asdict(chosen), "scorer": scorer},
            seeds=(),
            model=self.model,
            timings={**(timings or {}), "scoring_s": time.perf_counter() - started},
            notes=tuple(notes),
            source=table.source,
            duration_s=table.duration_s,
            info=dict(table.info or {}),
            times_s=curves.times_s,
            scores=curves.scores,
            raw=curves.raw,
            curves=curves.curves,
            segments=segments,
            cuts_s=table.cuts_s,
            media=media,
            limits=limits or self.limits,
        )

    def settings(
        self, settings: HighlightSettings | Mapping[str, Any] | None, changes: Mapping[str, Any]
    ) -> HighlightSettings:
        """The settings that a request means: the checkpoint's defaults, changed."""
        base = settings if isinstance(settings, HighlightSettings) else self.defaults.changed(settings or {})
        return base.changed(changes)

    def _scorer(self, name: str, position: float) -> Callable[[FeatureTable], dict[str, Any]]:
        if name == "heuristic":
            return lambda table: heuristic_scores(table, position)
        if self.network is None:
            raise UsageError("this pipeline has no model; use scorer='heuristic', or load a checkpoint")
        network, device = self.network, self.device
        return lambda table: model_scores(network, table, device)
