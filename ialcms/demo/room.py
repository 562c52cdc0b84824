"""Where it is recorded: a clean wave -> the wave that a camera's microphone takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

from ialcms.demo.instruments import Instrument
from ialcms.demo.synthesis import SAMPLE_RATE

_LONGEST_RESPONSE_S = 2.5
_SMALLEST_SIGNAL_TO_NOISE_DB = 22.0
_PEAK = 0.98


@dataclass(frozen=True)
class EqualizerBand:
    """A peak or a dip of a frequency response."""

    centre_hz: float
    gain_db: float
    quality: float


@dataclass(frozen=True)
class Room:
    """Room, microphone and their noise: the same for all clips of a video."""

    reverberation_s: float  # until the echo is 60 dB down
    wet: float  # share of the echo
    response_seed: int
    equalizer: tuple[EqualizerBand, ...]
    highpass_hz: float
    lowpass_hz: float
    level_db: float  # RMS below full scale
    noise_db: float
    hum_hz: float  # 0: none
    drive: float  # overload of the microphone's amplifier; 0: none


def draw_room(rng: np.random.Generator, instrument: Instrument) -> Room:
    """A random room and microphone for an instrument."""
    keeps_bass = instrument.lowest < 40
    level_db = float(rng.uniform(-26, -17))
    return Room(
        reverberation_s=float(np.exp(rng.uniform(np.log(0.15), np.log(2.2)))),
        wet=float(rng.uniform(0.03, 0.38)),
        response_seed=int(rng.integers(1 << 31)),
        equalizer=tuple(
            EqualizerBand(
                float(np.exp(rng.uniform(np.log(120), np.log(4200)))),
                float(rng.normal(0, 3.5)),
                float(rng.uniform(0.6, 1.8)),
            )
            for _ in range(3)
        ),
        highpass_hz=float(rng.uniform(25, 45 if keeps_bass else 110)),
        lowpass_hz=float(rng.uniform(3600, 5400)),
        level_db=level_db,
        noise_db=min(float(rng.uniform(-62, -38)), level_db - _SMALLEST_SIGNAL_TO_NOISE_DB),
        hum_hz=float(rng.choice([0, 0, 0, 50, 60])),
        drive=float(rng.choice([0, 0, 0, 3])),
    )


def record(rng: np.random.Generator, room: Room, wave: np.ndarray) -> np.ndarray:
    """The recording, float32 within [-1, 1], as long as the wave. `rng` gives the noise of this clip."""
    echo = fftconvolve(wave, _impulse_response(room))[: len(wave)]
    recording = (1 - room.wet) * wave + 1.3 * room.wet * echo
    for band in room.equalizer:
        recording = _equalize(recording, band)
    recording = sosfilt(butter(2, room.highpass_hz, "highpass", fs=SAMPLE_RATE, output="sos"), recording)
    recording = sosfilt(butter(2, room.lowpass_hz, "lowpass", fs=SAMPLE_RATE, output="sos"), recording)
    recording *= _amplitude(room.level_db) / (np.sqrt(np.mean(recording**2)) + 1e-9)
    noise = lfilter([1.0], [1.0, -0.85], rng.normal(size=len(wave)))  # more bass than treble
    recording += noise * (_amplitude(room.noise_db) / noise.std())
    if room.hum_hz:  # hum is loudest at twice the mains frequency
        t = np.arange(len(wave)) / SAMPLE_RATE
        recording += _amplitude(room.noise_db) * np.sin(2 * np.pi * 2 * room.hum_hz * t)
    if room.drive:
        recording = np.tanh(recording * room.drive) / room.drive
    peak = np.abs(recording).max()
    return (recording * min(1.0, _PEAK / (peak + 1e-9))).astype(np.float32)


def _amplitude(level_db: float) -> float:
    return float(10 ** (level_db / 20))


def _impulse_response(room: Room) -> np.ndarray:
    """Decaying noise of unit energy; treble dies away sooner than bass."""
    rng = np.random.default_rng(room.response_seed)
    num_samples = int(min(_LONGEST_RESPONSE_S, 1.1 * room.reverberation_s) * SAMPLE_RATE)
    decay = np.exp(-6.9 * np.arange(num_samples) / SAMPLE_RATE / room.reverberation_s)  # 60 dB = exp(6.9)
    response = rng.normal(size=num_samples) * decay
    treble = sosfilt(butter(1, 2000, "highpass", fs=SAMPLE_RATE, output="sos"), response)
    response -= treble * (1 - decay**0.8)
    response[: int(0.004 * SAMPLE_RATE)] = 0  # the direct sound is not part of the echo
    return response / np.sqrt(np.sum(response**2))


def _equalize(wave: np.ndarray, band: EqualizerBand) -> np.ndarray:
    """A peaking biquad filter (R. Bristow-Johnson's audio equalizer cookbook)."""
    root_gain = 10 ** (band.gain_db / 40)
    omega = 2 * np.pi * band.centre_hz / SAMPLE_RATE
    alpha = np.sin(omega) / (2 * band.quality)
    numerator = np.array([1 + alpha * root_gain, -2 * np.cos(omega), 1 - alpha * root_gain])
    denominator = np.array([1 + alpha / root_gain, -2 * np.cos(omega), 1 - alpha / root_gain])
    return lfilter(numerator, denominator, wave)
