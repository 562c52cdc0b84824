"""Faster R-CNN of torchvision: three sizes, any number of classes, weights from files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from ialcms.files import write_whole

BACKBONES = ("resnet50", "mobilenet", "small")
_FORMAT = "ialcms-detector"
_PREDICTOR = "roi_heads.box_predictor."


@dataclass(frozen=True)
class Detector:
    model: FasterRCNN
    classes: tuple[str, ...]  # class id 1 is the first; 0 is background
    backbone: str


def build_detector(backbone: str, classes: Sequence[str]) -> Detector:
    """A detector with random weights: "resnet50" as in most published ones, "mobilenet" for less compute, or "small",
    0.4 million weights for pictures of a few hundred pixels, which learns on a CPU.

    The two large ones hold BatchNorm's statistics and their first layers fixed: they are for weights from a file.
    """
    num_classes = len(classes) + 1
    if backbone == "resnet50":
        body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
        model = FasterRCNN(body, num_classes)
    elif backbone == "mobilenet":
        body = mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=3)
        anchors = AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
        model = FasterRCNN(body, num_classes, rpn_anchor_generator=anchors, rpn_score_thresh=0.05)
    elif backbone == "small":
        model = _small(num_classes)
    else:
        raise ValueError(f"--backbone '{backbone}': choose {', '.join(BACKBONES)}")
    return Detector(model, tuple(classes), backbone)


def save_detector(detector: Detector, path: Path) -> None:
    """Write weights, class names and backbone, whole or not at all."""
    buffer = io.BytesIO()
    values = {"format": _FORMAT, "backbone": detector.backbone, "classes": list(detector.classes)}
    torch.save({**values, "state": detector.model.state_dict()}, buffer)
    write_whole(path, buffer.getvalue())


def load_detector(path: Path, backbone: str = "resnet50", classes: Sequence[str] = ()) -> Detector:
    """Read a file of `save_detector`, or plain weights (a state dict) of a torchvision detector.

    `backbone` and `classes` are needed for plain weights only: the other files tell them. Raises ValueError when the
    file is missing, damaged or of another network.
    """
    values = _read(path)
    if values.get("format") == _FORMAT:
        backbone, classes, state = values["backbone"], values["classes"], values["state"]
    else:
        state = values.get("model", values)
        if not classes:
            raise ValueError(f"{path} does not name its classes; give a data set whose YAML does, with --dataset")
    found = state.get(f"{_PREDICTOR}cls_score.weight")
    if found is not None and len(found) != len(classes) + 1:
        raise ValueError(f"{path} is for {len(found) - 1} classes, but {len(classes)} are named; correct --dataset")
    detector = build_detector(backbone, classes)
    try:
        detector.model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} does not fit --backbone {backbone}: {reason}") from error
    return detector


def load_init(detector: Detector, path: Path) -> int:
    """Take over what fits (name and shape) from a file of weights; returns how many tensors did.

    The file is one of `save_detector`, a torchvision detector's weights, or those of its backbone alone, as of a
    ResNet-50 that knows ImageNet. Raises ValueError when nothing fits.
    """
    values = _read(path)
    state = values.get("state", values.get("model", values))
    own = detector.model.state_dict()
    fitting = {}
    for name, value in state.items():
        for full_name in (name, f"backbone.body.{name}"):
            if full_name in own and isinstance(value, torch.Tensor) and value.shape == own[full_name].shape:
                fitting[full_name] = value
    if not fitting:
        raise ValueError(f"--init {path}: none of its weights fits the backbone '{detector.backbone}'")
    detector.model.load_state_dict(fitting, strict=False)
    return len(fitting)


def _read(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"weights {path} do not exist; train a detector with 'ialcms data detect --train'")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its reader, zipfile or unpickler happen to
        raise ValueError(f"{path} is not a file of weights alone, as torch.save writes a state dict") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no weights by name")
    return values


def _small(num_classes: int) -> FasterRCNN:
    backbone = nn.Sequential(_block(3, 16), _block(16, 32), _block(32, 64), _block(64, 64))
    backbone.out_channels = 64  # type: ignore[assignment] # FasterRCNN asks for it
    return FasterRCNN(
        backbone,
        min_size=168,
        max_size=224,
        rpn_anchor_generator=AnchorGenerator(((24, 48, 96),), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=50,
        rpn_post_nms_top_n_test=50,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=32,
        box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2),
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(64 * 25, 128), nn.ReLU()),
        box_predictor=FastRCNNPredictor(128, num_classes),
    )


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Halves the picture."""
    layers: list[nn.Module] = []
    for channels, stride in ((channels_in, 2), (channels_out, 1)):
        layers += [
            nn.Conv2d(channels, channels_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
