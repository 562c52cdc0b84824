"""Reading single clips out of shards, by offset, and holding a bounded number of them.

The bytes of a clip are read once with one `pread`, its checksum and sound are checked and decoded once; its pictures
stay compressed and are decoded when they are used, one per use.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from .manifest import Clip, Manifest


class BadClip(ValueError):
    """The content of one clip cannot be used; shard, manifest and the other clips are in order."""


@dataclass(frozen=True)
class LoadedClip:
    name: str  # shard and key, for messages
    wave: np.ndarray  # (num_samples,) int16, or float32 where the file has more than 16 bits
    detections: np.ndarray  # (D, 7) float32: frame_index, class_id, confidence, x1, y1, x2, y2 in pixels
    frames: dict[int, bytes]  # compressed pictures by frame number

    @property
    def num_bytes(self) -> int:
        return self.wave.nbytes + self.detections.nbytes + sum(len(frame) for frame in self.frames.values())

    def window(self, start: int, num_samples: int) -> np.ndarray:
        """(num_samples,) float32 in [-1, 1] from sample `start` on, zeros after the clip's end."""
        cut = self.wave[start : start + num_samples]
        window = np.zeros(num_samples, dtype=np.float32)
        window[: len(cut)] = cut
        if self.wave.dtype == np.int16:
            window *= np.float32(1 / 32768)
        return window

    def picture(self, row: int, resize: int, crop: int, top: int, left: int) -> np.ndarray:
        """(crop, crop, 3) uint8: the box of a detection, resized to `resize` squared, and a square cut out of that.

        Only the part that is cut out is resampled. Raises BadClip when the frame or the box cannot be used.
        """
        number = int(self.detections[row, 0])
        if number not in self.frames:
            raise BadClip(f"{self.name}: row {row} of its detections names frame {number}, which it does not have")
        try:
            picture: Image.Image = Image.open(io.BytesIO(self.frames[number]))
            width, height = picture.size
            x1, y1, x2, y2 = (float(value) for value in self.detections[row, 3:])
            x1, x2 = (min(max(x, 0.0), width) for x in (x1, x2))
            y1, y2 = (min(max(y, 0.0), height) for y in (y1, y2))
            if not (x2 - x1 >= 1 and y2 - y1 >= 1):
                raise BadClip(f"{self.name}: the box in row {row} of its detections is empty")
            # JPEG can decode at 1/2, 1/4 or 1/8 of the size: enough as long as the box keeps `resize` pixels
            shrink = min(x2 - x1, y2 - y1) / resize
            if shrink >= 2:
                picture.draft("RGB", (int(width / shrink), int(height / shrink)))
            if picture.mode == "RGB":
                picture.load()
            else:
                picture = picture.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if isinstance(error, BadClip):
                raise
            raise BadClip(f"{self.name}: frame {number} cannot be decoded ({_line(error)})") from error
        x_scale, y_scale = picture.width / width, picture.height / height
        x_step, y_step = (x2 - x1) / resize * x_scale, (y2 - y1) / resize * y_scale
        box = (
            x1 * x_scale + left * x_step,
            y1 * y_scale + top * y_step,
            min(x1 * x_scale + (left + crop) * x_step, picture.width),
            min(y1 * y_scale + (top + crop) * y_step, picture.height),
        )
        return np.asarray(picture.resize((crop, crop), Image.Resampling.BILINEAR, box=box))


def read_clip(manifest: Manifest, index: int) -> LoadedClip:
    """Read, check and decode clip `index` of the manifest.

    Raises BadClip when its content cannot be used, and plain ValueError when the shard is missing, truncated, not a
    tar or not the one that the manifest describes.
    """
    clip = manifest.clips[index]
    path = manifest.shard_path(clip)
    try:
        raw = _read_bytes(path, clip)
    except FileNotFoundError:
        path = manifest.shard_path(clip)  # fetches it again where a cache has just dropped it
        try:
            raw = _read_bytes(path, clip)
        except FileNotFoundError as error:
            raise ValueError(f"shard {path} is missing; the manifest lists it: copy it there or pack again") from error
    members = _members(path, clip, raw)
    name = f"clip {clip.key} in {path}"
    if zlib.crc32(raw) != clip.crc32:
        raise BadClip(f"{name} is damaged: its checksum is not the manifest's")
    sound = members.pop("flac", None) or members.pop("wav", None)
    table = members.pop("npy", None)
    if sound is None or table is None:
        raise BadClip(f"{name} has no {'sound (.flac or .wav)' if sound is None else 'detections (.npy)'}")
    frames = {}
    for suffix, content in members.items():
        number, _, kind = suffix.rpartition(".")
        if kind in ("jpg", "jpeg", "png") and number.isdigit():
            frames[int(number)] = content
    return LoadedClip(
        name, _decode_sound(name, clip, manifest.sample_rate, sound), _decode_table(name, clip, table), frames
    )


def _read_bytes(path: Path, clip: Clip) -> bytes:
    """Raises FileNotFoundError, and ValueError for everything else that can go wrong."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"shard {path} cannot be opened ({error.strerror}); check the file system") from error
    try:
        pieces, length = [], 0
        while length < clip.size:
            piece = os.pread(descriptor, clip.size - length, clip.offset + length)
            if not piece:
                raise ValueError(
                    f"shard {path} ends at byte {os.fstat(descriptor).st_size}, inside clip {clip.key}: it was cut off "
                    "since the manifest was made; copy it again or pack again"
                )
            pieces.append(piece)
            length += len(piece)
    except OSError as error:
        raise ValueError(f"shard {path} cannot be read ({error.strerror}); check the file system") from error
    finally:
        os.close(descriptor)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _members(path: Path, clip: Clip, raw: bytes) -> dict[str, bytes]:
    """Contents by what follows the key in the member's name."""
    members = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
            for member in archive:
                key, _, suffix = os.path.basename(member.name).partition(".")
                if key != clip.key:
                    raise ValueError(
                        f"shard {path} has '{member.name}' where the manifest has clip {clip.key}: "
                        "it changed since the manifest was made; copy it again or pack again"
                    )
                content = archive.extractfile(member)
                if content is not None:
                    members[suffix] = content.read()
    except tarfile.TarError as error:
        raise ValueError(
            f"shard {path} is not the tar that the manifest describes: no clip {clip.key} at byte {clip.offset} "
            f"({_line(error)}); copy it again or pack again"
        ) from error
    return members


def _decode_sound(name: str, clip: Clip, sample_rate: int, content: bytes) -> np.ndarray:
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            kind = "int16" if file.subtype in ("PCM_16", "PCM_S8", "PCM_U8") else "float32"
            wave, rate = file.read(dtype=kind, always_2d=True), file.samplerate
    except soundfile.LibsndfileError as error:
        raise BadClip(f"{name}: its sound cannot be decoded ({error.error_string})") from error
    if rate != sample_rate or wave.shape != (clip.num_samples, 1):
        raise BadClip(
            f"{name}: its sound has {wave.shape[0]} samples in {wave.shape[1]} channels at {rate} Hz, the manifest "
            f"says {clip.num_samples} in 1 channel at {sample_rate} Hz"
        )
    if wave.dtype != np.int16 and not np.isfinite(wave).all():
        raise BadClip(f"{name}: its sound has values that are not numbers")
    return wave[:, 0]


def _decode_table(name: str, clip: Clip, content: bytes) -> np.ndarray:
    try:
        table = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadClip(f"{name}: its detections cannot be read ({_line(error)})") from error
    if table.shape != (clip.num_boxes, 7) or not np.issubdtype(table.dtype, np.floating):
        raise BadClip(
            f"{name}: its detections are {table.dtype} {table.shape}, the manifest says float ({clip.num_boxes}, 7)"
        )
    if not np.isfinite(table).all():
        raise BadClip(f"{name}: its detections have values that are not numbers")
    return table.astype(np.float32)


def _line(error: BaseException) -> str:
    """The error in one line, the same in every process."""
    return " ".join(re.sub(r"<[^>]* at 0x\w+>", "", str(error)).split()) or type(error).__name__


class ClipStore:
    """Decoded clips of the lanes that one process prepares: those of the lanes' windows, and never more than `limit`.

    What a lane's window has left behind is dropped, so a clip is read and decoded once while it is in use.
    """

    def __init__(self, manifest: Manifest, limit: int) -> None:
        assert limit >= 1
        self.manifest, self.limit = manifest, limit
        self.num_reads = 0
        self._clips: OrderedDict[int, LoadedClip] = OrderedDict()
        self._bad: dict[int, str] = {}
        self._windows: dict[int, frozenset[int]] = {}

    def get(self, index: int) -> LoadedClip:
        """Clip `index` of the manifest; raises like `read_clip`."""
        if index in self._bad:
            raise BadClip(self._bad[index])
        if index not in self._clips:
            while len(self._clips) >= self.limit:
                self._clips.popitem(last=False)
            self.num_reads += 1
            try:
                self._clips[index] = read_clip(self.manifest, index)
            except BadClip as error:
                self._bad[index] = str(error)
                raise
        self._clips.move_to_end(index)
        return self._clips[index]

    def move_window(self, lane: int, clips: Iterable[int]) -> None:
        """Tell the store which clips a lane draws from, and drop what no lane draws from any more."""
        window = frozenset(clips)
        if self._windows.get(lane) != window:
            self._windows[lane] = window
            wanted = frozenset().union(*self._windows.values())
            for index in [index for index in self._clips if index not in wanted]:
                del self._clips[index]

    @property
    def num_clips(self) -> int:
        return len(self._clips)

    @property
    def num_bytes(self) -> int:
        return sum(clip.num_bytes for clip in self._clips.values())
