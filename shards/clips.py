"""A folder of videos -> clips of a prepared tree: sound and pictures of ten seconds each.

    cut_videos(videos_of_folders(Path("videos")), Path("tree"), ClipOptions(), jobs=8)

A clip's frames are written under a temporary name and renamed, its sound comes last: a clip that has a sound is whole.
Videos that are finished are recorded in the tree's folder `.clips`, and a run that was killed resumes with the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from PIL import Image

from ialcms.files import CLIPS_REPORT, claim, write_whole
from ialcms.names import num_bytes
from ialcms.overwriting import lies_in
from ialcms.processes import map_ordered
from ialcms.progress import Progress
from ialcms.reading.text import read_json
from shards.encode import encode_audio, encode_jpeg, scaled_size
from shards.entries import MAX_KEY_BYTES
from shards.index import TreeLayout
from shards.segments import Segment, Wanted
from shards.video import FrameReader, read_sound
from shards.video_lists import Listed

SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".flv")
_RECORDS = ".clips"
_Key = tuple[str, str, int | None]
_RESAMPLER = "FFmpeg's mix of the channels to one, torchaudio.functional.resample (windowed sinc, width 6)"


@dataclass(frozen=True)
class ClipOptions:
    """How videos are cut into clips."""

    seconds: float = 10.0
    min_seconds: float = 9.5  # of a clip that the video must have; silence and the last picture fill it up
    frames_per_second: int = 8
    sample_rate: int = 11_025
    longest_side: int = 0  # pixels; larger frames are scaled down to it; 0: as they are
    jpeg_quality: int = 90


@dataclass(frozen=True)
class Video:
    """What to cut out of a file: one segment, or (None) all clips that it holds."""

    path: Path
    instrument: str
    name: str  # the video's id
    segment: Segment | None = None


@dataclass
class VideoResult:
    """What was cut from a video, or why nothing was."""

    instrument: str
    video: str
    clips: list[str] = field(default_factory=list)
    problem: str | None = None
    segment: int | None = None  # number of the one that was cut


def videos_of_folders(folder: Path) -> list[Video]:
    """The videos `<instrument>/<id>.<suffix>` of a folder. Raises ValueError when there is none or a name is twice."""
    videos = [Video(path, path.parent.name, path.stem) for path in _video_files(folder) if path.parent != folder]
    if not videos:
        raise ValueError(f"no video <instrument>/<id>{'|'.join(SUFFIXES)} in {folder}; sort them so, or give --list")
    _check_names(videos)
    return videos


def videos_of_list(folder: Path, listed: Iterable[Listed]) -> tuple[list[Video], list[Listed]]:
    """The listed videos and segments that the folder has, anywhere in it, and those that it has not.

    A file is found by its name: `<id>` or `... [<id>]`, whole, or `<id>_<start second>` for a segment cut out already.
    """
    files: dict[str, Path] = {}
    for path in _video_files(folder):
        bracketed = re.search(r"\[([^\[\]]+)\]$", path.stem)  # the name that yt-dlp gives
        files.setdefault(bracketed[1] if bracketed else path.stem, path)
    found: dict[_Key, Video] = {}
    missing = []
    for entry in listed:
        if entry.start_s is None:
            source, segment = files.get(entry.video), None
        else:
            second = int(entry.start_s)
            cut = files.get(f"{entry.video}_{second:06d}") or files.get(f"{entry.video}_{second}")
            source = cut or files.get(entry.video)
            segment = Segment(second, 0.0 if cut else entry.start_s)
        if source is None:
            missing.append(entry)
        else:
            found.setdefault(
                _key(dataclasses.asdict(entry)), Video(source, entry.instrument, entry.video, segment=segment)
            )
    return list(found.values()), missing


def check_videos(videos: Sequence[Video], folder: Path, tree: Path) -> None:
    """Raises ValueError for problems that would otherwise show only when all is cut: names that clips cannot have, two
    videos whose clips would have the same names, an earlier run's clips of the same name, and videos that lie in
    folders of clips.
    """
    layout = TreeLayout()
    for name in (layout.audio, layout.frames, _RECORDS):
        if lies_in(folder, tree / name):
            raise ValueError(f"the videos lie in {tree / name}, which holds clips; give another folder for --out")
    earlier = {
        (item["video"], _segment_number(item)): item["instrument"]
        for item in _read_report(tree).get("videos", ())
        if item["clips"]
    }
    seen: dict[tuple[str, int | None], Video] = {}
    for video in videos:
        number = None if video.segment is None else video.segment.number
        suffix = "_999" if number is None else f"_{number}"
        most = MAX_KEY_BYTES - len(suffix)
        if num_bytes(video.name) > most:
            raise ValueError(f"{video.path}: a clip's name can have {most} bytes only; rename the video, like its id")
        other = seen.setdefault((video.name.replace(".", "-"), number), video)
        if other is not video:
            raise ValueError(
                f"the clips of two videos would have one name: {other.path} ({other.instrument}) and {video.path} "
                f"({video.instrument}); rename one, or list it once"
            )
        before = earlier.get((video.name, number), video.instrument)
        if before != video.instrument:
            raise ValueError(
                f"{tree} has clips of video '{video.name}' as {before} already, now it is {video.instrument}; remove "
                "them, or correct the list"
            )


def cut_videos(
    videos: Sequence[Video],
    tree: Path,
    options: ClipOptions | None = None,
    jobs: int = 1,
    missing: Sequence[Listed] = (),
) -> list[VideoResult]:
    """Cut the videos into clips of `tree` and write its `clips.json`; broken videos are named there with the reason.

    jobs: processes. missing: entries of the list without a video, which are reported, too.
    What is reported there of other videos or segments, of an earlier run with another list, stays.
    Raises ValueError when the tree was cut with other options, when the disk refuses, and when no video gave a clip.
    """
    options = options or ClipOptions()
    _check_options(options)
    claim(tree / _RECORDS / "options.json", dataclasses.asdict(options), f"{tree} holds clips")
    cut = functools.partial(_cut_or_recall, tree=tree, options=options)
    results = []
    with (
        Progress(len(videos), "clips", "video") as progress,
        contextlib.closing(map_ordered(cut, videos, jobs)) as cutting,
    ):
        for result in cutting:
            results.append(result)
            progress.advance()
    earlier = _read_report(tree)
    cut_now = [dataclasses.asdict(result) for result in results]
    missing_now = [dataclasses.asdict(listed) for listed in missing]
    reported = {_key(item) for item in (*cut_now, *missing_now)}
    report = {
        "options": dataclasses.asdict(options),
        "resampling": _RESAMPLER,
        "videos": _with_others(cut_now, earlier.get("videos", ()), reported),
        "missing": _with_others(missing_now, earlier.get("missing", ()), reported),
    }
    write_whole(tree / CLIPS_REPORT, (json.dumps(report, indent=1) + "\n").encode())
    if not any(result.clips for result in results):
        problems = "; ".join(f"{result.video}: {result.problem}" for result in results[:3])
        raise ValueError(
            f"none of the {len(videos)} videos gave a clip ({problems or 'all are missing'}); "
            f"{tree / CLIPS_REPORT} names all"
        )
    shutil.rmtree(tree / _RECORDS / "unfinished", ignore_errors=True)
    return results


def cut_video(video: Video, tree: Path, options: ClipOptions) -> VideoResult:
    """Cut one video. What is wrong with it is in the result; ValueError is for a disk that refuses."""
    av.logging.set_level(av.logging.PANIC)  # what is wrong with a video goes into the report
    segment = video.segment
    result = VideoResult(video.instrument, video.name, segment=None if segment is None else segment.number)
    problems: list[str] = []

    def encode(image: Image.Image) -> bytes:
        return encode_jpeg(image, scaled_size(image.size, options.longest_side), options.jpeg_quality)

    wanted = Wanted(segment, options.seconds, options.min_seconds)
    try:
        sounds = read_sound(video.path, wanted, options.sample_rate)
        problems += sounds.problems
        frames = FrameReader(video.path, wanted, options.frames_per_second, encode=encode)
        for number, pictures in frames:
            if number in sounds.waves:
                sound = encode_audio(sounds.waves[number], options.sample_rate, "wav")
                _write_clip(tree, video.instrument, f"{video.name}_{number}", sound=sound, pictures=pictures)
                result.clips.append(f"{video.name}_{number}")
        problems += frames.problems
        if not result.clips:
            where = "" if segment is None else f" from second {segment.start_s:g} on"
            problems.append(f"has less than {options.min_seconds:g} s of sound and pictures{where}")
    except _DiskError:
        raise
    except (av.FFmpegError, OSError) as error:
        problems.append(f"cannot be read ({error.strerror})")
    except ValueError as error:
        problems.append(str(error))
    result.problem = "; ".join(dict.fromkeys(problems)) or None
    return result


_FORMER_NAME = "stretch"


class _DiskError(ValueError):
    pass


def _cut_or_recall(video: Video, tree: Path, options: ClipOptions) -> VideoResult:
    """The recorded result of a video that an earlier run finished without a problem, or else a new one."""
    path = tree / _RECORDS / video.instrument / f"{video.name}.json"
    if video.segment is not None:
        path = path.with_name(video.name) / f"{video.segment.number}.json"
    start_s = None if video.segment is None else video.segment.start_s
    if path.is_file():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged: cut it again
            record = read_json(path)
            if record.get("start_s") == start_s and record["result"]["problem"] is None:
                return VideoResult(**_renamed(record["result"]))
    result = cut_video(video, tree, options)
    write_whole(path, json.dumps({"start_s": start_s, "result": dataclasses.asdict(result)}).encode())
    return result


def _write_clip(tree: Path, instrument: str, clip: str, sound: bytes, pictures: list[bytes]) -> None:
    """sound, pictures: the contents of the WAV file and of the JPEG files. The clip counts once its sound is there."""
    layout = TreeLayout()
    unfinished = tree / _RECORDS / "unfinished" / instrument / clip
    frames = tree / layout.frames / instrument / clip
    path = tree / layout.audio / instrument / f"{clip}.wav"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for number, picture in enumerate(pictures, start=1):
            (unfinished / f"{number:06d}.jpg").write_bytes(picture)
        path.unlink(missing_ok=True)  # of an earlier run: a clip that has a sound is whole
        frames.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(frames, ignore_errors=True)
        os.replace(unfinished, frames)
    except OSError as error:
        raise _DiskError(
            f"cannot write {frames}: {error.strerror or error}; make room and start again: finished videos are kept"
        ) from error
    try:
        write_whole(path, sound)
    except ValueError as error:
        raise _DiskError(str(error)) from error


def _read_report(tree: Path) -> dict[str, Any]:
    path = tree / CLIPS_REPORT
    try:
        return dict(read_json(path)) if path.is_file() else {}
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged; remove it: finished videos are kept all the same") from error


def _with_others(
    current: list[dict[str, Any]], earlier: Iterable[dict[str, Any]], reported: set[_Key]
) -> list[dict[str, Any]]:
    """A run's entries and those of an earlier report that it does not report on, sorted."""
    entries = [item for item in earlier if _key(item) not in reported] + current
    return sorted(entries, key=lambda item: [-1 if part is None else part for part in _key(item)])


def _key(item: dict[str, Any]) -> _Key:
    """Of an entry of the report: instrument, video and number of the segment."""
    return item["instrument"], item["video"], _segment_number(item)


def _segment_number(item: dict[str, Any]) -> int | None:
    number = _renamed(item).get("segment", item.get("start_s"))
    return None if number is None else int(number)


def _renamed(item: dict[str, Any]) -> dict[str, Any]:
    """An entry as this version writes it: version 0.1.0 had another name for the segment."""
    return {"segment" if name == _FORMER_NAME else name: value for name, value in item.items()}


def _check_options(options: ClipOptions) -> None:
    if not 0 < options.min_seconds <= options.seconds < float("inf"):
        raise ValueError(
            f"--seconds {options.seconds}, --min-seconds {options.min_seconds}: give lengths above 0, the second not "
            "longer than the first"
        )
    if options.longest_side < 0 or not 1 <= options.jpeg_quality <= 100:
        raise ValueError(
            f"--longest-side {options.longest_side}, --jpeg-quality {options.jpeg_quality}: give pixels (0: keep), and "
            "a whole number from 1 to 100"
        )


def _video_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"folder of videos {folder} does not exist")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _check_names(videos: Sequence[Video]) -> None:
    seen: dict[str, Path] = {}
    for video in videos:
        other = seen.setdefault(video.name, video.path)
        if other != video.path:
            raise ValueError(f"two videos are named '{video.name}': {other} and {video.path}; rename one")
