"""Sound and pictures of segments of a video file.

Times are seconds since the beginning of the file (see `ialcms.media`). Both streams are read once, from front to back,
and placed by their time stamps: variable frame rates, late streams and gaps come out where they belong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from PIL import Image

from ialcms.media.container import open_container, picture_stream, sound_stream, told_length
from ialcms.media.decode import Damage, seek
from ialcms.media.mix import SoundFormat
from ialcms.media.pictures import Shown, read_shown
from ialcms.media.sound import read_pieces, working_rate
from ialcms.media.time_line import TimeLine
from shards.segments import LONGEST_STILL_S, MARGIN_S, Course, FrameAssembly, SoundAssembly, Wanted

_SEEK_AHEAD_S = 2.0
_LONGEST_HOLE_S = math.inf  # clips are numbered by their time


def read_sound(path: Path, wanted: Wanted, sample_rate: int, problems: list[str]) -> dict[int, NDArray[np.int16]]:
    """Number of the segment -> (seconds * sample_rate,) mono sound; segments that the file does not have are absent.

    Channels are mixed down by FFmpeg's rules for their layout, then resampled by torchaudio. What costs a part of the
    sound is added to `problems`. Raises ValueError when there is no sound or none that can be mixed, and av.FFmpegError
    when the file cannot be read.
    """
    sounds: dict[int, NDArray[np.int16]] = {}
    with open_container(path) as container:
        stream = sound_stream(container)
        if stream is None:
            raise ValueError("no sound")
        rate = working_rate(stream.rate, sample_rate)
        mono = SoundFormat(rate, 1, never_clips=True)
        assembly = SoundAssembly(wanted, rate)
        course = Course("sound", wanted, wanted.spare_s, problems)
        line, damage = TimeLine(container, _LONGEST_HOLE_S), Damage()
        seek(container, path, wanted.from_s - _SEEK_AHEAD_S, wanted.from_s, _LONGEST_HOLE_S)
        for piece in read_pieces(container, stream, mono, line, damage, stop_at_damage=True):
            samples = piece.samples[0].numpy()
            course.add(piece.position / rate, (piece.position + len(samples)) / rate)
            for number, window in assembly.add(piece.position, samples):
                sounds[number] = _resample(window, rate, sample_rate, wanted.seconds)
            if assembly.done:
                break
        if not assembly.done:
            course.stop(told_length(container, stream), bool(damage.packets))
        if not assembly.done and not damage.packets:
            damage.end(container, stream, line, course.end_s or 0.0)
            problems.extend(damage.of_file())
        for number, window in assembly.finish():
            sounds[number] = _resample(window, rate, sample_rate, wanted.seconds)
    return sounds


def read_frames(
    path: Path, wanted: Wanted, frames_per_second: int, encode: Callable[[Image.Image], bytes], problems: list[str]
) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the segment, its pictures): at i / frames_per_second, the picture then on the screen.

    Pictures are as a player shows them, upright and with square pixels. They are encoded at once: ten seconds of raw
    ones would fill the memory. Names problems and raises as `read_sound` does.
    """
    with open_container(path) as container:
        stream = picture_stream(container)
        if stream is None:
            raise ValueError("no pictures")
        stream.codec_context.thread_count = 1  # videos are cut side by side

        def encode_shown(shown: Shown) -> bytes:
            return encode(Image.fromarray(shown.picture().numpy()))

        assembly = FrameAssembly(wanted, frames_per_second, encode_shown)
        course = Course("video", wanted, LONGEST_STILL_S, problems)
        line, damage = TimeLine(container, _LONGEST_HOLE_S), Damage()
        seek(container, path, wanted.from_s - _SEEK_AHEAD_S, wanted.from_s, _LONGEST_HOLE_S)
        for shown in read_shown(container, stream, line, damage, stop_at_damage=True):
            course.add(shown.time_s, shown.end_s)
            yield from assembly.add(shown)
            if assembly.done:
                return
        course.stop(told_length(container, stream), bool(damage.packets))
        yield from assembly.finish()


def _resample(window: NDArray[np.float32], rate: int, sample_rate: int, seconds: float) -> NDArray[np.int16]:
    wave = torchaudio.functional.resample(torch.from_numpy(window), rate, sample_rate).numpy()
    begin = round(MARGIN_S * sample_rate)
    wave = wave[begin : begin + round(seconds * sample_rate)]
    return np.rint(wave * 32_768).clip(-32_768, 32_767).astype(np.int16)
