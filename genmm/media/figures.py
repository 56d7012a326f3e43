"""Pictures of sound for pages, logs and reports: waveform and log-mel spectrogram as [H, W, 3] uint8.

Drawn with matplotlib's Agg canvas and its object interface only, so that many threads can draw at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from genmm.core.errors import UsageError
from genmm.media.audio_write import as_samples
from genmm.media.channels import downmix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Theme", "log_mel", "mel_filters", "mel_picture", "sound_picture", "waveform_picture"]

DPI = 100
MEL_BANDS = 80
WINDOW_S = 0.046
"""Length of a spectrum's window: 1024 samples at 22.05 kHz."""
HOP_S = 0.01
WINDOWS_AT_A_TIME = 256
DYNAMICS_DB = 80.0
"""Quieter than this below the loudest is drawn as silence."""


@dataclass(frozen=True)
class Theme:
    """Colours of a picture."""

    page: str
    text: str
    line: str
    wave: str
    colormap: str


LIGHT = Theme(page="#ffffff", text="#334155", line="#cbd5e1", wave="#2563eb", colormap="magma")
DARK = Theme(page="#0f172a", text="#cbd5e1", line="#334155", wave="#60a5fa", colormap="magma")


def sound_picture(
    samples: Any, sample_rate: int, *, width: int = 960, height: int = 420, dark: bool = False, title: str = ""
) -> np.ndarray:
    """Waveform above log-mel spectrogram on one time axis, [height, width, 3] uint8.

    Shapes: samples [S] or [C, S], array or tensor (several channels are mixed to one). Raises: ShapeError; MediaError
    for NaN; UsageError for sizes outside 120 to 8000 pixels or a rate below 1 Hz.
    """
    figure, theme = _figure(width, height, dark)
    signal = _mono(samples, sample_rate)
    wave, mel = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (1, 1.6)})
    _draw_wave(wave, signal, sample_rate, theme, width)
    _draw_mel(mel, signal, sample_rate, theme, width)
    return _rendered(figure, (wave, mel), theme, title)


def waveform_picture(
    samples: Any, sample_rate: int, *, width: int = 960, height: int = 180, dark: bool = False, title: str = ""
) -> np.ndarray:
    """The waveform alone; as `sound_picture`."""
    figure, theme = _figure(width, height, dark)
    axes = figure.subplots()
    _draw_wave(axes, _mono(samples, sample_rate), sample_rate, theme, width)
    return _rendered(figure, (axes,), theme, title)


def mel_picture(
    samples: Any, sample_rate: int, *, width: int = 960, height: int = 260, dark: bool = False, title: str = ""
) -> np.ndarray:
    """The log-mel spectrogram alone; as `sound_picture`."""
    figure, theme = _figure(width, height, dark)
    axes = figure.subplots()
    _draw_mel(axes, _mono(samples, sample_rate), sample_rate, theme, width)
    return _rendered(figure, (axes,), theme, title)


def log_mel(signal: np.ndarray, sample_rate: int, *, columns: int, bands: int = MEL_BANDS) -> np.ndarray:
    """Log-mel levels [bands, T] in dB below the loudest, from -80 to 0, with T about min(columns, 1 per 10 ms).

    Shapes: signal [S] float32. Silence gives -80 throughout.
    """
    size = max(64, 2 ** round(np.log2(max(1.0, WINDOW_S * sample_rate))))
    hop = max(1, round(HOP_S * sample_rate), len(signal) // columns)
    padded = np.pad(signal, (size // 2, size // 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]  # [T, size], a view
    shape = np.hanning(size).astype(np.float32)
    filters = mel_filters(size // 2 + 1, sample_rate, min(bands, size // 8))  # [size / 2 + 1, bands]
    parts = [
        np.square(np.abs(np.fft.rfft(windows[start : start + WINDOWS_AT_A_TIME] * shape))) @ filters
        for start in range(0, len(windows), WINDOWS_AT_A_TIME)
    ]
    mel = np.concatenate(parts).T  # [bands, T]
    loudest = float(mel.max())
    if loudest <= 0.0:
        return np.full(mel.shape, -DYNAMICS_DB, np.float32)
    levels = 10.0 * np.log10(np.maximum(mel / loudest, 10 ** (-DYNAMICS_DB / 10)))
    return levels.clip(-DYNAMICS_DB, 0.0).astype(np.float32)


def mel_filters(bins: int, sample_rate: int, bands: int) -> np.ndarray:
    """Triangles of equal width on the HTK mel scale from 0 Hz to half the rate, peak 1: [bins, bands] float32."""
    corners = 700.0 * (10 ** (np.linspace(0.0, _mel(sample_rate / 2), bands + 2) / 2595.0) - 1.0)  # Hz
    hertz = np.linspace(0.0, sample_rate / 2, bins)[:, None]
    rising = (hertz - corners[:-2]) / np.diff(corners)[:-1]
    falling = (corners[2:] - hertz) / np.diff(corners)[1:]
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def _mono(samples: Any, sample_rate: int) -> np.ndarray:
    if sample_rate < 1:
        raise UsageError(f"sample_rate must be at least 1 Hz, got {sample_rate!r}")
    return downmix(as_samples(samples), 1)[0]


def _figure(width: int, height: int, dark: bool) -> tuple[Figure, Theme]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not (120 <= width <= 8000 and 120 <= height <= 8000):
        raise UsageError(f"pictures are 120 to 8000 pixels a side, got {width}x{height}")
    theme = DARK if dark else LIGHT
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=theme.page, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, theme


def _draw_wave(axes: Axes, signal: np.ndarray, rate: int, theme: Theme, width: int) -> None:
    columns = min(len(signal), 2 * width)
    starts = np.arange(columns) * len(signal) // columns
    low, high = np.minimum.reduceat(signal, starts), np.maximum.reduceat(signal, starts)
    time_s = starts / rate
    axes.fill_between(time_s, low, high, color=theme.wave, linewidth=0.6, edgecolor=theme.wave)
    reach = max(float(np.abs(signal).max()), 1e-3) * 1.05
    axes.set_ylim(-reach, reach)
    axes.set_xlim(0.0, len(signal) / rate)
    axes.set_ylabel("amplitude")


def _draw_mel(axes: Axes, signal: np.ndarray, rate: int, theme: Theme, width: int) -> None:
    levels = log_mel(signal, rate, columns=2 * width)
    seconds = len(signal) / rate
    top_mel = _mel(rate / 2)
    axes.imshow(
        levels,
        origin="lower",
        aspect="auto",
        extent=(0.0, seconds, 0.0, top_mel),
        cmap=theme.colormap,
        vmin=-DYNAMICS_DB,
        vmax=0.0,
        interpolation="nearest",
    )
    ticks = [hertz for hertz in (0, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000) if hertz <= rate / 2]
    axes.set_yticks([_mel(hertz) for hertz in ticks], [f"{hertz / 1000:g}" for hertz in ticks])
    axes.set_xlim(0.0, seconds)
    axes.set_ylabel("kHz")


def _mel(hertz: float) -> float:
    """The HTK mel scale, which the filters use too."""
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))


def _rendered(figure: Figure, all_axes: tuple[Axes, ...], theme: Theme, title: str) -> np.ndarray:
    for axes in all_axes:
        axes.set_facecolor(theme.page)
        axes.tick_params(colors=theme.text, labelsize=8, length=3)
        axes.yaxis.label.set_color(theme.text)
        axes.yaxis.label.set_fontsize(8)
        for spine in axes.spines.values():
            spine.set_color(theme.line)
    all_axes[-1].set_xlabel("seconds", color=theme.text, fontsize=8)
    if title:
        all_axes[0].set_title(title, color=theme.text, fontsize=9, loc="left", parse_math=False)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
