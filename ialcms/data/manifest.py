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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ialcms.files import write_whole

FORMAT = "ialcms-shards"
VERSION = 1
FILE_NAME = "manifest.json"
SPLITS = ("train", "val", "test")


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

    Raises ValueError with a remedy when it is missing, of another format or version, or (with check_shards) when a
    shard is missing or has another size than the manifest says.
    """
    folder = Path(folder)
    path = folder / FILE_NAME if folder.is_dir() or not folder.suffix else folder
    folder = path.parent
    if not path.is_file():
        raise ValueError(f"no {FILE_NAME} in '{folder}'; pack shards with 'ialcms data pack', or correct data.shards")
    raw = path.read_bytes()
    try:
        values = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); write it again with 'ialcms data pack'") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{path} is not a manifest of {FORMAT}; write one with 'ialcms data pack'")
    if values.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {values.get('version')}, this program reads {VERSION}; pack the shards again"
        )
    try:
        shards = tuple(Shard(**shard) for shard in values["shards"])
        names = values["clip_fields"]
        clips = tuple(Clip(**dict(zip(names, row, strict=True))) for row in values["clips"])
        manifest = Manifest(
            folder, values["sample_rate"], shards, clips, values["info"], hashlib.sha256(raw).hexdigest()[:16]
        )
        _check_types(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); write it again with 'ialcms data pack'") from error
    for shard in manifest.shards:
        if Path(shard.name).name != shard.name:
            raise ValueError(f"{path} names a shard '{shard.name}', which is no file of its folder; pack again")
    if any(not 0 <= clip.shard < len(shards) for clip in clips):
        raise ValueError(f"{path} is damaged (a clip lies in a shard that it does not list); pack again")
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


def _check_types(manifest: Manifest) -> None:
    """Raises ValueError for a value that is no text where one belongs, or no whole number from 0 on."""
    if type(manifest.sample_rate) is not int or manifest.sample_rate < 1 or not isinstance(manifest.info, dict):
        raise ValueError(f"sample_rate is {manifest.sample_rate!r}, info of type {type(manifest.info).__name__}")
    for items in (manifest.shards, manifest.clips):
        for field in dataclasses.fields(items[0]) if items else ():
            kind = {"str": str, "int": int}[str(field.type)]
            for item in items:
                value = getattr(item, field.name)
                if type(value) is not kind or (isinstance(value, int) and value < 0):
                    raise ValueError(f"{field.name} of a {type(item).__name__.lower()} is {value!r}")
