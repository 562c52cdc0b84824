"""The listening page of a separation: its pictures and sounds made small, and put on one page.

The page is bounded: of a long video it has the beginning, and says so. The stems in files are always whole.

Shapes: C channels, n samples; H x W frames.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from ialcms.inference.frames import Frames, TimedFrame
from ialcms.inference.objects import SoundObject
from ialcms.inference.sound import SoundInfo
from ialcms.inference.stems import Localisation
from ialcms.media.h264 import TIME_BASE, add_h264, for_h264
from ialcms.media.pictures import Frame
from ialcms.names import printable
from ialcms.report.figures import clock_time, instrument_label
from ialcms.report.media import playback_gain
from ialcms.report.separated import Box, SeparatedPage, Stem, playback_note, write_separated_page

LONGEST_S = 180.0
LARGEST_BYTES = 40_000_000
_VIDEO_SIDE = 640  # px, of the longer side
_KEY_FRAMES = "48"  # from one to the next, so that jumps are quick


@dataclass(frozen=True)
class SeparatedFiles:
    """What a separation read and wrote."""

    source: Path
    has_pictures: bool
    checkpoint: str
    step: int
    info: SoundInfo
    objects: Sequence[SoundObject]
    names: Sequence[str]  # of the objects' files
    stems: Sequence[Path]
    remainder: Path
    localisation: Sequence[Localisation]


@dataclass(frozen=True)
class _Video:
    content: bytes
    size: tuple[int, int]  # (H, W)


def write_listening_page(path: Path, files: SeparatedFiles) -> Path:
    """Write the page, of `LONGEST_S` seconds and about `LARGEST_BYTES` at most, and return its path."""
    seconds = min(files.info.seconds, LONGEST_S)
    while True:
        page = _page(files, seconds)
        size = 4 / 3 * (len(page.video) + sum(len(stem.sound) for stem in page.stems))  # as base64
        if size <= LARGEST_BYTES:
            return write_separated_page(path, page)
        seconds *= 0.95 * LARGEST_BYTES / size


def _page(files: SeparatedFiles, seconds: float) -> SeparatedPage:
    rate = files.info.sample_rate
    count = max(1, round(seconds * rate))
    video = _preview(Frames(files.source), seconds) if files.has_pictures else None
    original = np.zeros(count, np.float32)
    peak = np.zeros(1, np.float32)
    paths = (*files.stems, files.remainder)
    for path in paths:
        wave = _read(path, count)
        original += wave.mean(axis=1)
        peak = np.maximum(peak, np.abs(wave).max())
    gain = playback_gain([peak], [peak])
    stems = []
    for index, sounding in enumerate(files.objects):
        stems.append(_object_stem(files, index, sounding, sound=_read(files.stems[index], count), gain=gain))
    rest = _read(files.remainder, count)
    stems.append(Stem("Remainder", rest.mean(axis=1), _flac(rest, gain, rate), note="What no object has."))
    stems.append(Stem("Original", original, note="The sum of all."))
    return SeparatedPage(
        title=printable(files.source.name),
        sample_rate=rate,
        stems=stems,
        times=[window.second for window in files.localisation],
        video=video.content if video else b"",
        frame_size=video.size if video else (0, 0),
        facts=_facts(files, seconds, gain),
    )


def _facts(files: SeparatedFiles, seconds: float, gain: float) -> dict[str, str]:
    length = clock_time(files.info.seconds)
    is_cut = seconds < files.info.seconds
    return {
        "Length": f"the first {clock_time(seconds)} of {length}; the stems in files are whole" if is_cut else length,
        "Separated by": f"{printable(Path(files.checkpoint).name)}, step {files.step:,}",
        "Played": playback_note(gain),
    }


def _object_stem(
    files: SeparatedFiles, index: int, sounding: SoundObject, *, sound: NDArray[np.float32], gain: float
) -> Stem:
    """index: of the object. sound: (n, C), of its stem. gain: of all sounds of the page."""
    maps = torch.stack([window.maps[index] for window in files.localisation]).float().numpy()
    label = instrument_label(sounding.name or files.names[index])
    return Stem(
        name=f"{index + 1} {label}",
        wave=sound.mean(axis=1),
        sound=_flac(sound, gain, files.info.sample_rate),
        picture=sounding.pictures[0].permute(1, 2, 0).numpy(),
        maps=maps,
        box=_box(sounding) if files.has_pictures else None,
    )


def _box(sounding: SoundObject) -> Box | None:
    if sounding.region is None:
        return None
    height, width = sounding.frame_size
    x1, y1, x2, y2 = sounding.region
    return x1 / width, y1 / height, x2 / width, y2 / height


def _read(path: Path, count: int) -> NDArray[np.float32]:
    """(n, C): the first `count` samples, or as many as there are, filled up with silence."""
    with open(path, "rb") as file:  # libsndfile opens no names that are not UTF-8
        samples, _ = soundfile.read(file, frames=count, dtype="float32", always_2d=True, fill_value=0.0)
    return samples


def _flac(wave: NDArray[np.float32], gain: float, sample_rate: int) -> bytes:
    """(n, C) -> FLAC of 16 bits: no coding noise of its own, and two thirds of the size of WAV."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(gain * wave, -1.0, 1.0), sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _preview(frames: Iterable[TimedFrame], seconds: float) -> _Video:
    """The video until `seconds`, small and without sound."""
    file, size, last_pts = io.BytesIO(), (0, 0), -1
    with av.open(file, "w", format="mp4") as container:
        options = {"crf": "26", "preset": "veryfast", "g": _KEY_FRAMES}
        stream = add_h264(container, options)
        for time_s, frame in frames:
            if time_s > seconds and last_pts >= 0:
                break
            if last_pts < 0:
                size = _preview_size(frame)
                stream.height, stream.width = size
            picture = _fitted(frame, size)
            picture.pts = 0 if last_pts < 0 else max(round(time_s / TIME_BASE), last_pts + 1)
            picture.time_base, last_pts = TIME_BASE, picture.pts
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return _Video(file.getvalue(), size)


def _preview_size(frame: Frame) -> tuple[int, int]:
    """(H, W), even, as the codec asks; not larger than the frame."""
    height, width = frame.shape[:2]
    scale = min(1.0, _VIDEO_SIDE / max(height, width))
    return max(2, round(height * scale) // 2 * 2), max(2, round(width * scale) // 2 * 2)


def _fitted(frame: Frame, size: tuple[int, int]) -> av.VideoFrame:
    """A frame for the encoder, as large as it fits in the middle of `size`."""
    height, width = frame.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    inner = (min(size[0], round(height * scale)), min(size[1], round(width * scale)))
    if size[0] - inner[0] <= 2 and size[1] - inner[1] <= 2:  # of the same shape, up to even sides
        inner = size
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.numpy()), format="rgb24")
    if inner != size:
        small = picture.reformat(width=max(1, inner[1]), height=max(1, inner[0])).to_ndarray()
        canvas = np.zeros((*size, 3), np.uint8)
        top, left = (size[0] - small.shape[0]) // 2, (size[1] - small.shape[1]) // 2
        canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
        picture = av.VideoFrame.from_ndarray(canvas, format="rgb24")
    return for_h264(picture, width=size[1], height=size[0])
