"""Writes one shard: under a temporary name first, so that a half-written shard is never seen."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ialcms.data.manifest import SPLITS, Clip, Shard
from shards.encode import EncodedClip

END_OF_ARCHIVE = bytes(1024)  # two empty blocks


def shard_name(split: str, number: int) -> str:
    """File name of shard `number` of a split."""
    return f"{split}-{number:06d}.tar"


def shard_files(folder: Path) -> set[str]:
    """Names of the files in a folder that are named as shards are."""
    pattern = re.compile(rf"({'|'.join(SPLITS)})-\d{{6,}}\.tar")
    return {path.name for path in folder.iterdir() if pattern.fullmatch(path.name)} if folder.is_dir() else set()


def refuse_strays(folder: Path, strays: set[str]) -> None:
    """Raises ValueError when there are any: a program that reads all tars in the folder would read them, too."""
    if strays:
        raise ValueError(
            f"{folder} holds shards that are not of this run ({min(strays)}, {len(strays)} in all); remove them, or "
            "give another folder"
        )


class ShardWriter:
    """A shard that grows by clips; `finish` gives it its name, `abandon` removes it.

    `index` is the shard's index in the manifest. The methods raise ValueError when the disk refuses, as when full.
    """

    def __init__(self, path: Path, temporary: Path, index: int) -> None:
        self.offset = 0  # bytes written
        self._path, self._temporary, self._index = path, temporary, index
        self._clips: list[Clip] = []
        self._sha256 = hashlib.sha256()
        with self._explained():
            temporary.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = open(temporary, "wb")  # noqa: SIM115 - stays open until finish or abandon

    def add(self, encoded: EncodedClip) -> None:
        """Append a clip."""
        entry = encoded.entry
        clip = Clip(
            key=entry.key,
            instrument=entry.instrument,
            video=entry.video,
            split=entry.split,
            shard=self._index,
            offset=self.offset,
            size=len(encoded.data),
            num_samples=encoded.num_samples,
            num_boxes=encoded.num_boxes,
            crc32=encoded.crc32,
        )
        self._write(encoded.data)
        self._clips.append(clip)

    def finish(self) -> tuple[Shard, list[Clip]]:
        """Give the shard its name; returns it with its clips."""
        self._write(END_OF_ARCHIVE)
        with self._explained():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self._path)
        return Shard(self._path.name, self.offset, self._sha256.hexdigest(), num_clips=len(self._clips)), self._clips

    def abandon(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(OSError):  # closing flushes, which a full disk refuses again
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        with self._explained():
            self._file.write(data)
        self._sha256.update(data)
        self.offset += len(data)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"cannot write {self._path}: {error.strerror or error}; make room and start again: "
                "finished shards are kept"
            ) from error
