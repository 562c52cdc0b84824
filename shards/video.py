"""Sound and pictures of segments of a video file.

Times are seconds since the beginning of the file (see `ialcms.media`). Both streams are read once, from front to back,
and placed by their time stamps: variable frame rates, late streams and gaps come out where they belong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from PIL import Image

from ialcms.media.container import declared_length, open_container, picture_stream, sound_stream
from ialcms.media.damage import Damage
from ialcms.media.decode import Decoder, seek
from ialcms.media.mix import SoundFormat
from ialcms.media.pictures import Shown, read_shown
from ialcms.media.sound import read_pieces, working_rate
from ialcms.media.time_line import TimeLine
from shards.segments import LONGEST_STILL_S, MARGIN_S, Course, FrameAssembly, SoundAssembly, Wanted

_SEEK_AHEAD_S = 2.0
_MOST_CUT = 0.1  # share of the samples that are cut off at full scale, audibly
_NAMED_CUT = 0.001
_LONGEST_HOLE_S = math.inf  # clips are numbered by their time


@dataclass(frozen=True)
class SegmentSounds:
    """The sound of the segments of a video."""

    waves: dict[int, NDArray[np.int16]]  # number of the segment -> (seconds * sample_rate,) mono sound
    problems: tuple[str, ...]  # what costs a part of the sound


def read_sound(path: Path, wanted: Wanted, sample_rate: int) -> SegmentSounds:
    """The sound of the segments; those that the file does not have are absent.

    Channels are mixed down by FFmpeg's rules for their layout, then resampled by torchaudio. Raises ValueError when
    there is no sound, none that can be mixed, or one far beyond full scale, and av.FFmpegError when the file cannot be
    read.
    """
    waves: dict[int, NDArray[np.int16]] = {}
    num_samples = num_cut = 0
    with open_container(path) as container:
        stream = sound_stream(container)
        if stream is None:
            raise ValueError("no sound")
        rate = working_rate(stream.rate, sample_rate)
        mono = SoundFormat(rate, 1, never_clips=True)
        assembly = SoundAssembly(wanted, rate)
        course = Course("sound", wanted, wanted.spare_s)
        decoder = Decoder(container, stream, TimeLine(container, _LONGEST_HOLE_S), stop_at_damage=True)
        seek(container, path, wanted.from_s - _SEEK_AHEAD_S, wanted_s=wanted.from_s, longest_hole_s=_LONGEST_HOLE_S)
        for piece in read_pieces(decoder, mono):
            samples = piece.samples[0].numpy()
            num_samples += len(samples) * piece.source_channels
            num_cut += piece.num_cut
            course.add(piece.position / rate, (piece.position + len(samples)) / rate)
            for number, window in assembly.add(piece.position, samples):
                waves[number] = _resample(window, rate, sample_rate, seconds=wanted.seconds)
            if assembly.done:
                break
        if not assembly.done:
            course.stop(declared_length(container, stream), decoder.damage.stopped)
        problems = [*course.problems, *_leading(decoder.damage, "sound"), *_cut(num_cut, num_samples)]
        if not assembly.done and not decoder.damage.packets:
            decoder.check_end(course.end_s or 0.0)
            problems += decoder.damage.of_file()
        for number, window in assembly.finish():
            waves[number] = _resample(window, rate, sample_rate, seconds=wanted.seconds)
    return SegmentSounds(waves, tuple(problems))


class FrameReader:
    """The pictures of the segments: at i / frames_per_second, the picture then on the screen.

    Pictures are as a player shows them, upright and with square pixels. They are encoded at once: ten seconds of raw
    ones would fill the memory. `problems` is complete when all is read.
    """

    def __init__(
        self, path: Path, wanted: Wanted, frames_per_second: int, encode: Callable[[Image.Image], bytes]
    ) -> None:
        """path: of the video. wanted: which segments. encode: a picture -> its file's bytes."""
        self._path, self._wanted = path, wanted
        self._fps, self._encode = frames_per_second, encode
        self._course = Course("video", wanted, LONGEST_STILL_S)
        self._damage = Damage()

    @property
    def problems(self) -> tuple[str, ...]:
        return (*self._course.problems, *_leading(self._damage, "video"))

    def __iter__(self) -> Iterator[tuple[int, list[bytes]]]:
        """(number of the segment, its pictures). Raises as `read_sound` does."""
        with open_container(self._path) as container:
            stream = picture_stream(container)
            if stream is None:
                raise ValueError("no pictures")
            stream.codec_context.thread_count = 1  # videos are cut side by side
            assembly = FrameAssembly(self._wanted, self._fps, self._encode_shown)
            decoder = Decoder(container, stream, TimeLine(container, _LONGEST_HOLE_S), stop_at_damage=True)
            self._damage, from_s = decoder.damage, self._wanted.from_s
            seek(container, self._path, from_s - _SEEK_AHEAD_S, wanted_s=from_s, longest_hole_s=_LONGEST_HOLE_S)
            for shown in read_shown(decoder):
                self._course.add(shown.time_s, shown.end_s)
                yield from assembly.add(shown)
                if assembly.done:
                    return
            self._course.stop(declared_length(container, stream), self._damage.stopped)
            yield from assembly.finish()

    def _encode_shown(self, shown: Shown) -> bytes:
        return self._encode(Image.fromarray(shown.picture().numpy()))


def _leading(damage: Damage, what: str) -> list[str]:
    """The problem line of damaged packets that were left out."""
    if not damage.packets or damage.stopped:
        return []
    at_s = "" if damage.first_s is None else f", the first at {damage.first_s:.1f} s"
    return [f"{what}: {damage.packets} damaged packets left out{at_s}"]


def _cut(num_cut: int, num_samples: int) -> list[str]:
    """The problem line of samples beyond full scale. ValueError where so many are that it cannot be a sound."""
    share = num_cut / max(num_samples, 1)
    if share > _MOST_CUT:
        raise ValueError(
            f"{share:.0%} of the sound's samples are beyond full scale, which is 1 for floats; they may be whole "
            "numbers stored as floats"
        )
    return [f"sound: {share:.1%} of the samples are beyond full scale and cut off"] if share > _NAMED_CUT else []


def _resample(window: NDArray[np.float32], rate: int, sample_rate: int, seconds: float) -> NDArray[np.int16]:
    """window: at `rate` Hz, from MARGIN_S before the segment on. seconds: length of the segment."""
    wave = torchaudio.functional.resample(torch.from_numpy(window), rate, sample_rate).numpy()
    begin = round(MARGIN_S * sample_rate)
    wave = wave[begin : begin + round(seconds * sample_rate)]
    return np.rint(wave * 32_768).clip(-32_768, 32_767).astype(np.int16)
