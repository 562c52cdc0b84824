"""The sound of a file, as pieces at their positions on its time line.

Shapes: C channels (1 or 2), n samples.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import av
import torch
from torch import Tensor

from ialcms.media.decode import Decoded, Decoder
from ialcms.media.mix import Mixer, SoundFormat, SoundKind
from ialcms.media.time_line import LONGEST_HOLE_S, TimeLine

COMMON_RATE = 48_000  # from which there is a filter to any usual rate
_MAX_TAPS = 5_000_000  # of a filter from one rate to another
_RATES = (500, 800_000)  # Hz; others come from a damaged header
_FIRST_FRAMES = 9
_SILENT_BLOCK = 65_536  # samples
_ROUNDING_S = 0.05  # time stamps are rounded, in mkv to milliseconds: only a real gap or jump moves the position
_ROUNDING_AT_DAMAGE_S = 0.005  # where something is known to be missing


@dataclass(frozen=True)
class Piece:
    """Consecutive samples, and where they belong."""

    position: int  # of its first sample, from the beginning of the file; may be negative, or before an earlier one
    samples: Tensor  # (C, n) float32
    source_channels: int  # as many as it was mixed from
    num_cut: int = 0  # samples of the source cut off at full scale, audibly (see `SoundFormat.never_clips`)


def has_filter(rate: int, target_rate: int) -> bool:
    """Whether a resampling filter has a sensible size: its taps are (rate / gcd) * (target_rate / gcd)."""
    common = math.gcd(rate, target_rate)
    return (rate // common) * (target_rate // common) <= _MAX_TAPS


def working_rate(source_rate: int, target_rate: int) -> int:
    """At which sound is read: the source's rate, if a filter of a sensible size leads on to the target's."""
    return source_rate if source_rate > 0 and has_filter(source_rate, target_rate) else COMMON_RATE


def first_rate(container: av.container.InputContainer, stream: av.AudioStream) -> int:
    """The rate that a stream begins with; what the container says of it may be that of a later part."""
    decoded = Decoder(container, stream, TimeLine(container, LONGEST_HOLE_S))
    # not of the first one: FFmpeg's MP3 decoder gives it the container's rate
    rates = [int(entry.frame.sample_rate) for entry in itertools.islice(decoded, _FIRST_FRAMES)]
    return statistics.mode(rates) if rates else int(stream.rate)


def read_pieces(decoder: Decoder, wanted: SoundFormat) -> Iterator[Piece]:
    """The sound in order; where its kind changes on the way, it is mixed and resampled anew from there on.

    decoder: of a stream of sound. wanted: the format of the pieces. ValueError where the sound is of no kind that can
    be read.
    """
    run: _Run | None = None
    due: int | None = None  # where the next sample belongs, by counting
    for decoded in decoder:
        kind = SoundKind.of(decoded.frame)
        position = _position(decoded, due, wanted.sample_rate)
        if run is not None and (kind != run.kind or position != due):
            yield from run.finish()
            run = None
        if run is None:
            try:
                _check_rate(kind)
                run = _Run(kind, wanted, position)
            except ValueError:
                if due is None:
                    raise
                decoder.reject(decoded)  # a packet with a damaged header looks like this
                continue
        try:
            yield from run.add(decoded.frame)
            due = run.due
        except av.FFmpegError:
            decoder.reject(decoded)
            run = None
    if run is not None:
        yield from run.finish()


def _position(decoded: Decoded, due: int | None, rate: int) -> int:
    """Where a frame's first sample belongs: at its time stamp if there is a real gap or jump, or else at `due`."""
    stamped = due or 0 if decoded.time_s is None else round(decoded.time_s * rate)
    rounding_s = _ROUNDING_AT_DAMAGE_S if decoded.after_damage else _ROUNDING_S
    return stamped if due is None or abs(stamped - due) > rounding_s * rate else due


def _check_rate(kind: SoundKind) -> None:
    lowest, highest = _RATES
    if not lowest <= kind.sample_rate <= highest:
        raise ValueError(f"{kind.sample_rate} samples per second are no sound's; get the file or export it again")


class _Run:
    """Sound of one kind without a gap."""

    def __init__(self, kind: SoundKind, wanted: SoundFormat, begin: int) -> None:
        self.kind, self._rate = kind, wanted.sample_rate
        self._mixer = Mixer(kind, wanted)
        self._begin, self._given, self._taken = begin, 0, 0  # the last one in samples of the source
        self._num_cut = 0

    @property
    def due(self) -> int:
        """Where the next sample of the source belongs, by counting."""
        return self._begin + round(self._taken * self._rate / self.kind.sample_rate)

    def add(self, frame: av.AudioFrame) -> Iterator[Piece]:
        self._taken += frame.samples
        yield from self._pieces(frame)

    def finish(self) -> Iterator[Piece]:
        with contextlib.suppress(av.FFmpegError):  # a few samples that wait in a filter
            yield from self._pieces(None)

    def _pieces(self, frame: av.AudioFrame | None) -> Iterator[Piece]:
        for samples in self._mixer(frame):
            num_cut = self._mixer.num_cut - self._num_cut
            yield Piece(self._begin + self._given, samples, self.kind.num_channels, num_cut=num_cut)
            self._given += samples.shape[1]
            self._num_cut += num_cut


def silence(num_channels: int, count: int) -> Iterator[Tensor]:
    """`count` samples of silence in blocks (C, n), so that long ones take no memory."""
    for begin in range(0, count, _SILENT_BLOCK):
        yield torch.zeros(num_channels, min(_SILENT_BLOCK, count - begin))
