"""Detectors: torchvision's Faster R-CNN in three sizes for any classes, and the published one; weights from files.

detector = load_detector("faster_rcnn_1_19_6984.pth")  # or a file of `save_detector`, or torchvision weights
rows = detector.detect(picture)  # uint8 RGB (H, W, 3) -> (D, 6): class from 1, score, x1, y1, x2, y2
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image

from ialcms.files import write_whole
from ialcms.reading import Unreadable, one_line
from ialcms.reading.tensors import read_tensors
from ialcms.reading.weights import Weights, weights_in
from shards.published_detector.network import PublishedDetector
from shards.published_detector.settings import CLASSES, PublishedSettings, option
from shards.published_detector.weights import describe, is_published, load_published

BACKBONES = ("resnet50", "mobilenet", "small")
PUBLISHED = "published"  # backbone of the published detector; not to be trained here
_FORMAT = "ialcms-detector"
_PREDICTOR = "roi_heads.box_predictor."


@dataclass(frozen=True)
class Detector:
    """An object detector with the names of its classes."""

    model: FasterRCNN | PublishedDetector
    classes: tuple[str, ...]  # class id 1 is the first; 0 is background
    backbone: str
    description: str = ""  # of what was loaded, for people

    def detect(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(D, 6) objects in a uint8 RGB picture (H, W, 3): class id from 1, score, x1, y1, x2, y2 in its pixels.

        The published detector's rows are sorted by class, then by falling score; those of others by falling score. A
        grey picture (H, W) is taken as an RGB one. Raises ValueError for arrays that are no picture.

            load_detector("faster_rcnn_1_19_6984.pth").detect(np.asarray(Image.open("frame.png").convert("RGB")))
        """
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, 2)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ValueError(f"a picture is uint8 RGB (H, W, 3), not {picture.dtype} {picture.shape}")
        device = next(self.model.parameters()).device
        pixels = torch.from_numpy(picture.copy()).to(device).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            output = self.model.eval()([pixels])[0]
        return detection_rows(output, pixels).cpu().numpy()

    def configure(self, min_score: float, **published: Any) -> None:
        """Set the least score, and others of `PublishedSettings`, which only the published detector has.

        Raises ValueError for another detector and for values out of range.
        """
        if isinstance(self.model, PublishedDetector):
            self.model.settings = dataclasses.replace(self.model.settings, min_score=min_score, **published)
        elif published:
            raise ValueError(f"{option(min(published))} is for the published detector only; leave it out")
        else:
            self.model.roi_heads.score_thresh = min_score


def detection_rows(output: dict[str, Tensor], picture: Tensor) -> Tensor:
    """(D, 6) class, score, x1, y1, x2, y2 of what a network found in a picture (3, H, W)."""
    # scaling back from the network's size rounds
    boxes = clip_boxes_to_image(output["boxes"], (picture.shape[1], picture.shape[2]))
    return torch.cat([output["labels"].float()[:, None], output["scores"][:, None], boxes], 1)


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
    if isinstance(detector.model, PublishedDetector):
        values["pooling"] = detector.model.settings.pooling
    torch.save({**values, "state": detector.model.state_dict()}, buffer)
    write_whole(path, buffer.getvalue())


def load_detector(
    path: Path | str, backbone: str = "resnet50", classes: Sequence[str] = (), pooling: str | None = None
) -> Detector:
    """Read the published detector's checkpoint, a file of `save_detector`, or plain weights of a torchvision detector.

        load_detector("faster_rcnn_1_19_6984.pth").detect(picture)
        load_detector("faster_rcnn_1_19_6984.pth", pooling="adaptive").detect(picture)

    path: of what `torch.save` wrote; of the published detector its training's dict ({"model": {name: tensor}, ...})
        or the weights by name alone.
    backbone, classes: needed for plain torchvision weights only; the other files have them.
    pooling: of the published detector, "legacy" (the default: the published script's) or "adaptive".

    The result is in evaluation mode, on the CPU; `.model.to(device)` moves it. Nothing in the file is executed. Raises
    ValueError when the file is missing, damaged or of another network.
    """
    path = Path(path)
    values = _read(path)
    notes = ""
    if values.get("format") != _FORMAT and not is_published(values):
        weights = _plain_weights(path, values)
        values, notes = {**values, "model": weights.state}, f"; {weights}" if weights.notes else ""
    if values.get("format") != _FORMAT and is_published(values):
        return _published(path, values, PublishedSettings(pooling=pooling or "legacy"), notes=notes)
    if values.get("format") == _FORMAT:
        missing = {"backbone", "classes", "state"} - set(values)
        if missing:
            raise ValueError(f"{path} lacks its {' and '.join(sorted(missing))}; convert or train the detector again")
        backbone, classes, state = values["backbone"], values["classes"], values["state"]
    else:
        state = values["model"]
        if not classes:
            raise ValueError(f"{path} does not name its classes; give a data set whose YAML does, with --dataset")
    found = state.get(f"{_PREDICTOR}cls_score.weight")
    if found is not None and len(found) != len(classes) + 1:
        raise ValueError(f"{path} is for {len(found) - 1} classes, but {len(classes)} are named; correct --dataset")
    if backbone == PUBLISHED and values.get("format") == _FORMAT:
        pooling = pooling or str(values.get("pooling", "legacy"))
        detector = Detector(PublishedDetector(PublishedSettings(pooling=pooling)), tuple(classes), backbone)
    elif pooling is not None:
        raise ValueError(f"{path} is not the published detector; leave out --pooling")
    else:
        detector = build_detector(backbone, classes)
    try:
        detector.model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} does not fit --backbone {backbone}: {reason}") from error
    if isinstance(detector.model, PublishedDetector):
        detector.model.ready()
    detector.model.eval()
    return dataclasses.replace(detector, description=f"{path}: {backbone}, {len(classes)} classes{notes}")


def _published(path: Path, values: dict, settings: PublishedSettings, notes: str) -> Detector:
    """values: the file's tensors by name. notes: on how they were found in it, for the description."""
    try:
        model = load_published(values, settings)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    description = f"{path}: {describe(values, settings.pooling)}{notes}"
    return Detector(model, CLASSES, backbone=PUBLISHED, description=description)


def load_init(detector: Detector, path: Path) -> int:
    """Take over what fits (name and shape) from a file of weights; returns how many tensors did.

    The file is one of `save_detector`, a torchvision detector's weights, or those of its backbone alone, as of a
    ResNet-50 that knows ImageNet. Raises ValueError when nothing fits.
    """
    values = _read(path)
    state = values["state"] if values.get("format") == _FORMAT else _plain_weights(path, values).state
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
        values = read_tensors(path, foreign=True)
    except (OSError, Unreadable) as error:
        reason = f"it is damaged, cut off, or another kind of file ({one_line(error)})"
        if "could run code" in str(error):
            reason = f"it holds pickled objects, which could run anything; none was read ({one_line(error)})"
        raise ValueError(
            f"{path} is not a file of weights alone, as torch.save writes a state dict: {reason}"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no weights by name")
    return values


def _plain_weights(path: Path, values: dict) -> Weights:
    """Weights in a file of another program, without the prefixes of wrappers and of a larger network around them."""
    try:
        weights = weights_in(values)
    except Unreadable as error:
        raise ValueError(f"{path} holds no weights by name ({error})") from error
    for last in (f"{_PREDICTOR}cls_score.weight", "RCNN_cls_score.weight"):
        found = [name.removesuffix(last) for name in weights.state if name.endswith(f".{last}")]
        if len(found) == 1:
            return weights.under(found[0])
    return weights


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
            nn.Conv2d(channels, channels_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
