"""The time line by itself: packets of two streams, whose time stamps do what they like."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import av
import pytest

from ialcms.media.time_line import LONGEST_HOLE_S, TimeLine

SOUND, PICTURES = 0, 1
_BROADCAST = av.format.Flags.ts_discont.value


def line_of(flags: int = 0, start_s: float = 0.0, longest_hole_s: float = LONGEST_HOLE_S) -> TimeLine:
    container: Any = SimpleNamespace(
        start_time=round(start_s * av.time_base), format=SimpleNamespace(flags=flags), name="x"
    )
    return TimeLine(container, longest_hole_s)


def times(line: TimeLine, stream: int, *stamps_s: float, length_s: float = 1.0) -> list[float | None]:
    placed = []
    for stamp_s in stamps_s:
        packet: Any = SimpleNamespace(
            stream_index=stream,
            dts=round(stamp_s * 1000),
            duration=round(length_s * 1000),
            time_base=Fraction(1, 1000),
            pos=None,
            size=1,
        )
        placed.append(line.locate(packet))
    return placed


def test_times_since_the_beginning_of_the_file() -> None:
    line = line_of(start_s=1.5)
    assert times(line, SOUND, 1.5, 2.5, 5.5) == [0, 1, 4]
    assert line.jumps == []


def test_all_streams_move_together() -> None:
    line = line_of()
    times(line, PICTURES, 0, 1, 2, 3)
    times(line, SOUND, 0, 1, 2)
    assert times(line, SOUND, 0.1, 1.1) == [4, 5]  # behind the pictures, which had come further
    assert times(line, PICTURES, 0, 1, 2) == pytest.approx([3.9, 4.9, 5.9])
    assert [str(jump) for jump in line.jumps] == ["time stamps begin anew at 4.0 s"]


def test_packets_from_before_the_place_keep_their_time() -> None:
    line = line_of(_BROADCAST)
    times(line, PICTURES, 10, 11, 12)
    times(line, SOUND, 10, 11)
    assert times(line, PICTURES, 0, 1) == [13, 14]
    assert times(line, SOUND, 12, 0, 1) == [12, 13, 14]
    assert len(line.jumps) == 1


@pytest.mark.parametrize(("flags", "jumps"), [(0, 0), (_BROADCAST, 1)])
def test_a_little_back_is_a_beginning_only_where_files_are_made_to_be_joined(flags: int, jumps: int) -> None:
    line = line_of(flags)
    times(line, SOUND, 0, 1, 2, 1.7)
    assert len(line.jumps) == jumps


def test_a_hole_stays_and_a_jump_of_hours_does_not() -> None:
    line = line_of()
    assert times(line, SOUND, 0, 500, 8_000, 8_001) == [0, 500, 501, 502]
    assert [str(jump) for jump in line.jumps] == ["time stamps jump from 501.0 s to 8000.0 s"]


def test_a_stream_may_rest_while_the_other_one_goes_on() -> None:
    line = line_of()
    times(line, SOUND, 0)
    times(line, PICTURES, *range(0, 2_000, 500))  # each closes up
    assert times(line, SOUND, 1_501) == [1_501]
    assert line.jumps == []


def test_one_wrong_time_stamp_moves_nothing_for_long() -> None:
    line = line_of()
    assert times(line, SOUND, 0, 1, 9e6, 3, 4) == [0, 1, 2, 3, 4]
    believing = line_of(longest_hole_s=float("inf"))
    assert times(believing, SOUND, 0, 1, 9e6, 3, 4) == [0, 1, 9e6, 3, 4]
    assert believing.jumps == []


def test_packets_without_a_time_stamp() -> None:
    line = line_of()
    packet: Any = SimpleNamespace(stream_index=0, dts=None, time_base=Fraction(1, 1000), pos=700, size=50)
    assert line.locate(packet) is None
    assert line.read_bytes == 750
