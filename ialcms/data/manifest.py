"""The manifest beside the shards: what every clip is and where its bytes lie.

A shard is a plain WebDataset tar; a clip is the run of its members that share a key:

    <key>.flac (or .wav)     mono sound
    <key>.<frame>.jpg        the frames that have kept boxes; <frame> is the number in the frame's file name, %06d
    <key>.npy                kept detections, float32 (D, 7): frame_index, class_id, confidence, x1, y1, x2, y2 in
                             pixels of the packed frame
    <key>.json               {"clip", "instrument", "video", "split", "sample_rate", "num_samples", ...}

A clip's members lie side by side: the `size` bytes from `offset` on hold its tar headers and contents and nothing
else. `manifest.json` is what makes planning, exact resume and verification possible.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ialcms.data.members import Naming
from ialcms.files import write_whole
from ialcms.reading import Unreadable, one_line, shown
from ialcms.reading.text import check_depth, parse_json

FORMAT = "ialcms-shards"
VERSION = 1
FILE_NAME = "manifest.json"
SPLITS = ("train", "val", "test")

_REMAKE = "write it again with 'ialcms data pack', or from the shards: move it away, then 'ialcms data verify --fix'"
# One tar or many: train.tar, train-{000000..000099}.tar, train-*.tar, a.tar::b.tar, also compressed ones.
_TARS = re.compile(r"\.(tar|tgz)(\.\w+)?$|::|\{[^{}/]*(\.\.|,)[^{}/]*\}|\.tar[*?]")
_MOST_SAMPLES_PER_SECOND = 10_000_000
_MOST_SAMPLES_A_BYTE = 65_536  # FLAC writes a block of that many equal samples in some bytes
_LARGEST_CLIP = 1 << 32  # bytes
_FEWEST_BYTES_A_BOX = 14  # seven numbers of 16 bits


@dataclass(frozen=True)
class Shard:
    name: str  # file name in the manifest's folder
    num_bytes: int
    sha256: str
    num_clips: int


@dataclass(frozen=True)
class Clip:
    key: str  # WebDataset key, without dots; unique in the manifest
    instrument: str
    video: str
    split: str  # train, val or test
    shard: int  # index into `shards`
    offset: int  # of the first tar header, in bytes
    size: int  # bytes of all members, headers and padding included
    num_samples: int  # of the sound
    num_boxes: int  # D, rows of the .npy
    crc32: int  # of the `size` bytes


@dataclass(frozen=True)
class Manifest:
    folder: Path  # where manifest and shards lie
    sample_rate: int
    shards: tuple[Shard, ...]
    clips: tuple[Clip, ...]  # in shard order, then in file order
    info: dict[str, Any]  # how the shards were made: packer's options, seed, cleaning, ...
    digest: str = ""  # of the manifest file's contents

    def of_split(self, split: str) -> list[Clip]:
        return [clip for clip in self.clips if clip.split == split]

    def instruments(self, split: str | None = None) -> list[str]:
        """Sorted names of the instruments, of one split or of all."""
        return sorted({clip.instrument for clip in self.clips if split in (None, clip.split)})

    @property
    def naming(self) -> Naming:
        """How the members of its clips are named."""
        return Naming.of(self.info)

    def shard_path(self, clip: Clip) -> Path:
        return self.folder / self.shards[clip.shard].name


def write_manifest(manifest: Manifest) -> Path:
    """Write `manifest.json` whole: under a temporary name, flushed, renamed. Raises ValueError when that fails."""
    path = manifest.folder / FILE_NAME
    values: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "sample_rate": manifest.sample_rate,
        "info": manifest.info,
        "shards": [dataclasses.asdict(shard) for shard in manifest.shards],
        "clip_fields": [f.name for f in dataclasses.fields(Clip)],
        "clips": [list(dataclasses.astuple(clip)) for clip in manifest.clips],
    }
    # one clip a line: a manifest of 100,000 clips stays readable and diffable
    clips = values.pop("clips")
    head = json.dumps(values, indent=1)[:-2]
    lines = ",\n".join("  " + json.dumps(clip) for clip in clips)
    write_whole(path, head + ',\n "clips": [\n' + lines + "\n ]\n}\n")
    return path


def read_manifest(folder: str | Path, check_shards: bool = True) -> Manifest:
    """Read and check the manifest of a folder of shards.

    Raises ValueError with a remedy when it is missing, damaged, of another format or version, or (with check_shards)
    when a shard is missing or has another size than the manifest says.
    """
    refuse_tars(str(folder))
    folder = Path(folder)
    path = folder / FILE_NAME if folder.is_dir() or not folder.suffix else folder
    folder = path.parent
    if not path.is_file():
        raise ValueError(f"no {FILE_NAME} in '{folder}'; {_how_to_make_one(folder)}")
    try:
        raw = path.read_bytes()
        values = parse_json(raw)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); make it readable or correct data.shards"
        ) from error
    except Unreadable as error:
        raise ValueError(f"{path} is damaged ({error}); {_REMAKE}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{path} is not a manifest of {FORMAT}; write one with 'ialcms data pack'")
    if values.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {shown(values.get('version'))}, this program reads {VERSION}; pack the shards again"
        )
    try:
        shards = tuple(Shard(**shard) for shard in values["shards"])
        names = values["clip_fields"]
        clips = tuple(Clip(**dict(zip(names, row, strict=True))) for row in values["clips"])
        manifest = Manifest(
            folder, values["sample_rate"], shards, clips, values["info"], hashlib.sha256(raw).hexdigest()[:16]
        )
        check_values(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({one_line(error)}); {_REMAKE}") from error
    for shard in shards if check_shards else ():
        file = folder / shard.name
        if not file.is_file():
            raise ValueError(f"shard {file} is missing; the manifest lists it: copy it there or pack again")
        if file.stat().st_size != shard.num_bytes:
            raise ValueError(
                f"shard {file} has {file.stat().st_size} bytes, the manifest says {shard.num_bytes}: "
                "manifest and shards do not belong together; copy them again or pack again"
            )
    return manifest


def refuse_tars(location: str) -> None:
    """Raises ValueError where one or many tars stand in the place of their folder, as other programs take them."""
    if location.startswith("pipe:") or not _TARS.search(location) or Path(location).is_dir():
        return
    folder = Path(location.partition("::")[0]).parent
    remedy = f"give data.shards={folder}"
    if re.match(r"[a-z0-9]+://", location):
        remedy = "make it where the tars lie with 'ialcms data adopt', then give the folder's address"
    elif not (folder / FILE_NAME).is_file():
        tars = " ".join(shlex.quote(part) for part in location.split("::"))
        remedy = f"make it with: ialcms data adopt {tars}, then {remedy}"
    raise ValueError(f"data.shards is '{location}', but must name a folder with a {FILE_NAME}; {remedy}")


def _how_to_make_one(folder: Path) -> str:
    if folder.is_dir() and next(folder.glob("*.tar"), None) is not None:
        return f"it has tars: make the {FILE_NAME} with 'ialcms data adopt {folder}'"
    return "pack shards with 'ialcms data pack', or correct data.shards"


def check_values(manifest: Manifest) -> None:
    """Raises ValueError for values of a wrong kind, for ones that contradict each other, and for impossible sizes."""
    rate, info = manifest.sample_rate, manifest.info
    if type(rate) is not int or not 1 <= rate < _MOST_SAMPLES_PER_SECOND or not isinstance(info, dict):
        raise ValueError(f"sample_rate is {shown(rate)}, info of type {type(info).__name__}")
    check_depth(info)
    Naming.of(info)
    for items in (manifest.shards, manifest.clips):
        for field in dataclasses.fields(items[0]) if items else ():
            kind = {"str": str, "int": int}[str(field.type)]
            for item in items:
                value = getattr(item, field.name)
                if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 1 << 63):
                    raise ValueError(f"{field.name} of a {type(item).__name__.lower()} is {shown(value)}")
    for shard in manifest.shards:
        if not is_file_name(shard.name):
            raise ValueError(f"it names a shard {shown(shard.name)}, which is no file of its folder")
    for clip in manifest.clips:
        _check_clip(clip, manifest.shards)
    removed = info.get("removed", [])
    if not isinstance(removed, list) or not all(map(_is_removed_clip, removed)):
        raise ValueError(f"the removed clips are {shown(removed)}")


def _is_removed_clip(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(item.get("shard"), str):
        return False
    return all(type(item.get(name)) is int and 0 <= item[name] < 1 << 62 for name in ("offset", "size"))


def _check_clip(clip: Clip, shards: tuple[Shard, ...]) -> None:
    where = f"clip {shown(clip.key)}"
    for text in (clip.key, clip.instrument, clip.video):
        if not text or not is_text(text):
            raise ValueError(f"{where} has a name that is none: {shown(text)}")
    if clip.shard >= len(shards):
        raise ValueError(f"a clip lies in a shard that it does not list ({where})")
    if clip.split not in SPLITS:
        raise ValueError(f"split of {where} is {shown(clip.split)}, not {', '.join(SPLITS)}")
    if clip.offset + clip.size > shards[clip.shard].num_bytes:
        raise ValueError(
            f"{where} ends at byte {clip.offset + clip.size}, after its shard's {shards[clip.shard].num_bytes}"
        )
    if clip.size > _LARGEST_CLIP:
        raise ValueError(f"{where} has {clip.size} bytes, more than the {_LARGEST_CLIP} that are read at once")
    if clip.num_boxes * _FEWEST_BYTES_A_BOX > clip.size or clip.num_samples > clip.size * _MOST_SAMPLES_A_BYTE:
        raise ValueError(f"{where} has {clip.num_samples} samples and {clip.num_boxes} boxes in {clip.size} bytes")


def is_text(text: str) -> bool:
    """Whether it can be written: characters, or the bytes of a file's name that is no UTF-8 (as Python holds them)."""
    try:
        return text.isascii() or bool(text.encode(errors="surrogateescape"))
    except UnicodeEncodeError:
        return False


def is_file_name(name: str) -> bool:
    """Whether a text names a file of a folder, and nothing outside of it."""
    return is_text(name) and Path(name).name == name != ".." and 0 < len(os.fsencode(name)) <= 255 and "\0" not in name
