"""From packets to frames with their times; damaged packets are left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ialcms.media.container import (
    Stream,
    declared_length,
    lacks_its_end,
    open_container,
    origin_s,
    picture_stream,
    sound_stream,
)
from ialcms.media.damage import Damage
from ialcms.media.time_line import TimeLine, Unit, is_steady

_MOST_EMPTY = 8  # packets of sound without an error and without sound
_LEADING_S = 0.5
_LARGEST_TAIL = 0.1  # of a file, behind its last packet
_ENDS_WITH_PACKETS = ("matroska,webm", "flv", "ogg", "mpegts", "mpeg")  # formats without long tables at their end


@dataclass(slots=True)
class _Mark:
    """What a frame gets from its packet."""

    shift_s: float
    pixel_ratio: Fraction | None = None


@dataclass(slots=True)
class Decoded:
    """A frame with its time."""

    frame: Any  # av.AudioFrame or av.VideoFrame
    time_s: float | None  # on the file's time line; None where the file has no time stamps
    pixel_ratio: Fraction | None  # width to height of a picture's pixels, as coded in it
    after_damage: bool  # something before it could not be decoded


class Decoder:
    """The frames of a stream in order. Packets that cannot be decoded are left out, and counted in `damage`."""

    def __init__(
        self, container: av.container.InputContainer, stream: Stream, line: TimeLine, stop_at_damage: bool = False
    ) -> None:
        """stream: of the open container. line: of the container, made for this stream alone.

        stop_at_damage: end at the first damage behind a good frame, in sound behind the first half second.
        """
        self.stream, self.damage = stream, Damage()
        self._container, self._line, self._stop_at_damage = container, line, stop_at_damage

    def __iter__(self) -> Iterator[Decoded]:
        """From where the container stands to the end. The other stream's packets are read, too: they set the time."""
        context, line = self.stream.codec_context, self._line
        context.copy_opaque = True
        mark, at_s, damaged = _Mark(line.shift_s), None, False
        begun_s: float | None = None  # the time of the first frame
        empty = 0  # packets in a row that gave nothing
        try:
            for packet in self._container.demux(*self._streams()):
                time_s = line.locate(packet)
                is_end = packet.dts is None and packet.pts is None
                if packet.stream_index != self.stream.index or (not packet.size and not is_end):
                    continue
                at_s = at_s if time_s is None else time_s
                if packet.size:
                    mark = packet.opaque = _Mark(line.shift_s)
                try:
                    frames = packet.decode()
                except (av.FFmpegError, ValueError):  # ValueError: of a frame that PyAV cannot describe
                    self.damage.add(at_s)
                    damaged = True
                    if begun_s is not None and self._stop_at_damage and not _is_leading(context.type, at_s, begun_s):
                        self.damage.stopped = True
                        return
                    continue
                empty = 0 if frames or context.type == "video" else empty + 1
                if empty > _MOST_EMPTY:
                    self.damage.add(at_s)  # left out without an error, as by a wrong length in the head of an MP3 file
                if context.type == "video":
                    mark.pixel_ratio = context.sample_aspect_ratio
                for frame in frames:
                    yield _placed(frame, mark, damaged, unit=line.unit)
                    begun_s, damaged = (at_s or 0.0) if begun_s is None else begun_s, False
        except av.FFmpegError:
            self.damage.add(at_s)  # of the container itself: nothing behind it can be found
            self.damage.stopped = True

    def reject(self, decoded: Decoded) -> None:
        """Count a frame that is of no use as one that could not be decoded."""
        self.damage.add(decoded.time_s)

    def check_end(self, end_s: float) -> None:
        """Compare the end of what was read with what the file declares; to be called when all is read.

        end_s: of the last frame, on the time line.
        """
        damage, line, container = self.damage, self._line, self._container
        damage.jumps = tuple(map(str, line.jumps))
        declared = declared_length(container, self.stream)
        if declared.seconds is not None and not line.jumps and declared.seconds - end_s > declared.rounding_s:
            damage.breaks_off_s, damage.declared_s = end_s, declared.seconds
        elif lacks_its_end(container):
            damage.breaks_off_s = end_s
        if container.format.name in _ENDS_WITH_PACKETS and line.read_bytes < container.size * (1 - _LARGEST_TAIL):
            damage.unread_bytes = container.size - line.read_bytes

    def _streams(self) -> list[Stream]:
        """Sound, pictures and the decoded stream, each once."""
        streams: list[Stream | None] = [
            sound_stream(self._container),
            picture_stream(self._container),
            self.stream,
        ]
        return list({stream.index: stream for stream in streams if stream is not None}.values())


def _is_leading(kind: str, at_s: float | None, begun_s: float) -> bool:
    """Whether a packet is among those that a damaged first packet takes with it.

    MP3 and others need the packets before for the sound of the next ones. Pictures after damage would be wrong ones.
    """
    return kind == "audio" and (at_s is None or at_s - begun_s < _LEADING_S)


def seek(
    container: av.container.InputContainer, path: Path, to_s: float, wanted_s: float, longest_hole_s: float
) -> None:
    """Continue to read a file from `to_s`, if what is on the screen at `wanted_s` can be decoded from there.

    Otherwise nothing is done: the file is read from its beginning. container: the open file at `path`. longest_hole_s:
    as for the `TimeLine`.
    """
    if to_s <= 0 or not is_steady(path, longest_hole_s):
        return
    with open_container(path) as trial:
        stream = picture_stream(trial)
        try:
            trial.seek(round((to_s + origin_s(trial)) * av.time_base))
        except av.FFmpegError:
            return
        if stream is not None:
            # in formats without an index, nothing may be decodable for long after the position that was found
            first = next(iter(Decoder(trial, stream, TimeLine(trial, longest_hole_s))), None)
            if first is None or first.time_s is None or first.time_s > wanted_s:
                return
    container.seek(round((to_s + origin_s(container)) * av.time_base))


def _placed(frame: Any, latest: _Mark, after_damage: bool, unit: Unit) -> Decoded:
    """A frame with its time. latest: of the packets so far. after_damage: whether some before it could not be decoded.

    unit: of the stream's time stamps.
    """
    mark = frame.opaque or latest
    stamp = frame.dts if frame.pts is None else frame.pts
    time_s = None if stamp is None else unit.seconds(stamp) + mark.shift_s
    return Decoded(frame, time_s, mark.pixel_ratio, after_damage=after_damage)
