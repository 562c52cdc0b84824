"""Videos to see and hear one object: the frames with its heat map, the sound of its stem.

Shapes: K objects, h x w cells of a heat map.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import torch
from av.audio.resampler import AudioResampler
from torch import Tensor

from ialcms.heatmap import lay_heat
from ialcms.inference.objects import Frame, SoundObject, resize, video_frame
from ialcms.inference.sound import SoundInfo, audio_frame, read_blocks
from ialcms.names import for_ffmpeg

STILL_FRAMES_PER_SECOND = 8
_TIME_BASE = Fraction(1, 90_000)
_AAC_RATES = frozenset(
    {7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
)  # fmt: skip
_OTHER_RATE = 48_000
_STILL_SIDE = 480  # px
_LINE_SHARE = 1 / 240  # of the frame's shorter side: width of the line around an object


def write_overlays(
    folder: Path,
    objects: Sequence[tuple[str, SoundObject, Path]],
    frames: Iterable[tuple[float, Frame]],
    localisation: Sequence[tuple[float, Tensor]],
    info: SoundInfo,
) -> list[Path]:
    """One mp4 per object from (name, object, its stem); all are written side by side, the frames are read once.

    frames: (second, frame) in order. localisation: (second, (K, h, w)) of the windows, in between it changes evenly.
    """
    times = [second + info.start_s for second, _ in localisation]
    maps = torch.stack([found for _, found in localisation])  # (windows, K, h, w)
    limits = [(float(maps[:, n].min()), float(maps[:, n].max())) for n in range(len(objects))]
    paths = [folder / f"{name}.mp4" for name, _, _ in objects]
    with ExitStack() as stack:
        writers = [stack.enter_context(_Mp4(path, stem, info)) for path, (_, _, stem) in zip(paths, objects)]
        for time_s, frame in frames:
            for n, (writer, (_, sounding, _)) in enumerate(zip(writers, objects)):
                heat = _at(times, maps[:, n], time_s)
                writer.write(time_s, _draw(frame, sounding, heat, limits[n]))
    return paths


def still_frames(objects: Sequence[SoundObject], seconds: float) -> Iterator[tuple[float, Frame]]:
    """Blank frames at a steady rate, for objects that are pictures by themselves."""
    blank = torch.zeros(_STILL_SIDE, _STILL_SIDE, 3, dtype=torch.uint8)
    for number in range(max(1, round(seconds * STILL_FRAMES_PER_SECOND))):
        yield number / STILL_FRAMES_PER_SECOND, blank


def _at(times: Sequence[float], maps: Tensor, time_s: float) -> Tensor:
    """The heat map at a time, between those of the windows before and after."""
    if len(times) == 1:
        return maps[0]
    after = min(max(bisect_left(times, time_s), 1), len(times) - 1)
    weight = (time_s - times[after - 1]) / (times[after] - times[after - 1])
    return torch.lerp(maps[after - 1], maps[after], min(max(weight, 0.0), 1.0))


def _draw(frame: Frame, sounding: SoundObject, heat: Tensor, limits: tuple[float, float]) -> Frame:
    """The frame, its sides made even (as the codec asks), with the heat map at the object's place."""
    height, width = frame.shape[:2]
    if sounding.place is None:
        picture = sounding.picture.permute(1, 2, 0)
        side = picture.shape[0]
        return lay_heat(resize(picture, (height, width), (0, 0, side, side)), heat, limits)
    x1, y1, x2, y2 = (round(edge) for edge in sounding.place)
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    drawn = frame.clone()
    inside = drawn[y1:y2, x1:x2]
    inside.copy_(lay_heat(inside, heat, limits))
    line = max(1, round(min(height, width) * _LINE_SHARE))
    for edge in (inside[:line], inside[-line:], inside[:, :line], inside[:, -line:]):
        edge.fill_(255)
    return drawn[: height // 2 * 2, : width // 2 * 2]


class _Mp4:
    """One video in the making; it has its name when it is whole."""

    def __init__(self, path: Path, stem: Path, info: SoundInfo) -> None:
        self._path, self._temporary = path, path.with_name(f".{path.stem}.tmp.mp4")
        self._info, self._stem = info, stem
        self._read = 0  # samples of the stem
        self._last_pts = -1

    def __enter__(self) -> _Mp4:
        self._container = av.open(for_ffmpeg(self._temporary), "w", format="mp4")
        self._video = self._container.add_stream("libx264", rate=30, options={"crf": "20", "preset": "veryfast"})
        self._video.pix_fmt = "yuv420p"
        self._video.codec_context.time_base = _TIME_BASE
        rate = self._info.sample_rate if self._info.sample_rate in _AAC_RATES else _OTHER_RATE
        layout = "mono" if self._info.num_channels == 1 else "stereo"
        self._audio = self._container.add_stream("aac", rate=rate, layout=layout)
        self._resampler = AudioResampler("fltp", layout, rate)
        self._blocks = read_blocks(self._stem, self._info)
        self._audio_pts = round(self._info.start_s * rate)
        return self

    def write(self, time_s: float, frame: Frame) -> None:
        if self._last_pts < 0:
            self._video.width, self._video.height = frame.shape[1], frame.shape[0]
        picture = video_frame(frame)
        picture.pts = max(round(max(time_s, 0.0) / _TIME_BASE), self._last_pts + 1)
        picture.time_base = _TIME_BASE
        self._last_pts = picture.pts
        self._container.mux(self._video.encode(picture))
        while self._info.start_s + self._read / self._info.sample_rate < time_s and self._write_sound():
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
        if kind is None:
            while self._write_sound():
                pass
            self._encode(self._resampler.resample(None))
            self._container.mux(self._video.encode(None))
            self._container.mux(self._audio.encode(None))
        self._blocks.close()
        self._container.close()
        if kind is None:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)
