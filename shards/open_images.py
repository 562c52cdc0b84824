"""Boxes in the CSV form of Open Images, to train a detector on.

Shape letter: N boxes of a picture.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ialcms.files import open_text

_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
_SUFFIXES = (".jpg", ".jpeg", ".png")  # in capitals, too, as cameras write them
# How far a box may reach over the edge, as a share of the picture's side. Farther out, the numbers must be pixels.
_LONGEST_WAY_OUT = 0.5


@dataclass(frozen=True)
class Example:
    """A picture and its boxes."""

    path: Path
    boxes: np.ndarray  # (N, 4) float32: x1, y1, x2, y2 in shares of the picture's width and height
    labels: np.ndarray  # (N,) int64 class ids, from 1


def read_class_names(path: Path) -> dict[str, str]:
    """Open Images' class descriptions, rows label id,name -> {label id: name}."""
    if not path.is_file():
        raise ValueError(f"--class-names {path} does not exist; it is Open Images' class-descriptions-boxable.csv")
    with open_text(path) as file:
        return {row[0]: row[1] for row in csv.reader(file) if len(row) == 2}


def read_boxes(
    path: Path, images: Path, classes: Sequence[str], names: Mapping[str, str] | None = None
) -> tuple[list[Example], dict[str, int]]:
    """Read Open Images' box annotations, for pictures `<ImageID>.jpg` (or .png), and count what was left out.

    path: CSV. images: folder of the pictures. classes: names of those that are read.
    `names` translates label ids to names; labels that are names already need none. Boxes are cut off at the picture's
    edges. Those of other classes, of groups and without an area inside are left out, and pictures that are not in the
    folder. Raises ValueError when nothing is left.
    """
    if not path.is_file():
        raise ValueError(f"--train {path} does not exist; it is a CSV of boxes as Open Images has them")
    numbers = {name: number for number, name in enumerate(classes, start=1)}
    left_out = {"boxes of other classes": 0, "boxes of groups": 0, "boxes without an area": 0, "missing pictures": 0}
    found: dict[str, list[tuple[int, list[float]]]] = {}
    with open_text(path) as file:
        rows = csv.DictReader(file, skipinitialspace=True)
        missing = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{path} has no column {', '.join(missing)}; its first line must name {', '.join(_COLUMNS)}"
            )
        for row in rows:
            name = (names or {}).get(row["LabelName"], row["LabelName"])
            try:
                box = [float(row[column]) for column in ("XMin", "YMin", "XMax", "YMax")]
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {rows.line_num}: its corners are not numbers") from error
            if name not in numbers:
                left_out["boxes of other classes"] += 1
            elif row.get("IsGroupOf") == "1":
                left_out["boxes of groups"] += 1
            elif (inside := _cut_off(box)) is None:
                left_out["boxes without an area"] += 1
            else:
                found.setdefault(row["ImageID"], []).append((numbers[name], inside))
    examples = []
    pictures = _Pictures(images)
    for image, labelled in sorted(found.items()):
        existing = pictures.find(image)
        if existing is None or not existing.resolve().is_relative_to(images.resolve()):
            left_out["missing pictures"] += 1
            continue
        boxes = np.array([box for _, box in labelled], np.float32)
        examples.append(Example(existing, boxes, np.array([number for number, _ in labelled], np.int64)))
    if not examples:
        counts = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
        raise ValueError(f"no picture of {images} has a box of {', '.join(classes)} in {path} ({counts or 'no rows'})")
    return examples, left_out


def _cut_off(box: list[float]) -> list[float] | None:
    """x1, y1, x2, y2 inside the picture; None for a box of no numbers, in pixels, or without an area."""
    if not all(-_LONGEST_WAY_OUT <= edge <= 1 + _LONGEST_WAY_OUT for edge in box):
        return None
    x1, y1, x2, y2 = (min(max(edge, 0.0), 1.0) for edge in box)
    # float32 is what the network gets: there must be an area in it, too
    return [x1, y1, x2, y2] if np.float32(x1) < np.float32(x2) and np.float32(y1) < np.float32(y2) else None


class _Pictures:
    """Finds pictures by their ids in folders that are listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listed: dict[Path, dict[str, Path]] = {}  # folder -> name without its suffix -> file

    def find(self, image: str) -> Path | None:
        """The picture of an id, which may be a file's name with or without its suffix; None where there is none."""
        path = self._root / image
        files = self._files(path.parent)
        return files.get(path.name) or (path if path.suffix.lower() in _SUFFIXES and path.is_file() else None)

    def _files(self, folder: Path) -> dict[str, Path]:
        if folder not in self._listed:
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
            known = [path for path in paths if path.suffix.lower() in _SUFFIXES and path.is_file()]
            by_suffix = sorted(known, key=lambda path: _SUFFIXES.index(path.suffix.lower()), reverse=True)
            self._listed[folder] = {path.stem: path for path in by_suffix}  # of several, a .jpg
        return self._listed[folder]
