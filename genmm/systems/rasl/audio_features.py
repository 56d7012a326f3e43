"""Description of sound, without weights: 64 log-mel bands and loudness, pooled to steps of one second; 196 numbers.

Sound comes in pieces of any length and is described as it comes, with memory for two seconds.
Letters: S samples, K hops.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

__all__ = ["AUDIO_SIZE", "HOP", "LOUDNESS_COLUMN", "ONSET_COLUMN", "RATE", "SILENCE_DB", "SoundDescriber"]

RATE = 16_000
"""Samples per second that are described."""
WINDOW, HOP = 400, 160
"""25 ms windows every 10 ms, in samples."""
BANDS = 64
FFT = 512
AUDIO_SIZE = 3 * BANDS + 4
"""Mean, deviation and maximum of the bands; mean and maximum of the onset strength, and of the loudness in dB."""
ONSET_COLUMN, LOUDNESS_COLUMN = 3 * BANDS, 3 * BANDS + 2
"""Columns of the mean onset strength and of the mean loudness."""
LOUDEST = 4.0
"""Samples of float files beyond this are cut."""
FLOOR_DB = -80.0
"""Anything quieter counts as this, so that silence has a finite logarithm."""
SILENCE_DB = -50.0
"""A step whose mean loudness is below this, in dB of full scale, counts as silent."""
DB_SCALE = 20.0
"""Decibels are divided by this, which brings all columns to about one size."""


class SoundDescriber:
    """Turns samples of RATE, given piece by piece from time 0 on, into one row a second."""

    def __init__(self) -> None:
        self._waiting = np.zeros(0, np.float32)
        self._arrived: list[np.ndarray] = []
        self._arrived_samples = 0
        self._hops = 0
        self._hops_of_step: list[np.ndarray] = []
        self._step = 0
        self._last_bands: np.ndarray | None = None
        self.rows: list[np.ndarray] = []
        """Finished steps, each [AUDIO_SIZE] float32."""
        self.samples = 0
        """Samples so far."""

    def push(self, samples: np.ndarray) -> None:
        """Add samples [S] float32, full scale at 1; NaN counts as silence. They are described a second at a time."""
        self.samples += len(samples)
        self._arrived.append(samples)
        self._arrived_samples += len(samples)
        if self._arrived_samples >= RATE:
            self._take_in()

    def _take_in(self) -> None:
        """Describe all whole windows of what has arrived."""
        new = np.concatenate([self._waiting, *self._arrived])
        self._waiting = np.nan_to_num(new, nan=0.0, posinf=0.0, neginf=0.0).clip(-LOUDEST, LOUDEST)
        self._arrived, self._arrived_samples = [], 0
        count = (len(self._waiting) - WINDOW) // HOP + 1
        while count > 0:
            part = min(count, 400)
            self._describe(self._waiting[: (part - 1) * HOP + WINDOW])
            self._waiting = self._waiting[part * HOP :]
            count -= part

    def finish(self) -> np.ndarray:
        """The description [T, AUDIO_SIZE] float32 of everything; T = ceil(seconds)."""
        self._take_in()
        self._describe_rest()
        self._close_step()
        return np.stack(self.rows) if self.rows else np.zeros((0, AUDIO_SIZE), np.float32)

    def _describe_rest(self) -> None:
        """Describe the last, incomplete window, filled up with silence."""
        missing = WINDOW - len(self._waiting)
        if missing > 0 and len(self._waiting) > HOP // 2:
            self._describe(np.concatenate([self._waiting, np.zeros(missing, np.float32)]))
        self._waiting = np.zeros(0, np.float32)

    def _describe(self, samples: np.ndarray) -> None:
        """Describe whole windows at once."""
        windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
        power = np.abs(np.fft.rfft(windows * _HANN, FFT, axis=1)) ** 2
        bands = _decibels((_MEL @ power.T).T)  # [K, BANDS]
        loudness = _decibels(np.mean(windows.astype(np.float64) ** 2, axis=1))
        before = bands[:1] if self._last_bands is None else self._last_bands
        onset = np.maximum(np.diff(bands, axis=0, prepend=before), 0.0).mean(1)
        self._last_bands = bands[-1:]
        rows = np.concatenate([bands, onset[:, None], loudness[:, None]], axis=1) / DB_SCALE
        centres_s = ((self._hops + np.arange(len(rows))) * HOP + WINDOW / 2) / RATE
        self._hops += len(rows)
        for row, step in zip(rows, centres_s.astype(int), strict=True):
            while step > self._step:
                self._close_step()
            self._hops_of_step.append(row)

    def _close_step(self) -> None:
        """Pool the hops of the current second."""
        if self._hops_of_step:
            hops = np.stack(self._hops_of_step)
            bands, onset, loud = hops[:, :BANDS], hops[:, BANDS], hops[:, BANDS + 1]
            few = [onset.mean(), onset.max(), loud.mean(), loud.max()]
            self.rows.append(np.concatenate([bands.mean(0), bands.std(0), bands.max(0), few]).astype(np.float32))
        self._hops_of_step = []
        self._step += 1


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10.0 * np.log10(np.maximum(power, 10.0 ** (FLOOR_DB / 10.0)))


def _mel_filters() -> np.ndarray:
    """Triangles [FFT / 2 + 1, BANDS] on the mel scale (HTK), scaled so that a sine of full scale reaches about 0 dB."""

    def mel(hz: np.ndarray | float) -> np.ndarray:
        return 2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0)

    edges = 700.0 * (10.0 ** (np.linspace(mel(40.0), mel(RATE / 2), BANDS + 2) / 2595.0) - 1.0)
    frequency = np.fft.rfftfreq(FFT, 1.0 / RATE)[:, None]
    rise = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(rise, fall))
    for band in np.flatnonzero(filters.sum(0) == 0):  # a low band between two frequencies takes the nearer one
        filters[np.abs(frequency[:, 0] - edges[band + 1]).argmin(), band] = 1.0
    return (filters / _HANN.sum() ** 2 * 4.0).astype(np.float32)


_HANN = np.hanning(WINDOW + 2)[1:-1].astype(np.float32)
_MEL = csr_array(_mel_filters().T)
"""[BANDS, FFT / 2 + 1], nearly all zeros; a dense product would wake all threads of BLAS for it."""
