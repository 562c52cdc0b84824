"""Videos to see and hear one object: the frames with its heat map, the sound of its stem.

Shapes: K objects, h x w cells of a heat map.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import torch
from av.audio.resampler import AudioResampler
from torch import Tensor

from ialcms.files import replacing
from ialcms.heatmap import lay_heat
from ialcms.inference.frames import TimedFrame
from ialcms.inference.objects import Region, SoundObject, resize
from ialcms.inference.sound import SoundInfo, audio_frame, read_blocks
from ialcms.inference.stems import Localisation
from ialcms.media.h264 import TIME_BASE, add_h264, for_h264
from ialcms.media.pictures import Frame
from ialcms.names import for_ffmpeg

STILL_FRAMES_PER_SECOND = 8
_AAC_RATES = frozenset({7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000})
_OTHER_RATE = 48_000
_STILL_SIDE = 480  # px
_LINE_SHARE = 1 / 240  # of the frame's shorter side: width of the line around an object


@dataclass(frozen=True)
class Overlay:
    """One video to write."""

    path: Path
    sounding: SoundObject
    stem: Path  # the sound of the video


def write_overlays(
    overlays: Sequence[Overlay],
    frames: Iterable[TimedFrame],
    localisation: Sequence[Localisation],
    info: SoundInfo,
) -> None:
    """All videos are written side by side; the frames are read once.

    overlays: one per object. frames: in order; those of another size than the first are made to fit into it.
    localisation: of the windows; in between it changes evenly. info: of the stems.
    """
    times = [window.second for window in localisation]
    maps = torch.stack([window.maps for window in localisation])  # (windows, K, h, w)
    limits = [(float(maps[:, n].min()), float(maps[:, n].max())) for n in range(len(overlays))]
    with ExitStack() as stack:
        writers = [stack.enter_context(_open_mp4(overlay, info)) for overlay in overlays]
        canvas: tuple[int, int] | None = None
        for time_s, frame in frames:
            canvas = canvas or _canvas(frame)
            frame = _Fit((frame.shape[0], frame.shape[1]), canvas).frame(frame)
            for n, (writer, overlay) in enumerate(zip(writers, overlays)):
                heat = _at(times, maps[:, n], time_s)
                writer.write(time_s, _draw(frame, overlay.sounding, heat, limits=limits[n]))


def still_frames(seconds: float) -> Iterator[TimedFrame]:
    """Blank frames at a steady rate, for objects that are pictures by themselves."""
    blank = torch.zeros(_STILL_SIDE, _STILL_SIDE, 3, dtype=torch.uint8)
    for number in range(max(1, round(seconds * STILL_FRAMES_PER_SECOND))):
        yield number / STILL_FRAMES_PER_SECOND, blank


def _canvas(frame: Frame) -> tuple[int, int]:
    """(H, W) of a video that begins with this frame: even, as the codec asks."""
    height, width = (max(2, side // 2 * 2) for side in frame.shape[:2])
    return height, width


class _Fit:
    """How a frame lies in a canvas, both (height, width): as large as possible, in the middle.

    One that is larger by a single row or column loses it.
    """

    def __init__(self, size: tuple[int, int], canvas: tuple[int, int]) -> None:
        self._size, self._canvas = size, canvas
        self._as_it_is = all(0 <= side - room <= 1 for side, room in zip(size, canvas))
        self._scale = 1.0 if self._as_it_is else min(room / side for side, room in zip(size, canvas))
        height, width = (max(1, round(side * self._scale)) for side in size)
        self._scaled = height, width
        self._top, self._left = (0, 0) if self._as_it_is else ((canvas[0] - height) // 2, (canvas[1] - width) // 2)

    def frame(self, frame: Frame) -> Frame:
        if self._as_it_is:
            return frame[: self._canvas[0], : self._canvas[1]]
        height, width = self._scaled
        fitted = torch.zeros(*self._canvas, 3, dtype=torch.uint8)
        part = resize(frame, self._scaled, (0, 0, self._size[1], self._size[0]))
        fitted[self._top : self._top + height, self._left : self._left + width] = part
        return fitted

    def region(self, region: Region) -> Region:
        """A region of the frame, in pixels of the canvas."""
        x1, y1, x2, y2 = (edge * self._scale for edge in region)
        return x1 + self._left, y1 + self._top, x2 + self._left, y2 + self._top


def _at(times: Sequence[float], maps: Tensor, time_s: float) -> Tensor:
    """The heat map at a time, between those of the windows before and after."""
    if len(times) == 1:
        return maps[0]
    after = min(max(bisect_left(times, time_s), 1), len(times) - 1)
    weight = (time_s - times[after - 1]) / (times[after] - times[after - 1])
    return torch.lerp(maps[after - 1], maps[after], min(max(weight, 0.0), 1.0))


def _draw(frame: Frame, sounding: SoundObject, heat: Tensor, limits: tuple[float, float]) -> Frame:
    """The frame with the heat map over the object.

    heat: (h, w) map of the region. limits: the values of the lowest and the highest colour.
    """
    height, width = frame.shape[:2]
    if sounding.region is None:
        picture = sounding.pictures[0].permute(1, 2, 0).contiguous()
        side = picture.shape[0]
        return lay_heat(resize(picture, (height, width), (0, 0, side, side)), heat, limits)
    region = _Fit(sounding.frame_size, (height, width)).region(sounding.region)
    x1, y1, x2, y2 = (round(edge) for edge in region)
    x1, y1 = min(x1, width - 1), min(y1, height - 1)
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    drawn = frame.clone()
    inside = drawn[y1:y2, x1:x2]
    inside.copy_(lay_heat(inside, heat, limits))
    line = max(1, round(min(height, width) * _LINE_SHARE))
    for edge in (inside[:line], inside[-line:], inside[:, :line], inside[:, -line:]):
        edge.fill_(255)
    return drawn


def _coded(frame: Frame) -> av.VideoFrame:
    """A frame for the encoder."""
    height, width = frame.shape[:2]
    picture = av.VideoFrame(width, height, "rgb24")
    plane = picture.planes[0]
    rows = torch.frombuffer(plane, dtype=torch.uint8).view(height, plane.line_size)
    rows[:, : 3 * width] = frame.flatten(1)
    return for_h264(picture)


@contextmanager
def _open_mp4(overlay: Overlay, info: SoundInfo) -> Iterator[_Mp4]:
    """A video that grows frame by frame; it has its name when it is whole."""
    with replacing(overlay.path) as temporary, _Mp4(temporary, overlay.stem, info) as video:
        yield video


class _Mp4:
    """Writes a video with the sound of a stem."""

    def __init__(self, path: Path, stem: Path, info: SoundInfo) -> None:
        self._path, self._stem, self._info = path, stem, info
        self._read = 0  # samples of the stem
        self._last_pts = -1

    def __enter__(self) -> _Mp4:
        self._container = av.open(for_ffmpeg(self._path), "w", format="mp4")
        self._video = add_h264(self._container, {"crf": "20", "preset": "veryfast"})
        rate = self._info.sample_rate if self._info.sample_rate in _AAC_RATES else _OTHER_RATE
        layout = "mono" if self._info.num_channels == 1 else "stereo"
        self._audio = self._container.add_stream("aac", rate=rate, layout=layout)
        self._resampler = AudioResampler("fltp", layout, rate)
        self._blocks = read_blocks(self._stem, self._info)
        self._audio_pts = 0
        return self

    def write(self, time_s: float, frame: Frame) -> None:
        """Add a frame; all frames are of one size, and the sound follows them."""
        if self._last_pts < 0:
            self._video.width, self._video.height = frame.shape[1], frame.shape[0]
        picture = _coded(frame)
        picture.pts = max(round(max(time_s, 0.0) / TIME_BASE), self._last_pts + 1)
        picture.time_base = TIME_BASE
        self._last_pts = picture.pts
        self._container.mux(self._video.encode(picture))
        while self._read / self._info.sample_rate < time_s and self._write_sound():
            pass

    def _write_sound(self) -> bool:
        block = next(self._blocks, None)
        if block is None:
            return False
        frame = audio_frame(block, self._info.sample_rate, self._read)
        self._read += block.shape[1]
        self._encode(self._resampler.resample(frame))
        return True

    def _encode(self, frames: Sequence[av.AudioFrame]) -> None:
        for frame in frames:
            frame.pts = self._audio_pts
            frame.time_base = Fraction(1, frame.sample_rate)
            self._audio_pts += frame.samples
            self._container.mux(self._audio.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                while self._write_sound():
                    pass
                self._encode(self._resampler.resample(None))
                self._container.mux(self._video.encode(None))
                self._container.mux(self._audio.encode(None))
        finally:
            self._blocks.close()
            self._container.close()
