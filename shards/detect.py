"""Objects in all frames of a prepared tree: one (D, 7) array of detections per clip.

    detect_tree(clips_to_detect(Path("tree")), Path("tree"), DetectOptions(Path("detector.pt")), ["cuda:0", "cuda:1"])

Every clip's file is written whole or not at all; those of an earlier run with the same options are kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.detection import FasterRCNN
from torchvision.transforms.functional import pil_to_tensor

from ialcms.files import DETECTOR_OPTIONS, claim, write_whole
from ialcms.pictures import decode_picture
from ialcms.processes import asset, map_ordered
from ialcms.progress import Progress
from shards.detector import Detector, detection_rows, load_detector
from shards.encode import encode_array
from shards.entries import Entry, check_keys, list_frames
from shards.index import TreeLayout
from shards.published_detector.network import PublishedDetector


@dataclass(frozen=True)
class DetectOptions:
    """How a detector is run."""

    weights: Path
    backbone: str = "resnet50"  # of weights that do not say it
    classes: tuple[str, ...] = ()  # the same
    min_score: float = 0.3
    batch: int = 16  # frames that pass the network together
    every: int = 1  # of so many frames, the first
    published: tuple[tuple[str, Any], ...] = ()  # of the published detector, settings by name that differ from its own


@dataclass(frozen=True)
class ClipToDetect:
    """Pictures of a clip, and where their boxes go."""

    frames: Path  # folder
    detections: Path  # to be written


@dataclass(frozen=True)
class Detected:
    """What was found in a clip, or why it could not be looked at."""

    clip: str
    num_boxes: int = 0
    problem: str | None = None


def clips_to_detect(tree: Path) -> list[ClipToDetect]:
    """The folders of frames of a tree, and where their detections belong.

    ValueError if there are none, and for two of one name, which 'ialcms data index' would refuse after all the work.
    """
    layout = TreeLayout()
    folders = sorted(path for path in (tree / layout.frames).glob("*/*") if path.is_dir())
    if not folders:
        raise ValueError(f"no folder of frames in {tree / layout.frames}; cut videos with 'ialcms data clips'")
    detections = [tree / layout.detections / folder.parent.name / f"{folder.name}.npy" for folder in folders]
    check_keys(
        Entry("", folder.with_name(f"{folder.name}.wav"), folder, detections=path)
        for folder, path in zip(folders, detections)
    )
    return [ClipToDetect(folder, path) for folder, path in zip(folders, detections)]


def available_devices(asked: str, jobs: int) -> list[str]:
    """A device per process: `asked` as a list ("cuda:0,cuda:1"), or "auto": all GPUs, else `jobs` times the CPU.

    Raises ValueError for a device that is not there.
    """
    if asked == "auto":
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"] * jobs
    devices = [name.strip() for name in asked.split(",")]
    for name in devices:
        try:
            torch.zeros(1, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--devices: '{name}' is not there; use auto, cpu or cuda:0,cuda:1") from error
    return devices


def open_detector(options: DetectOptions) -> Detector:
    """Load a detector and set what the options say.

    Raises ValueError for options out of range, and when weights or their classes are not what the options say.
    """
    if not 0 <= options.min_score < 1 or min(options.batch, options.every) < 1:
        raise ValueError(
            f"--min-score {options.min_score}, --batch {options.batch}, --every {options.every}: give 0 to 1, and at "
            "least 1"
        )
    published = dict(options.published)
    detector = load_detector(
        options.weights,
        options.backbone,
        options.classes,
        pooling=published.get("pooling"),
    )
    if options.classes and detector.classes != options.classes:
        raise ValueError(
            f"{options.weights} finds {', '.join(detector.classes)}, but the data set's classes are "
            f"{', '.join(options.classes)}; name the data set that it was trained for (--dataset)"
        )
    detector.configure(options.min_score, **published)
    return detector


def detect_tree(
    clips: Sequence[ClipToDetect], tree: Path, options: DetectOptions, devices: Sequence[str]
) -> list[Detected]:
    """Detect in the clips that have no detections yet, one process per device; unreadable frames are left out.

    tree: of the clips, where the options are on record. devices: like "cuda:0".
    Raises ValueError when the weights cannot be used, and for a tree with detections of other weights or options.
    """
    detector = open_detector(options)
    with open(options.weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    values = {
        "weights_sha256": digest,
        "classes": {number: name for number, name in enumerate(detector.classes, start=1)},
        "min_score": options.min_score,
    }
    if options.every != 1:
        values["every"] = options.every
    if isinstance(detector.model, PublishedDetector):
        values["published"] = dataclasses.asdict(detector.model.settings)
    claim(tree / DETECTOR_OPTIONS, values, f"{tree} holds detections")
    waiting = [clip for clip in clips if not clip.detections.is_file()]
    detect = functools.partial(_detect_clip, options=options)
    found = []
    with (
        Progress(len(clips), "detect") as progress,
        contextlib.closing(map_ordered(detect, waiting, len(devices), assets=devices)) as results,
    ):
        progress.skip(len(clips) - len(waiting))
        for result in results:
            found.append(result)
            progress.advance()
    return found


def detect_frames(
    model: FasterRCNN | PublishedDetector, frames: Iterable[tuple[int, torch.Tensor]], device: str, batch: int
) -> NDArray[np.float32]:
    """(D, 7) detections in numbered frames (3, H, W) in [0, 1], taken `batch` at a time: by frame, then as the network
    sorts them (by falling score; the published one by class and then by falling score).
    """
    rows = []
    coming = iter(frames)
    while numbered := list(itertools.islice(coming, batch)):
        with torch.inference_mode():
            outputs = model([picture.to(device) for _, picture in numbered])
        for (number, picture), output in zip(numbered, outputs):
            found = detection_rows(output, picture)
            table = torch.cat([torch.full_like(found[:, :1], number), found], 1)
            rows.append(table.cpu().numpy())
    return np.concatenate(rows).astype(np.float32) if rows else np.zeros((0, 7), np.float32)


def _detect_clip(clip: ClipToDetect, options: DetectOptions) -> Detected:
    device = asset()
    model = _model(options, device)
    name = f"{clip.frames.parent.name}/{clip.frames.name}"
    try:
        listed = sorted(list_frames(clip.frames).items())[:: options.every]
    except (ValueError, OSError) as error:
        return Detected(name, problem=str(error))
    frames = _Frames(dict(listed))
    try:
        boxes = detect_frames(model, frames, device, batch=options.batch)
    except ValueError as error:  # of a size that the network cannot look at
        return Detected(name, problem=str(error))
    if frames.num_unreadable == len(listed):
        return Detected(name, problem="no frame is readable")
    write_whole(clip.detections, encode_array(boxes.astype(np.float64)))  # as the published files are
    left_out = f"{frames.num_unreadable} frames are unreadable" if frames.num_unreadable else None
    return Detected(name, len(boxes), left_out)


class _Frames:
    """The readable frames with their numbers, read as they are asked for: together they could take gigabytes."""

    def __init__(self, paths: dict[int, Path]) -> None:
        self._paths = paths
        self.num_unreadable = 0  # of those asked for so far

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        for number, path in sorted(self._paths.items()):
            try:
                picture = read_picture(path)
            except (OSError, ValueError):
                self.num_unreadable += 1
                continue
            yield number, picture


def read_picture(path: Path) -> torch.Tensor:
    """(3, H, W) float32 in [0, 1], upright. Raises OSError and BadPicture."""
    return pil_to_tensor(decode_picture(path.read_bytes())).float() / 255


@functools.lru_cache(maxsize=1)
def _model(options: DetectOptions, device: str) -> FasterRCNN | PublishedDetector:
    return open_detector(options).model.to(device)
