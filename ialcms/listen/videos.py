"""The videos of a server: what was uploaded, and their separations, one at a time, each in a process of its own.

A process can be ended at any moment, and a file that makes a decoder crash ends it and not the server.
"""

from __future__ import annotations

import multiprocessing
import queue
import re
import secrets
import shutil
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ialcms.inference import Box, separate_file
from ialcms.inference.frames import frame_at
from ialcms.inference.sound import open_media
from ialcms.media.container import picture_stream, sound_stream
from ialcms.names import cut_name
from ialcms.processes import end_with_parent

MOST_OBJECTS = 8
MOST_VIDEOS = 4  # kept at a time
_LONGEST_JOB_S = 3_600.0
_STATES_AT_WORK = ("waiting", "separating")


@dataclass(frozen=True)
class Limits:
    """Of what the server takes."""

    max_bytes: int = 500_000_000  # of an upload
    max_seconds: float = 600.0  # of a video


@dataclass(frozen=True)
class ObjectBox:
    """A box as it was drawn: edges in shares of the frame on the screen at `at_s` seconds."""

    name: str
    at_s: float
    edges: tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Video:
    """An uploaded video and what became of it."""

    id: str
    folder: Path  # of this video alone
    name: str  # of the uploaded file, to be shown
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    state: str = "ready"  # waiting, separating, done, failed
    message: str = ""  # why it failed
    objects: tuple[ObjectBox, ...] = ()
    files: tuple[str, ...] = ()  # names of the results

    @property
    def file(self) -> Path:
        """Named like the upload, as the page shows it."""
        return self.folder / "upload" / (re.sub(r"[^\w.-]+", "_", cut_name(self.name, 120)).strip(".") or "video")

    @property
    def results(self) -> Path:
        return self.folder / "separated"

    @property
    def is_at_work(self) -> bool:
        return self.state in _STATES_AT_WORK


@dataclass(frozen=True)
class Result:
    """What a separating process sends back."""

    files: tuple[str, ...] = ()  # names; the last one is the page
    problem: str = ""


@dataclass
class Videos:
    """All videos of a server, in `folder`. Use as a context manager: at its end all files and processes are gone."""

    folder: Path
    checkpoint: Path
    device: str | None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self._videos: dict[str, Video] = {}
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process: Any = None
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="separations", daemon=True)

    def __enter__(self) -> Videos:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()
        self._jobs.put(None)
        self._thread.join(timeout=10)

    def new(self, name: str) -> Video:
        """A folder for an upload. The oldest videos make room; ValueError where all are at work."""
        with self._lock:
            idle = [video for video in self._videos.values() if not video.is_at_work]
            if len(self._videos) >= MOST_VIDEOS and not idle:
                raise ValueError(f"{MOST_VIDEOS} videos are at work; wait until one is finished")
            outdated = idle[: max(0, len(self._videos) - MOST_VIDEOS + 1)]
            for video in outdated:
                self._forget(video)
            identity = secrets.token_urlsafe(12)
            video = Video(identity, self.folder / identity, name)
            video.file.parent.mkdir(parents=True)
            return video

    def add(self, video: Video) -> Video:
        """Take an upload that is whole; ValueError, and its files are removed, where it cannot be separated."""
        try:
            found = _probe(video, self.limits)
        except ValueError:
            shutil.rmtree(video.folder, ignore_errors=True)
            raise
        with self._lock:
            self._videos[video.id] = found
        return found

    def get(self, identity: str) -> Video | None:
        """The video of this identity, None where it was removed."""
        with self._lock:
            return self._videos.get(identity)

    def remove(self, video: Video) -> None:
        """ValueError while it is at work."""
        with self._lock:
            if self._videos.get(video.id, video).is_at_work:
                raise ValueError("the video is being separated; wait until it is finished")
            self._forget(video)

    def separate(self, identity: str, objects: Sequence[ObjectBox]) -> Video:
        """Put a separation in line; ValueError where one of the same video waits or works already."""
        with self._lock:
            video = self._videos[identity]
            if video.is_at_work:
                raise ValueError("this video is being separated already")
            video = replace(video, state="waiting", message="", objects=tuple(objects), files=())
            self._videos[identity] = video
        self._jobs.put(identity)
        return video

    def _forget(self, video: Video) -> None:
        self._videos.pop(video.id, None)
        shutil.rmtree(video.folder, ignore_errors=True)

    def _work(self) -> None:
        while (identity := self._jobs.get()) is not None:
            with self._lock:
                if self._ended:
                    return
                video = replace(self._videos[identity], state="separating")
                self._videos[identity] = video
            result = self._run(video)
            state = "failed" if result.problem else "done"
            with self._lock:
                self._videos[identity] = replace(video, state=state, message=result.problem, files=result.files)

    def _run(self, video: Video) -> Result:
        """Separate in a process, and wait for it."""
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_separate, args=(sender, video, str(self.checkpoint), self.device))
        with self._lock:
            if self._ended:
                return Result(problem="the server has ended")
            process.start()
            self._process = process
        sender.close()
        try:
            if not receiver.poll(_LONGEST_JOB_S):
                process.kill()
                return Result(problem="the separation took more than an hour; take a shorter part of the video")
            result: Result = receiver.recv()
            return result
        except EOFError:
            return Result(problem="the separation broke off, perhaps for want of memory; take a shorter part")
        finally:
            process.join(timeout=10)
            process.kill()
            with self._lock:
                self._process = None


def read_objects(value: Any) -> list[ObjectBox]:
    """From a request's JSON; ValueError for what is no list of boxes."""
    given = value.get("objects") if isinstance(value, Mapping) else None
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_OBJECTS:
        raise ValueError(f"give 1 to {MOST_OBJECTS} objects")
    return list(map(_read_object, given))


def _read_object(value: Any) -> ObjectBox:
    try:
        name, at_s = str(value["name"])[:60].strip(), float(value["at"])
        left, top, right, bottom = map(float, value["edges"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("an object needs a name, a moment (at) and four edges") from error
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1 and 0 <= at_s < 1e6):
        raise ValueError("a box has no area inside the frame; draw it again")
    return ObjectBox(name, at_s, (left, top, right, bottom))


def _probe(video: Video, limits: Limits) -> Video:
    """Length and size of the uploaded video; ValueError where it cannot be separated."""
    try:
        with open_media(video.file) as container:
            if sound_stream(container) is None:
                raise ValueError("it has no sound; there is nothing to separate")
            if picture_stream(container) is None:
                raise ValueError("it has no pictures, which show where the instruments are")
            seconds = (container.duration or 0) / 1_000_000
        if seconds > limits.max_seconds:
            raise ValueError(
                f"it is {seconds / 60:.1f} minutes long, more than the {limits.max_seconds / 60:g} that this server "
                "takes; cut a part out"
            )
        frame = frame_at(video.file, 0.0)
    except ValueError as error:
        # the name on disk is ours and says nothing to the user
        raise ValueError(f"{video.name}: {str(error).replace(str(video.file), 'it')}") from error
    return replace(video, seconds=seconds, height=frame.shape[0], width=frame.shape[1])


def _separate(sender: Connection, video: Video, checkpoint: str, device: str | None) -> None:
    """In a process of its own: separate a video, and send the Result. checkpoint, device: as for `separate_file`."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    try:
        boxes = [_in_pixels(box, video) for box in video.objects]
        separation = separate_file(video.file, checkpoint, boxes, out=video.results, device=device)
    except ValueError as error:
        sender.send(Result(problem=str(error).replace(str(video.file), video.name)))
        return
    assert separation.page is not None
    paths = (*separation.stems, separation.remainder, *separation.videos, separation.page)
    sender.send(Result(tuple(path.name for path in paths)))


def _in_pixels(box: ObjectBox, video: Video) -> Box:
    left, top, right, bottom = box.edges
    edges = (left * video.width, top * video.height, right * video.width, bottom * video.height)
    return Box(*edges, at_s=box.at_s, name=box.name)
