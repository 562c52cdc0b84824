"""Pictures of sounds: level in dB over time and logarithmic frequency, as small PNGs.

Shape letters: S samples, Q frequency bins, R rows of the picture, C columns.
"""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ialcms.heatmap import LEVEL_RANGE_DB, palette

ROWS, COLUMNS = 160, 560
LOWEST_HZ = 55.0
_WINDOW_S = 0.09
_FLOOR = 1e-14  # power; keeps the logarithm of silence finite
_QUIETEST_TOP_DB = -60.0  # a sound whose peak is lower is drawn as dark as it is
_LEVELS = 40  # shades: more can hardly be distinguished, and make the file larger


def log_spectrogram(wave: NDArray[np.float32], sample_rate: int) -> NDArray[np.float64]:
    """(S,) -> (R, C) mean power in dB; row 0 is the highest frequency, rows are evenly spaced in octaves."""
    window_size = 2 ** round(math.log2(_WINDOW_S * sample_rate))
    fft_size = 4 * window_size  # finer bins for the low rows, which are narrower than a bin
    num_samples = wave.shape[0]
    per_column = math.ceil(2 * num_samples / (COLUMNS * window_size))  # frames that overlap by half, or more
    num_frames = COLUMNS * per_column
    starts = np.floor((np.arange(num_frames) + 0.5) * num_samples / num_frames).astype(np.int64)
    padded = np.pad(wave.astype(np.float64), (window_size // 2, window_size))  # frames are centred
    window = np.hanning(window_size + 1)[:-1]
    levels = np.empty((ROWS, COLUMNS))
    for first in range(0, COLUMNS, 64):  # some columns at a time, to bound memory
        columns = slice(first, first + 64)
        chosen = starts.reshape(COLUMNS, per_column)[columns].ravel()
        frames = padded[chosen[:, None] + np.arange(window_size)] * window
        power = np.abs(np.fft.rfft(frames, fft_size)) ** 2 * (2 / window.sum()) ** 2
        power = power.reshape(-1, per_column, power.shape[1]).mean(axis=1)
        levels[:, columns] = 10 * np.log10(_rows(power, sample_rate / fft_size, sample_rate / 2).T + _FLOOR)
    return levels[::-1]


def _rows(power: NDArray[np.float64], bin_hz: float, highest_hz: float) -> NDArray[np.float64]:
    """(C, Q) -> (C, R) mean power of every row's band, exact for bands narrower and wider than a bin.

    The integral of the power (bin k reaches from k - 1/2 to k + 1/2) is interpolated at the bands' edges.
    """
    integral = np.pad(np.cumsum(power, axis=1), ((0, 0), (1, 0)))
    edges = np.geomspace(LOWEST_HZ, highest_hz, ROWS + 1) / bin_hz + 0.5
    below = np.minimum(edges.astype(np.int64), power.shape[1] - 1)
    share = edges - below
    at_edges = integral[:, below] * (1 - share) + integral[:, below + 1] * share
    return np.maximum(np.diff(at_edges, axis=1) / np.diff(edges), 0.0)


def top_level(levels: NDArray[np.float64]) -> float:
    """The level in dB that gets the brightest colour, for all pictures that are to be compared with this one."""
    return max(float(levels.max()), _QUIETEST_TOP_DB)


def render(levels: NDArray[np.float64], top_db: float) -> bytes:
    """(R, C) dB -> PNG; `top_db` and above is brightest, `LEVEL_RANGE_DB` below it darkest."""
    shade = np.clip((levels - top_db) / LEVEL_RANGE_DB + 1, 0, 1) * (_LEVELS - 1)
    image = Image.fromarray(np.round(shade).astype(np.uint8))
    image.putpalette(palette(_LEVELS).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def frequency_ticks(sample_rate: int) -> list[tuple[float, str]]:
    """Positions (0 top, 1 bottom) and labels in kHz of the frequency axis."""
    highest = sample_rate / 2
    octaves = math.log2(highest / LOWEST_HZ)
    candidates = [step * decade for decade in (100, 1_000, 10_000) for step in (1, 2, 5)]
    ticks = [(math.log2(highest / hz) / octaves, f"{hz / 1000:g}") for hz in candidates if hz < 0.95 * highest]
    position, label = ticks[-1]
    return [*ticks[:-1], (position, f"{label} kHz")]


def time_ticks(seconds: float) -> list[tuple[float, str]]:
    """Positions (0 left, 1 right) and labels in seconds of the time axis: at most eight, at round times."""
    step = next(s for n in range(-3, 6) for s in (10.0**n, 2 * 10.0**n, 5 * 10.0**n) if seconds / s <= 7)
    times = [index * step for index in range(int(seconds / step + 1e-6) + 1)]
    labels = [f"{time:g}" for time in times]
    labels[-1] += " s"
    return [(time / seconds, label) for time, label in zip(times, labels)]
