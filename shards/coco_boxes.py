"""Boxes that another program found, in COCO's JSON form -> the detections of a prepared tree.

A file is COCO's annotations (a dict with `images`, `annotations`, `categories`) or its results (a list of `image_id`,
`category_id`, `bbox`, `score`; `images` then stand in another file). An image's `file_name` ends in
`<instrument>/<clip>/<frame number>.jpg`; a `bbox` is left, top, width, height in its pixels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ialcms.files import DETECTOR_OPTIONS, claim, open_text, write_whole
from ialcms.reading import Unreadable
from ialcms.reading.text import parse_json
from shards.clean import by_frame
from shards.detect import ClipToDetect
from shards.encode import encode_array
from shards.entries import list_frames

OTHER_CLASSES, LOW_SCORES, GROUPS = "of other classes", "below --min-score", "of groups (iscrowd)"


@dataclass
class CocoBoxes:
    """Boxes of COCO files, by clip."""

    clips: dict[str, list[list[float]]] = field(default_factory=dict)  # '<instrument>/<clip>' -> rows of detections
    left_out: Counter[str] = field(default_factory=Counter)
    options: dict[str, Any] = field(default_factory=dict)  # for the tree's record
    from_frame_0: list[str] = field(default_factory=list)  # clips of which there is an image 0

    @property
    def num_boxes(self) -> int:
        return sum(len(rows) for rows in self.clips.values())


@dataclass(frozen=True)
class Taken:
    """What of some boxes was written into a tree."""

    num_clips: int
    num_boxes: int
    num_kept: int  # clips that had detections
    without: list[str]  # clips of the tree that no image is of
    unknown: list[str]  # clips of the files that the tree has not


@dataclass(frozen=True)
class _Image:
    clip: str
    frame: int


def read_coco(paths: Sequence[Path], classes: Sequence[str], min_score: float) -> CocoBoxes:
    """Read the boxes of some files together; images without boxes count as looked at.

    Categories are the classes of the same name; where no file has `categories`, their ids are the class ids. A box
    without a score has 1. Raises ValueError that names the file and the entry that is not as it should be.
    """
    images: dict[Any, _Image] = {}
    categories: dict[Any, int | None] = {}
    annotations: list[tuple[str, Any]] = []
    digests = []
    for path in paths:
        content = _load(path)
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
        found = content if isinstance(content, list) else content.get("annotations", [])
        annotations += [(f"{path}: annotation {number}", value) for number, value in enumerate(_list(found, path))]
        if isinstance(content, dict):
            for number, image in enumerate(_list(content.get("images", []), path)):
                images[_get(image, "id", f"{path}: image {number}")] = _image(image, f"{path}: image {number}")
            for number, category in enumerate(_list(content.get("categories", []), path)):
                where = f"{path}: category {number}"
                name = _get(category, "name", where)
                categories[_get(category, "id", where)] = 1 + classes.index(name) if name in classes else None
    if not images:
        raise ValueError(f"{paths[0]} names no images; add the file that does, with COCO's 'images', behind --coco")
    boxes = CocoBoxes({image.clip: [] for image in images.values()})
    boxes.from_frame_0 = [image.clip for image in images.values() if image.frame == 0]
    for where, annotation in annotations:
        box = _box(annotation, where, images, categories=categories, num_classes=len(classes))
        reason = _reason(box, min_score)
        if reason is None:
            boxes.clips[box.image.clip].append([box.image.frame, box.label or 0, box.score, *box.corners])
        else:
            boxes.left_out[reason] += 1
    boxes.options = {
        "coco_sha256": digests,
        "classes": {number: name for number, name in enumerate(classes, start=1)},
        "min_score": min_score,
    }
    return boxes


def write_coco(boxes: CocoBoxes, clips: Sequence[ClipToDetect], tree: Path) -> Taken:
    """Write the detections of the clips that have none yet. Raises ValueError for a tree with those of another origin,
    and when the files are of no clip of it.
    """
    names = {f"{clip.frames.parent.name}/{clip.frames.name}": clip for clip in clips}
    unknown = sorted(set(boxes.clips) - set(names))
    if len(unknown) == len(boxes.clips):
        raise ValueError(
            f"no image is of a clip of {tree}, like {unknown[0]}; a file_name ends in <instrument>/<clip>/<number>.jpg"
        )
    _refuse_frame_0(boxes, names)
    claim(tree / DETECTOR_OPTIONS, boxes.options, f"{tree} holds detections")
    num_clips = num_boxes = num_kept = 0
    for name, clip in names.items():
        if name in boxes.clips and clip.detections.is_file():
            num_kept += 1
        elif name in boxes.clips:
            table = np.array(boxes.clips[name], np.float64).reshape(-1, 7)
            write_whole(clip.detections, encode_array(table[by_frame(table)]))
            num_clips, num_boxes = num_clips + 1, num_boxes + len(table)
    return Taken(num_clips, num_boxes, num_kept, without=sorted(set(names) - set(boxes.clips)), unknown=unknown)


def _refuse_frame_0(boxes: CocoBoxes, clips: Mapping[str, ClipToDetect]) -> None:
    """Raises ValueError where a file counts frames from 0 and the tree from 1: all boxes would be off by one."""
    for name in boxes.from_frame_0:
        if name in clips and 0 not in list_frames(clips[name].frames):
            raise ValueError(
                f"a file_name is of frame 0 of {name}, but frames count from 1: the first is {name}/000001.jpg; add 1 "
                "to the numbers"
            )


def _load(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"--coco {path} does not exist; it is a JSON file of boxes as COCO has them")
    with open_text(path) as file:
        try:
            content = parse_json(file.read())
        except Unreadable as error:
            raise ValueError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(content, (dict, list)):
        raise ValueError(f"{path} holds neither COCO's annotations (a mapping) nor its results (a list)")
    return content


@dataclass(frozen=True)
class _Box:
    image: _Image
    label: int | None  # class; None for one that is not asked for
    score: float
    corners: tuple[float, float, float, float]  # x1, y1, x2, y2
    is_group: bool


def _box(
    annotation: Any,
    where: str,
    images: Mapping[Any, _Image],
    *,
    categories: Mapping[Any, int | None],
    num_classes: int,
) -> _Box:
    """An annotation; where: for messages. images, categories: by their ids; without categories, ids are classes.

    num_classes: that there are. Raises ValueError for an annotation that is no box.
    """
    image_id, category_id = _get(annotation, "image_id", where), _get(annotation, "category_id", where)
    if image_id not in images:
        raise ValueError(f"{where}: image_id {image_id!r} is not among the images of the files")
    if categories:
        if category_id not in categories:
            raise ValueError(f"{where}: category_id {category_id!r} is not among the categories of the files")
        label = categories[category_id]
    else:
        label = category_id if category_id in range(1, num_classes + 1) else None
    numbers = [*_list(_get(annotation, "bbox", where), where), annotation.get("score", 1.0)]
    if len(numbers) != 5 or not all(type(x) in (int, float) and abs(x) < 1e300 for x in numbers):
        raise ValueError(f"{where}: bbox {annotation['bbox']!r} and score are not five finite numbers")
    left, top, width, height, score = numbers
    if not 0 <= score <= 1:
        raise ValueError(f"{where}: score {score!r} is not between 0 and 1; scale the scores")
    corners = (left, top, left + width, top + height)
    return _Box(images[image_id], label, score, corners=corners, is_group=bool(annotation.get("iscrowd")))


def _reason(box: _Box, min_score: float) -> str | None:
    """Why a box is left out, or None."""
    if box.label is None:
        return OTHER_CLASSES
    if box.is_group:
        return GROUPS
    return None if box.score > min_score else LOW_SCORES


def _image(image: Any, where: str) -> _Image:
    name = _get(image, "file_name", where)
    parts = PurePosixPath(name).parts[-3:] if isinstance(name, str) else ()
    number = PurePosixPath(parts[-1]).stem if parts else ""
    if len(parts) < 3 or ".." in parts or not (number.isascii() and number.isdigit()):
        raise ValueError(f"{where}: file_name {name!r} does not end in <instrument>/<clip>/<frame number>.jpg")
    return _Image(f"{parts[0]}/{parts[1]}", int(number))


def _get(value: Any, key: str, where: str) -> Any:
    """A field of an entry; ids and names only, which can be looked up."""
    if not isinstance(value, dict) or key not in value:
        raise ValueError(f"{where} has no '{key}'; see COCO's data format")
    found = value[key]
    if key != "bbox" and not isinstance(found, (str, int)):
        raise ValueError(f"{where}: '{key}' is {found!r}, not a name or number")
    return found


def _list(value: Any, where: Path | str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: {str(value)[:40]!r} stands where COCO has a list")
    return value
