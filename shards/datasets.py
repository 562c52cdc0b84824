"""What is particular to a data set: detector classes, cleaning thresholds, lists of videos; read from YAML."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ialcms.files import open_text
from ialcms.own_files import find_own, own_folder
from ialcms.reading import Unreadable, bare, one_line, shown
from ialcms.reading.text import parse_yaml

FOLDER = own_folder("configs/datasets")


@dataclass(frozen=True)
class InstrumentRule:
    """Which of the detector's boxes can show an instrument."""

    class_id: int | None  # None: a box of any class
    min_confidence: float | None = None  # None: the rule's own
    max_confidence: float = 1.0


@dataclass(frozen=True)
class MusicThresholds:
    """Of the rule "music" (see `shards.clean`)."""

    min_confidence: float = 0.9
    classes_per_frame: int = 1


@dataclass(frozen=True)
class CoseparationThresholds:
    """Of the rule "coseparation" (see `shards.clean`)."""

    min_confidence: float = 0.9
    max_iou: float = 0.7
    classes_per_clip: int = 2
    min_boxes: int = 60
    max_boxes: int = 300


@dataclass(frozen=True)
class Dataset:
    """What a data set calls its instruments and which videos it uses: configs/datasets."""

    name: str = "none"
    classes: dict[int, str] = field(default_factory=dict)
    instruments: dict[str, InstrumentRule] = field(default_factory=dict)
    skip_videos: frozenset[str] = frozenset()
    test_videos: frozenset[str] = frozenset()
    labels: dict[str, str] = field(default_factory=dict)  # of a list of videos -> instrument
    music: MusicThresholds = field(default_factory=MusicThresholds)
    coseparation: CoseparationThresholds = field(default_factory=CoseparationThresholds)


def load_dataset(name: str | Path) -> Dataset:
    """Read a data set's YAML file, given by its path or by the name of one in configs/datasets.

    Raises ValueError naming the file, the key and the remedy.
    """
    path = find_own(name, "configs/datasets", ".yaml")
    if path.suffix.lower() not in (".yaml", ".yml"):
        path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise ValueError(f"data set '{name}': {path} does not exist; give a YAML file or one of: {known}")
    try:
        with open_text(path) as file:
            values = parse_yaml(file.read()) or {}
    except Unreadable as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    _check_keys(values, [f.name for f in dataclasses.fields(Dataset) if f.name != "name"], str(path))
    classes = _classes(values.get("classes", {}), str(path))
    instruments = {
        str(instrument): _instrument_rule(rule, classes, f"{path}: instruments.{bare(instrument)}")
        for instrument, rule in _mapping(values.get("instruments", {}), f"{path}: instruments").items()
    }
    return Dataset(
        name=path.stem,
        classes=classes,
        instruments=instruments,
        skip_videos=_videos(path, values, "skip_videos"),
        test_videos=_videos(path, values, "test_videos"),
        labels={str(label): str(name) for label, name in _mapping(values.get("labels", {}), f"{path}: labels").items()},
        music=_thresholds(MusicThresholds, values.get("music", {}), f"{path}: music"),
        coseparation=_thresholds(CoseparationThresholds, values.get("coseparation", {}), f"{path}: coseparation"),
    )


def read_video_list(path: str | Path) -> frozenset[str]:
    """Video ids, one a line; '#' starts a comment at the beginning of a line (an id may begin with '-' or '_')."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"list of videos {path} does not exist; write one id a line")
    with open_text(path) as file:
        lines = [line.strip() for line in file]
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _videos(path: Path, values: dict[str, Any], key: str) -> frozenset[str]:
    name = values.get(key)
    if name is None:
        return frozenset()
    if not isinstance(name, str):
        raise ValueError(f"{path}: {key} is {shown(name)}; it must be the name of a file with one video id a line")
    return read_video_list(path.parent / name)


def _classes(values: Any, source: str) -> dict[int, str]:
    classes = _mapping(values, f"{source}: classes")
    for class_id in classes:
        if type(class_id) is not int or class_id < 1:
            raise ValueError(
                f"{source}: classes: '{bare(class_id)}' is not a class id; they count from 1 (0 is background)"
            )
    return {class_id: str(name) for class_id, name in classes.items()}


def _instrument_rule(values: Any, classes: dict[int, str], source: str) -> InstrumentRule:
    _check_keys(_mapping(values, source), ["class", "min_confidence", "max_confidence"], source)
    name = values.get("class")
    ids = {class_name: class_id for class_id, class_name in classes.items()}
    known: dict[Any, int | None] = {**ids, **{class_id: class_id for class_id in classes}, "any": None}
    if type(name) not in (str, int) or name not in known:
        raise ValueError(
            f"{source}: class '{bare(name)}' is not among classes; use one of: any, {one_line(', '.join(ids))}"
        )
    _check_numbers({key: values[key] for key in values if key != "class"}, source)
    return InstrumentRule(known[name], values.get("min_confidence"), values.get("max_confidence", 1.0))


T = TypeVar("T")


def _thresholds(kind: type[T], values: Any, source: str) -> T:
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    _check_keys(_mapping(values, source), names, source)
    _check_numbers(values, source, {f.name for f in dataclasses.fields(kind) if f.type == "int"})  # type: ignore[arg-type]
    return kind(**values)


def _check_numbers(values: dict[str, Any], source: str, whole: Collection[str] = ()) -> None:
    for name, value in values.items():
        of_type = type(value) is int if name in whole else type(value) in (int, float)
        if not of_type or not 0 <= value < math.inf:
            number = "whole number" if name in whole else "number"
            raise ValueError(f"{source}.{bare(name)} is {shown(value)}; it must be a {number} that is not negative")


def _mapping(values: Any, source: str) -> dict[Any, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{source} is {shown(values)}; it must be a mapping of key: value pairs")
    return values


def _check_keys(values: Any, known: list[str], source: str) -> None:
    for key in _mapping(values, source):
        if key not in known:
            close = difflib.get_close_matches(bare(key), known, n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
            raise ValueError(f"{source}: unknown key '{bare(key)}'; {hint}")
