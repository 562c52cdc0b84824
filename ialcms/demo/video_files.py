"""The demo's videos as video files, and pictures with boxes to train a detector on: data preparation from the very
beginning can be tried without downloading anything.

    python -m ialcms.demo.video_files data/try --videos 4

    <root>/videos/<instrument>/<video>.mp4, .webm, .mkv     kinds take turns; clips of 10 s, one after the other
    <root>/images/<video>-<frame>.jpg                       frames of other videos
    <root>/boxes.csv                                        their boxes, in the form of Open Images' annotations

A run that was killed resumes.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from PIL import Image

from ialcms.demo.instruments import BY_NAME
from ialcms.demo.scene import FRAMES_PER_SECOND
from ialcms.demo.synthesis import SAMPLE_RATE
from ialcms.demo.video import NUM_FRAMES, VideoId, draw_video, make_clip
from ialcms.files import replacing
from ialcms.names import for_ffmpeg
from ialcms.processes import available_cores, worker_pool
from ialcms.progress import Progress

BOXES_NAME = "boxes.csv"
_BOX_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Kind:
    """Codecs and rates as they come from the net."""

    suffix: str
    video_codec: str
    frames_per_second: Fraction
    audio_codec: str
    sample_rate: int
    layout: str
    speed: dict[str, str] = field(default_factory=dict)  # options of the video codec


KINDS = (
    Kind(
        ".mp4",
        "libx264",
        Fraction(25),
        audio_codec="aac",
        sample_rate=44_100,
        layout="stereo",
        speed={"preset": "ultrafast"},
    ),
    Kind(
        ".webm",
        "libvpx",
        Fraction(30),
        audio_codec="libopus",
        sample_rate=48_000,
        layout="stereo",
        speed={"deadline": "realtime", "cpu-used": "8"},
    ),
    Kind(".mkv", "mpeg4", Fraction(24_000, 1001), audio_codec="ac3", sample_rate=48_000, layout="5.1"),
)


def make_video_files(  # noqa: PLR0913 - options of a public function
    root: str | Path,
    videos: int,
    clips_per_video: int = 2,
    box_videos: int = 2,
    box_frames: int = 10,
    seed: int = 0,
    jobs: int | None = None,
    *,
    frame_size: tuple[int, int] = (224, 168),
    instruments: Sequence[str] = tuple(BY_NAME),
    show_progress: bool = True,
) -> Path:
    """Make the files in `root`, or what is missing of them; returns the root.

    `videos` and `box_videos` count per instrument, `box_frames` per box video; no video is of both sorts. `frame_size`
    is (width, height). Raises ValueError for numbers out of range and unknown instruments.

    clips_per_video: of `videos`. seed: of everything that is drawn. jobs: processes, one per core if it is None.
    show_progress: a bar or lines on standard error.
    """
    root = Path(root)
    if min(videos, clips_per_video) < 1 or box_videos < 0 or not 1 <= box_frames <= NUM_FRAMES:
        raise ValueError(
            f"videos {videos}, clips_per_video {clips_per_video}, box_videos {box_videos}, box_frames {box_frames}: "
            f"give at least 1, 1, 0, and 1 to {NUM_FRAMES}"
        )
    unknown = sorted(set(instruments) - set(BY_NAME))
    if unknown:
        raise ValueError(f"no such instrument: {', '.join(unknown)}; choose from {', '.join(BY_NAME)}")
    sources = [VideoId(seed, BY_NAME[name], number) for number in range(videos) for name in instruments]
    seen = [VideoId(seed, BY_NAME[name], videos + number) for number in range(box_videos) for name in instruments]
    bar = Progress(len(sources) + len(seen), "demo videos", unit="video", is_shown=show_progress)
    with bar, worker_pool(jobs or available_cores()) as pool:
        files = [pool.submit(_make_file, root, video, clips_per_video, frame_size) for video in sources]
        pictures = [pool.submit(_make_pictures, root, video, box_frames, frame_size) for video in seen]
        waiting: list[Future[Any]] = [*files, *pictures]
        for future in as_completed(waiting):
            future.result()
            bar.advance()
        boxes = [row for rows in pictures for row in rows.result()]
    if boxes:
        with replacing(root / BOXES_NAME) as temporary, open(temporary, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([_BOX_COLUMNS, *([name, *row] for name, row in boxes)])
    return root


def write_video(path: Path, frames: Iterable[Image.Image], wave: np.ndarray, kind: Kind) -> None:
    """Write frames (8 per second) and sound (float32 (num_samples,) at 11,025 Hz) as a video file.

    A frame is on the screen until the next one comes; all channels carry the same sound.

    path: of the file, whose container and codecs are of a `kind`. wave: the sound.
    """
    pictures = list(frames)
    with replacing(path) as temporary, av.open(for_ffmpeg(temporary), "w", format=_container(path)) as container:
        video: Any = container.add_stream(kind.video_codec, rate=kind.frames_per_second, options=kind.speed)
        video.bit_rate = 1_000_000
        video.codec_context.thread_count = 1  # files are written side by side
        video.width, video.height = pictures[0].size
        video.pix_fmt = "yuv420p"
        audio: Any = container.add_stream(kind.audio_codec, rate=kind.sample_rate, layout=kind.layout)
        for number in range(int(len(pictures) / FRAMES_PER_SECOND * kind.frames_per_second)):
            shown = int(number / kind.frames_per_second * FRAMES_PER_SECOND)
            frame = av.VideoFrame.from_image(pictures[shown])
            frame.pts, frame.time_base = number, 1 / kind.frames_per_second
            container.mux(video.encode(frame))
        container.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(np.asarray(wave, np.float32)[None], "fltp", "mono")
        sound.sample_rate = SAMPLE_RATE
        codec = audio.codec_context
        spread = AudioResampler(codec.format.name, kind.layout, kind.sample_rate, codec.frame_size or 1024)
        for piece in [*spread.resample(sound), *spread.resample(None)]:
            container.mux(audio.encode(piece))
        container.mux(audio.encode())


def _container(path: Path) -> str:
    return {".mkv": "matroska"}.get(path.suffix, path.suffix[1:])


def _make_file(root: Path, video_id: VideoId, num_clips: int, frame_size: tuple[int, int]) -> None:
    """Write video `video_id` of `num_clips` below `root`, unless it is there. frame_size: width and height."""
    kind = KINDS[(video_id.number + video_id.instrument.class_id) % len(KINDS)]
    path = root / "videos" / video_id.instrument.name / f"{video_id.name}{kind.suffix}"
    if path.is_file():
        return
    video = draw_video(video_id, frame_size)
    clips = [make_clip(video, number) for number in range(num_clips)]
    wave = np.concatenate([clip.wave for clip in clips])
    write_video(path, [frame for clip in clips for frame in clip.frames], wave, kind=kind)


def _make_pictures(
    root: Path, video_id: VideoId, num_frames: int, frame_size: tuple[int, int]
) -> list[tuple[str, list[str]]]:
    """(ImageID, the other columns) of frames spread over a clip; their boxes are exact.

    root: they are written below it. num_frames: of one clip of video `video_id`. frame_size: width and height.
    """
    clip = make_clip(draw_video(video_id, frame_size), 0)
    rows = []
    for index in np.linspace(0, NUM_FRAMES - 1, num_frames).round().astype(int):
        name = f"{video_id.name}-{index + 1:06d}"
        with replacing(root / "images" / f"{name}.jpg") as temporary:
            clip.frames[index].save(temporary, "JPEG", quality=_JPEG_QUALITY)
        x1, y1, x2, y2 = (clip.boxes[index] / np.tile(frame_size, 2)).clip(0, 1).tolist()
        rows.append((name, [video_id.instrument.name, *(f"{corner:.4f}" for corner in (x1, x2, y1, y2))]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ialcms.demo.video_files", description="Make demo video files.")
    parser.add_argument("root", help="folder, new or of a run that was stopped")
    parser.add_argument("--videos", type=int, default=4, help="per instrument")
    parser.add_argument("--clips-per-video", type=int, default=2)
    parser.add_argument("--box-videos", type=int, default=2, help="per instrument, for the detector's training")
    parser.add_argument("--box-frames", type=int, default=10, help="pictures of each of them")
    parser.add_argument("--frame-size", type=int, nargs=2, default=(224, 168), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--instruments", nargs="+", default=tuple(BY_NAME))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, help="processes; default: one per core")
    try:
        make_video_files(**vars(parser.parse_args()))
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
