"""The frames of a video, as a player shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ialcms.inference.sound import open_media
from ialcms.media.container import picture_stream
from ialcms.media.damage import Damage
from ialcms.media.decode import Decoder, seek
from ialcms.media.pictures import Frame, Shown, read_shown
from ialcms.media.time_line import LONGEST_HOLE_S, TimeLine

TimedFrame = tuple[float, Frame]  # seconds since the beginning of the file; (H, W, 3) uint8

_END_S = 1.0  # behind a video's last frame: the sound may be a little longer than the picture


def has_pictures(path: Path) -> bool:
    """Whether a file has a video stream (a cover picture is none)."""
    with open_media(path) as container:
        return picture_stream(container) is not None


class Frames(Iterator[TimedFrame]):
    """Time and picture of the frames of a video, in order, from the one on the screen at `from_s` on.

    Where the video changes its size, so do they. Packets that cannot be decoded are left out and counted in `damage`,
    which is complete when the frames have been read to their end.
    """

    def __init__(self, path: Path, from_s: float = 0.0) -> None:
        self.damage = Damage()
        self._frames = self._read(path, from_s)

    def __next__(self) -> TimedFrame:
        return next(self._frames)

    def _read(self, path: Path, from_s: float) -> Iterator[TimedFrame]:
        with open_media(path) as container:
            stream = picture_stream(container)
            assert stream is not None
            decoder, end_s = Decoder(container, stream, TimeLine(container, LONGEST_HOLE_S)), 0.0
            self.damage = decoder.damage
            seek(container, path, from_s, wanted_s=from_s, longest_hole_s=LONGEST_HOLE_S)
            before: Shown | None = None
            for shown in read_shown(decoder):
                end_s = max(end_s, shown.end_s)
                if shown.time_s <= from_s:
                    before = shown
                    continue
                if before is not None:
                    yield before.time_s, before.picture()
                    before = None
                yield shown.time_s, shown.picture()
            if before is not None:
                yield before.time_s, before.picture()
            decoder.check_end(end_s)


def frame_at(path: Path, at_s: float) -> Frame:
    """The frame on the screen at a time; ValueError where the video does not reach it."""
    if at_s < 0:
        raise ValueError(f"a box at {at_s:g} s: give seconds since the beginning of the video")
    frames = Frames(path, at_s)
    time_s, frame = next(frames, (None, None))
    if frame is None and at_s == 0:
        raise ValueError(f"no picture of {path} can be decoded; get the file again, or give --pictures")
    if frame is None or time_s is None or (at_s - time_s > _last_frame_s(path) and next(frames, None) is None):
        raise ValueError(f"{path} has no frame at {at_s:g} s; give an earlier time")
    return frame


def _last_frame_s(path: Path) -> float:
    """How long a video's last frame stays on the screen."""
    with open_media(path) as container:
        stream = picture_stream(container)
        assert stream is not None
        return max(_END_S, float(1 / stream.average_rate) if stream.average_rate else 0.0)
