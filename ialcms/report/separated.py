"""The page of a separated video or sound: one HTML file with players in step, from the same templates as the report.

Shapes: K objects, G windows of the separator, h x w cells of a heat map, n samples.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ialcms.files import write_whole
from ialcms.heatmap import LEVEL_RANGE_DB, OPACITY, SMALLEST_RANGE, bright_palette
from ialcms.report import media, spectrogram
from ialcms.report.content import Wave
from ialcms.report.examples import SoundView, frequency_labels, time_labels
from ialcms.report.rendering import encode, template, with_hashes

Box = tuple[float, float, float, float]  # left, top, right, bottom, in shares of the picture


@dataclass(frozen=True)
class Stem:
    """A sound of the page; without `sound` it is the original, which is the sum of the others."""

    name: str
    wave: Wave  # (n,) one channel, for the spectrogram
    sound: bytes = b""  # FLAC, as it is played
    note: str = ""
    picture: NDArray[np.uint8] | None = None  # (H, W, 3), of the object
    maps: NDArray[np.float32] | None = None  # (G, h, w) in 0..1, over the picture
    box: Box | None = None  # of the picture in the video


@dataclass(frozen=True)
class SeparatedPage:
    title: str
    sample_rate: int  # of the waves
    stems: Sequence[Stem]  # the objects', the remainder, the original
    times: Sequence[float]  # (G,) seconds, of the heat maps
    video: bytes = b""  # mp4 without sound; empty where there are no pictures
    frame_size: tuple[int, int] = (0, 0)  # (H, W) of the video
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _HeatView:
    values: str  # base64 of (G, h, w) uint8
    rows: int
    columns: int
    low: str
    high: str


@dataclass(frozen=True)
class _TrackView:
    id: str
    index: int
    name: str
    note: str
    solo: str  # what its button does
    is_original: bool
    uri: str  # base64 of the sound
    picture: str
    width: int
    height: int
    heat: _HeatView | None
    box: list[str] | None
    plot: SoundView


def write_separated_page(path: Path, page: SeparatedPage) -> Path:
    """Write the page whole; its folder is there. The last stem is the original."""
    *_, original = page.stems
    assert not original.sound
    top_db = spectrogram.top_level(spectrogram.log_spectrogram(original.wave, page.sample_rate))
    seconds = original.wave.size / page.sample_rate
    tracks = [_track(index, stem, page, top_db=top_db) for index, stem in enumerate(page.stems)]
    times = [f"{time_s:.3f}" for time_s in page.times]
    text = template("separated.html").render(
        **with_hashes(style=["page.css", "separated.css"], script=["separated.js"]),
        title=page.title,
        facts=page.facts,
        tracks=tracks,
        has_heat=any(track.heat for track in tracks),
        seconds=seconds,
        times=times,
        opacity=OPACITY,
        palette=_base64(bright_palette().tobytes()),
        video=_base64(page.video),
        width=page.frame_size[1],
        height=page.frame_size[0],
        range_db=f"{LEVEL_RANGE_DB:g}",
    )
    write_whole(path, encode(text))
    return path


def _track(index: int, stem: Stem, page: SeparatedPage, top_db: float) -> _TrackView:
    """index: of the stem. top_db: level of the brightest colour of all spectrograms."""
    height, width = stem.picture.shape[:2] if stem.picture is not None else (0, 0)
    is_original = not stem.sound
    return _TrackView(
        id=f"track-{index}",
        index=index,
        name=stem.name,
        note=stem.note,
        solo="Hear the original" if is_original else f"Hear {stem.name} alone",
        is_original=is_original,
        uri=_base64(stem.sound),
        picture="" if stem.picture is None else media.picture_uri(stem.picture),
        width=width,
        height=height,
        heat=None if stem.maps is None else _heat(stem.maps),
        box=[f"{edge:.5f}" for edge in stem.box] if stem.box else None,
        plot=_plot(stem, page.sample_rate, top_db),
    )


def _heat(maps: NDArray[np.float32]) -> _HeatView:
    """Stretched over the range of all windows, like the heat maps of the videos."""
    finite = np.nan_to_num(maps, nan=0.0, posinf=1.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    levels = np.round(255 * (finite - low) / max(high - low, SMALLEST_RANGE)).clip(0, 255)
    values = _base64(levels.astype(np.uint8).tobytes())
    return _HeatView(values, maps.shape[1], maps.shape[2], low=f"{low:.2f}", high=f"{high:.2f}")


def _plot(stem: Stem, sample_rate: int, top_db: float) -> SoundView:
    levels = spectrogram.log_spectrogram(stem.wave, sample_rate)
    seconds = stem.wave.size / sample_rate
    return SoundView(
        role=stem.name,
        what=stem.name,
        num_samples=stem.wave.size,
        seconds=seconds,
        num_broken=0,
        picture=media.data_uri("image/png", spectrogram.render(levels, top_db)),
        alt=f"Spectrogram of {stem.name}: {seconds:.1f} s, up to {sample_rate / 2000:.1f} kHz",
        frequency_labels=frequency_labels(sample_rate),
        time_labels=time_labels(seconds),
    )


def playback_note(gain: float) -> str:
    """How much louder or quieter than they are the sounds are played."""
    if gain == 1:
        return "as they are"
    change = 20 * math.log10(gain)
    return f"all {abs(change):.1f} dB {'louder' if change > 0 else 'quieter'} than they are"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
