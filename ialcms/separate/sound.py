"""Reading the sound of any file that FFmpeg knows, in blocks, and writing stems in blocks: memory does not grow.

Shapes: C channels (1 or 2), n samples of a block.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import torch
from av.audio.resampler import AudioResampler
from torch import Tensor

Block = Tensor  # (C, n) float32

_SILENT = 1e-6  # peak, of full scale
# The filter between two rates has (rate / gcd) * (other / gcd) taps: sounds of an odd rate are brought to this one.
_COMMON_RATE = 48_000
_MAX_TAPS = 5_000_000
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


def measure_sound(path: Path, model_rate: int) -> SoundInfo:
    """Read the sound once to its end; ValueError where there is none, or nothing to hear in it."""
    with open_media(path) as container:
        if not container.streams.audio:
            raise ValueError(f"{path} has no sound; there is nothing to separate")
        stream = container.streams.audio[0]
        common = math.gcd(stream.rate, model_rate)
        fits = (stream.rate // common) * (model_rate // common) <= _MAX_TAPS
        origin_s = (container.start_time or 0) / av.time_base
        start_s = (
            float(stream.start_time * stream.time_base) - origin_s if stream.start_time and stream.time_base else 0
        )
        info = SoundInfo(stream.rate if fits else _COMMON_RATE, min(stream.channels, 2), 0, max(start_s, 0.0))
    count, peak = 0, 0.0
    for block in read_blocks(path, info):
        if not bool(block.isfinite().all()):
            raise ValueError(f"the sound of {path} holds values that are no numbers; export it again")
        count += block.shape[1]
        peak = max(peak, float(block.abs().max()) if block.numel() else 0.0)
    if peak < _SILENT:
        raise ValueError(f"{path} is silent; there is nothing to separate")
    return SoundInfo(info.sample_rate, info.num_channels, count, info.start_s)


def read_blocks(path: Path, info: SoundInfo) -> Generator[Block, None, None]:
    """The sound from its beginning, in blocks of some thousand samples, as floats with 1 for full scale.

    More than two channels are mixed down to two by FFmpeg's rules. What comes after a damaged place is left out.
    """
    resampler = AudioResampler("fltp", _LAYOUTS[info.num_channels], info.sample_rate)
    with open_media(path) as container:
        try:
            for frame in container.decode(container.streams.audio[0]):
                frame.pts = None  # the resampler would fill gaps by itself
                yield from map(_floats, resampler.resample(frame))
        except av.InvalidDataError:
            pass
        yield from map(_floats, resampler.resample(None))


def _floats(frame: av.AudioFrame) -> Block:
    return torch.stack([torch.frombuffer(p, dtype=torch.float32, count=frame.samples) for p in frame.planes])


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
        return av.open(str(path), metadata_errors="ignore")
    except av.FFmpegError as error:
        raise ValueError(f"{path} cannot be read as video or sound ({error.strerror})") from error


class StemWriter:
    """A 32-bit float WAV that grows block by block; it has its name when it is whole. Use as a context manager."""

    def __init__(self, path: Path, info: SoundInfo) -> None:
        self._path, self._temporary = path, path.with_name(f".{path.name}.tmp")
        large = 4 * info.num_channels * info.num_samples > _WAV_LIMIT_BYTES
        self._container = av.open(
            str(self._temporary), "w", format="wav", options={"rf64": "always" if large else "never"}
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
