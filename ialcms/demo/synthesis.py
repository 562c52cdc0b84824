"""How it sounds: notes -> a clean wave.

Sustained notes read a cycle that is summed up from harmonics once a note (a wavetable), plucked and struck ones are
decaying partials. Harmonics end below the Nyquist frequency, so the sound is made at its final sample rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, sosfilt

from ialcms.demo.instruments import Family, Instrument
from ialcms.demo.music import Note

SAMPLE_RATE = 11_025
_HIGHEST_HZ = 0.47 * SAMPLE_RATE
_MAX_HARMONICS = 40
_TABLE_SIZE = 2_048
_PARTIAL_BLOCK = 256  # samples


@dataclass(frozen=True)
class Formant:
    """A resonance of a body, at the same frequency for all tones."""

    centre_hz: float
    width_octaves: float
    gain: float


@dataclass(frozen=True)
class SustainedTimbre:
    """Winds, bowed strings and reeds. Harmonic k has the amplitude formants(k f0) / k ** tilt."""

    tilt: float
    formants: tuple[Formant, ...]
    attack_s: float
    breath: float  # noise against tone
    even_harmonics: float = 1.0  # their weight in the low register; a clarinet's closed tube has nearly none
    brassiness: float = 0.0  # how much later high harmonics speak


_SUSTAINED: dict[str, SustainedTimbre] = {
    "clarinet": SustainedTimbre(
        1.0, (Formant(1500, 0.5, 0.5), Formant(350, 1.0, 0.7)), 0.03, breath=0.012, even_harmonics=0.14
    ),
    "saxophone": SustainedTimbre(
        0.75,
        (Formant(700, 0.6, 1.0), Formant(1900, 0.5, 0.7), Formant(3200, 0.4, 0.3)),
        0.035,
        breath=0.03,
        brassiness=0.5,
    ),
    "violin": SustainedTimbre(
        0.8, (Formant(460, 0.35, 0.8), Formant(1000, 0.4, 0.7), Formant(2700, 0.55, 0.9)), 0.06, breath=0.012
    ),
    "flute": SustainedTimbre(2.1, (Formant(700, 1.2, 1.0),), 0.05, breath=0.06, even_harmonics=0.8),
    "cello": SustainedTimbre(
        0.85, (Formant(230, 0.5, 1.0), Formant(600, 0.5, 0.8), Formant(1500, 0.5, 0.5)), 0.07, breath=0.012
    ),
    "trumpet": SustainedTimbre(
        0.45, (Formant(1200, 0.7, 1.0), Formant(2300, 0.6, 0.7)), 0.025, breath=0.006, brassiness=1.0
    ),
    "tuba": SustainedTimbre(1.1, (Formant(240, 0.8, 1.0), Formant(500, 0.5, 0.4)), 0.05, breath=0.008, brassiness=0.7),
    "accordion": SustainedTimbre(0.55, (Formant(900, 1.2, 0.8), Formant(2600, 0.8, 0.6)), 0.03, breath=0.004),
    "erhu": SustainedTimbre(
        0.55, (Formant(850, 0.35, 1.2), Formant(1500, 0.3, 0.6), Formant(3000, 0.35, 0.9)), 0.05, breath=0.02
    ),
}
_SOUNDING_WITHOUT_FORMANTS = 0.12
_GUITAR_BODY = (Formant(110, 0.5, 1.0), Formant(220, 0.4, 0.8))


@dataclass(frozen=True, eq=False)
class _Bar:
    """Partials of a struck bar, the fundamental first."""

    ratios: np.ndarray  # to the fundamental
    amplitudes: np.ndarray
    decays_s: np.ndarray


_XYLOPHONE_BAR = _Bar(np.array([1, 3, 6.1, 8.9]), np.array([1, 0.45, 0.2, 0.08]), np.array([0.28, 0.12, 0.06, 0.03]))
_MARIMBA_BAR = _Bar(np.array([1, 4, 9.9]), np.array([1, 0.25, 0.08]), np.array([0.5, 0.12, 0.04]))


@dataclass(frozen=True)
class Voice:
    """What sets the instrument of one video apart from others of its kind."""

    tuning_cents: float
    formant_ratio: float  # size of the body: above 1 is smaller
    brightness: float  # standard score
    formant_gains: tuple[float, float, float]  # factors
    breath: float  # factor of the timbre's noise
    extra_attack_s: float
    vibrato_hz: float
    reed_detune_cents: float  # accordion: its reeds beat
    pluck_position: float  # guitar: fraction of the string
    ring: float  # guitar and xylophone: factor of the time that partials last
    hardness: float  # guitar and xylophone: of pick or mallet, 0 .. 1
    is_marimba: bool  # xylophone: softer bars, other overtones


def draw_voice(rng: np.random.Generator) -> Voice:
    """A single instrument with its own tuning and tone, drawn at random."""
    return Voice(
        tuning_cents=float(rng.normal(0, 14)),
        formant_ratio=float(2 ** (rng.uniform(-1.3, 1.3) / 12)),
        brightness=float(rng.normal()),
        formant_gains=tuple(10 ** (rng.normal(0, 2, 3) / 20)),
        breath=float(2 ** rng.uniform(-1, 1)),
        extra_attack_s=float(rng.uniform(0.003, 0.027)),
        vibrato_hz=float(rng.uniform(4.6, 6.8)),
        reed_detune_cents=float(rng.uniform(3, 14)),
        pluck_position=float(rng.uniform(0.1, 0.35)),
        ring=float(2 ** rng.uniform(-0.6, 0.6)),
        hardness=float(rng.random()),
        is_marimba=bool(rng.random() < 0.3),
    )


def synthesize(
    rng: np.random.Generator, instrument: Instrument, voice: Voice, notes: list[Note], duration_s: float
) -> np.ndarray:
    """Float wave of `duration_s` at SAMPLE_RATE, of any level; silent where nothing is played.

    rng: of noise and phases. notes: that `instrument` plays. voice: of this specimen.
    """
    num_samples = round(duration_s * SAMPLE_RATE)
    wave = np.zeros(num_samples)
    for note in notes:
        sound = _sound_of(rng, instrument, voice, note=note)
        start = round(note.start_s * SAMPLE_RATE)
        sound = sound[max(0, -start) :][: num_samples - max(0, start)]
        wave[max(0, start) : max(0, start) + len(sound)] += sound
    if instrument.family in (Family.WIND, Family.BOWED, Family.BELLOWS):
        wave *= _swell(rng, duration_s, num_samples)
    return wave


def _sound_of(rng: np.random.Generator, instrument: Instrument, voice: Voice, note: Note) -> np.ndarray:
    """Wave of one `note` by `instrument`, with the `voice` of this specimen; rng: of noise and phases."""
    f0 = 440.0 * 2 ** ((note.pitch - 69 + voice.tuning_cents / 100) / 12)
    brightness = 1.2 * note.velocity - 0.6 + 0.6 * voice.brightness
    struck = instrument.family in (Family.GUITAR, Family.MALLET)
    release_s = 0.25 if struck else 0.07
    t = np.arange(int((note.duration_s + release_s) * SAMPLE_RATE)) / SAMPLE_RATE
    if instrument.family is Family.GUITAR:
        sound = _plucked(rng, voice, f0, brightness=brightness, t=t)
    elif instrument.family is Family.MALLET:
        sound = _struck(rng, voice, f0, brightness=brightness, t=t)
    else:
        sound = _sustained(rng, _SUSTAINED[instrument.name], voice, note=note, f0=f0, brightness=brightness, t=t)
        if instrument.family is Family.BELLOWS:
            for detune in (-voice.reed_detune_cents, voice.reed_detune_cents):
                reed_f0 = f0 * 2 ** (detune / 1200)
                sound += _sustained(
                    rng, _SUSTAINED[instrument.name], voice, note=note, f0=reed_f0, brightness=brightness, t=t
                )
    num_release = min(len(t), int(release_s * SAMPLE_RATE))
    sound[len(t) - num_release :] *= np.linspace(1, 0, num_release)
    register_gain = 0.4 + 0.6 * min(1.0, f0 / 300) ** -0.2
    return sound * (note.velocity**1.5 * register_gain / (np.abs(sound).max() + 1e-9))


def _swell(rng: np.random.Generator, duration_s: float, num_samples: int) -> np.ndarray:
    """Slow dynamics of breath, bow or bellows."""
    knots_s = np.arange(0, duration_s + 1.2, 1.2)
    gains = rng.uniform(0.55, 1.1, len(knots_s))
    return np.interp(np.arange(num_samples) / SAMPLE_RATE, knots_s, gains)


# ---------------------------------------------------------------- sustained notes


def _resonance(frequencies_hz: np.ndarray, formants: tuple[Formant, ...], voice: Voice) -> np.ndarray:
    """How much the formants of this voice add to the flat response."""
    response = np.zeros(len(frequencies_hz))
    for formant, gain in zip(formants, voice.formant_gains):
        octaves = np.log2(frequencies_hz / (formant.centre_hz * voice.formant_ratio))
        response += gain * formant.gain * np.exp(-0.5 * (octaves / formant.width_octaves) ** 2)
    return response


def _sustained(  # noqa: PLR0913 - all that makes up a tone
    rng: np.random.Generator,
    timbre: SustainedTimbre,
    voice: Voice,
    note: Note,
    f0: float,
    brightness: float,
    t: np.ndarray,
) -> np.ndarray:
    """A blown or bowed tone over the times `t`, in seconds.

    timbre: of the instrument. voice: of this specimen. f0: Hz. brightness: how strong high harmonics are.
    """
    harmonics = np.arange(1, max(1, min(_MAX_HARMONICS, int(_HIGHEST_HZ / f0))) + 1)
    full = _SOUNDING_WITHOUT_FORMANTS + _resonance(harmonics * f0, timbre.formants, voice)
    full /= harmonics ** (timbre.tilt - 0.3 * brightness)
    even_weight = timbre.even_harmonics + (1 - timbre.even_harmonics) * min(1.0, f0 / 900)
    full[1::2] *= even_weight

    phase = np.cumsum(_pitch_contour(rng, voice, note, f0=f0, t=t)) / SAMPLE_RATE + rng.random()
    attack_s = (timbre.attack_s + voice.extra_attack_s) / 2.2
    tone = _read_table(_cycle(full), phase)
    if timbre.brassiness:  # high harmonics come in behind the low ones
        mellow = _read_table(_cycle(full / harmonics**timbre.brassiness), phase)
        tone = mellow + (tone - mellow) * (1 - np.exp(-t / (3 * attack_s)))
    tone *= 1 - np.exp(-t / attack_s)

    band_hz = [np.clip(0.8 * f0, 30, 4000), np.clip(6 * f0, 60, 0.47 * SAMPLE_RATE)]
    breath = sosfilt(butter(2, band_hz, "bandpass", fs=SAMPLE_RATE, output="sos"), rng.normal(size=len(t)))
    tone += breath * (0.7 * voice.breath * timbre.breath * np.abs(tone).max() / (breath.std() + 1e-9))
    if note.vibrato_cents:
        tone *= 1 + 0.08 * np.sin(2 * np.pi * voice.vibrato_hz * t)
    return tone * (1 - 0.1 * t / t[-1])


def _pitch_contour(rng: np.random.Generator, voice: Voice, note: Note, f0: float, t: np.ndarray) -> np.ndarray:
    """Frequency in Hz over time: slide into the note, delayed vibrato, the unsteadiness of a living player.

    voice: for vibrato and unsteadiness. f0: Hz that the `note` stands for. t: seconds.
    """
    vibrato = np.clip((t - 0.12) / 0.25, 0, 1) * np.sin(2 * np.pi * (voice.vibrato_hz * t + rng.random()))
    slide_s = np.clip(0.4 * note.duration_s, 0.06, 0.16)
    cents = note.vibrato_cents * vibrato + 100 * note.slide_semitones * np.clip(1 - t / slide_s, 0, 1) ** 1.5
    knots_s = np.arange(0, t[-1] + 0.2, 0.1)
    cents += np.interp(t, knots_s, rng.normal(0, 2, len(knots_s)))
    return f0 * 2 ** (cents / 1200)


def _cycle(amplitudes: np.ndarray) -> np.ndarray:
    """One period of the sum of sines, with its first sample repeated at the end."""
    spectrum = np.zeros(_TABLE_SIZE // 2 + 1, complex)
    spectrum[1 : len(amplitudes) + 1] = -0.5j * _TABLE_SIZE * amplitudes
    cycle = np.fft.irfft(spectrum)
    return np.append(cycle, cycle[0])


def _read_table(cycle: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Values at `phase`, in periods, linearly interpolated."""
    position = (phase % 1.0) * _TABLE_SIZE
    index = position.astype(np.intp)
    return cycle[index] + (position - index) * (cycle[index + 1] - cycle[index])


# ---------------------------------------------------------------- plucked and struck notes


def _plucked(rng: np.random.Generator, voice: Voice, f0: float, brightness: float, t: np.ndarray) -> np.ndarray:
    """A steel string: slightly stretched partials, the higher the shorter; a node where it is plucked.

    f0: Hz. brightness: how strong high partials are. t: seconds. voice: of this specimen.
    """
    k = np.arange(1, 26)
    frequencies_hz = f0 * k * np.sqrt(1 + 6e-5 * k**2)
    k, frequencies_hz = k[frequencies_hz < _HIGHEST_HZ], frequencies_hz[frequencies_hz < _HIGHEST_HZ]
    amplitudes = np.abs(np.sin(np.pi * k * voice.pluck_position)) / k ** (1.1 - 0.25 * brightness)
    amplitudes *= 1 + _resonance(frequencies_hz, _GUITAR_BODY, voice)
    decays_s = 1.6 * voice.ring * np.sqrt(200 / (f0 + 120)) / (1 + 0.09 * k)
    string = _decaying_partials(frequencies_hz, amplitudes, decays_s, phases=rng.random(len(k)), num_samples=len(t))
    return string + (0.1 + 0.3 * voice.hardness) * np.exp(-t / 0.012) * rng.normal(size=len(t))


def _struck(rng: np.random.Generator, voice: Voice, f0: float, brightness: float, t: np.ndarray) -> np.ndarray:
    """A wooden bar: few, inharmonic partials and the click of the mallet.

    f0: Hz. brightness: how strong high partials are. t: seconds. voice: of this specimen.
    """
    bar = _MARIMBA_BAR if voice.is_marimba else _XYLOPHONE_BAR
    frequencies_hz = f0 * bar.ratios
    amplitudes = bar.amplitudes.copy()
    amplitudes[1:] *= max(0.2, 0.5 + voice.hardness + 0.3 * brightness)
    decays_s = bar.decays_s * (voice.ring * (700 / f0) ** 0.4)
    audible = frequencies_hz < _HIGHEST_HZ
    tone = _decaying_partials(
        frequencies_hz[audible],
        amplitudes[audible],
        decays_s[audible],
        phases=np.zeros(audible.sum()),
        num_samples=len(t),
    )
    return tone + (0.1 + 0.3 * voice.hardness) * np.exp(-t / 0.004) * rng.normal(size=len(t))


def _decaying_partials(
    frequencies_hz: np.ndarray, amplitudes: np.ndarray, decays_s: np.ndarray, phases: np.ndarray, num_samples: int
) -> np.ndarray:
    """Sum of amplitude * exp(-t / decay) * sin(2 pi (frequency t + phase)) over the P partials.

    exp(pole * (a + b)) = exp(pole * a) * exp(pole * b): with a the starts of blocks and b the times within one, all
    samples of all partials are one matrix product.

    frequencies_hz, amplitudes, decays_s (seconds) and phases (turns): (P,) each. Returns (num_samples,).
    """
    poles = (2j * np.pi * frequencies_hz - 1 / decays_s) / SAMPLE_RATE
    starts = np.arange(0, num_samples, _PARTIAL_BLOCK)
    at_starts = np.exp(np.outer(starts, poles)) * (amplitudes * np.exp(2j * np.pi * phases))
    within = np.exp(np.outer(poles, np.arange(_PARTIAL_BLOCK)))
    return (at_starts @ within).imag.ravel()[:num_samples]
