"""An example as markup: the mix, and for every source its picture, its two sounds and its scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ialcms.report import media, spectrogram
from ialcms.report.content import REASONS, Example, Source, Wave
from ialcms.report.elements import Html, element, join
from ialcms.report.figures import decibels

_DIFFERENCES = frozenset({"SDRi", "SIRi"})


@dataclass(frozen=True)
class _Stage:
    """What all sounds of an example share, so that eye and ear can compare them."""

    number: int  # of the example
    sample_rate: int
    seconds: float
    gain: float  # of the played sounds
    top_db: float  # brightest level of the spectrograms


def example_link(number: int, example: Example) -> Html:
    """An entry of the list of examples."""
    gain = _mean_gain(example)
    figure = None if gain is None else element("span", decibels(gain, with_sign=True), " dB", class_="gain")
    link = element("a", _badge(example), element("span", example.title), figure, href=f"#example-{number}")
    return element("li", link)


def example_article(number: int, example: Example, sample_rate: int) -> Html:
    name = f"example-{number}"
    mix_levels = spectrogram.log_spectrogram(_finite(example.mix), sample_rate)
    given = [example.mix, *(source.reference for source in example.sources)]
    stage = _Stage(
        number=number,
        sample_rate=sample_rate,
        seconds=example.mix.size / sample_rate,
        gain=media.playback_gain(given, [source.estimate for source in example.sources]),
        top_db=spectrogram.top_level(mix_levels),
    )
    about_mix = element(
        "div",
        element("h4", "Mix"),
        element("p", f"{len(example.sources)} sources, {stage.seconds:.1f} s. {_level(stage.gain)}", class_="muted"),
        class_="about",
    )
    mix = element(
        "section",
        about_mix,
        element("div", _sound(stage, "Input", "mix", example.mix), class_="sounds"),
        class_="part",
        aria_label="Mix",
    )
    heading = element("h3", _badge(example), element("span", example.title), id=f"{name}-title")
    sources = (_source(stage, f"{name}-source-{index}", source) for index, source in enumerate(example.sources))
    return element(
        "article",
        element("header", heading, element("span", _place(number, example), class_="muted")),
        mix,
        *sources,
        id=name,
        class_="example",
        aria_labelledby=f"{name}-title",
        data_seconds=f"{stage.seconds:.3f}",
    )


def _place(number: int, example: Example) -> str:
    gain = _mean_gain(example)
    gained = "" if gain is None else f"SDR improvement {decibels(gain, with_sign=True)} dB"
    return " · ".join(filter(None, (f"Example {number}", example.label, gained)))


def _mean_gain(example: Example) -> float | None:
    """SDR improvement, by which the best and the worst are chosen; None without a score."""
    gains = [gain for source in example.sources if (gain := source.scores.get("SDRi")) is not None]
    return sum(gains) / len(gains) if gains else None


def _badge(example: Example) -> Html:
    return element("span", REASONS[example.why], class_=f"badge {example.why}")


def _level(gain: float) -> str:
    if gain == 1:
        return "All sounds are played at their own level."
    change = 20 * math.log10(gain)
    return f"All its sounds are played {abs(change):.1f} dB {'louder' if change > 0 else 'quieter'} than they are."


def _source(stage: _Stage, name: str, source: Source) -> Html:
    about = element(
        "div",
        _picture(name, source, stage.number),
        element(
            "div",
            element("h4", source.instrument, id=name),
            element("p", "Clip ", element("span", source.clip, class_="clip"), class_="muted"),
            _scores(source),
            class_="facts",
        ),
        class_="about",
    )
    sounds = element(
        "div",
        _sound(stage, "Reference", f"reference of {source.instrument}", source.reference),
        _sound(stage, "Estimate", f"estimate of {source.instrument}", source.estimate),
        class_="sounds",
    )
    return element("section", about, sounds, class_="part", aria_labelledby=name)


def _picture(name: str, source: Source, number: int) -> Html:
    height, width = source.picture.shape[:2]
    lowest, highest = float(source.localisation.min()), float(source.localisation.max())
    views = element(
        "div",
        element("img", src=media.picture_uri(source.picture), alt=f"Picture of {source.instrument}",
                width=width, height=height),
        element("img", src=media.heat_uri(source.localisation), class_="heat", id=f"{name}-heat",
                alt=f"Heat map of where the separator hears {source.instrument}: {lowest:.2f} to {highest:.2f}"),
        class_="views",
    )  # fmt: skip
    toggle = element(
        "button",
        "Heat map",
        type="button",
        class_="toggle",
        aria_pressed="true",
        aria_controls=f"{name}-heat",
        aria_label=f"Heat map of {source.instrument}, example {number}",
    )
    caption = element("figcaption", toggle, element("span", f"{lowest:.2f} to {highest:.2f}", class_="muted"))
    return element("figure", views, caption, class_="picture")


def _scores(source: Source) -> Html:
    return element("dl", *(_score(name, value) for name, value in source.scores.items()), class_="scores")


def _score(name: str, value: float | None) -> Html:
    if value is None:
        return element("div", element("dt", name), element("dd", "silent: no score", class_="missing"))
    unit = element("span", " dB", class_="unit")
    return element("div", element("dt", name), element("dd", decibels(value, with_sign=name in _DIFFERENCES), unit))


def _sound(stage: _Stage, role: str, what: str, wave: Wave) -> Html:
    """A spectrogram that plays; `what` names it to those who do not see it."""
    what = f"{what}, example {stage.number}"
    broken = int(np.count_nonzero(~np.isfinite(wave)))
    if broken:
        text = f"{role}: {broken} of {wave.size} samples are not finite numbers, so there is nothing to hear or see."
        return element("p", text, class_="broken")
    levels = spectrogram.log_spectrogram(wave, stage.sample_rate)
    clipped = int(np.count_nonzero(np.abs(wave * stage.gain) > 1))
    header = element(
        "figcaption",
        element("button", type="button", class_="play", aria_label=f"Play {what}", data_what=what),
        element("span", role, class_="role"),
        element("span", f"clips at {clipped} samples", class_="broken") if clipped else None,
        element("span", f"0.0 / {stage.seconds:.1f} s", class_="time muted"),
    )
    alt = (f"Spectrogram of the {what}: {stage.seconds:.1f} s, {spectrogram.LOWEST_HZ / 1000:.2f} to "
           f"{stage.sample_rate / 2000:.1f} kHz")  # fmt: skip
    surface = element(
        "div",
        element("img", src=media.data_uri("image/png", spectrogram.render(levels, stage.top_db)), alt=alt,
                width=spectrogram.COLUMNS, height=spectrogram.ROWS),
        element("span", class_="playhead"),
        element("input", type="range", min=0, max=f"{stage.seconds:.3f}", step=0.01, value=0, autocomplete="off",
                aria_label=f"Position in {what}", aria_valuetext=f"0.0 of {stage.seconds:.1f} seconds"),
        class_="surface",
    )  # fmt: skip
    plot = element(
        "div",
        _axis("axis-y", [("100%", f"{100 * place:.2f}%", label) for place, label in
                         spectrogram.frequency_ticks(stage.sample_rate)]),
        surface,
        _axis("axis-x", [(f"{100 * place:.2f}%", "50%", label) for place, label in
                         spectrogram.time_ticks(stage.seconds)]),
        class_="plot",
    )  # fmt: skip
    sound = media.sound_uri(wave, stage.gain, stage.sample_rate)
    return element("figure", header, plot, class_="sound", data_sound=sound)


def _axis(kind: str, labels: list[tuple[str, str, str]]) -> Html:
    """Labels at (x, y); drawn as SVG, whose attributes place them where the page forbids inline styles."""
    return element("svg", join(element("text", text, x=x, y=y) for x, y, text in labels),
                   class_=kind, aria_hidden="true")  # fmt: skip


def _finite(wave: Wave) -> Wave:
    return np.nan_to_num(wave, nan=0.0, posinf=0.0, neginf=0.0)
