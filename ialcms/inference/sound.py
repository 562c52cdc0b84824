"""Reading the sound of any file that FFmpeg knows, in blocks, and writing stems in blocks: memory does not grow.

Shapes: C channels (1 or 2), n samples of a block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import torch
from torch import Tensor

from ialcms.files import replacing
from ialcms.inference.levels import SILENT, Levels
from ialcms.media.container import open_container, sound_stream
from ialcms.media.damage import Damage
from ialcms.media.decode import Decoder
from ialcms.media.mix import SoundFormat
from ialcms.media.sound import Piece, first_rate, read_pieces, silence, working_rate
from ialcms.media.time_line import LONGEST_HOLE_S, TimeLine
from ialcms.names import for_ffmpeg

Block = Tensor  # (C, n) float32

_NAMED_HOLE_S = 0.1  # shorter ones are rounding, or a codec's padding
_LAYOUTS = {1: "mono", 2: "stereo"}
_WRITTEN_SAMPLES = 65_536  # of one frame
_WAV_LIMIT_BYTES = 4_000_000_000  # a WAV file counts its bytes in 32 bits; longer ones become RF64


@dataclass(frozen=True)
class SoundInfo:
    """Of a file's sound, which begins with the file: silence stands before a sound that comes later."""

    sample_rate: int  # at which the sound is read
    num_channels: int
    num_samples: int  # of each channel
    damage: Damage = field(default_factory=Damage, compare=False)  # what is missing in the file

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


def measure_sound(path: Path, model_rate: int) -> SoundInfo:
    """Read the sound once to its end; ValueError where there is none, or nothing to hear in it."""
    with open_media(path) as container:
        stream = sound_stream(container)
        if stream is None:
            raise ValueError(f"{path} has no sound; there is nothing to separate")
        rate = working_rate(first_rate(container, stream), model_rate)
    sound = _WholeSound(path, SoundFormat(rate, 2))
    count, levels, num_channels = 0, Levels(), 1
    for piece in sound:
        if not bool(piece.samples.isfinite().all()):
            raise ValueError(f"the sound of {path} holds values that are no numbers; export it again")
        count += piece.samples.shape[1]
        levels.add(piece.samples)
        num_channels = max(num_channels, min(piece.source_channels, 2))
    if levels.peak < SILENT and sound.damage.packets:
        raise ValueError(f"nothing can be heard in {path} ({sound.damage}); get the file again, or export it again")
    if levels.peak < SILENT:
        raise ValueError(f"{path} is silent; there is nothing to separate")
    levels.check(path)
    return SoundInfo(rate, num_channels, count, damage=sound.damage)


def read_blocks(path: Path, info: SoundInfo) -> Generator[Block, None, None]:
    """The sound since the beginning of the file, in blocks of some thousand samples, as floats with 1 for full scale.

    It has one rate and one number of channels even where the file's change on the way; more than two channels are mixed
    down to two. Silence stands for what is missing: packets that cannot be decoded, and holes in the time stamps.
    """
    wanted = SoundFormat(info.sample_rate, info.num_channels)
    for piece in _WholeSound(path, wanted):
        yield piece.samples


class _WholeSound:
    """The pieces of the sound and silence in between, from sample 0 on; what would lie over an earlier one is cut.

    `damage` is complete when the pieces have been read to their end.
    """

    def __init__(self, path: Path, wanted: SoundFormat) -> None:
        self.damage = Damage()
        self._path, self._wanted = path, wanted

    def __iter__(self) -> Iterator[Piece]:
        end, num_channels = 0, self._wanted.num_channels
        with open_media(self._path) as container:
            stream = sound_stream(container)
            assert stream is not None
            decoder = Decoder(container, stream, TimeLine(container, LONGEST_HOLE_S))
            self.damage = decoder.damage
            try:
                for piece in read_pieces(decoder, self._wanted):
                    self._note_gap(piece.position - end, end)
                    for samples in silence(num_channels, piece.position - end):
                        yield Piece(end, samples, 1)
                        end += samples.shape[1]
                    samples = piece.samples[:, max(end - piece.position, 0) :]
                    yield Piece(end, samples, piece.source_channels)
                    end += samples.shape[1]
            except ValueError as error:
                raise ValueError(f"the sound of {self._path}: {error}") from error
            decoder.check_end(end / self._wanted.sample_rate)

    def _note_gap(self, gap: int, end: int) -> None:
        """gap: samples between `end`, where the sound read so far ends, and a new piece; negative: they overlap."""
        gap_s = gap / self._wanted.sample_rate
        if gap_s > _NAMED_HOLE_S and end:
            self.damage.add_hole(end / self._wanted.sample_rate, gap_s)
        if gap_s < -_NAMED_HOLE_S:
            self.damage.overlap_s -= gap_s


def audio_frame(block: Block, sample_rate: int, first: int, packed: bool = False) -> av.AudioFrame:
    """A frame of floats for an encoder.

    first: number of its first sample since the beginning. packed: whether the channels alternate in one plane.
    """
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
        return open_container(path)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path} cannot be read as video or sound ({error.strerror})") from error


@contextlib.contextmanager
def open_stem(path: Path, info: SoundInfo) -> Iterator[StemWriter]:
    """A 32-bit float WAV that grows block by block; it has its name when it is whole. info: of its samples."""
    with replacing(path) as temporary, StemWriter(temporary, info) as writer:
        yield writer


class StemWriter:
    """Writes the blocks of a 32-bit float WAV. Use as a context manager."""

    def __init__(self, path: Path, info: SoundInfo) -> None:
        large = 4 * info.num_channels * info.num_samples > _WAV_LIMIT_BYTES
        self._container = av.open(for_ffmpeg(path), "w", format="wav", options={"rf64": "always" if large else "never"})
        layout = _LAYOUTS[info.num_channels]
        self._stream = self._container.add_stream("pcm_f32le", rate=info.sample_rate, layout=layout)
        self._rate, self._written = info.sample_rate, 0

    def write(self, block: Block) -> None:
        """Append samples of as many channels as the file has."""
        for part in block.split(_WRITTEN_SAMPLES, dim=1):
            self._container.mux(self._stream.encode(audio_frame(part, self._rate, self._written, packed=True)))
            self._written += part.shape[1]

    def __enter__(self) -> StemWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
