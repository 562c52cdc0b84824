"""What a clip of another program's tar is: its instrument, video and split, its measures, and what is wrong with it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any

from ialcms.data.manifest import SPLITS, Clip, is_text
from ialcms.data.members import OURS, Naming, first_of
from ialcms.reading import Unreadable, bare, one_line, shown
from ialcms.reading.text import parse_json
from shards.check_members import check_members, measure
from shards.entries import video_of

FACTS = ("instrument", "video", "split")
_SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
                "test": "test", "testing": "test", "eval": "test"}  # fmt: skip
# As ours, and one picture without a number for all boxes; sounds of any kind that libsndfile knows by these names.
ANY_NAMING = Naming(
    sound=("flac", "wav", "mp3", "ogg"),
    picture=("*.jpg", "*.jpeg", "*.png", "jpg", "jpeg", "png"),
    boxes=OURS.boxes,
    metadata=OURS.metadata,
)


@dataclass(frozen=True)
class Reading:
    """Where the facts about a clip are found."""

    naming: Naming = ANY_NAMING
    fields: dict[str, str] = field(default_factory=dict)  # fact -> field of the JSON, 'meta.label' within 'meta'
    pattern: str = ""  # of keys, with groups named like facts
    split: str = ""  # of all clips

    def __post_init__(self) -> None:
        try:
            groups = set(re.compile(self.pattern).groupindex)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"--key-pattern '{self.pattern}' is no regular expression ({error})") from error
        if unknown := (groups | self.fields.keys()) - set(FACTS):
            raise ValueError(f"'{min(unknown)}' is no fact about a clip; name {', '.join(FACTS)}")
        if self.pattern and not groups:
            raise ValueError(f"--key-pattern '{self.pattern}' has no group; write one like (?P<instrument>[a-z]+)")
        if self.split and self.split not in SPLITS:
            raise ValueError(f"--split '{self.split}': choose {', '.join(SPLITS)}")


@dataclass(frozen=True)
class FoundClip:
    """A run of members with one key, as it lies in a shard."""

    key: str
    offset: int
    size: int
    crc32: int
    problem: str = ""  # why it cannot be used; then the rest says nothing
    instrument: str = ""
    video: str = ""
    split: str = ""
    num_samples: int = 0
    num_boxes: int = 0
    sample_rate: int = 0
    is_ours: bool = False  # written by 'data pack', or just as it writes


def examine(found: FoundClip, shard: str, members: dict[str, bytes], reading: Reading) -> dict[str, Any]:
    """The facts and measures of a clip, fields of `FoundClip`. Raises ValueError with what is wrong with it.

    shard: the tar's name, which may begin with the split. members: suffix -> content.
    """
    if not is_text(found.key) or not os.path.basename(found.key):
        raise ValueError(f"its name {shown(found.key)} is no WebDataset key")
    facts = _facts(found.key, shard, _metadata(members, reading.naming), reading=reading)
    if {"npy", "json"} <= members.keys() and members.keys() & set(OURS.sound):
        try:
            return facts | _measures_of_ours(found, facts, members) | {"is_ours": True}
        except ValueError:
            pass  # of another program, whose clips need not be as strict
    return facts | _measures(members, reading.naming)


def _measures(members: dict[str, bytes], naming: Naming) -> dict[str, Any]:
    measured = measure(members, None, naming)
    return {
        "num_samples": measured.num_samples,
        "num_boxes": measured.num_boxes,
        "sample_rate": measured.sample_rate,
    }


def _measures_of_ours(found: FoundClip, facts: dict[str, str], members: dict[str, bytes]) -> dict[str, Any]:
    """From the metadata, which 'pack' writes, compared with the members. Raises ValueError where they do not fit."""
    values = parse_json(members["json"])
    names = ("num_samples", "num_boxes", "sample_rate")
    if not isinstance(values, dict) or not all(type(values.get(name)) is int for name in names):
        raise ValueError("not ours")
    measures = {name: values[name] for name in names}
    clip = Clip(
        found.key,
        **facts,
        shard=0,
        offset=found.offset,
        size=found.size,
        num_samples=measures["num_samples"],
        num_boxes=measures["num_boxes"],
        crc32=found.crc32,
    )
    check_members(clip, members, measures["sample_rate"])
    return measures


def _metadata(members: dict[str, bytes], naming: Naming) -> Any:
    content = first_of(members, naming.metadata)
    try:
        return {} if content is None else parse_json(content)
    except Unreadable as error:
        raise ValueError(f"its metadata cannot be read ({error})") from error


def _facts(key: str, shard: str, metadata: Any, reading: Reading) -> dict[str, str]:
    """The FACTS from a clip's key, its metadata and the name of its shard. ValueError where they do not say it."""
    match = re.search(reading.pattern, key) if reading.pattern else None
    groups = match.groupdict() if match else {}
    stated = {fact: groups.get(fact) or _field(metadata, reading.fields.get(fact, fact)) for fact in FACTS}
    instrument = stated["instrument"]
    if not instrument:
        name = reading.fields.get("instrument", "instrument")
        fields = ", ".join(map(bare, metadata)) if isinstance(metadata, dict) and metadata else "nothing"
        raise ValueError(
            f"its metadata have no field '{name}', but {one_line(fields)} (name another with --field instrument=FIELD, "
            "or take it from the key with --key-pattern)"
        )
    by_name = _SPLIT_NAMES.get(stated["split"].lower(), "") if stated["split"] else split_of_name(shard)
    split = reading.split or by_name
    if not split:
        raise ValueError(
            f"its split is {bare(stated['split'] or 'stated nowhere')} (give --split, or --field split=FIELD)"
        )
    facts = {"instrument": instrument, "video": stated["video"] or video_of(os.path.basename(key)), "split": split}
    if wrong := [fact for fact, text in facts.items() if not is_text(text)]:
        raise ValueError(f"its {wrong[0]} is no text: {shown(facts[wrong[0]])}")
    return facts


def _field(metadata: Any, path: str) -> str:
    """The text or number in a field, '' where there is none; 'meta.label' looks into 'meta'."""
    value = metadata.get(path) if isinstance(metadata, dict) else None
    if value is None:
        value = metadata
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return value.strip()
    return str(value) if type(value) is int and value.bit_length() < 64 else ""


def split_of_name(shard: str) -> str:
    """'train-000012.tar' -> 'train'; '' where the name has none."""
    match = re.match(r"[A-Za-z]+", shard)
    return _SPLIT_NAMES.get(match[0].lower(), "") if match else ""
