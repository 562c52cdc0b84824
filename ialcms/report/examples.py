"""An example as the templates show it: the mix, and for every source its picture, its two sounds and its scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ialcms.report import media, spectrogram
from ialcms.report.content import REASONS, Example, Source, Wave
from ialcms.report.figures import decibels


@dataclass(frozen=True)
class Label:
    """Text of an axis at a place of the picture, as SVG attributes."""

    x: str
    y: str
    text: str


@dataclass(frozen=True)
class SoundView:
    """A spectrogram that plays. Where samples are not finite there is nothing but their number."""

    role: str
    what: str  # names it to those who do not see it
    num_samples: int
    seconds: float
    num_broken: int
    num_clipped: int = 0
    uri: str = ""
    picture: str = ""  # of the spectrogram
    alt: str = ""
    frequency_labels: Sequence[Label] = ()
    time_labels: Sequence[Label] = ()
    rows: int = spectrogram.ROWS
    columns: int = spectrogram.COLUMNS


@dataclass(frozen=True)
class SourceView:
    id: str
    example: int
    instrument: str
    clip: str
    picture: str
    width: int
    height: int
    heat: str
    heat_range: str
    scores: Mapping[str, float | None]
    sounds: Sequence[SoundView]  # reference, estimate and, if there is one, the estimate of the best protocol


@dataclass(frozen=True)
class ExampleView:
    id: str
    title: str
    why: str
    reason: str
    caption: str
    gain: float | None
    level: str
    seconds: float
    mix: SoundView
    sources: Sequence[SourceView]


@dataclass(frozen=True)
class _Stage:
    """What all sounds of an example share, so that eye and ear can compare them."""

    number: int  # of the example
    sample_rate: int
    seconds: float
    gain: float  # of the played sounds
    top_db: float  # brightest level of the spectrograms


def example_view(number: int, example: Example, sample_rate: int) -> ExampleView:
    mix_levels = spectrogram.log_spectrogram(_finite(example.mix), sample_rate)
    given = [example.mix, *(source.reference for source in example.sources)]
    estimates = [source.estimate for source in example.sources]
    estimates += [source.best for source in example.sources if source.best is not None]
    stage = _Stage(
        number=number,
        sample_rate=sample_rate,
        seconds=example.mix.size / sample_rate,
        gain=media.playback_gain(given, estimates),
        top_db=spectrogram.top_level(mix_levels),
    )
    return ExampleView(
        id=f"example-{number}",
        title=example.title,
        why=example.why,
        reason=REASONS[example.why],
        caption=_caption(number, example),
        gain=_mean_gain(example),
        level=_level(stage.gain),
        seconds=stage.seconds,
        mix=_sound(stage, "Input", "mix", example.mix),
        sources=[_source(stage, index, source) for index, source in enumerate(example.sources)],
    )


def _caption(number: int, example: Example) -> str:
    gain = _mean_gain(example)
    gained = "" if gain is None else f"SDR improvement {decibels(gain, with_sign=True)} dB"
    return " · ".join(filter(None, (f"Example {number}", example.label, gained)))


def _mean_gain(example: Example) -> float | None:
    """SDR improvement, by which the best and the worst are chosen; None without a score."""
    gains = [gain for source in example.sources if (gain := source.scores.get("SDRi")) is not None]
    return sum(gains) / len(gains) if gains else None


def _level(gain: float) -> str:
    if gain == 1:
        return "All sounds are played at their own level."
    change = 20 * math.log10(gain)
    return f"All its sounds are played {abs(change):.1f} dB {'louder' if change > 0 else 'quieter'} than they are."


def _source(stage: _Stage, index: int, source: Source) -> SourceView:
    height, width = source.picture.shape[:2]
    sounds = [
        _sound(stage, "Reference", f"reference of {source.instrument}", source.reference),
        _sound(stage, "Estimate", f"estimate of {source.instrument}", source.estimate),
    ]
    if source.best is not None:
        sounds.append(_sound(stage, "Best protocol", f"best protocol's {source.instrument}", source.best))
    lowest, highest = float(source.localisation.min()), float(source.localisation.max())
    return SourceView(
        id=f"example-{stage.number}-source-{index}",
        example=stage.number,
        instrument=source.instrument,
        clip=source.clip,
        picture=media.picture_uri(source.picture),
        width=width,
        height=height,
        heat=media.heat_uri(source.localisation),
        heat_range=f"{lowest:.2f} to {highest:.2f}",
        scores=source.scores,
        sounds=sounds,
    )


def _sound(stage: _Stage, role: str, what: str, wave: Wave) -> SoundView:
    what = f"{what}, example {stage.number}"
    broken = int(np.count_nonzero(~np.isfinite(wave)))
    if broken:
        return SoundView(role=role, what=what, num_samples=wave.size, seconds=stage.seconds, num_broken=broken)
    levels = spectrogram.log_spectrogram(wave, stage.sample_rate)
    lowest, highest = spectrogram.LOWEST_HZ / 1000, stage.sample_rate / 2000
    frequencies = spectrogram.frequency_ticks(stage.sample_rate)
    times = spectrogram.time_ticks(stage.seconds)
    return SoundView(
        role=role,
        what=what,
        num_samples=wave.size,
        seconds=stage.seconds,
        num_broken=0,
        num_clipped=int(np.count_nonzero(np.abs(wave * stage.gain) > 1)),
        uri=media.sound_uri(wave, stage.gain, stage.sample_rate),
        picture=media.data_uri("image/png", spectrogram.render(levels, stage.top_db)),
        alt=f"Spectrogram of the {what}: {stage.seconds:.1f} s, {lowest:.2f} to {highest:.1f} kHz",
        frequency_labels=[Label("100%", f"{100 * place:.2f}%", text) for place, text in frequencies],
        time_labels=[Label(f"{100 * place:.2f}%", "50%", text) for place, text in times],
    )


def _finite(wave: Wave) -> Wave:
    return np.nan_to_num(wave, nan=0.0, posinf=0.0, neginf=0.0)
