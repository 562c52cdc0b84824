"""Sound of any sample format, rate and channel layout -> one or two channels at one rate.

Shapes: C channels (1 or 2), n samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import torch
from av.filter import Graph
from torch import Tensor

from ialcms.media.container import keep_layout

AUDIBLY_CUT = 1.05  # times full scale; lossy codecs and resampling go beyond 1 by a little
_LAYOUTS = {1: "mono", 2: "stereo"}
_GUESSED_CHANNELS = 8  # up to as many
_FULL_SCALE = {"fltp": 1.0, "s32p": 2.0**31}


@dataclass(frozen=True)
class SoundFormat:
    """The format that sound is converted to."""

    sample_rate: int
    num_channels: int  # 1 or 2
    # FFmpeg weighs channels so that their sum cannot clip only where the format could not hold more: in whole numbers
    never_clips: bool = False

    @property
    def sample_format(self) -> str:
        return "s32p" if self.never_clips else "fltp"


@dataclass(frozen=True)
class SoundKind:
    """The format that a decoder gives."""

    sample_format: str
    layout: str
    num_channels: int
    sample_rate: int

    @property
    def is_float(self) -> bool:
        return self.sample_format.startswith(("flt", "dbl"))

    @classmethod
    def of(cls, frame: av.AudioFrame) -> SoundKind:
        """The kind of a decoded frame."""
        return cls(
            sample_format=frame.format.name,
            layout=keep_layout(frame.layout),
            num_channels=frame.layout.nb_channels,
            sample_rate=frame.sample_rate,
        )

    def __str__(self) -> str:
        return f"{self.num_channels} channels of the layout '{self.layout}' at {self.sample_rate} Hz"


class Mixer:
    """Converts frames of one kind to one format. ValueError for a kind that cannot be mixed.

    Channels are mixed by FFmpeg's rules for their layout; up to 8 unnamed ones count as its usual layout of as
    many. Where it has no rules: of ambisonics, two microphones that face left and right (the one for all sides, for
    mono); of two unusual channels, the first is left; of more, each has an equal share in both.
    """

    def __init__(self, kind: SoundKind, wanted: SoundFormat) -> None:
        # mono is not made quieter for being played on both sides
        self._counts_cut = wanted.never_clips and kind.is_float
        self.num_cut = 0  # samples of the source so far that whole numbers cut off at full scale, audibly
        self._copies = 2 if kind.num_channels == 1 and wanted.num_channels == 2 else 1
        self._scale = _FULL_SCALE[wanted.sample_format]
        layout = _LAYOUTS[wanted.num_channels // self._copies]
        self._graph: Graph | None = None
        if (kind.sample_format, kind.layout, kind.sample_rate) == (wanted.sample_format, layout, wanted.sample_rate):
            return
        for mixing in _ways(kind, layout):
            try:
                self._graph = _graph(kind, wanted, layout, mixing=mixing)
            except (av.FFmpegError, ValueError, OverflowError):
                continue
            return
        raise ValueError(f"{kind} cannot be mixed to {layout}; export it with one or two channels")

    def __call__(self, frame: av.AudioFrame | None) -> Iterator[Tensor]:
        """The (C, n) float32 that are ready; None: what is left. Raises av.FFmpegError."""
        for mixed in self._mix(frame):
            if mixed.samples:
                samples = self._floats(mixed)
                yield samples.repeat(self._copies, 1) if self._copies > 1 else samples

    def _mix(self, frame: av.AudioFrame | None) -> Iterator[av.AudioFrame]:
        if frame is not None and self._counts_cut:
            self.num_cut += int(np.count_nonzero(np.abs(frame.to_ndarray()) > AUDIBLY_CUT))
        if self._graph is None:
            if frame is not None:
                yield frame
            return
        if frame is not None:
            frame.pts = None  # by its time the resampler would fill gaps by itself
        self._graph.push(frame)
        while True:
            try:
                mixed = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(mixed, av.AudioFrame)
            yield mixed

    def _floats(self, frame: av.AudioFrame) -> Tensor:
        dtype = torch.float32 if self._scale == 1.0 else torch.int32
        planes = [torch.frombuffer(plane, dtype=dtype, count=frame.samples) for plane in frame.planes]
        samples = torch.stack(planes)
        return samples if self._scale == 1.0 else (samples.double() / self._scale).float()


def _graph(kind: SoundKind, wanted: SoundFormat, layout: str, mixing: _Filter | None) -> Graph:
    """A graph of FFmpeg's filters from one kind of sound to what is wanted.

    layout: of the channels at its end. mixing: the filter that mixes them, if one has to.
    """
    graph = Graph()
    source = graph.add(
        "abuffer",
        sample_rate=str(kind.sample_rate),
        sample_fmt=kind.sample_format,
        channel_layout=kind.layout,
        time_base=str(Fraction(1, kind.sample_rate)),
    )
    target = graph.add(
        "aformat",
        sample_rates=str(wanted.sample_rate),
        sample_fmts=wanted.sample_format,
        channel_layouts=layout,
    )
    between = [] if mixing is None else [graph.add(mixing.name, mixing.arguments)]
    graph.link_nodes(source, *between, target, graph.add("abuffersink"))
    graph.configure()
    return graph


@dataclass(frozen=True)
class _Filter:
    """A filter of FFmpeg with its arguments."""

    name: str
    arguments: str


def _ways(kind: SoundKind, layout: str) -> tuple[_Filter | None, ...]:
    """How to mix; None: by FFmpeg's own rules. The first that works counts."""
    if kind.num_channels < 1:
        return ()
    terms = [f"{1 / kind.num_channels}*c{channel}" for channel in range(kind.num_channels)]
    mean = "+".join(terms)
    equal = _Filter("pan", f"mono|c0={mean}" if layout == "mono" else f"stereo|c0={mean}|c1={mean}")
    if kind.layout == f"{kind.num_channels} channels" and kind.num_channels > _GUESSED_CHANNELS:
        return (equal,)  # FFmpeg's guess would leave some out
    if re.match(r"ambisonic [1-9]", kind.layout):  # channels W, Y, Z, X, ...: all sides, left minus right, ...
        return (_Filter("pan", "mono|c0=c0" if layout == "mono" else "stereo|c0=0.5*c0+0.5*c1|c1=0.5*c0-0.5*c1"),)
    if kind.num_channels == 2 and layout == "stereo":
        return None, _Filter("channelmap", "map=0|1:channel_layout=stereo")
    return None, equal
