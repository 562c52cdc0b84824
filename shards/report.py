"""The clips of a set: counts per cleaning rule, and the dropped and broken clips by name."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ialcms.files import write_whole
from ialcms.reading import one_line, shown
from ialcms.reading.text import read_json
from shards.clean import Cleaned
from shards.entries import Entry


@dataclass
class Report:
    """What cleaning and packing kept, and what they left out."""

    num_clips: int = 0
    num_kept: int = 0
    num_boxes: int = 0
    num_boxes_kept: int = 0
    boxes_rejected: Counter[str] = field(default_factory=Counter)  # per rule
    dropped: list[dict[str, str]] = field(default_factory=list)  # clips that cleaning dropped: {"clip", ..., "reason"}
    bad: list[dict[str, str]] = field(default_factory=list)  # clips with broken files, the same
    clipped: list[dict[str, str]] = field(default_factory=list)  # clips whose sound was cut off at full scale, the same

    def add(self, entry: Entry, cleaned: Cleaned | None, bad: str | None, clipped: str | None = None) -> None:
        """Count a clip.

        cleaned: what cleaning left of it (None: it did not come so far). bad: what is broken about it. clipped: how
        much of its sound was cut off.
        """
        name = {"clip": entry.clip, "instrument": entry.instrument, "split": entry.split}
        self.num_clips += 1
        if cleaned is not None:
            self.num_boxes += len(cleaned.boxes) + sum(cleaned.rejected.values())
            self.boxes_rejected.update(cleaned.rejected)
        if bad is not None:
            self.bad.append({**name, "reason": bad})
            return
        assert cleaned is not None
        if cleaned.dropped is None:
            self.num_kept += 1
            if clipped is not None:
                self.clipped.append({**name, "reason": clipped})
            self.num_boxes_kept += len(cleaned.boxes)
        else:
            self.dropped.append({**name, "reason": cleaned.dropped})
            if len(cleaned.boxes):
                self.boxes_rejected["clip dropped"] += len(cleaned.boxes)

    def merge(self, other: Report) -> None:
        """Add the counts of another part of the same data set."""
        self.num_clips += other.num_clips
        self.num_kept += other.num_kept
        self.num_boxes += other.num_boxes
        self.num_boxes_kept += other.num_boxes_kept
        self.boxes_rejected.update(other.boxes_rejected)
        self.dropped += other.dropped
        self.bad += other.bad
        self.clipped += other.clipped

    def counts(self) -> dict[str, Any]:
        """The counts alone, as the manifest keeps them."""
        dropped = Counter(item["reason"] for item in self.dropped)
        bad = Counter(item["reason"] for item in self.bad)
        return {
            "num_clips": self.num_clips,
            "num_kept": self.num_kept,
            "num_boxes": self.num_boxes,
            "num_boxes_kept": self.num_boxes_kept,
            "boxes_rejected": dict(sorted(self.boxes_rejected.items())),
            "clips_dropped": dict(sorted(dropped.items())),
            "clips_bad": dict(sorted(bad.items())),
            **({"sounds_clipped": len(self.clipped)} if self.clipped else {}),
        }

    def to_dict(self) -> dict[str, Any]:
        return {**self.counts(), "dropped": self.dropped, "bad": self.bad, "clipped": self.clipped}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Report:
        """Raises ValueError (or KeyError, TypeError) for values that `to_dict` does not give."""
        named = {"dropped": values["dropped"], "bad": values["bad"], "clipped": values.get("clipped", [])}
        for name, items in named.items():
            if not isinstance(items, list) or not all(map(_is_named, items)):
                raise ValueError(f"its '{name}' are {shown(items)}")
        for name in ("num_clips", "num_kept", "num_boxes", "num_boxes_kept"):
            if type(values[name]) is not int:
                raise ValueError(f"its {name} is {shown(values[name])}")
        rejected = values.get("boxes_rejected", values.get("boxes_fallen"))  # as version 0.1.0 called them
        if not isinstance(rejected, dict) or not all(type(count) is int for count in rejected.values()):
            raise ValueError(f"its boxes_rejected are {shown(rejected)}")
        return cls(
            num_clips=values["num_clips"],
            num_kept=values["num_kept"],
            num_boxes=values["num_boxes"],
            num_boxes_kept=values["num_boxes_kept"],
            boxes_rejected=Counter(rejected),
            dropped=values["dropped"],
            bad=values["bad"],
            clipped=named["clipped"],  # reports of before have none
        )

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_whole(path, (json.dumps(self.to_dict(), indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Report:
        """An empty one where there is none. Raises ValueError when it is damaged."""
        if not path.is_file():
            return cls()
        try:
            return cls.from_dict(read_json(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"report {path} cannot be read ({one_line(error)}); remove it: nothing depends on it"
            ) from error

    def lines(self) -> list[str]:
        counts = self.counts()
        return [
            f"clips: {self.num_kept} of {self.num_clips} kept",
            *_count_lines({**counts["clips_dropped"], **counts["clips_bad"]}),
            f"boxes: {self.num_boxes_kept} of {self.num_boxes} kept",
            *_count_lines(counts["boxes_rejected"]),
            *([f"sounds cut off at full scale: {len(self.clipped)}"] if self.clipped else []),
        ]


def _is_named(item: Any) -> bool:
    names = ("clip", "instrument", "split", "reason")
    return isinstance(item, dict) and all(isinstance(item.get(name), str) for name in names)


def check_bad(bad: list[dict[str, str]], num_clips: int, max_fraction: float) -> None:
    """Raises ValueError when more than a share of the clips have broken files."""
    if len(bad) > max_fraction * num_clips:
        shown = "; ".join(f"{item['clip']}: {item['reason']}" for item in bad[:3])
        raise ValueError(
            f"{len(bad)} of {num_clips} clips have broken files, more than --max-bad-fraction {max_fraction:g} "
            f"allows ({shown}); repair them or raise the limit"
        )


def _count_lines(counts: dict[str, int]) -> list[str]:
    return [f"  {count:>8}  {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])]
