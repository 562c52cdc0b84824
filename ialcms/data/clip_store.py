"""Caching a bounded number of clips: each is read, and its sound and pictures are decoded, once while it is in use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ialcms.data.clip_reader import LoadedClip, ReadBuffer, read_clip
from ialcms.data.manifest import Manifest
from ialcms.data.object_pictures import BadClip


@dataclass
class CachedClip:
    """A clip's sound, and the pictures of those detections that lanes take pictures of, decoded at their first use."""

    clip: LoadedClip  # frames: those that wait to be decoded
    resize: int  # side of the pictures in pixels
    rows: dict[int, tuple[int, ...]] = field(default_factory=dict)  # by lane
    pictures: dict[int, np.ndarray] = field(default_factory=dict)  # by row: (3, resize, resize) uint8
    bad_rows: dict[int, str] = field(default_factory=dict)

    def picture(self, row: int) -> np.ndarray:
        """(3, resize, resize) uint8, not to be written to. Raises BadClip when frame or box cannot be used."""
        if row in self.bad_rows:
            raise BadClip(self.bad_rows[row])
        if row not in self.pictures:
            try:
                self.pictures[row] = self.clip.picture(row, self.resize)
            except BadClip as error:
                self.bad_rows[row] = str(error)
                raise
            finally:
                self.forget()
        return self.pictures[row]

    def undecoded(self) -> set[int]:
        """Rows whose frames are still needed."""
        return {row for rows in self.rows.values() for row in rows} - self.pictures.keys() - self.bad_rows.keys()

    def forget(self) -> None:
        """Drop pictures that no lane takes any more and frames that are decoded."""
        wanted = {row for rows in self.rows.values() for row in rows}
        needed = {self.frame(row) for row in self.undecoded()}
        for row in self.pictures.keys() - wanted:
            del self.pictures[row]
        for number in self.clip.frames.keys() - needed:
            del self.clip.frames[number]

    def frame(self, row: int) -> int:
        """Number of the frame that a detection is in."""
        return int(self.clip.detections[row, 0])

    @property
    def num_bytes(self) -> int:
        pictures = sum(picture.nbytes for picture in self.pictures.values())
        frames = sum(map(len, self.clip.frames.values()))
        return self.clip.wave.nbytes + self.clip.detections.nbytes + pictures + frames


class ClipStore:
    """Clips of the lanes that one process prepares: those of the lanes' windows, and never more than `limit`.

    What a lane's window has left behind is dropped. resize: side of the pictures in pixels.
    """

    def __init__(self, manifest: Manifest, limit: int, resize: int) -> None:
        assert limit >= 1
        self.manifest, self.limit, self.resize = manifest, limit, resize
        self.num_reads = 0
        self._buffer = ReadBuffer()
        self._clips: OrderedDict[int, CachedClip] = OrderedDict()
        self._bad: dict[int, str] = {}
        self._windows: dict[int, frozenset[int]] = {}

    def get(self, lane: int, index: int, rows: tuple[int, ...]) -> CachedClip:
        """Clip `index` of the manifest, for a lane that takes pictures of `rows` only; raises like `read_clip`."""
        if index in self._bad:
            raise BadClip(self._bad[index])
        cached = self._clips.get(index)
        if cached is None:
            while len(self._clips) >= self.limit:
                self._clips.popitem(last=False)
            cached = self._clips[index] = CachedClip(self._read(index, rows), self.resize, {lane: rows})
        elif cached.rows.get(lane) != rows:
            cached.rows[lane] = rows
            missing = [row for row in cached.undecoded() if cached.frame(row) not in cached.clip.frames]
            if missing:  # another lane had no use for these frames
                cached.clip.frames.update(self._read(index, missing, (0, 0)).frames)
            cached.forget()
        self._clips.move_to_end(index)
        return cached

    def _read(self, index: int, rows: Iterable[int], samples: tuple[int, int] | None = None) -> LoadedClip:
        self.num_reads += 1
        try:
            return read_clip(self.manifest, index, rows, samples=samples, buffer=self._buffer)
        except BadClip as error:
            self._bad[index] = str(error)
            raise

    def move_window(self, lane: int, clips: Iterable[int]) -> None:
        """Set the clips that a lane draws from; what no lane draws from any more is dropped."""
        window = frozenset(clips)
        if self._windows.get(lane) == window:
            return
        self._windows[lane] = window
        for index in [index for index, cached in self._clips.items() if lane in cached.rows and index not in window]:
            cached = self._clips[index]
            del cached.rows[lane]
            if cached.rows:
                cached.forget()
            else:
                del self._clips[index]

    @property
    def num_clips(self) -> int:
        return len(self._clips)

    @property
    def num_bytes(self) -> int:
        return sum(cached.num_bytes for cached in self._clips.values())
