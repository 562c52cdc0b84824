"""The published detector: ResNet-101 whose first 1x1 convolutions halve, region proposals, and a head of 16 classes."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from shards.published_detector.blob import make_blob
from shards.published_detector.boxes import NUM_ANCHORS, class_boxes, propose, select
from shards.published_detector.pooling import pool
from shards.published_detector.settings import CLASSES, PublishedSettings

_BOXES_AT_ONCE = 500  # that pass the head together: bounds memory (0.3 GB)


class PublishedDetector(nn.Module):
    """Called like torchvision's detectors in evaluation mode; `settings` may be replaced at any time."""

    def __init__(self, settings: PublishedSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or PublishedSettings()
        resnet = ResNet(Bottleneck, [3, 4, 23, 3])
        for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)  # as in Caffe; torchvision halves in the 3x3
        first = (resnet.conv1, resnet.bn1, resnet.relu, nn.MaxPool2d(3, 2, padding=0, ceil_mode=True))
        self.base = nn.Sequential(*first, resnet.layer1, resnet.layer2, resnet.layer3)
        self.rpn_conv = nn.Conv2d(1024, 512, 3, padding=1)
        self.rpn_scores = nn.Conv2d(512, 2 * NUM_ANCHORS, 1)
        self.rpn_deltas = nn.Conv2d(512, 4 * NUM_ANCHORS, 1)
        self.top = nn.Sequential(resnet.layer4)
        self.class_scores = nn.Linear(2048, len(CLASSES) + 1)
        self.box_deltas = nn.Linear(2048, 4 * (len(CLASSES) + 1))

    def forward(self, pictures: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detections in pictures (3, H, W), RGB in [0, 1], of any sizes.

        Per picture boxes (D, 4) in its pixels, labels (D,) from 1 and scores (D,), by class, then by falling score.
        Raises ValueError for pictures that are too thin. Source: Co-Separation's detection script, and the Faster
        R-CNN that it runs.
        """
        found: list[dict[str, Tensor]] = []
        with _full_precision():
            for _, alike in itertools.groupby(pictures, key=lambda picture: picture.shape):
                group = list(alike)
                # a CPU gains nothing from several pictures at once, and they take 0.3 GB each
                step = 1 if group[0].device.type == "cpu" else len(group)
                for begin in range(0, len(group), step):
                    found += self._detect(torch.stack(group[begin : begin + step]))
        return found

    def _detect(self, pictures: Tensor) -> list[dict[str, Tensor]]:
        settings = self.settings
        blob = make_blob((pictures * 255).round(), settings.short_side, settings.long_side)
        height, width = blob.pixels.shape[2:]
        features = self.base(blob.pixels.contiguous(memory_format=torch.channels_last))
        scores, deltas = self.propose_scores(features)
        proposals = [
            propose(*of_picture, height, width, settings=settings) for of_picture in zip(scores, deltas, strict=True)
        ]
        probabilities, moves = self.head(features, torch.stack(proposals))
        found = []
        for of_picture in zip(proposals, moves, probabilities, strict=True):
            boxes = class_boxes(of_picture[0], of_picture[1], height=height, width=width) / blob.scale
            found.append(select(of_picture[2], boxes, settings))
        return found

    def ready(self) -> PublishedDetector:
        """For detection alone. Channels last in memory take a quarter less time."""
        return self.requires_grad_(False).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]

    def propose_scores(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (N, 2 A, f, g), before the softmax, and deltas (N, 4 A, f, g) of the anchors at every cell."""
        hidden = self.rpn_conv(features).relu()
        return self.rpn_scores(hidden), self.rpn_deltas(hidden)

    def head(self, features: Tensor, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Class probabilities (N, P, K) and deltas (N, P, 4 K) of proposals (N, P, 4) in pixels of the blob."""
        num_pictures, num_proposals = proposals.shape[:2]
        pictures = torch.arange(num_pictures, device=proposals.device).repeat_interleave(num_proposals)
        hidden = []
        for boxes, numbers in zip(
            proposals.flatten(0, 1).split(_BOXES_AT_ONCE), pictures.split(_BOXES_AT_ONCE), strict=True
        ):
            cells = pool(features, boxes, numbers, pooling=self.settings.pooling)
            hidden.append(self.top(cells).mean((2, 3)))
        rows = torch.cat(hidden).unflatten(0, (num_pictures, num_proposals))
        return self.class_scores(rows).softmax(-1), self.box_deltas(rows)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Convolutions on a GPU in float32: by default torch rounds their inputs to TF32's 10 bits."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, allow_tf32=False):
        yield
