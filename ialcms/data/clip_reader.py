"""Reading single clips out of shards, by offset.

The bytes of a clip are read with one `pread` and compared with the manifest's checksum. Sound and detections are
decoded, pictures stay compressed until they are asked for.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ialcms.data.manifest import Clip, Manifest
from ialcms.data.members import MEMBERS, first_of, split_name
from ialcms.data.object_pictures import BadClip, object_picture
from ialcms.reading import Unreadable
from ialcms.reading.arrays import parse_array
from ialcms.reading.sounds import parse_sound
from ialcms.reading.tar import BLOCK, members_of

__all__ = ["BadClip", "LoadedClip", "ReadBuffer", "read_clip"]


@dataclass(frozen=True)
class LoadedClip:
    """A clip with its sound decoded and its pictures compressed."""

    name: str  # shard and key, for messages
    wave: np.ndarray  # (num_samples,) or the part that was asked for; int16, or float32 if the file has more bits
    detections: np.ndarray  # (D, 7) float32: frame_index, class_id, confidence, x1, y1, x2, y2 in pixels
    frames: dict[int, bytes]  # compressed pictures by frame number

    def window(self, start: int, num_samples: int) -> np.ndarray:
        """(num_samples,) float32 in [-1, 1] from the wave's sample `start` on, zeros after its end."""
        cut = self.wave[start : start + num_samples]
        window = np.zeros(num_samples, dtype=np.float32)
        window[: len(cut)] = cut
        if self.wave.dtype == np.int16:
            window *= np.float32(1 / 32768)
        return window

    def picture(self, row: int, resize: int) -> np.ndarray:
        """(3, resize, resize) uint8: the box of a detection. Raises BadClip when frame or box cannot be used."""
        number = int(self.detections[row, 0])
        if number not in self.frames:
            raise BadClip(f"{self.name}: row {row} of its detections names frame {number}, which it does not have")
        where = f"{self.name}: frame {number}, row {row} of its detections"
        return object_picture(self.frames[number], self.detections[row], resize, where=where)


class ReadBuffer:
    """Memory for one clip's bytes at a time: fresh memory for each costs as much as reading it."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def of_size(self, size: int) -> memoryview:
        """What was in the memory before is overwritten."""
        if len(self._bytes) < size:
            self._bytes = bytearray(size)
        return memoryview(self._bytes)[:size]


def read_clip(
    manifest: Manifest,
    index: int,
    rows: Iterable[int] | None = None,
    samples: tuple[int, int] | None = None,
    buffer: ReadBuffer | None = None,
) -> LoadedClip:
    """Read and check clip `index` of the manifest, decode its sound and detections.

    rows: detections whose frames are kept (all). samples: first one and number of those to decode (all); the wave is
    that part. buffer: memory to read into, for many clips one after the other.

    Raises BadClip when its content cannot be used, and plain ValueError when the shard is missing, truncated, not a
    tar or not the one that the manifest describes.
    """
    clip = manifest.clips[index]
    path = manifest.shard_path(clip)  # a fetched shard has the size that the manifest says: now memory can be asked for
    raw = (buffer or ReadBuffer()).of_size(clip.size)
    try:
        _read_bytes(path, clip, raw)
    except FileNotFoundError:
        path = manifest.shard_path(clip)  # fetches it again where a cache has just dropped it
        try:
            _read_bytes(path, clip, raw)
        except FileNotFoundError as error:
            raise ValueError(f"shard {path} is missing; the manifest lists it: copy it there or pack again") from error
    name = f"clip {clip.key} in {path}"
    is_whole = zlib.crc32(raw) == clip.crc32
    members = (_members_of_whole(clip, raw) if is_whole else None) or _members(path, clip, raw)
    if not is_whole:
        raise BadClip(f"{name} is damaged: its checksum is not the manifest's")
    naming = manifest.naming
    sound, table = first_of(members, naming.sound), first_of(members, naming.boxes)
    if sound is None or table is None:
        lacking = f"sound ({_dotted(naming.sound)})" if sound is None else f"detections ({_dotted(naming.boxes)})"
        raise BadClip(f"{name} has no {lacking}")
    detections = _decode_table(name, clip, table)
    wanted = None if rows is None else {int(detections[row, 0]) for row in rows}
    frames: dict[int, bytes] = {}
    for suffix, content in members.items():
        number = naming.frame(suffix)
        if number is not None and number < 0:
            frames |= dict.fromkeys(map(int, detections[:, 0]) if wanted is None else wanted, bytes(content))
        elif number is not None and (wanted is None or number in wanted):
            frames[number] = bytes(content)
    first, count = samples or (0, clip.num_samples)
    wave = _decode_sound(name, clip, manifest, content=sound, first=first, count=count)
    return LoadedClip(name, wave, detections, frames=frames)


def _dotted(names: Sequence[str]) -> str:
    return " or ".join(f".{name}" for name in names)


def _read_bytes(path: Path, clip: Clip, raw: memoryview) -> None:
    """Fill `raw` with the clip's bytes. Raises FileNotFoundError, and ValueError for whatever else can go wrong."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"shard {path} cannot be opened ({error.strerror}); check the file system") from error
    length = 0
    try:
        while length < clip.size:
            count = os.preadv(descriptor, [raw[length:]], clip.offset + length)
            if not count:
                raise ValueError(
                    f"shard {path} ends at byte {os.fstat(descriptor).st_size}, inside clip {clip.key}: it was cut off "
                    "since the manifest was made; copy it again or pack again"
                )
            length += count
    except OSError as error:
        raise ValueError(f"shard {path} cannot be read ({error.strerror}); check the file system") from error
    finally:
        os.close(descriptor)


def _members_of_whole(clip: Clip, raw: memoryview) -> dict[str, bytes | memoryview] | None:
    """Contents by what follows the key in the member's name, of bytes that the checksum has found to be the manifest's.

    Reads plain headers only, name and size: to check all of 80 frames takes longer than the sound takes to decode. None
    where there is anything but plain files with short names that begin with the key: then every header is looked at.
    """
    members: dict[str, bytes | memoryview] = {}
    position, start = 0, f"{clip.key}.".encode(errors="surrogateescape")
    while position + BLOCK <= len(raw):
        header = bytes(raw[position : position + BLOCK])
        name, size, kind = header[:100].rstrip(b"\0"), header[124:136].strip(b"\0 "), header[156:157]
        if not name.startswith(start) or kind not in (b"0", b"\0") or header[345:346] != b"\0":
            return None
        if not size or size.strip(b"01234567") or int(size, 8) > len(raw) - position - BLOCK:
            return None
        position += BLOCK
        members[name[len(start) :].decode("utf-8", "replace")] = raw[position : position + int(size, 8)]
        position += -(-int(size, 8) // BLOCK) * BLOCK
    return members


def _members(path: Path, clip: Clip, raw: memoryview) -> dict[str, bytes | memoryview]:
    """Contents by what follows the key in the member's name, of any tar; ValueError where it is not the clip's."""
    members: dict[str, bytes | memoryview] = {}
    try:
        for member in members_of(raw):
            key, suffix = split_name(member.name)
            if clip.key not in (key, os.path.basename(key)):
                raise ValueError(
                    f"shard {path} has '{member.name}' where the manifest has clip {clip.key}: "
                    "it changed since the manifest was made; copy it again or pack again"
                )
            if member.kind in ("link", "other"):
                raise BadClip(f"clip {clip.key} in {path}: its member '{member.name}' is a {member.kind}, not a file")
            if member.kind == "file":
                members[suffix] = raw[member.data : member.data + member.size]
    except Unreadable as error:
        raise ValueError(
            f"shard {path} is not the tar that the manifest describes: no clip {clip.key} at byte {clip.offset} "
            f"({error}); copy it again or pack again"
        ) from error
    return members


def _decode_sound(
    name: str, clip: Clip, manifest: Manifest, content: bytes | memoryview, first: int, count: int
) -> np.ndarray:
    """(count,) samples from `first` on, fewer at the end.

    content: of the sound file called `name`. clip, manifest: for the length and the rate that it must have.
    """

    try:
        sound = parse_sound(content, first, count)
    except Unreadable as error:
        raise BadClip(f"{name}: its sound cannot be decoded ({error})") from error
    wave, length = sound.wave, sound.num_samples
    is_foreign = MEMBERS in manifest.info  # other programs' sounds may have several channels
    if (
        sound.sample_rate != manifest.sample_rate
        or length != clip.num_samples
        or (sound.num_channels != 1 and not is_foreign)
    ):
        raise BadClip(
            f"{name}: its sound has {length} samples in {sound.num_channels} channels at {sound.sample_rate} Hz, the "
            f"manifest says {clip.num_samples} in 1 channel at {manifest.sample_rate} Hz"
        )
    if len(wave) != max(min(count, length - first), 0):
        raise BadClip(f"{name}: its sound ends after {first + len(wave)} of {length} samples")
    if wave.dtype != np.int16 and not np.isfinite(wave).all():
        raise BadClip(f"{name}: its sound has values that are not numbers")
    if sound.num_channels == 1:
        return wave[:, 0]
    scale = 1 / 32_768 if wave.dtype == np.int16 else 1.0
    return wave.mean(axis=1, dtype=np.float32) * np.float32(scale)


def _decode_table(name: str, clip: Clip, content: bytes | memoryview) -> np.ndarray:
    try:
        table = parse_array(content)
    except Unreadable as error:
        raise BadClip(f"{name}: its detections cannot be read ({error})") from error
    if table.shape != (clip.num_boxes, 7) or not np.issubdtype(table.dtype, np.floating):
        raise BadClip(
            f"{name}: its detections are {table.dtype} {table.shape}, the manifest says float ({clip.num_boxes}, 7)"
        )
    with np.errstate(over="ignore"):
        table = table.astype(np.float32)
    if not np.isfinite(table).all():
        raise BadClip(f"{name}: its detections have values that are not numbers")
    return table
