"""When packets are: seconds since the beginning of the file, through time stamps that begin anew or jump."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ialcms.media.container import open_container, origin_s, picture_stream, sound_stream

LONGEST_HOLE_S = 600.0  # in all streams at once; a longer one is a jump of the time stamps
_LONGEST_PAUSE_S = 60.0  # a longer jump forward counts as none if the time stamps come back from it
_BACK_S = 0.5  # a stream whose time stamps go back by more has begun anew
_BACK_OF_BROADCAST_S = 0.1  # in formats that are made to be cut and joined

_JOINED: Any = av.format.Flags.ts_discont.value


@dataclass(frozen=True)
class Jump:
    """A jump in the time stamps of a file: from there on they are not the time."""

    at_s: float  # on the line
    from_s: float  # what the time stamps say before ...
    to_s: float  # ... and behind it

    def __str__(self) -> str:
        if self.to_s < self.from_s:
            return f"time stamps begin anew at {self.at_s:.1f} s"
        return f"time stamps jump from {self.from_s:.1f} s to {self.to_s:.1f} s"


@dataclass(frozen=True)
class Unit:
    """The unit of a stream's time stamps. (Python's fractions would take as long as decoding does.)"""

    numerator: int
    denominator: int

    @classmethod
    def of(cls, time_base: Fraction | None) -> Unit:
        return cls(0, 1) if time_base is None else cls(time_base.numerator, time_base.denominator)

    def seconds(self, stamp: int) -> float:
        return stamp * self.numerator / self.denominator


class TimeLine:
    """Puts the packets of all streams of a file on one time line, in the order in which they are read.

    Time stamps that go back (files joined end to end) and jumps forward of all streams by more than `longest_hole_s`
    move all that follows, in all streams alike, so that it continues at the end of the longest stream. Shorter holes
    stay. With math.inf every jump forward is believed, until the time stamps come back from it.
    """

    def __init__(self, container: av.container.InputContainer, longest_hole_s: float) -> None:
        self._back_s = _BACK_OF_BROADCAST_S if _may_begin_anew(container) else _BACK_S
        self._longest_hole_s = longest_hole_s
        self._begin_s = origin_s(container)
        self._last_s: dict[int, float] = {}  # of each stream's latest packet
        self._end_s = -math.inf  # of all packets so far
        self._believed_s: float | None = None  # where a jump forward that was believed came from
        self._newest_shift_s = -self._begin_s
        self._shifts_s: dict[int, float] = {}  # of each stream
        self.shift_s = -self._begin_s  # what is to be added to the time stamps of the latest packet
        self._units: dict[int, Unit] = {}  # of each stream
        self.unit = Unit(1, 1)  # of the latest packet's time stamps
        self.jumps: list[Jump] = []
        self.read_bytes = 0  # of the file, to the end of the furthest packet

    def locate(self, packet: av.Packet) -> float | None:
        """When a packet is decoded, in seconds on the line; None for one without a decoding time stamp."""
        stream = packet.stream_index
        self.read_bytes = max(self.read_bytes, (packet.pos or 0) + packet.size)
        self.shift_s = self._shifts_s.get(stream, self._newest_shift_s)
        self.unit = self._units.get(stream) or self._units.setdefault(stream, Unit.of(packet.time_base))
        if packet.dts is None:
            return None
        stamp_s = self.unit.seconds(packet.dts)
        last_s = self._last_s.get(stream)
        if last_s is not None and not self._continues(stamp_s + self.shift_s, stamp_s + self._newest_shift_s, last_s):
            self.shift_s = self._newest_shift_s
        time_s = stamp_s + self.shift_s
        if last_s is not None and time_s < last_s - self._back_s:
            if self._believed_s is not None and time_s >= self._believed_s - self._back_s:
                self._last_s, self._end_s, self._believed_s = {}, time_s, None
            else:
                time_s = self._move(stamp_s, last_s)
        elif self._last_s and time_s > self._end_s + _LONGEST_PAUSE_S:
            if time_s > self._end_s + self._longest_hole_s:
                time_s = self._move(stamp_s, self._end_s)
            else:
                self._believed_s = self._end_s
        length_s = self.unit.seconds(packet.duration or 0)
        self._shifts_s[stream], self._last_s[stream] = self.shift_s, time_s
        self._end_s = max(self._end_s, time_s + min(max(length_s, 0.0), _LONGEST_PAUSE_S))
        return time_s

    def _continues(self, time_s: float, newest_s: float, last_s: float) -> bool:
        """Whether a packet belongs to its stream's latest one, and not behind the others' latest jump.

        Where files are joined, a stream's last packets before the joint may come after another's first ones behind it.
        """
        return time_s >= last_s - self._back_s and abs(time_s - last_s) <= abs(newest_s - last_s)

    def _move(self, stamp_s: float, last_s: float) -> float:
        """The time of a packet that continues at the end of all streams, whatever its time stamp is."""
        self.jumps.append(Jump(self._end_s, last_s - self.shift_s - self._begin_s, stamp_s - self._begin_s))
        self._newest_shift_s = self.shift_s = self._end_s - stamp_s
        return self._end_s


def _may_begin_anew(container: av.container.InputContainer) -> bool:
    """Whether the format is one that is made to be cut and joined."""
    return bool(container.format.flags & _JOINED)


def is_steady(path: Path, longest_hole_s: float) -> bool:
    """Whether a time on the line is the same as a time stamp of the file, all through the file."""
    status = path.stat()
    return _is_steady(path, longest_hole_s, _size=status.st_size, _changed_ns=status.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _is_steady(path: Path, longest_hole_s: float, _size: int, _changed_ns: int) -> bool:
    """As `is_steady`; the size and the time of the last change are a part of the cache's key."""
    with open_container(path) as container:
        if math.isinf(longest_hole_s) and not _may_begin_anew(container):
            return True  # reading it all would take longer than what is wanted of it
        line = TimeLine(container, longest_hole_s)
        streams = [stream for stream in (sound_stream(container), picture_stream(container)) if stream is not None]
        try:
            for packet in container.demux(*streams):
                line.locate(packet)
                if line.jumps:
                    return False
        except av.FFmpegError:
            return False
    return True
