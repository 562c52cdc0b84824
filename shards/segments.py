"""Segments of a video: each gets its sound and pictures as these are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ialcms.media.container import DeclaredLength
from ialcms.media.pictures import Shown

MARGIN_S = 0.1  # of sound around a segment, so that the resampler's filter does not see its edges
LONGEST_STILL_S = 60.0  # a picture on the screen for longer is a jump in the time stamps
_ROUNDING_S = 0.05  # of time stamps: less than this is never missing


@dataclass(frozen=True)
class Segment:
    """A part of a file that becomes a clip."""

    number: int  # k in the clip's name
    start_s: float


@dataclass(frozen=True)
class Wanted:
    """What is cut out of a file: one segment, or (None) all that follow each other from its beginning."""

    segment: Segment | None
    seconds: float
    min_seconds: float  # of a segment that a stream must have; the rest is filled up

    @property
    def from_s(self) -> float:
        return self.first.start_s

    @property
    def to_s(self) -> float:
        return math.inf if self.segment is None else self.segment.start_s + self.seconds

    @property
    def spare_s(self) -> float:
        """Seconds that a segment may lack."""
        return max(self.seconds - self.min_seconds, _ROUNDING_S)

    @property
    def first(self) -> Segment:
        return self.segment or Segment(0, 0.0)

    def following(self, number: int, time_s: float) -> Segment | None:
        """The first segment after `number` that ends after `time_s`; None where there is none."""
        if self.segment is not None:
            return None
        number = max(number + 1, math.floor(time_s / self.seconds))
        return Segment(number, number * self.seconds)


class Course:
    """How far a stream has been read; `problems` has a late beginning, the first jump and where it breaks off."""

    def __init__(self, what: str, wanted: Wanted, longest_gap_s: float) -> None:
        self._what, self._wanted, self._longest_gap_s = what, wanted, longest_gap_s
        self._jumped = False
        self.problems: list[str] = []
        self.end_s: float | None = None

    def add(self, begin_s: float, end_s: float) -> None:
        """A piece of the stream was read."""
        if self.end_s is None and begin_s - self._wanted.from_s > self._longest_gap_s:
            self.problems.append(f"{self._what} begins at {begin_s:.1f} s")
        if self.end_s is not None and abs(begin_s - self.end_s) > self._longest_gap_s and not self._jumped:
            self.problems.append(f"{self._what}: time stamps jump from {self.end_s:.1f} s to {begin_s:.1f} s")
            self._jumped = True
        self.end_s = end_s if self.end_s is None else max(self.end_s, end_s)

    def stop(self, length: DeclaredLength, damaged: bool) -> None:
        """The stream ends, or is damaged, before all that is wanted was read. length: as the file declares it."""
        end_s = self.end_s or 0.0
        needed_s = min(length.seconds or 0.0, self._wanted.to_s)
        missing_s = needed_s - end_s if needed_s > self._wanted.from_s else 0.0
        if damaged or missing_s > max(length.rounding_s, self._wanted.spare_s):
            said = "" if length.seconds is None else f" of {length.seconds:.1f} s"
            self.problems.append(f"{self._what} breaks off at {end_s:.1f} s{said}")


class SoundAssembly:
    """Places samples in the windows of the segments, which have a margin on both sides."""

    def __init__(self, wanted: Wanted, rate: int) -> None:
        self._wanted, self._rate = wanted, rate
        self._margin = round(MARGIN_S * rate)
        self._length = round(wanted.seconds * rate) + 2 * self._margin
        self._next: Segment | None = wanted.first
        self._open: list[tuple[Segment, NDArray[np.float32]]] = []  # NaN where no sound was read

    @property
    def done(self) -> bool:
        return self._next is None and not self._open

    def add(self, position: int, samples: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Samples from `position` on -> (number, window) of the segments that are complete."""
        end = position + len(samples)
        while self._next is not None and self._first_sample(self._next) < end:
            if self._first_sample(self._next) + self._length > position:
                self._open.append((self._next, np.full(self._length, np.nan, np.float32)))
            self._next = self._wanted.following(self._next.number, position / self._rate)
        for segment, window in self._open:
            offset = position - self._first_sample(segment)
            begin, stop = max(offset, 0), min(offset + len(samples), self._length)
            if begin < stop:
                window[begin:stop] = samples[begin - offset : stop - offset]
        while self._open and self._first_sample(self._open[0][0]) + self._length <= position:
            yield from self._close(*self._open.pop(0))

    def finish(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for segment, window in self._open:
            yield from self._close(segment, window)

    def _close(self, segment: Segment, window: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        missing = np.isnan(window[self._margin : -self._margin]).sum()
        if missing <= self._wanted.spare_s * self._rate:
            yield segment.number, np.nan_to_num(window, copy=False)

    def _first_sample(self, segment: Segment) -> int:
        return round(segment.start_s * self._rate) - self._margin


class FrameAssembly:
    """Picks the picture on the screen at each of the times of the segments."""

    def __init__(self, wanted: Wanted, frames_per_second: int, encode: Callable[[Shown], bytes]) -> None:
        self._fps, self._encode = frames_per_second, encode
        self._num_frames = round(wanted.seconds * frames_per_second)
        self._wanted = wanted
        self._segment: Segment | None = wanted.first
        self._pictures: list[bytes] = []
        self._shown: Shown | None = None
        self._end_s = wanted.from_s  # of the frame shown
        self._picture: bytes | None = None  # of the frame shown, once it was needed

    @property
    def done(self) -> bool:
        return self._segment is None

    def add(self, shown: Shown) -> Iterator[tuple[int, list[bytes]]]:
        """A frame; the one before it is on the screen until its time."""
        time_s = shown.time_s
        if time_s - self._end_s > LONGEST_STILL_S:
            yield from self.finish()
            # one that begins a little before this frame is filled up with it, as others at their end
            if self._segment is not None:
                self._segment = self._wanted.following(
                    self._segment.number, time_s + self._wanted.seconds - self._wanted.spare_s
                )
            self._pictures, self._shown = [], None
        while self._shown is not None and self._segment is not None and self._due_s() < time_s - 1e-6:
            yield from self._take()
        self._shown, self._picture, self._end_s = shown, None, max(self._end_s, shown.end_s)

    def finish(self) -> Iterator[tuple[int, list[bytes]]]:
        while self._shown is not None and self._segment is not None and self._due_s() < self._end_s:
            yield from self._take()
        if self._segment is not None and len(self._pictures) >= self._wanted.min_seconds * self._fps:
            self._pictures += [self._pictures[-1]] * (self._num_frames - len(self._pictures))
            yield self._segment.number, self._pictures

    def _due_s(self) -> float:
        assert self._segment is not None
        return self._segment.start_s + len(self._pictures) / self._fps

    def _take(self) -> Iterator[tuple[int, list[bytes]]]:
        assert self._shown is not None
        assert self._segment is not None
        if self._picture is None:
            self._picture = self._encode(self._shown)
        self._pictures.append(self._picture)
        if len(self._pictures) == self._num_frames:
            yield self._segment.number, self._pictures
            self._pictures, self._segment = [], self._wanted.following(self._segment.number, 0.0)
