"""How many boxes are of another class than their clip's instrument: many of them are a sign of a wrong data set."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ialcms.processes import map_threads
from shards.clean import CLASS, CONFIDENCE, read_detections
from shards.datasets import Dataset
from shards.entries import Entry

MOST = 0.3  # share of the confident boxes


@dataclass(frozen=True)
class OtherClass:
    """Confident boxes of clips whose instrument has a class."""

    dataset: str
    num_boxes: Counter[str]  # by instrument
    num_other: Counter[str]  # of another class than the instrument's

    @property
    def share(self) -> float:
        return self.num_other.total() / max(self.num_boxes.total(), 1)

    def __str__(self) -> str:
        worst = sorted(self.num_boxes, key=lambda name: -self.num_other[name] / self.num_boxes[name])[:3]
        shown = ", ".join(f"{name} {self.num_other[name]} of {self.num_boxes[name]}" for name in worst)
        return (
            f"{self.num_other.total()} of {self.num_boxes.total()} confident boxes ({self.share:.0%}) are of another "
            f"class than the one that data set '{self.dataset}' gives their instrument ({shown})"
        )


def count_other_class(entries: Sequence[Entry], dataset: Dataset, jobs: int = 1) -> OtherClass:
    """Look at the detections of all clips, with `jobs` threads; those that cannot be read are passed over.

    A box is confident where it has the data set's `music.min_confidence`.
    """
    counted = map_threads(
        functools.partial(_count, dataset=dataset), entries, jobs, description="look at classes", unit="clip"
    )
    num_boxes: Counter[str] = Counter()
    num_other: Counter[str] = Counter()
    for entry, (boxes, other) in zip(entries, counted):
        num_boxes[entry.instrument] += boxes
        num_other[entry.instrument] += other
    return OtherClass(dataset.name, +num_boxes, num_other)


def refuse_other_class(found: OtherClass, most: float) -> None:
    """Raises ValueError where more than a share of the boxes is of another class."""
    if found.share > most:
        raise ValueError(f"{found}; name the right data set with --dataset, or continue with --max-other-class 1")


def _count(entry: Entry, dataset: Dataset) -> tuple[int, int]:
    rule = dataset.instruments.get(entry.instrument)
    if rule is None or rule.class_id is None:
        return 0, 0
    try:
        boxes = read_detections(entry.detections)
    except (OSError, ValueError):
        return 0, 0
    least = dataset.music.min_confidence if rule.min_confidence is None else rule.min_confidence
    confident = boxes[boxes[:, CONFIDENCE] >= least]
    return len(confident), int((confident[:, CLASS] != rule.class_id).sum())
