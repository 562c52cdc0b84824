"""Objects in all frames of a prepared tree: one (D, 7) array of detections per clip.

    detect_tree(clips_to_detect(Path("tree")), Path("tree"), DetectOptions(Path("detector.pt")), ["cuda:0", "cuda:1"])

Every clip's file is written whole or not at all; those of an earlier run with the same options are kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.detection import FasterRCNN
from torchvision.ops import clip_boxes_to_image
from torchvision.transforms.functional import pil_to_tensor

from ialcms.files import DETECTOR_OPTIONS, claim, write_whole
from ialcms.pictures import decode_picture
from ialcms.processes import asset, map_ordered
from ialcms.progress import Progress
from shards.detector import load_detector
from shards.encode import encode_array
from shards.entries import Entry, check_keys, list_frames
from shards.index import TreeLayout


@dataclass(frozen=True)
class DetectOptions:
    weights: Path
    backbone: str = "resnet50"  # of weights that do not tell
    classes: tuple[str, ...] = ()  # the same
    min_score: float = 0.3
    batch: int = 16  # frames that pass the network together


@dataclass(frozen=True)
class ClipToDetect:
    frames: Path  # folder
    detections: Path  # to be written


@dataclass(frozen=True)
class Detected:
    clip: str
    num_boxes: int = 0
    problem: str | None = None


def clips_to_detect(tree: Path, layout: TreeLayout | None = None) -> list[ClipToDetect]:
    """The folders of frames of a tree, and where their detections belong.

    ValueError if there are none, and for two of one name, which 'ialcms data index' would refuse after all the work.
    """
    layout = layout or TreeLayout()
    folders = sorted(path for path in (tree / layout.frames).glob("*/*") if path.is_dir())
    if not folders:
        raise ValueError(f"no folder of frames in {tree / layout.frames}; cut videos with 'ialcms data clips'")
    detections = [tree / layout.detections / folder.parent.name / f"{folder.name}.npy" for folder in folders]
    check_keys(
        Entry("", folder.with_name(f"{folder.name}.wav"), folder, path) for folder, path in zip(folders, detections)
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


def detect_tree(
    clips: Sequence[ClipToDetect], tree: Path, options: DetectOptions, devices: Sequence[str]
) -> list[Detected]:
    """Detect in the clips that have no detections yet, one process per device; unreadable frames are left out.

    Raises ValueError when the weights cannot be used, and for a tree with detections of other weights or options.
    """
    if not 0 <= options.min_score < 1 or options.batch < 1:
        raise ValueError(f"--min-score {options.min_score}, --batch {options.batch}: give 0 to 1, and at least 1")
    classes = load_detector(options.weights, options.backbone, options.classes).classes
    if options.classes and classes != options.classes:
        raise ValueError(
            f"{options.weights} finds {', '.join(classes)}, but the data set's classes are "
            f"{', '.join(options.classes)}; name the data set that it was trained for (--dataset)"
        )
    values = {
        "weights_sha256": hashlib.sha256(options.weights.read_bytes()).hexdigest(),
        "classes": {number: name for number, name in enumerate(classes, start=1)},
        "min_score": options.min_score,
    }
    claim(tree / DETECTOR_OPTIONS, values, f"{tree} holds detections")
    waiting = [clip for clip in clips if not clip.detections.is_file()]
    detect = functools.partial(_detect_clip, options=options)
    found = []
    with (
        Progress(len(clips), "detect") as progress,
        contextlib.closing(map_ordered(detect, waiting, len(devices), devices)) as results,
    ):
        progress.skip(len(clips) - len(waiting))
        for result in results:
            found.append(result)
            progress.advance()
    return found


def detect_frames(
    model: FasterRCNN, frames: Iterable[tuple[int, torch.Tensor]], device: str, batch: int
) -> NDArray[np.float32]:
    """(D, 7) detections in numbered frames (3, H, W) in [0, 1], taken `batch` at a time: by frame, then by falling
    score.
    """
    rows = []
    coming = iter(frames)
    while numbered := list(itertools.islice(coming, batch)):
        with torch.inference_mode():
            outputs = model([picture.to(device) for _, picture in numbered])
        for (number, picture), output in zip(numbered, outputs):
            labels, scores = output["labels"].float(), output["scores"]
            # scaling back from the network's size rounds
            boxes = clip_boxes_to_image(output["boxes"], (picture.shape[1], picture.shape[2]))
            table = torch.cat([torch.full_like(scores, number)[:, None], labels[:, None], scores[:, None],
                               boxes], 1)  # fmt: skip
            rows.append(table.cpu().numpy())
    return np.concatenate(rows).astype(np.float32) if rows else np.zeros((0, 7), np.float32)


def _detect_clip(clip: ClipToDetect, options: DetectOptions) -> Detected:
    device = asset()
    model = _model(options, device)
    name = f"{clip.frames.parent.name}/{clip.frames.name}"
    try:
        paths = list_frames(clip.frames)
    except (ValueError, OSError) as error:
        return Detected(name, problem=str(error))
    unreadable: list[Path] = []
    # read as they are needed: together, those of a large video would take gigabytes
    boxes = detect_frames(model, _readable(paths, unreadable), device, options.batch)
    if len(unreadable) == len(paths):
        return Detected(name, problem="no frame is readable")
    write_whole(clip.detections, encode_array(boxes))
    return Detected(name, len(boxes), f"{len(unreadable)} frames are unreadable" if unreadable else None)


def _readable(paths: dict[int, Path], unreadable: list[Path]) -> Iterator[tuple[int, torch.Tensor]]:
    for number, path in sorted(paths.items()):
        try:
            picture = read_picture(path)
        except (OSError, ValueError):
            unreadable.append(path)
            continue
        yield number, picture


def read_picture(path: Path) -> torch.Tensor:
    """(3, H, W) float32 in [0, 1], upright. Raises OSError and BadPicture."""
    return pil_to_tensor(decode_picture(path.read_bytes())).float() / 255


@functools.lru_cache(maxsize=1)
def _model(options: DetectOptions, device: str) -> FasterRCNN:
    if multiprocessing.parent_process() is not None and device == "cpu":
        torch.set_num_threads(1)  # the processes are the threads
    model = load_detector(options.weights, options.backbone, options.classes).model
    model.roi_heads.score_thresh = options.min_score
    return model.eval().to(device)
