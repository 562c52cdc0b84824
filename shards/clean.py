"""Cleaning of detections: pure functions on (D, 7) arrays that also count what falls to which rule.

A row is frame_index, class_id, confidence, x1, y1, x2, y2 (pixels). Two rules, thresholds in the data set's YAML:

    music         the method's: per frame the best box of the clip's own class
    coseparation  Co-Separation's, for noisier sets: confident boxes of the clip's two most confident classes
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ialcms.files import DETECTOR_OPTIONS
from ialcms.reading import Unreadable
from ialcms.reading.arrays import read_array
from ialcms.reading.text import read_json
from shards.datasets import CoseparationThresholds, Dataset, InstrumentRule, MusicThresholds

Detections = NDArray[np.float32]

RULES = ("music", "coseparation", "none")
FRAME, CLASS, CONFIDENCE, X1, Y1, X2, Y2 = range(7)


@dataclass(frozen=True)
class Cleaned:
    """What is left of a clip's boxes, and what became of the others."""

    boxes: Detections  # (D', 7), by frame, then by falling confidence
    rejected: dict[str, int]  # boxes that each rule rejected
    dropped: str | None  # why the clip cannot be used, or None


def read_detections(path: Path) -> Detections:
    """(D, 7) float32 from a .npy file; an empty array counts as (0, 7).

    Raises ValueError for a missing or unreadable file, Python objects and another number of columns.
    """
    if not path.is_file():
        raise ValueError("detections missing")
    try:
        values = read_array(path)
    except (OSError, Unreadable) as error:
        if "pickle" in str(error):
            raise ValueError("detections hold pickled objects or are no .npy file") from error
        raise ValueError("detections unreadable") from error
    if values.dtype.kind not in "fiu":
        raise ValueError("detections are not an array of numbers")
    if values.size == 0:
        return np.zeros((0, 7), np.float32)
    if values.ndim != 2 or values.shape[1] != 7:
        raise ValueError(f"detections have shape {tuple(values.shape)[:3]}, not (D, 7)")
    with np.errstate(over="ignore"):  # what is too large for 32 bits becomes infinite, and falls
        return values.astype(np.float32)


def check_rule(rule: str, dataset: Dataset, instruments: Iterable[str], tree: Path | None = None) -> None:
    """Raises ValueError for an unknown rule and for instruments of which the rule must know the class but does not.

    Where `tree` tells what the class ids in its detections mean, the data set must mean the same.
    """
    if rule not in RULES:
        raise ValueError(f"cleaning rule '{rule}' is unknown; choose {', '.join(RULES)}")
    unknown = sorted(set(instruments) - set(dataset.instruments)) if rule == "music" else []
    if unknown:
        raise ValueError(
            f"data set '{dataset.name}' does not say which detector class shows {', '.join(unknown)}; "
            "add it under 'instruments' in its YAML file (--dataset), or choose another cleaning rule"
        )
    path = (tree or Path()) / DETECTOR_OPTIONS
    if rule != "music" or tree is None or not path.is_file():
        return
    try:
        classes = {int(number): str(name) for number, name in read_json(path)["classes"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged; detect again, or remove it if you know the class ids") from error
    if classes != dataset.classes:
        found, wanted = (", ".join(names.values()) for names in (classes, dataset.classes))
        raise ValueError(
            f"the detections in {tree} are of the classes {found}, but data set '{dataset.name}' has {wanted}; name "
            "the data set that was detected with (--dataset)"
        )


def clean_clip(
    boxes: Detections, frames: Collection[int], instrument: str, video: str, rule: str, dataset: Dataset
) -> Cleaned:
    """Apply a rule ("music", "coseparation" or "none") to a clip's detections.

    `frames` are the numbers of the frames that exist. Every rule rejects rows that are no boxes or name a missing
    frame; the skip list of the data set holds under the two rules that clean. ValueError for frames counted from 0.
    """
    assert rule in RULES
    rejected: Counter[str] = Counter()
    if rule != "none" and video in dataset.skip_videos:
        return Cleaned(boxes[:0], {"video on the skip list": len(boxes)}, "video on the skip list")
    boxes = keep(boxes, is_box(boxes), rejected, "not finite, or an inverted box")
    _refuse_counting_from_0(boxes, frames)
    boxes = keep(boxes, np.isin(boxes[:, FRAME], list(frames)), rejected, "frame does not exist")
    dropped = None
    if rule == "music":
        boxes = clean_music(boxes, dataset.instruments[instrument], dataset.music, rejected)
    elif rule == "coseparation":
        boxes = clean_coseparation(boxes, dataset.coseparation, rejected)
        if len(boxes) < dataset.coseparation.min_boxes:
            dropped = f"fewer than {dataset.coseparation.min_boxes} boxes left"
        elif len(boxes) > dataset.coseparation.max_boxes:
            dropped = f"more than {dataset.coseparation.max_boxes} boxes left"
    if not len(boxes):
        dropped = "no box left"
    return Cleaned(boxes[by_frame(boxes)], {rule: count for rule, count in rejected.items() if count}, dropped)


def _refuse_counting_from_0(boxes: Detections, frames: Collection[int]) -> None:
    """Raises ValueError for boxes that name frames 0 to N - 1 where the tree has 1 to N: all would be off by one."""
    if len(boxes) and 0 not in frames and boxes[:, FRAME].min() == 0 and boxes[:, FRAME].max() < max(frames):
        raise ValueError(
            f"detections name frame 0, but frames count from 1 (here {min(frames)} to {max(frames)}); add 1 to the "
            "first column"
        )


def clean_music(
    boxes: Detections, rule: InstrumentRule, thresholds: MusicThresholds, rejected: Counter[str]
) -> Detections:
    """The method's rule: own class, confidence, the best box per frame and class, the K best classes of a frame."""
    if rule.class_id is not None:
        boxes = keep(boxes, boxes[:, CLASS] == rule.class_id, rejected, "other class than the instrument's")
    least = thresholds.min_confidence if rule.min_confidence is None else rule.min_confidence
    confidence = boxes[:, CONFIDENCE]
    boxes = keep(boxes, (confidence >= least) & (confidence <= rule.max_confidence), rejected, "confidence")
    boxes = boxes[by_frame(boxes)]
    boxes = keep(
        boxes, _rank_in_group(boxes[:, [FRAME, CLASS]]) < 1, rejected, "not the best of its class in the frame"
    )
    best = _rank_in_group(boxes[:, [FRAME]]) < thresholds.classes_per_frame
    return keep(boxes, best, rejected, "not among the best classes of the frame")


def clean_coseparation(boxes: Detections, thresholds: CoseparationThresholds, rejected: Counter[str]) -> Detections:
    """Co-Separation's rule: confidence, no two boxes on the same spot, the clip's most confident classes."""
    boxes = keep(boxes, boxes[:, CONFIDENCE] > thresholds.min_confidence, rejected, "confidence")
    boxes = boxes[by_frame(boxes)]
    boxes = keep(boxes, ~_overlapped(boxes, thresholds.max_iou), rejected, "overlaps a more confident box")
    best = {class_id: boxes[boxes[:, CLASS] == class_id, CONFIDENCE].max() for class_id in np.unique(boxes[:, CLASS])}
    classes = sorted(best, key=lambda class_id: -best[class_id])[: thresholds.classes_per_clip]
    return keep(boxes, np.isin(boxes[:, CLASS], classes), rejected, "not among the best classes of the clip")


def keep(boxes: Detections, kept: NDArray[np.bool_], rejected: Counter[str], rule: str) -> Detections:
    """The kept rows; the others are counted under the rule's name."""
    rejected[rule] += int((~kept).sum())
    return boxes[kept]


def is_box(boxes: Detections) -> NDArray[np.bool_]:
    """(D,) which rows are finite, name a whole frame number and span an area."""
    finite = np.all(np.isfinite(boxes), axis=1)
    safe = np.where(finite[:, None], boxes, 0)
    whole = (safe[:, FRAME] >= 0) & (safe[:, FRAME] % 1 == 0)
    spans = (safe[:, X1] < safe[:, X2]) & (safe[:, Y1] < safe[:, Y2])
    return np.asarray(finite & whole & spans)


def spans_a_pixel(boxes: Detections) -> NDArray[np.bool_]:
    """(D,) which boxes are at least a pixel wide and high: of smaller ones nothing can be seen."""
    exact = boxes.astype(np.float64)  # a difference in float32 could round up to 1
    return np.asarray(np.minimum(exact[:, X2] - exact[:, X1], exact[:, Y2] - exact[:, Y1]) >= 1)


def by_frame(boxes: NDArray[Any]) -> NDArray[np.intp]:
    """Order by frame, then by falling confidence, then as given."""
    return np.lexsort((-boxes[:, CONFIDENCE], boxes[:, FRAME]))


def box_iou(one: Detections, others: Detections) -> NDArray[np.float32]:
    """(D,) intersection over union of one row's box with D others."""
    width = np.minimum(one[X2], others[:, X2]) - np.maximum(one[X1], others[:, X1])
    height = np.minimum(one[Y2], others[:, Y2]) - np.maximum(one[Y1], others[:, Y1])
    common = width.clip(0) * height.clip(0)
    area = (one[X2] - one[X1]) * (one[Y2] - one[Y1])
    areas = (others[:, X2] - others[:, X1]) * (others[:, Y2] - others[:, Y1])
    return common / (area + areas - common)  # type: ignore[no-any-return]


def _rank_in_group(groups: NDArray[np.float32]) -> NDArray[np.intp]:
    """(D,) how many earlier rows have the same values in all columns of `groups` (D, C)."""
    rank = np.zeros(len(groups), np.intp)
    seen: Counter[bytes] = Counter()
    for row, group in enumerate(groups):
        rank[row] = seen[group.tobytes()]
        seen[group.tobytes()] += 1
    return rank


def _overlapped(boxes: Detections, max_iou: float) -> NDArray[np.bool_]:
    """(D,) which rows, sorted by frame and falling confidence, overlap a kept row before them in their frame."""
    rejected = np.zeros(len(boxes), bool)
    for row, box in enumerate(boxes):
        rivals = (boxes[:row, FRAME] == box[FRAME]) & ~rejected[:row]
        rejected[row] = bool((box_iou(box, boxes[:row][rivals]) > max_iou).any())
    return rejected
