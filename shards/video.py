"""Sound and pictures of stretches of a video file, decoded by PyAV.

Times are seconds since the beginning of the file. Both streams are read once, from front to back, and placed by their
time stamps: variable frame rates, late streams and gaps come out where they belong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torchaudio
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray
from PIL import Image

from ialcms.names import for_ffmpeg
from shards.stretches import LONGEST_STILL_S, MARGIN_S, Course, FrameAssembly, SoundAssembly, Wanted

# torchaudio's filter has (source rate * target rate / gcd^2) taps: sources of an odd rate are brought to this one first
_COMMON_RATE = 48_000
_MAX_TAPS = 5_000_000
_SEEK_AHEAD_S = 2.0


def read_sound(path: Path, wanted: Wanted, sample_rate: int, problems: list[str]) -> dict[int, NDArray[np.int16]]:
    """Number of the stretch -> (seconds * sample_rate,) mono sound; stretches that the file does not have are absent.

    Channels are mixed down by FFmpeg's rules for their layout, then resampled by torchaudio. What costs a part of the
    sound is added to `problems`. Raises ValueError when there is no sound, and av.FFmpegError when the file cannot be
    read.
    """
    sounds: dict[int, NDArray[np.int16]] = {}
    with av.open(for_ffmpeg(path), metadata_errors="ignore") as container:
        if not container.streams.audio:
            raise ValueError("no sound")
        stream = container.streams.audio[0]
        rate = working_rate(stream.rate, sample_rate)
        assembly = SoundAssembly(wanted, rate)
        course = Course("sound", wanted, wanted.spare_s, problems)
        damaged = False
        try:
            for position, samples in _mono_samples(container, stream, rate, wanted.from_s):
                course.add(position / rate, (position + len(samples)) / rate)
                for number, window in assembly.add(position, samples):
                    sounds[number] = _resample(window, rate, sample_rate, wanted.seconds)
                if assembly.done:
                    break
        except av.InvalidDataError:
            damaged = True  # in the middle: what came before is kept
        if not assembly.done:
            course.stop(_length_s(container, stream), damaged)
        for number, window in assembly.finish():
            sounds[number] = _resample(window, rate, sample_rate, wanted.seconds)
    return sounds


def read_frames(
    path: Path, wanted: Wanted, frames_per_second: int, encode: Callable[[Image.Image], bytes], problems: list[str]
) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the stretch, its pictures): at i / frames_per_second, the picture then on the screen.

    Pictures are turned upright and encoded at once: ten seconds of raw ones would fill the memory. Names
    problems and raises as `read_sound` does.
    """
    with av.open(for_ffmpeg(path), metadata_errors="ignore") as container:
        streams = [stream for stream in container.streams.video if not stream.disposition & _ATTACHED]
        if not streams:
            raise ValueError("no pictures")
        stream = streams[0]
        stream.codec_context.thread_count = 1  # videos are cut side by side
        assembly = FrameAssembly(wanted, frames_per_second, lambda frame: encode(_upright(frame)))
        origin_s = _origin_s(container)
        course = Course("video", wanted, LONGEST_STILL_S, problems)
        damaged = False
        _seek(container, wanted.from_s + origin_s)
        try:
            for frame in container.decode(stream):
                if frame.time is None:
                    continue
                time_s = float(frame.time) - origin_s
                end_s = time_s + _frame_duration_s(frame, stream)
                course.add(time_s, end_s)
                yield from assembly.add(time_s, end_s, frame)
                if assembly.done:
                    return
        except av.InvalidDataError:
            damaged = True
        course.stop(_length_s(container, stream), damaged)
        yield from assembly.finish()


def working_rate(source_rate: int, target_rate: int) -> int:
    """The rate at which torchaudio takes over: the source's, where its filter is of a reasonable size."""
    common = math.gcd(source_rate, target_rate)
    taps = (source_rate // common) * (target_rate // common)
    return source_rate if taps <= _MAX_TAPS else _COMMON_RATE


_ATTACHED = av.stream.Disposition.attached_pic


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
    begin = round(MARGIN_S * sample_rate)
    wave = wave[begin : begin + round(seconds * sample_rate)]
    return np.rint(wave * 32_768).clip(-32_768, 32_767).astype(np.int16)


def _origin_s(container: av.container.InputContainer) -> float:
    return (container.start_time or 0) / av.time_base


def _length_s(container: av.container.InputContainer, stream: av.AudioStream | av.VideoStream) -> float | None:
    """When a stream should end, as far as the file tells; of several answers the earliest."""
    origin_s = _origin_s(container)
    told = []
    if container.duration:
        told.append(container.duration / av.time_base)
    if stream.duration and stream.time_base:
        told.append(float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin_s)
    if match := re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", "")):  # as Matroska has it
        hours, minutes, seconds = map(float, match.groups())
        told.append(3600 * hours + 60 * minutes + seconds - origin_s)
    return min(told, default=None)


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
