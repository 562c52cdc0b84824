"""Checks of a manifest's values: their kinds, names of files, sizes that contradict each other."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ialcms.data.clip_table import CHUNK, Clip, ClipTable, Shard, Texts
from ialcms.data.members import Naming
from ialcms.reading import shown
from ialcms.reading.text import check_depth

SPLITS = ("train", "val", "test")
_MOST_SAMPLES_PER_SECOND = 10_000_000
_MOST_SAMPLES_A_BYTE = 65_536  # FLAC writes a block of that many equal samples in some bytes
_LARGEST_CLIP = 1 << 32  # bytes
_FEWEST_BYTES_A_BOX = 14  # seven numbers of 16 bits


def check_manifest_values(sample_rate: Any, info: Any, shards: Sequence[Shard], clips: ClipTable) -> None:
    """Raises ValueError for values of a wrong kind, for ones that contradict each other, and for impossible sizes.

    sample_rate, info: of the manifest. shards, clips: what it lists.
    """
    if type(sample_rate) is not int or not 1 <= sample_rate < _MOST_SAMPLES_PER_SECOND or not isinstance(info, dict):
        raise ValueError(f"sample_rate is {shown(sample_rate)}, info of type {type(info).__name__}")
    check_depth(info)
    Naming.of(info)
    for field in dataclasses.fields(Shard):
        kind = {"str": str, "int": int}[str(field.type)]
        for shard in shards:
            value = getattr(shard, field.name)
            if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 1 << 63):
                raise ValueError(f"{field.name} of a shard is {shown(value)}")
    for shard in shards:
        if not is_file_name(shard.name):
            raise ValueError(f"it names a shard {shown(shard.name)}, which is no file of its folder")
    _check_clips(clips, shards)
    removed = info.get("removed", [])
    if not isinstance(removed, list) or not all(map(_is_removed_clip, removed)):
        raise ValueError(f"the removed clips are {shown(removed)}")


def _is_removed_clip(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(item.get("shard"), str):
        return False
    return all(type(item.get(name)) is int and 0 <= item[name] < 1 << 62 for name in ("offset", "size"))


def _check_clips(clips: ClipTable, shards: Sequence[Shard]) -> None:
    """ValueError for the first impossible clip."""
    for field, values in clips.numbers.items():
        if len(values) and int(values.max()) >= 1 << 63:
            raise ValueError(f"{field} of a clip is {shown(int(values.max()))}")
    is_bad_name = {field: ~_are_names(names) for field, names in clips.names.items()}
    is_bad_name["split"] |= np.array([name not in SPLITS for name in clips.names["split"]], bool)
    is_bad_key = ~_are_names(clips.key)
    shard_bytes = np.array([shard.num_bytes for shard in shards], np.uint64)
    for first in range(0, len(clips), CHUNK):
        part = slice(first, first + CHUNK)
        shard, offset, size, num_samples, num_boxes = (
            clips.numbers[field][part].astype(np.uint64)
            for field in ("shard", "offset", "size", "num_samples", "num_boxes")
        )
        is_bad = is_bad_key[part] | (shard >= len(shards)) | (size > _LARGEST_CLIP)
        for field, bad in is_bad_name.items():
            is_bad |= bad[clips.codes[field][part]]
        if len(shards):
            is_bad |= offset + size > shard_bytes[np.minimum(shard, np.uint64(len(shards) - 1))]
        is_bad |= num_boxes > size // np.uint64(_FEWEST_BYTES_A_BOX)
        is_bad |= num_samples > np.minimum(size, np.uint64(2 * _LARGEST_CLIP)) * np.uint64(_MOST_SAMPLES_A_BYTE)
        if is_bad.any():
            clip = clips[first + int(is_bad.argmax())]
            raise ValueError(f"a clip {_fault_of(clip, shards)} ({shown(clip.key)})")


def _are_names(texts: Texts) -> np.ndarray:
    """(n,) bool: which of the texts are not empty and can be written."""
    are_names = np.diff(texts.ends.astype(np.int64), prepend=0) > 0
    if (texts.raw < 0x80).all():
        return are_names
    return are_names & np.fromiter(map(is_text, texts), bool, len(texts))


def _fault_of(clip: Clip, shards: Sequence[Shard]) -> str:
    """What is impossible about a clip."""
    if not all(name and is_text(name) for name in (clip.key, clip.instrument, clip.video)):
        return "has a name that is none"
    if clip.shard >= len(shards):
        return "lies in a shard that it does not list"
    if clip.split not in SPLITS:
        return f"has the split {shown(clip.split)}, not {', '.join(SPLITS)}"
    if clip.offset + clip.size > shards[clip.shard].num_bytes:
        return f"ends at byte {clip.offset + clip.size}, after its shard's {shards[clip.shard].num_bytes}"
    if clip.size > _LARGEST_CLIP:
        return f"has {clip.size} bytes, more than the {_LARGEST_CLIP} that are read at once"
    return f"has {clip.num_samples} samples and {clip.num_boxes} boxes in {clip.size} bytes"


def is_text(text: str) -> bool:
    """Whether it can be written: characters, or the bytes of a file's name that is no UTF-8 (as Python holds them)."""
    try:
        return text.isascii() or bool(text.encode(errors="surrogateescape"))
    except UnicodeEncodeError:
        return False


def is_file_name(name: str) -> bool:
    """Whether a text names a file of a folder, and nothing outside of it."""
    return is_text(name) and Path(name).name == name != ".." and 0 < len(os.fsencode(name)) <= 255 and "\0" not in name
