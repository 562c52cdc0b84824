"""Sound and pictures of stretches of a video file, decoded by PyAV.

Times are seconds since the beginning of the file. Both streams are read once, from front to back, and placed by their
time stamps: variable frame rates, late streams and gaps come out where they belong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torchaudio
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray
from PIL import Image

# torchaudio's filter has (source rate * target rate / gcd^2) taps: sources of an odd rate are brought to this one first
_COMMON_RATE = 48_000
_MAX_TAPS = 5_000_000
_MARGIN_S = 0.1  # decoded around a stretch, so that the filter does not see its edges
_SEEK_AHEAD_S = 2.0


@dataclass(frozen=True)
class Stretch:
    """A part of a file that becomes a clip."""

    number: int  # k in the clip's name
    start_s: float


@dataclass(frozen=True)
class Wanted:
    """What is cut out of a file: one stretch, or (None) all that follow each other from its beginning."""

    stretch: Stretch | None
    seconds: float
    min_seconds: float  # of a stretch that a stream must have; the rest is filled up

    def from_s(self) -> float:
        return self.stretch.start_s if self.stretch is not None else 0.0

    def all(self) -> Iterator[Stretch]:
        if self.stretch is not None:
            return iter([self.stretch])
        return (Stretch(number, number * self.seconds) for number in itertools.count())


def read_sound(path: Path, wanted: Wanted, sample_rate: int) -> dict[int, NDArray[np.int16]]:
    """Number of the stretch -> (seconds * sample_rate,) mono sound; stretches that the file does not reach are absent.

    Channels are mixed down by FFmpeg's rules for their layout, then resampled by torchaudio. Raises ValueError when
    there is no sound, and av.FFmpegError when the file cannot be read.
    """
    sounds: dict[int, NDArray[np.int16]] = {}
    with av.open(str(path), metadata_errors="ignore") as container:
        if not container.streams.audio:
            raise ValueError("no sound")
        stream = container.streams.audio[0]
        rate = working_rate(stream.rate, sample_rate)
        assembly = _SoundAssembly(wanted, rate)
        try:
            for position, samples in _mono_samples(container, stream, rate, wanted.from_s()):
                for number, window in assembly.add(position, samples):
                    sounds[number] = _resample(window, rate, sample_rate, wanted.seconds)
                if assembly.done:
                    break
        except av.InvalidDataError:
            pass  # broken in the middle: what came before is kept
        for number, window in assembly.finish():
            sounds[number] = _resample(window, rate, sample_rate, wanted.seconds)
    return sounds


def read_frames(
    path: Path, wanted: Wanted, frames_per_second: int, encode: Callable[[Image.Image], bytes]
) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the stretch, its pictures): at i / frames_per_second, the picture then on the screen.

    Pictures are turned upright and encoded at once: ten seconds of raw ones would fill the memory. Raises as
    `read_sound` does.
    """
    with av.open(str(path), metadata_errors="ignore") as container:
        streams = [stream for stream in container.streams.video if not stream.disposition & _ATTACHED]
        if not streams:
            raise ValueError("no pictures")
        stream = streams[0]
        stream.codec_context.thread_count = 1  # videos are cut side by side
        assembly = _FrameAssembly(wanted, frames_per_second, encode)
        origin_s = _origin_s(container)
        end_s = 0.0
        _seek(container, wanted.from_s() + origin_s)
        try:
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                time_s = float(frame.time) - origin_s
                end_s = max(end_s, time_s + _frame_duration_s(frame, stream))
                yield from assembly.add(time_s, frame)
                if assembly.done:
                    return
        except av.InvalidDataError:
            pass
        yield from assembly.finish(end_s)


def working_rate(source_rate: int, target_rate: int) -> int:
    """The rate at which torchaudio takes over: the source's, where its filter is of a reasonable size."""
    common = math.gcd(source_rate, target_rate)
    taps = (source_rate // common) * (target_rate // common)
    return source_rate if taps <= _MAX_TAPS else _COMMON_RATE


_ATTACHED = av.stream.Disposition.attached_pic


class _SoundAssembly:
    """Places samples in the windows of the stretches, which have a margin on both sides."""

    def __init__(self, wanted: Wanted, rate: int) -> None:
        self._rate, self._seconds, self._min_seconds = rate, wanted.seconds, wanted.min_seconds
        self._margin = round(_MARGIN_S * rate)
        self._length = round(wanted.seconds * rate) + 2 * self._margin
        self._coming = wanted.all()
        self._next: Stretch | None = next(self._coming, None)
        self._open: list[tuple[Stretch, NDArray[np.float32]]] = []
        self._end = 0  # of what has come, in samples

    @property
    def done(self) -> bool:
        return self._next is None and not self._open

    def add(self, position: int, samples: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        end = position + len(samples)
        self._end = max(self._end, end)
        while self._next is not None and self._first_sample(self._next) < end:
            self._open.append((self._next, np.zeros(self._length, np.float32)))
            self._next = next(self._coming, None)
        for stretch, window in self._open:
            offset = position - self._first_sample(stretch)
            begin, stop = max(offset, 0), min(offset + len(samples), self._length)
            if begin < stop:
                window[begin:stop] = samples[begin - offset : stop - offset]
        while self._open and self._first_sample(self._open[0][0]) + self._length <= position:
            stretch, window = self._open.pop(0)
            yield stretch.number, window

    def finish(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for stretch, window in self._open:
            if self._end / self._rate - stretch.start_s >= self._min_seconds:
                yield stretch.number, window

    def _first_sample(self, stretch: Stretch) -> int:
        return round(stretch.start_s * self._rate) - self._margin


class _FrameAssembly:
    """Picks the picture on the screen at each of the times of the stretches."""

    def __init__(self, wanted: Wanted, frames_per_second: int, encode: Callable[[Image.Image], bytes]) -> None:
        self._fps, self._encode = frames_per_second, encode
        self._num_frames = round(wanted.seconds * frames_per_second)
        self._min_seconds = wanted.min_seconds
        self._coming = wanted.all()
        self._stretch: Stretch | None = next(self._coming, None)
        self._pictures: list[bytes] = []
        self._shown: av.VideoFrame | None = None
        self._picture: bytes | None = None  # of the frame shown, once it was needed

    @property
    def done(self) -> bool:
        return self._stretch is None

    def add(self, time_s: float, frame: av.VideoFrame) -> Iterator[tuple[int, list[bytes]]]:
        """A frame that is on the screen from `time_s` on; the one before it until then."""
        while self._shown is not None and self._stretch is not None and self._due_s() < time_s - 1e-6:
            yield from self._take()
        self._shown, self._picture = frame, None

    def finish(self, end_s: float) -> Iterator[tuple[int, list[bytes]]]:
        while self._shown is not None and self._stretch is not None and self._due_s() < end_s:
            yield from self._take()
        if self._stretch is not None and len(self._pictures) >= self._min_seconds * self._fps:
            self._pictures += [self._pictures[-1]] * (self._num_frames - len(self._pictures))
            yield self._stretch.number, self._pictures

    def _due_s(self) -> float:
        assert self._stretch is not None
        return self._stretch.start_s + len(self._pictures) / self._fps

    def _take(self) -> Iterator[tuple[int, list[bytes]]]:
        assert self._shown is not None
        assert self._stretch is not None
        if self._picture is None:
            self._picture = self._encode(_upright(self._shown))
        self._pictures.append(self._picture)
        if len(self._pictures) == self._num_frames:
            yield self._stretch.number, self._pictures
            self._pictures, self._stretch = [], next(self._coming, None)


def _mono_samples(
    container: av.container.InputContainer, stream: av.AudioStream, rate: int, from_s: float
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(place of the first sample, samples) of the decoded sound, in samples since the beginning of the file."""
    origin_s = _origin_s(container)
    _seek(container, from_s + origin_s)
    # whole numbers: FFmpeg weighs channels so that the sum cannot clip only where the format could not hold more
    resampler = AudioResampler("s32p", "mono", rate)
    position: int | None = None
    for frame in container.decode(stream):
        if frame.time is not None:
            stamped = round((float(frame.time) - origin_s) * rate)
            # time stamps are rounded, in mkv to milliseconds: only a real gap or jump moves the place
            if position is None or abs(stamped - position) > 0.05 * rate:
                position = stamped
        frame.pts = None  # the resampler would fill gaps by itself
        for samples in _floats(resampler.resample(frame)):
            position = position or 0
            yield position, samples
            position += len(samples)
    for samples in _floats(resampler.resample(None)):
        yield position or 0, samples


def _floats(frames: list[av.AudioFrame]) -> Iterator[NDArray[np.float32]]:
    for frame in frames:
        yield (frame.to_ndarray()[0] / 2.0**31).astype(np.float32)


def _resample(window: NDArray[np.float32], rate: int, sample_rate: int, seconds: float) -> NDArray[np.int16]:
    wave = torchaudio.functional.resample(torch.from_numpy(window), rate, sample_rate).numpy()
    begin = round(_MARGIN_S * sample_rate)
    wave = wave[begin : begin + round(seconds * sample_rate)]
    return np.rint(wave * 32_768).clip(-32_768, 32_767).astype(np.int16)


def _origin_s(container: av.container.InputContainer) -> float:
    return (container.start_time or 0) / av.time_base


def _seek(container: av.container.InputContainer, time_s: float) -> None:
    if time_s > _SEEK_AHEAD_S:
        container.seek(int((time_s - _SEEK_AHEAD_S) * av.time_base))


def _frame_duration_s(frame: av.VideoFrame, stream: av.VideoStream) -> float:
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return float(1 / (stream.average_rate or Fraction(25)))


def _upright(frame: av.VideoFrame) -> Image.Image:
    pixels = frame.to_ndarray(format="rgb24")
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90))))
