"""Which data set a prepared tree belongs to: verbs to which it is given record it, later ones read it.

`clips`, `detect` and `index` write `tree.json` when `--dataset` is given; `detect`, `index`, `clean` and `pack` take
the recorded data set when it is not. Without a record, classes of the detections that are named like the instruments
say which box shows which instrument; else it is MUSIC.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ialcms.files import DETECTOR_OPTIONS, write_whole
from ialcms.own_files import find_own
from ialcms.reading.text import read_json
from shards.datasets import FOLDER, Dataset, InstrumentRule, load_dataset

RECORD = "tree.json"
DEFAULT = "music"


@dataclass(frozen=True)
class Chosen:
    """The data set of a tree, and why it is that one."""

    dataset: Dataset
    reason: str  # for people

    def __str__(self) -> str:
        return f"data set: {self.dataset.name} ({self.reason})"


def record_dataset(folder: Path, name: str) -> None:
    """Write down the data set of a tree, or of a folder of CSV files: a file of its own by its path."""
    path = find_own(name, "configs/datasets", ".yaml")
    if path.suffix.lower() not in (".yaml", ".yml") or path.resolve().parent == FOLDER.resolve():
        value = path.stem
    elif path.resolve().is_relative_to(folder.resolve()):  # so that the tree can move
        value = str(path.resolve().relative_to(folder.resolve()))
    else:
        value = os.path.abspath(path)
    write_whole(folder / RECORD, json.dumps({"dataset": value}) + "\n")


def choose_dataset(given: str | None, folders: Sequence[Path], instruments: Collection[str] | None = None) -> Chosen:
    """The data set `given` with --dataset, or what `folders` (tree, folder of CSV files) say.

    instruments: of the tree, None where only a record counts. ValueError where a record cannot be used.
    """
    if given is not None:
        return Chosen(load_dataset(given), "as given")
    for folder in folders:
        if (folder / RECORD).is_file():
            return Chosen(_recorded(folder), f"recorded in {folder / RECORD}")
    for folder in folders:
        derived = _of_detections(folder, instruments or ())
        if derived is not None:
            return Chosen(derived, f"the instruments are the classes in {folder / DETECTOR_OPTIONS}")
    return Chosen(load_dataset(DEFAULT), "the default; --dataset names another")


def recorded_name(folder: Path) -> str | None:
    """What `load_dataset` takes, or None where nothing is recorded."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        value = read_json(path)["dataset"]
        if not isinstance(value, str):
            raise ValueError("its 'dataset' is no text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; remove it, or name the data set with --dataset") from error
    return str(folder / value) if Path(value).suffix and not os.path.isabs(value) else value


def _recorded(folder: Path) -> Dataset:
    name = recorded_name(folder)
    assert name is not None
    try:
        return load_dataset(name)
    except ValueError as error:
        raise ValueError(f"{folder / RECORD} names a data set that cannot be used ({error}); give --dataset") from error


def _of_detections(folder: Path, instruments: Collection[str]) -> Dataset | None:
    """The data set of detections whose classes are the instruments by name; None for others."""
    path = folder / DETECTOR_OPTIONS
    if not path.is_file() or not instruments:
        return None
    try:
        classes = {int(number): str(name) for number, name in read_json(path)["classes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # `check_rule` says what is wrong with it
    numbers = {name: number for number, name in classes.items()}
    if not set(instruments) <= numbers.keys():
        return None
    return Dataset("own classes", classes, {name: InstrumentRule(numbers[name]) for name in instruments})
