"""Detections without a detector: one box a frame, which is the whole picture, of the class of the clip's instrument.

For solos in which nothing else is to be seen, as Sound of Pixels (Zhao et al., 2018) looks at whole frames.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ialcms.files import DETECTOR_OPTIONS, claim, write_whole
from ialcms.pictures import BadPicture, open_picture, upright
from ialcms.processes import map_ordered
from ialcms.progress import Progress
from ialcms.reading.text import read_json
from shards.datasets import Dataset, InstrumentRule
from shards.detect import ClipToDetect, Detected
from shards.encode import encode_array
from shards.entries import list_frames

_KEY = "whole_frame"


@dataclass(frozen=True)
class _Label:
    class_id: int
    confidence: float


def detect_whole_frames(
    clips: Sequence[ClipToDetect], tree: Path, dataset: Dataset | None, every: int = 1, jobs: int = 1
) -> list[Detected]:
    """Write the detections of the clips that have none yet.

    dataset: says the class of each instrument; None: the instruments are the classes, numbered by name. every: only
    one of so many frames, from the first one. Raises ValueError for an instrument that the data set does not know, and
    for a tree with detections of another origin. jobs: processes.
    """
    instruments = sorted({clip.frames.parent.name for clip in clips})
    classes = _numbered(instruments, tree) if dataset is None else dataset.classes
    labels = _labels(instruments, classes, dataset)
    options = {_KEY: True, "classes": classes} | ({"every": every} if every != 1 else {})
    if _extends(tree, options):
        write_whole(tree / DETECTOR_OPTIONS, json.dumps(options, indent=1))
    else:
        claim(tree / DETECTOR_OPTIONS, options, f"{tree} holds detections")
    waiting = [clip for clip in clips if not clip.detections.is_file()]
    found = []
    with Progress(len(clips), "detect") as progress:
        progress.skip(len(clips) - len(waiting))
        for result in map_ordered(functools.partial(_whole_frames, labels=labels, every=every), waiting, jobs):
            found.append(result)
            progress.advance()
    return found


def _numbered(instruments: Sequence[str], tree: Path) -> dict[int, str]:
    """Classes 1, 2, ... of the instruments; those of an earlier run keep their numbers."""
    earlier = _options(tree)
    names = list(earlier["classes"].values()) if earlier.get(_KEY) is True else []
    return dict(enumerate([*names, *(name for name in instruments if name not in names)], start=1))


def _extends(tree: Path, options: dict[str, Any]) -> bool:
    """Whether the tree has detections of this kind, with fewer instruments."""
    earlier = _options(tree)
    if not earlier or {**earlier, "classes": None} != {**options, "classes": None}:
        return False
    classes = {str(number): name for number, name in options["classes"].items()}
    return bool(earlier["classes"].items() <= classes.items())


def _options(tree: Path) -> dict[str, Any]:
    path = tree / DETECTOR_OPTIONS
    try:
        values = read_json(path) if path.is_file() else {}
        return values if isinstance(values, dict) and isinstance(values.get("classes"), dict) else {}
    except (OSError, ValueError):
        return {}  # `claim` refuses it


def _labels(instruments: Sequence[str], classes: dict[int, str], dataset: Dataset | None) -> dict[str, _Label]:
    numbers = {name: number for number, name in classes.items()}
    rules = {name: InstrumentRule(numbers[name]) for name in instruments} if dataset is None else dataset.instruments
    unknown = [name for name in instruments if name not in rules]
    if dataset is not None and unknown:
        raise ValueError(
            f"data set '{dataset.name}' does not say which class shows {', '.join(unknown)}; add it under "
            "'instruments' in its YAML file (--dataset)"
        )
    # a box of any class must not be more confident than its rule allows
    return {
        name: _Label(min(classes) if rule.class_id is None else rule.class_id, min(1.0, rule.max_confidence))
        for name, rule in rules.items()
    }


def _whole_frames(clip: ClipToDetect, labels: dict[str, _Label], every: int) -> Detected:
    instrument = clip.frames.parent.name
    name, label = f"{instrument}/{clip.frames.name}", labels[instrument]
    rows, unreadable = [], 0
    try:
        frames = sorted(list_frames(clip.frames).items())[::every]
    except (ValueError, OSError) as error:
        return Detected(name, problem=str(error))
    for number, path in frames:
        try:
            width, height = upright(open_picture(path.read_bytes())).size
        except (OSError, BadPicture):
            unreadable += 1
            continue
        rows.append([number, label.class_id, label.confidence, 0, 0, width, height])
    if not rows:
        return Detected(name, problem="no frame is readable")
    write_whole(clip.detections, encode_array(np.array(rows, np.float64)))
    return Detected(name, len(rows), f"{unreadable} frames are unreadable" if unreadable else None)
