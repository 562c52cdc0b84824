"""Reading the sound of any file that FFmpeg knows, in blocks, and writing stems in blocks: memory does not grow.

Shapes: C channels (1 or 2), n samples of a block.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import torch
from av.audio.resampler import AudioResampler
from torch import Tensor

from ialcms.inference.levels import SILENT, Levels
from ialcms.inference.resample import COMMON_RATE, has_filter
from ialcms.names import for_ffmpeg

Block = Tensor  # (C, n) float32

_LONGEST_GAP_S = 1.0  # of one damaged packet: its duration may be damaged, too
_LAYOUTS = {1: "mono", 2: "stereo"}
_WRITTEN_SAMPLES = 65_536  # of one frame
_WAV_LIMIT_BYTES = 4_000_000_000  # a WAV file counts its bytes in 32 bits; longer ones become RF64


@dataclass(frozen=True)
class SoundInfo:
    sample_rate: int  # at which the sound is read
    num_channels: int
    num_samples: int  # of each channel
    start_s: float  # of its first sample, since the beginning of the file

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


@dataclass
class Damage:
    """Packets of a stream that could not be decoded."""

    packets: int = 0
    first_s: float | None = None  # since the beginning of the file

    def add(self, at_s: float) -> None:
        self.packets += 1
        self.first_s = at_s if self.first_s is None else self.first_s

    def __str__(self) -> str:
        where = "" if self.first_s is None else f", the first at {self.first_s:.1f} s"
        return f"damaged packets: {self.packets}{where}"


def measure_sound(path: Path, model_rate: int, damage: Damage | None = None) -> SoundInfo:
    """Read the sound once to its end; ValueError where there is none, or nothing to hear in it."""
    damage = Damage() if damage is None else damage
    with open_media(path) as container:
        if not container.streams.audio:
            raise ValueError(f"{path} has no sound; there is nothing to separate")
        stream = container.streams.audio[0]
        rate = stream.rate if has_filter(stream.rate, model_rate) else COMMON_RATE
        origin_s = (container.start_time or 0) / av.time_base
        start_s = (
            float(stream.start_time * stream.time_base) - origin_s if stream.start_time and stream.time_base else 0
        )
        info = SoundInfo(rate, min(stream.channels, 2), 0, max(start_s, 0.0))
    count, levels = 0, Levels()
    for block in read_blocks(path, info, damage):
        if not bool(block.isfinite().all()):
            raise ValueError(f"the sound of {path} holds values that are no numbers; export it again")
        count += block.shape[1]
        levels.add(block)
    if levels.peak < SILENT and damage.packets:
        raise ValueError(f"nothing can be heard in {path} ({damage}); get the file again, or export it again")
    if levels.peak < SILENT:
        raise ValueError(f"{path} is silent; there is nothing to separate")
    levels.check(path)
    return SoundInfo(info.sample_rate, info.num_channels, count, info.start_s)


def read_blocks(path: Path, info: SoundInfo, damage: Damage | None = None) -> Generator[Block, None, None]:
    """The sound from its beginning, in blocks of some thousand samples, as floats with 1 for full scale.

    More than two channels are mixed down to two by FFmpeg's rules. Silence stands for packets that cannot be decoded,
    so that what follows keeps its time; they are counted in `damage`.
    """
    damage = Damage() if damage is None else damage
    resampler = AudioResampler("fltp", _LAYOUTS[info.num_channels], info.sample_rate)
    with open_media(path) as container:
        origin_s = (container.start_time or 0) / av.time_base
        for frames, gap_s in decode(container, container.streams.audio[0], damage):
            for frame in frames:
                time_s, frame.pts = frame.time, None  # by its time the resampler would fill gaps by itself
                try:
                    resampled = resampler.resample(frame)
                except ValueError:  # another rate or layout than before: so looks a packet with a damaged head
                    damage.add((time_s or 0.0) - origin_s)
                    yield torch.zeros(info.num_channels, round(frame.samples / frame.sample_rate * info.sample_rate))
                else:
                    yield from map(_floats, resampled)
            if gap_s:
                yield torch.zeros(info.num_channels, round(gap_s * info.sample_rate))
        yield from map(_floats, resampler.resample(None))


def _floats(frame: av.AudioFrame) -> Block:
    return torch.stack([torch.frombuffer(p, dtype=torch.float32, count=frame.samples) for p in frame.planes])


def decode(
    container: av.container.InputContainer, stream: av.AudioStream | av.VideoStream, damage: Damage
) -> Iterator[tuple[list[Any], float]]:
    """The frames of each packet, and for one that cannot be decoded how many seconds are missing."""
    origin_s = (container.start_time or 0) / av.time_base
    time_s, unit = 0.0, stream.time_base or 0
    try:
        for packet in container.demux(stream):
            if packet.pts is not None:
                time_s = float(packet.pts * unit) - origin_s
            try:
                frames, gap_s = packet.decode(), 0.0
            except av.FFmpegError:
                damage.add(time_s)
                frames, gap_s = [], min(float((packet.duration or 0) * unit), _LONGEST_GAP_S)
            yield frames, gap_s
    except av.FFmpegError:
        damage.add(time_s)  # of the container itself: nothing behind this place can be found


def audio_frame(block: Block, sample_rate: int, first: int, packed: bool = False) -> av.AudioFrame:
    """A frame of floats for an encoder; first: number of its first sample since the beginning."""
    channels, count = block.shape
    frame = av.AudioFrame("flt" if packed else "fltp", _LAYOUTS[channels], count)
    parts = [block.T.flatten()] if packed else list(block)
    for plane, values in zip(frame.planes, parts):
        torch.frombuffer(plane, dtype=torch.float32, count=len(values)).copy_(values)
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, first, Fraction(1, sample_rate)
    return frame


def open_media(path: Path) -> av.container.InputContainer:
    """Open a file for reading; ValueError where it is missing or no medium."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    try:
        return av.open(for_ffmpeg(path), metadata_errors="ignore")
    except av.FFmpegError as error:
        raise ValueError(f"{path} cannot be read as video or sound ({error.strerror})") from error


class StemWriter:
    """A 32-bit float WAV that grows block by block; it has its name when it is whole. Use as a context manager."""

    def __init__(self, path: Path, info: SoundInfo) -> None:
        self._path, self._temporary = path, path.with_name(f".{path.name}.tmp")
        large = 4 * info.num_channels * info.num_samples > _WAV_LIMIT_BYTES
        self._container = av.open(
            for_ffmpeg(self._temporary), "w", format="wav", options={"rf64": "always" if large else "never"}
        )
        layout = _LAYOUTS[info.num_channels]
        self._stream = self._container.add_stream("pcm_f32le", rate=info.sample_rate, layout=layout)
        self._rate, self._written = info.sample_rate, 0

    def write(self, block: Block) -> None:
        for part in block.split(_WRITTEN_SAMPLES, dim=1):
            self._container.mux(self._stream.encode(audio_frame(part, self._rate, self._written, packed=True)))
            self._written += part.shape[1]

    def __enter__(self) -> StemWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        if kind is None:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)
