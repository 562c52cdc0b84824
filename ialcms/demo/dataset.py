"""The demo data set on disk, in the layout of the published recipe's prepared data.

    python -m ialcms.demo.dataset data/demo --videos 8 --clips-per-video 3

    <root>/dataset.json                                         how it was made
    <root>/tree.json                                            which data set it is, for `ialcms data`
    <root>/train_solo_clip.csv  val_...  test_...               AUDIO_PATH,FRAMES_PATH,DETECTION_PATH below the root
    <root>/solo_audio_resample/<instrument>/<clip>.wav          mono, 11,025 Hz, 16 bit, 10 s
    <root>/solo_extract/<instrument>/<clip>/000001.jpg ...      80 frames, 8 per second
    <root>/solo_detect/<instrument>/<clip>.npy                  float32 (D, 7): frame_index, class_id, confidence,
                                                                x1, y1, x2, y2 in pixels of the frame

A clip is called <video>_<number>, a video <instrument>-<number>. The first videos of each instrument are the test
set, the next ones the validation set, the rest is for training. A run that was killed resumes.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ialcms.demo.clip_files import clip_paths, is_finished, write_clip
from ialcms.demo.instruments import BY_NAME, INSTRUMENTS
from ialcms.demo.synthesis import SAMPLE_RATE
from ialcms.demo.video import NUM_FRAMES, VideoId, draw_video, make_clip
from ialcms.files import replacing, temporary_name
from ialcms.processes import available_cores, worker_pool
from ialcms.progress import Progress
from ialcms.reading.text import read_json
from shards.tree_dataset import record_dataset

FORMAT = "ialcms-demo"
VERSION = 1  # raise it when the same options give other clips
DESCRIPTION = "dataset.json"
SPLITS = ("train", "val", "test")
_SMALLEST_FRAME_SIDE = 48


@dataclass(frozen=True)
class DemoOptions:
    """Everything that decides what is in the data set."""

    videos: int  # per instrument, those for validation and test among them
    clips_per_video: int
    seed: int = 0
    val_videos: int = 1  # per instrument
    test_videos: int = 1  # per instrument
    frame_size: tuple[int, int] = (224, 168)  # width, height
    jpeg_quality: int = 80
    instruments: tuple[str, ...] = tuple(BY_NAME)

    def check(self) -> None:
        """Raise ValueError with a remedy if the options make no data set."""
        if self.clips_per_video < 1:
            raise ValueError(f"clips_per_video is {self.clips_per_video}; make it at least 1")
        for name in ("seed", "val_videos", "test_videos"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; make it at least 0")
        if self.videos <= self.val_videos + self.test_videos:
            raise ValueError(
                f"{self.videos} videos per instrument leave none for training beside {self.val_videos} for validation "
                f"and {self.test_videos} for test; raise videos or lower the others"
            )
        if min(self.frame_size) < _SMALLEST_FRAME_SIDE:
            raise ValueError(f"frame_size is {self.frame_size}; make both sides at least {_SMALLEST_FRAME_SIDE} pixels")
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality is {self.jpeg_quality}; choose 1 to 95")
        unknown = sorted(set(self.instruments) - set(BY_NAME))
        if unknown or not self.instruments:
            raise ValueError(f"no such instrument: {', '.join(unknown) or 'none'}; choose from {', '.join(BY_NAME)}")
        if len(set(self.instruments)) < len(self.instruments):
            raise ValueError(f"instruments are {', '.join(self.instruments)}; name each once")

    def split_of(self, video_number: int) -> str:
        """More videos leave the validation and test sets as they are: training has the last ones."""
        if video_number < self.test_videos:
            return "test"
        return "val" if video_number < self.test_videos + self.val_videos else "train"

    def video_ids(self) -> list[VideoId]:
        """Instruments take turns, so that an unfinished data set has some of each."""
        return [
            VideoId(self.seed, BY_NAME[instrument], number)
            for number in range(self.videos)
            for instrument in self.instruments
        ]


def make_dataset(  # noqa: PLR0913 - options of a public function
    root: str | Path,
    videos: int,
    clips_per_video: int,
    seed: int = 0,
    jobs: int | None = None,
    *,
    val_videos: int = 1,
    test_videos: int = 1,
    frame_size: tuple[int, int] = (224, 168),
    jpeg_quality: int = 80,
    instruments: Sequence[str] = tuple(BY_NAME),
    show_progress: bool = True,
) -> Path:
    """Make the data set in `root`, or what is missing of it; returns the root.

    `videos`, of which `val_videos` and `test_videos` are held out, count per instrument; `frame_size` is (width,
    height). `jobs` processes work at it, one per core if it is None. The same options give the same bytes on the same
    machine, and a clip is the same in a data set of more videos or clips per video. Processes are spawned: a script
    that calls this at its top level needs `if __name__ == "__main__":`.

    Raises ValueError if the options are wrong or `root` holds something else.

    clips_per_video: of `videos`. seed: of everything that is drawn. jpeg_quality: of the frames, up to 100.
    instruments: names. show_progress: a bar or lines on standard error.
    """
    root = Path(root)
    width, height = frame_size
    options = DemoOptions(
        videos,
        clips_per_video,
        seed,
        val_videos=val_videos,
        test_videos=test_videos,
        frame_size=(width, height),
        jpeg_quality=jpeg_quality,
        instruments=tuple(instruments),
    )
    options.check()
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is {jobs}; make it at least 1")
    _claim(root, options)
    _make_missing_clips(root, options, jobs or available_cores(), show_progress=show_progress)
    for split in SPLITS:
        _write_csv(root, options, split)
    record_dataset(root, "demo")
    return root


# ---------------------------------------------------------------- the folder


def _describe(options: DemoOptions) -> dict[str, Any]:
    description = {
        "format": FORMAT,
        "version": VERSION,
        "options": dataclasses.asdict(options),
        "num_clips": len(options.instruments) * options.videos * options.clips_per_video,
        "sample_rate": SAMPLE_RATE,
        "frames_per_clip": NUM_FRAMES,
        "class_ids": {instrument.name: instrument.class_id for instrument in INSTRUMENTS},
    }
    return json.loads(json.dumps(description))  # as it reads from a file: tuples become lists


def _claim(root: Path, options: DemoOptions) -> None:
    """Write the description into an empty folder, or check that the one that is there is the same."""
    path = root / DESCRIPTION
    remedy = f"name another folder or delete '{root}'"
    wanted = _describe(options)
    if path.is_file():
        try:
            found = read_json(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); {remedy}") from error
        if found != wanted:
            raise ValueError(
                f"'{root}' holds a demo data set of other options ({_difference(found, wanted)}); {remedy}"
            )
        return
    if root.exists() and not root.is_dir():
        raise ValueError(f"'{root}' is not a folder; name another one")
    if root.is_dir() and any(entry != temporary_name(path) for entry in root.iterdir()):
        raise ValueError(f"'{root}' is not empty and holds no demo data set; {remedy}")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(wanted, indent=1) + "\n")


def _difference(found: object, wanted: dict[str, Any]) -> str:
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("options"), dict):
        return f"{DESCRIPTION} is of another format"
    for name, value in wanted["options"].items():
        if found["options"].get(name) != value:
            return f"{name} is {found['options'].get(name)} there, {value} was asked for"
    return f"version {found.get('version')}, this program makes {VERSION}"


def _write_csv(root: Path, options: DemoOptions, split: str) -> None:
    rows = [
        dataclasses.astuple(clip_paths(video_id, clip))
        for video_id in options.video_ids()
        if options.split_of(video_id.number) == split
        for clip in range(options.clips_per_video)
    ]
    with replacing(root / f"{split}_solo_clip.csv") as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


# ---------------------------------------------------------------- clips


def _make_missing_clips(root: Path, options: DemoOptions, jobs: int, show_progress: bool) -> None:
    """Make in `root` the clips of `options` that are not finished.

    jobs: processes. show_progress: as in `make_dataset`.
    """
    tasks: dict[VideoId, list[int]] = {}
    for video_id in options.video_ids():
        clips = range(options.clips_per_video)
        missing = [clip for clip in clips if not is_finished(root, clip_paths(video_id, clip))]
        if missing:
            tasks[video_id] = missing
    if not tasks:
        return
    count = sum(map(len, tasks.values()))
    with Progress(count, "demo data", is_shown=show_progress) as progress, worker_pool(min(jobs, len(tasks))) as pool:
        futures = {
            pool.submit(_make_clips_of_video, root, options, video_id, clips): len(clips)
            for video_id, clips in tasks.items()
        }
        for future in as_completed(futures):
            future.result()
            progress.advance(futures[future])


def _make_clips_of_video(root: Path, options: DemoOptions, video_id: VideoId, clip_numbers: list[int]) -> None:
    """Make clips of one video in `root`. clip_numbers: within the video."""
    video = draw_video(video_id, options.frame_size)
    for number in clip_numbers:
        write_clip(root, clip_paths(video_id, number), make_clip(video, number), jpeg_quality=options.jpeg_quality)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ialcms.demo.dataset", description="Make the demo data set.")
    parser.add_argument("root", help="folder, new or of a run that was stopped")
    parser.add_argument("--videos", type=int, default=8, help="per instrument")
    parser.add_argument("--clips-per-video", type=int, default=3)
    parser.add_argument("--val-videos", type=int, default=1, help="per instrument, among the videos")
    parser.add_argument("--test-videos", type=int, default=1, help="per instrument, among the videos")
    parser.add_argument("--frame-size", type=int, nargs=2, default=(224, 168), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--jpeg-quality", type=int, default=80)
    parser.add_argument("--instruments", nargs="+", default=tuple(BY_NAME))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, help="processes; default: one per core")
    try:
        make_dataset(**vars(parser.parse_args()))
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
