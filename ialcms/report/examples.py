"""An example as the templates show it: the mix, and for every source its pictures, its sounds and its scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ialcms.report import media, spectrogram
from ialcms.report.content import REASONS, Example, Scores, Source, Wave
from ialcms.report.figures import decibels


@dataclass(frozen=True)
class Label:
    """Text of an axis and its position, as SVG attributes."""

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
    scores: Scores = field(default_factory=dict)
    picture: str = ""  # of the spectrogram
    alt: str = ""
    frequency_labels: Sequence[Label] = ()
    time_labels: Sequence[Label] = ()
    rows: int = spectrogram.ROWS
    columns: int = spectrogram.COLUMNS


@dataclass(frozen=True)
class HeatView:
    """The picture of a source under a heat map."""

    id: str
    what: str  # names the map to those who do not see it
    role: str  # whose map it is; "" for the only one
    picture: str
    width: int
    height: int
    uri: str
    range: str


@dataclass(frozen=True)
class SourceView:
    id: str
    example: int
    instrument: str
    clip: str
    heats: Sequence[HeatView]
    scores: Scores
    sounds: Sequence[SoundView]  # the reference, then the estimates


@dataclass(frozen=True)
class ExampleView:
    id: str
    title: str
    why: str
    reason: str
    caption: str
    gain: float | None
    is_open: bool
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


def example_view(number: int, example: Example, sample_rate: int, gain_name: str, *, is_open: bool) -> ExampleView:
    """number: counted from 1. gain_name: what `Example.gain` is. is_open: whether it is unfolded at first."""
    mix_levels = spectrogram.log_spectrogram(_finite(example.mix), sample_rate)
    given = [example.mix, *(source.reference for source in example.sources)]
    estimates = itertools.chain.from_iterable(source.estimates.values() for source in example.sources)
    stage = _Stage(
        number=number,
        sample_rate=sample_rate,
        seconds=example.mix.size / sample_rate,
        gain=media.playback_gain(given, list(estimates)),
        top_db=spectrogram.top_level(mix_levels),
    )
    return ExampleView(
        id=f"example-{number}",
        title=example.title,
        why=example.why,
        reason=REASONS[example.why],
        caption=_caption(number, example, gain_name),
        gain=example.gain,
        is_open=is_open,
        level=_level(stage.gain),
        seconds=stage.seconds,
        mix=_sound(stage, "Input", "mix", wave=example.mix),
        sources=[_source(stage, index, source) for index, source in enumerate(example.sources)],
    )


def _caption(number: int, example: Example, gain_name: str) -> str:
    gained = "" if example.gain is None else f"{gain_name} {decibels(example.gain, with_sign=True)}\u00a0dB"
    return " · ".join(filter(None, (f"Example {number}", example.label, gained)))


def _level(gain: float) -> str:
    if gain == 1:
        return "All sounds are played as loud as they are."
    change = 20 * math.log10(gain)
    return f"All its sounds are played {abs(change):.1f} dB {'louder' if change > 0 else 'quieter'} than they are."


def _source(stage: _Stage, index: int, source: Source) -> SourceView:
    identity = f"example-{stage.number}-source-{index}"
    sounds = [_sound(stage, "Reference", f"reference of {source.instrument}", wave=source.reference)]
    for role, wave in source.estimates.items():
        scores = source.estimate_scores.get(role, {})
        sounds.append(_sound(stage, role, f"{_in_a_sentence(role)} of {source.instrument}", wave=wave, scores=scores))
    return SourceView(
        id=identity,
        example=stage.number,
        instrument=source.instrument,
        clip=source.clip,
        heats=_heats(identity, source),
        scores=source.scores,
        sounds=sounds,
    )


def _heats(identity: str, source: Source) -> list[HeatView]:
    """identity: of the source on the page."""
    height, width = source.picture.shape[:2]
    picture = media.picture_uri(source.picture)
    views = []
    for number, (role, heat) in enumerate(source.localisations.items()):
        view = HeatView(
            id=f"{identity}-heat-{number}",
            what=f"{source.instrument}, {role}" if role else source.instrument,
            role=role,
            picture=picture,
            width=width,
            height=height,
            uri=media.heat_uri(heat),
            range=f"{float(heat.min()):.2f} to {float(heat.max()):.2f}",
        )
        views.append(view)
    return views


def _sound(stage: _Stage, role: str, what: str, *, wave: Wave, scores: Scores | None = None) -> SoundView:
    """role: the title, like "Input". what: for the label and the picture's text, like "mix". scores: set beside it."""
    what = f"{what}, example {stage.number}"
    broken = int(np.count_nonzero(~np.isfinite(wave)))
    if broken:
        return SoundView(role=role, what=what, num_samples=wave.size, seconds=stage.seconds, num_broken=broken)
    levels = spectrogram.log_spectrogram(wave, stage.sample_rate)
    lowest, highest = spectrogram.LOWEST_HZ / 1000, stage.sample_rate / 2000
    frequencies = frequency_labels(stage.sample_rate)
    times = time_labels(stage.seconds)
    return SoundView(
        role=role,
        what=what,
        num_samples=wave.size,
        seconds=stage.seconds,
        num_broken=0,
        num_clipped=int(np.count_nonzero(np.abs(wave * stage.gain) > 1)),
        uri=media.sound_uri(wave, stage.gain, stage.sample_rate),
        scores=scores or {},
        picture=media.data_uri("image/png", spectrogram.render(levels, stage.top_db)),
        alt=f"Spectrogram of the {what}: {stage.seconds:.1f} s, {lowest:.2f} to {highest:.1f} kHz",
        frequency_labels=frequencies,
        time_labels=times,
    )


def frequency_labels(sample_rate: int) -> list[Label]:
    """Of a spectrogram's vertical axis."""
    return [Label("100%", f"{100 * y:.2f}%", text) for y, text in spectrogram.frequency_ticks(sample_rate)]


def time_labels(seconds: float) -> list[Label]:
    """Of a spectrogram's horizontal axis."""
    return [Label(f"{100 * x:.2f}%", "50%", text) for x, text in spectrogram.time_ticks(seconds)]


def _in_a_sentence(role: str) -> str:
    """Our own roles begin small; names of runs are left as they are."""
    return role.lower() if role in ("Estimate", "Best protocol") else role


def _finite(wave: Wave) -> Wave:
    return np.nan_to_num(wave, nan=0.0, posinf=0.0, neginf=0.0)
