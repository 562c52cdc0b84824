"""The checkpoints of the published detector: recognise, check and load them.

A file is what the published training wrote by `torch.save`: a dict with `model` (weights by name), `pooling_mode`,
`class_agnostic`, and what only a training needs. Its weights alone, a dict by name, do as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shards.published_detector.boxes import NUM_ANCHORS
from shards.published_detector.network import PublishedDetector
from shards.published_detector.settings import CLASSES, PublishedSettings

# Beginnings of published names, and of the network's own.
_PARTS = {
    "RCNN_base.": "base.",
    "RCNN_top.": "top.",
    "RCNN_rpn.RPN_Conv.": "rpn_conv.",
    "RCNN_rpn.RPN_cls_score.": "rpn_scores.",
    "RCNN_rpn.RPN_bbox_pred.": "rpn_deltas.",
    "RCNN_cls_score.": "class_scores.",
    "RCNN_bbox_pred.": "box_deltas.",
}
_COUNTER = ".num_batches_tracked"  # of PyTorch 0.4.1 and later
_USED = ("model", "pooling_mode", "class_agnostic")
_RESNETS = {6: "ResNet-50", 36: "ResNet-152"}  # by the blocks of the third stage
_WANTED = "give the file that Co-Separation shares, faster_rcnn_1_19_6984.pth"


def is_published(values: Mapping[str, Any]) -> bool:
    """Whether a file's content has the published layout, of whatever backbone or classes."""
    state = values.get("model", values)
    return isinstance(state, Mapping) and any(str(name).startswith("RCNN_") for name in state)


def load_published(values: Mapping[str, Any], pooling: str | None = None) -> PublishedDetector:
    """The network with a published file's weights.

    Raises ValueError that says which network or file it is, when it is not ResNet-101 for the 15 instruments with
    boxes per class, and when names, shapes or values are not as they should be.
    """
    settings = PublishedSettings() if pooling is None else PublishedSettings(pooling=pooling)
    state = {str(name): value for name, value in values.get("model", values).items()}
    with torch.device("meta"):
        model = PublishedDetector(settings)
    shapes = {_published_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
    _check_kind(values, state)
    _check_names(state, shapes)
    weights = {}
    for name, value in model.state_dict().items():
        published = _published_name(name)
        weights[name] = state.get(published, torch.zeros(value.shape)).to(value.dtype)
    model.load_state_dict(weights, assign=True)
    return model.ready()


def describe(values: Mapping[str, Any], pooling: str) -> str:
    """One line on a published file: what it is, what of it is ignored, and whether it hints at the other pooling."""
    ignored = sorted(str(name) for name in values if name not in _USED) if "model" in values else []
    line = f"the published Faster R-CNN, ResNet-101, {len(CLASSES)} instruments, {pooling} pooling"
    if ignored:
        line += f"; ignored in it: {', '.join(ignored)}"
    counts = any(str(name).endswith(_COUNTER) for name in values.get("model", values))
    if counts and pooling == "legacy":
        line += (
            "; PyTorch 0.4.1 or later wrote it (num_batches_tracked): if it was trained with the branch pytorch-1.0, "
            "give --pooling adaptive"
        )
    return line


def _published_name(name: str) -> str:
    for published, own in _PARTS.items():
        if name.startswith(own):
            return published + name.removeprefix(own)
    raise AssertionError(name)


def _check_kind(values: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raises ValueError where the layout is published, but the network is another."""
    shapes = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
    if "model" in values and values.get("pooling_mode") not in (None, "align"):
        raise ValueError(f"was trained with pooling_mode '{values['pooling_mode']}', not 'align'; {_WANTED}")
    first = shapes.get("RCNN_base.0.weight", (64, 3, 7, 7))
    stage = {name.split(".")[2] for name in shapes if name.startswith("RCNN_base.6.")}
    if first != (64, 3, 7, 7):
        kind = "VGG-16" if first == (64, 3, 3, 3) else f"a backbone whose first layer is {first}"
        raise ValueError(f"is a Faster R-CNN on {kind}, not on ResNet-101; {_WANTED}")
    if "RCNN_base.4.0.conv2.weight" in shapes and "RCNN_base.4.0.conv3.weight" not in shapes:
        raise ValueError(f"is a Faster R-CNN on ResNet-18 or 34, not on ResNet-101; {_WANTED}")
    if len(stage) in _RESNETS:
        raise ValueError(f"is a Faster R-CNN on {_RESNETS[len(stage)]}, not on ResNet-101; {_WANTED}")
    classes = shapes.get("RCNN_cls_score.weight", (len(CLASSES) + 1,))[0]
    boxes = shapes.get("RCNN_bbox_pred.weight", (4 * classes,))[0]
    if ("model" in values and values.get("class_agnostic")) or boxes == 4 != 4 * classes:
        raise ValueError(f"is class-agnostic: its boxes are the same for all classes; {_WANTED}")
    if classes != len(CLASSES) + 1:
        raise ValueError(f"finds {classes - 1} classes, not the {len(CLASSES)} instruments of Open Images; {_WANTED}")
    anchors = shapes.get("RCNN_rpn.RPN_cls_score.weight", (2 * NUM_ANCHORS,))[0] // 2
    if anchors != NUM_ANCHORS:
        raise ValueError(f"has {anchors} anchors a cell, not {NUM_ANCHORS} (scales 4, 8, 16, 32); {_WANTED}")


def _check_names(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    missing = [name for name in shapes if name not in state and not name.endswith(_COUNTER)]
    if missing:
        raise ValueError(f"lacks {_some(missing)}; {_WANTED}")
    unknown = [name for name in state if name not in shapes]
    if unknown:
        raise ValueError(f"holds what ResNet-101's detector has not: {_some(unknown)}; {_WANTED}")
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.is_sparse or value.is_quantized:
            raise ValueError(f"holds no plain tensor as {name}; {_WANTED}")
        if tuple(value.shape) != shapes[name]:
            raise ValueError(f"holds {name} of shape {tuple(value.shape)}, not {shapes[name]}; {_WANTED}")
        if not (name.endswith(_COUNTER) or (value.is_floating_point() and bool(torch.isfinite(value).all()))):
            raise ValueError(f"holds numbers that are not finite, or no real ones, as {name}; get the file again")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"
