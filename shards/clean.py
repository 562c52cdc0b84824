"""Cleaning of detections: pure functions on (D, 7) arrays that also count what each rule rejects.

A row is frame_index, class_id, confidence, x1, y1, x2, y2 (pixels). Two rules, thresholds in the data set's YAML:

    music         the method's: per frame the best box of the clip's own class
    coseparation  Co-Separation's, for noisier sets: confident boxes of the clip's two most confident classes
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
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
    """What is left of a clip's boxes, and how many were rejected."""

    boxes: Detections  # (D', 7), by frame, then by falling confidence
    rejected: dict[str, int]  # boxes that each rule rejected
    dropped: str | None  # why the clip cannot be used, or None


@dataclass(frozen=True)
class Remaining:
    """Boxes (D, 7) that are left so far, and how many each rule has rejected."""

    boxes: Detections
    rejected: Counter[str] = field(default_factory=Counter)

    def keep(self, kept: NDArray[np.bool_], rule: str) -> Remaining:
        """Those of the rows `kept` (D,); the others are counted under the rule's name."""
        return Remaining(self.boxes[kept], self.rejected + Counter({rule: int((~kept).sum())}))

    def sorted(self) -> Remaining:
        """By frame, then by falling confidence, then as given."""
        return Remaining(self.boxes[by_frame(self.boxes)], self.rejected)


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
    with np.errstate(over="ignore"):  # what is too large for 32 bits becomes infinite, and is rejected
        return values.astype(np.float32)


def check_rule(rule: str, dataset: Dataset, instruments: Iterable[str], tree: Path | None = None) -> None:
    """Raises ValueError for an unknown rule and for instruments of which the rule must know the class but does not.

    rule: one of RULES. instruments: of the clips. Where `tree` has a record of what the class ids in its detections
    mean, they must be the data set's.
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

    boxes: (D, 7). frames: numbers of the frames that exist. instrument, video: of the clip. Every rule rejects rows
    that are no boxes or name a missing frame; the skip list of the data set holds under the two rules that clean.
    ValueError for frames counted from 0.
    """
    assert rule in RULES
    if rule != "none" and video in dataset.skip_videos:
        return Cleaned(boxes[:0], {"video on the skip list": len(boxes)}, "video on the skip list")
    left = Remaining(boxes).keep(is_box(boxes), "not finite, or an inverted box")
    _refuse_counting_from_0(left.boxes, frames)
    left = left.keep(np.isin(left.boxes[:, FRAME], list(frames)), "frame does not exist")
    dropped = None
    if rule == "music":
        left = clean_music(left, dataset.instruments[instrument], dataset.music)
    elif rule == "coseparation":
        left = clean_coseparation(left, dataset.coseparation)
        if len(left.boxes) < dataset.coseparation.min_boxes:
            dropped = f"fewer than {dataset.coseparation.min_boxes} boxes left"
        elif len(left.boxes) > dataset.coseparation.max_boxes:
            dropped = f"more than {dataset.coseparation.max_boxes} boxes left"
    if not len(left.boxes):
        dropped = "no box left"
    return Cleaned(left.sorted().boxes, {rule: count for rule, count in left.rejected.items() if count}, dropped)


def _refuse_counting_from_0(boxes: Detections, frames: Collection[int]) -> None:
    """Raises ValueError for boxes that name frames 0 to N - 1 where the tree has 1 to N: all would be off by one."""
    if len(boxes) and 0 not in frames and boxes[:, FRAME].min() == 0 and boxes[:, FRAME].max() < max(frames):
        raise ValueError(
            f"detections name frame 0, but frames count from 1 (here {min(frames)} to {max(frames)}); add 1 to the "
            "first column"
        )


def clean_music(left: Remaining, rule: InstrumentRule, thresholds: MusicThresholds) -> Remaining:
    """The method's rule: own class, confidence, the best box per frame and class, the K best classes of a frame."""
    if rule.class_id is not None:
        left = left.keep(left.boxes[:, CLASS] == rule.class_id, "other class than the instrument's")
    least = thresholds.min_confidence if rule.min_confidence is None else rule.min_confidence
    confidence = left.boxes[:, CONFIDENCE]
    left = left.keep((confidence >= least) & (confidence <= rule.max_confidence), "confidence").sorted()
    is_best = _rank_in_group(left.boxes[:, [FRAME, CLASS]]) < 1
    left = left.keep(is_best, "not the best of its class in the frame")
    is_among_best = _rank_in_group(left.boxes[:, [FRAME]]) < thresholds.classes_per_frame
    return left.keep(is_among_best, "not among the best classes of the frame")


def clean_coseparation(left: Remaining, thresholds: CoseparationThresholds) -> Remaining:
    """Co-Separation's rule: confidence, no two boxes on the same spot, the clip's most confident classes."""
    left = left.keep(left.boxes[:, CONFIDENCE] > thresholds.min_confidence, "confidence").sorted()
    left = left.keep(~_overlapped(left.boxes, thresholds.max_iou), "overlaps a more confident box")
    ids, confidence = left.boxes[:, CLASS], left.boxes[:, CONFIDENCE]
    best = {class_id: confidence[ids == class_id].max() for class_id in np.unique(ids)}
    classes = sorted(best, key=lambda class_id: -best[class_id])[: thresholds.classes_per_clip]
    return left.keep(np.isin(ids, classes), "not among the best classes of the clip")


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
