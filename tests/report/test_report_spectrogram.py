"""Spectrograms: the right row, column, level and colour."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ialcms.heatmap import LEVEL_RANGE_DB, palette
from ialcms.report.figures import decibels, instrument_label, readable
from ialcms.report.media import playback_gain
from ialcms.report.spectrogram import (
    COLUMNS,
    LOWEST_HZ,
    ROWS,
    frequency_ticks,
    log_spectrogram,
    render,
    time_ticks,
    top_level,
)

SAMPLE_RATE = 11_025


def sine(hz: float, seconds: float = 2.0, amplitude: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (amplitude * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def row_of(hz: float) -> int:
    octaves = np.log2(SAMPLE_RATE / 2 / LOWEST_HZ)
    return int(np.log2(SAMPLE_RATE / 2 / hz) / octaves * ROWS)


@pytest.mark.parametrize("hz", [82.0, 440.0, 1_000.0, 4_500.0])
def test_a_tone_lies_in_the_row_of_its_frequency(hz):
    levels = log_spectrogram(sine(hz), SAMPLE_RATE)
    assert levels.shape == (ROWS, COLUMNS)
    loudest = levels[:, COLUMNS // 4 : -COLUMNS // 4].mean(axis=1).argmax()
    assert abs(int(loudest) - row_of(hz)) <= 1


def test_ticks_lie_where_the_tones_are():
    for position, label in frequency_ticks(SAMPLE_RATE):
        hz = 1000 * float(label.removesuffix(" kHz"))
        assert int(position * ROWS) == pytest.approx(row_of(hz), abs=1)
    assert frequency_ticks(SAMPLE_RATE)[-1][1] == "5 kHz"
    assert time_ticks(10.0) == [(t / 10, str(t) if t < 10 else "10 s") for t in (0, 2, 4, 6, 8, 10)]
    assert time_ticks(0.5)[-1] == (1.0, "0.5 s")


@pytest.mark.parametrize("seconds", [0.01, 2.0, 90.0])
def test_a_sound_lies_in_the_columns_of_its_time_whatever_its_length(seconds):
    wave = sine(1_000.0, seconds)
    wave[: wave.size // 2] = 0
    levels = log_spectrogram(wave, SAMPLE_RATE)
    blur = int(np.ceil(0.1 / seconds * COLUMNS))
    if blur < COLUMNS // 4:
        assert levels[:, : COLUMNS // 2 - blur].max() < -100
    assert levels[:, 3 * COLUMNS // 4].max() > -50


def test_halving_the_sound_takes_six_decibels_from_every_level():
    loud, quiet = (log_spectrogram(sine(440, amplitude=a), SAMPLE_RATE).max() for a in (0.5, 0.25))
    assert loud - quiet == pytest.approx(6.02, abs=0.01)


def test_the_picture_spans_the_range_below_its_top():
    levels = np.full((ROWS, COLUMNS), -20.0)
    levels[0, 0] = -20.0 - LEVEL_RANGE_DB / 2
    levels[1, 1] = -200.0
    image = Image.open(io.BytesIO(render(levels, top_db=-20.0))).convert("RGB")
    colours = palette(40).tolist()
    assert image.size == (COLUMNS, ROWS)
    assert list(image.getpixel((9, 9))) == colours[-1]
    assert list(image.getpixel((0, 0))) in (colours[19], colours[20])
    assert list(image.getpixel((1, 1))) == colours[0]


def test_silence_is_dark():
    levels = log_spectrogram(np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE)
    image = Image.open(io.BytesIO(render(levels, top_level(levels)))).convert("RGB")
    assert image.getextrema() == tuple((c, c) for c in palette(40)[0].tolist())


def test_lightness_of_the_colours_rises_evenly():
    encoded = palette(256) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    lightness = 116 * np.cbrt(luminance) - 16  # CIE L*, another measure than the one that made the colours
    steps = np.diff(lightness[16::8])
    assert (steps > 1.5).all()
    assert (steps < 5.0).all()


def test_the_gain_is_set_by_the_loudest_sound_but_not_by_an_explosion():
    quiet, loud = np.array([0.1, -0.3], np.float32), np.array([0.6], np.float32)
    assert playback_gain([quiet], [quiet]) == pytest.approx(3.0)
    assert playback_gain([quiet], [loud]) == pytest.approx(1.5)
    assert playback_gain([quiet], [1000 * loud]) == pytest.approx(0.9 / 1.2)
    assert playback_gain([quiet], [np.array([np.nan, np.inf], np.float32)]) == pytest.approx(3.0)
    assert playback_gain([0 * quiet], [quiet]) == 1.0
    assert playback_gain([1e-3 * quiet], [1e-3 * quiet]) == 10.0


def test_numbers_are_readable():
    values = ["<text>", 3, 12345, 10.234, -0.5, 0.0, 2e-4, float("nan"), float("-inf")]
    expected = ["<text>", "3", "12,345", "10.23", "−0.50", "0.00", "0.0002", "not a number", "−∞"]
    assert [readable(value) for value in values] == expected
    assert (decibels(3.14, True), decibels(-0.44, True), decibels(9.96)) == ("+3.1", "−0.4", "10.0")


def test_zero_has_no_sign():
    assert [decibels(value, True) for value in (-0.04, 0.04, 0.0, -0.06)] == ["0.0", "0.0", "0.0", "−0.1"]
    assert (decibels(-0.01), readable(-0.0), readable(-1e-9)) == ("0.0", "0.00", "−1e−09")


def test_names_of_instruments_have_no_underscores():
    names = ("acoustic_guitar", "violin", "_", "__x_")
    assert list(map(instrument_label, names)) == ["acoustic guitar", "violin", "_", "x"]
