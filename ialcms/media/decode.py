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
from ialcms.media.time_line import TimeLine, Unit, is_steady

_MOST_EMPTY = 8  # packets of sound without an error and without sound
_LEADING_S = 0.5
_LARGEST_TAIL = 0.1  # of a file, behind its last packet
_ENDS_WITH_PACKETS = ("matroska,webm", "flv", "ogg", "mpegts", "mpeg")  # formats without long tables at their end


@dataclass
class Damage:
    """What is missing in a stream; filled while it is read."""

    packets: int = 0  # that could not be decoded
    stopped: bool = False  # reading ended at one of them
    first_s: float | None = None  # where the first of them is
    holes: int = 0  # gaps in the sound, by the time stamps
    hole_s: float = 0.0  # their length together
    first_hole_s: float | None = None
    overlap_s: float = 0.0  # of sound that came twice, by the time stamps; its second half is left out
    jumps: tuple[str, ...] = ()  # of the time stamps, as text
    breaks_off_s: float | None = None  # where the stream ends, if the file says that it is longer
    declared_s: float | None = None  # how long the file says that it is
    unread_bytes: int = 0  # behind the last packet that FFmpeg found, where it must be a good part of the file

    def add(self, at_s: float | None) -> None:
        """A packet that could not be decoded."""
        self.packets += 1
        self.first_s = at_s if self.first_s is None else self.first_s

    def add_hole(self, at_s: float, length_s: float) -> None:
        self.holes, self.hole_s = self.holes + 1, self.hole_s + length_s
        self.first_hole_s = at_s if self.first_hole_s is None else self.first_hole_s

    def end(self, container: av.container.InputContainer, stream: Stream, line: TimeLine, end_s: float) -> None:
        """The stream of the container was read to its end, which is at `end_s` on the line."""
        self.jumps = tuple(map(str, line.jumps))
        declared = declared_length(container, stream)
        if declared.seconds is not None and not line.jumps and declared.seconds - end_s > declared.rounding_s:
            self.breaks_off_s, self.declared_s = end_s, declared.seconds
        elif lacks_its_end(container):
            self.breaks_off_s = end_s
        if container.format.name in _ENDS_WITH_PACKETS and line.read_bytes < container.size * (1 - _LARGEST_TAIL):
            self.unread_bytes = container.size - line.read_bytes

    def __bool__(self) -> bool:
        return bool(self.parts())

    def __str__(self) -> str:
        return "; ".join(self.parts())

    def parts(self) -> list[str]:
        parts = []
        if self.packets:
            where = "" if self.first_s is None else f", the first at {self.first_s:.1f} s"
            parts.append(f"damaged packets: {self.packets}{where}")
        if self.holes:
            parts.append(f"holes: {self.holes}, {self.hole_s:.1f} s together, the first at {self.first_hole_s:.1f} s")
        if self.overlap_s:
            parts.append(f"time stamps overlap by {self.overlap_s:.1f} s")
        if self.breaks_off_s is not None:
            length = "" if self.declared_s is None else f" of {self.declared_s:.1f} s"
            parts.append(f"breaks off at {self.breaks_off_s:.1f} s{length}")
        return parts + self.of_file()

    def of_file(self) -> list[str]:
        """What is wrong with the file, not with one of its streams."""
        unread = f"the file's last {self.unread_bytes} bytes cannot be read"
        return [*self.jumps, unread] if self.unread_bytes else list(self.jumps)


@dataclass(slots=True)
class _Mark:
    """What a frame gets from its packet."""

    shift_s: float
    pixel_ratio: Fraction | None = None


@dataclass(slots=True)
class Decoded:
    frame: Any  # av.AudioFrame or av.VideoFrame
    time_s: float | None  # on the file's time line; None where the file has no time stamps
    pixel_ratio: Fraction | None  # width to height of a picture's pixels, as coded in it
    after_damage: bool  # something before it could not be decoded


def decode(
    container: av.container.InputContainer,
    stream: Stream,
    line: TimeLine,
    damage: Damage,
    stop_at_damage: bool = False,
) -> Iterator[Decoded]:
    """The frames of a stream in order. Packets that cannot be decoded are left out and counted in `damage`.

    stream: of the open container. line: of the container; the packets of the other stream are read, too, as they take
    part in what the time is. stop_at_damage: end at the first damage behind a good frame, in sound behind the first
    half second.
    """
    context = stream.codec_context
    context.copy_opaque = True
    others = [other for other in (sound_stream(container), picture_stream(container)) if other is not None]
    mark, at_s, damaged = _Mark(line.shift_s), None, False
    begun_s: float | None = None  # the time of the first frame
    empty = 0  # packets in a row that gave nothing
    try:
        for packet in container.demux(*{other.index: other for other in (*others, stream)}.values()):
            time_s = line.locate(packet)
            is_end = packet.dts is None and packet.pts is None
            if packet.stream_index != stream.index or (not packet.size and not is_end):
                continue
            at_s = at_s if time_s is None else time_s
            if packet.size:
                mark = packet.opaque = _Mark(line.shift_s)
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):  # ValueError: of a frame that PyAV cannot describe
                damage.add(at_s)
                damaged = True
                if begun_s is not None and stop_at_damage and not _is_leading(context.type, at_s, begun_s):
                    damage.stopped = True
                    return
                continue
            empty = 0 if frames or context.type == "video" else empty + 1
            if empty > _MOST_EMPTY:
                damage.add(at_s)  # left out without an error, as by a wrong length in the head of an MP3 file
            if context.type == "video":
                mark.pixel_ratio = context.sample_aspect_ratio
            for frame in frames:
                yield _placed(frame, mark, damaged, unit=line.unit)
                begun_s, damaged = (at_s or 0.0) if begun_s is None else begun_s, False
    except av.FFmpegError:
        damage.add(at_s)  # of the container itself: nothing behind it can be found
        damage.stopped = True


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
            first = next(decode(trial, stream, TimeLine(trial, longest_hole_s), damage=Damage()), None)
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
