"""Boxes of the published detector: x1, y1, x2, y2 in pixels, of which the last counts (a width is x2 - x1 + 1).

Deltas dx, dy, dw, dh move a box's centre by shares of its size and change its size by a factor exp(dw), exp(dh).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from shards.published_detector.settings import PublishedSettings

STRIDE = 16  # pixels of the blob per cell
SCALES = (4, 8, 16, 32)
RATIOS = (0.5, 1.0, 2.0)
NUM_ANCHORS = len(SCALES) * len(RATIOS)
_DELTA_FACTORS = (0.1, 0.1, 0.2, 0.2)  # of the head's deltas


def base_anchors() -> Tensor:
    """(A, 4) about the first cell: ratios, and within each the scales."""
    centre = (STRIDE - 1) / 2
    boxes = []
    for ratio in RATIOS:
        width = round((STRIDE**2 / ratio) ** 0.5)
        height = round(width * ratio)
        for scale in SCALES:
            dx, dy = (width * scale - 1) / 2, (height * scale - 1) / 2
            boxes.append([centre - dx, centre - dy, centre + dx, centre + dy])
    return torch.tensor(boxes)


def anchor_grid(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows * columns * A, 4): by row, column, anchor."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    offsets = STRIDE * torch.stack([x, y, x, y], 2).float()
    return (offsets[:, :, None] + base_anchors()).reshape(-1, 4).to(device)


def decode(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (..., 4) moved by deltas (..., 4); the size may grow without limit."""
    size = boxes[..., 2:] - boxes[..., :2] + 1
    centre = boxes[..., :2] + 0.5 * size + deltas[..., :2] * size
    half = 0.5 * size * deltas[..., 2:].exp()
    return torch.cat([centre - half, centre + half], -1)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (..., 4) cut off at the last pixels of a picture; those of no width or height stay."""
    x, y = boxes[..., 0::2].clamp(0, width - 1), boxes[..., 1::2].clamp(0, height - 1)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def suppress(boxes: Tensor, scores: Tensor, max_overlap: float) -> Tensor:
    """Indices, by falling score, of the boxes (N, 4) that no kept one of a higher score overlaps by more."""
    return nms(boxes + boxes.new_tensor([0, 0, 1, 1]), scores, max_overlap)


def propose(scores: Tensor, deltas: Tensor, height: int, width: int, settings: PublishedSettings) -> Tensor:
    """(P, 4) proposals in a blob of height x width pixels.

    scores: (2 A, f, g), background and then foreground of each anchor; deltas: (4 A, f, g), four channels an anchor.
    Where fewer are left, boxes of zeros fill up; they pass the head like the others.
    """
    probability = scores.unflatten(0, (2, NUM_ANCHORS)).softmax(0)[1].permute(1, 2, 0).flatten()
    probability, order = probability.sort(descending=True, stable=True)
    order = order[: settings.candidates]
    chosen = deltas.permute(1, 2, 0).reshape(-1, 4)[order]
    anchors = anchor_grid(scores.shape[1], scores.shape[2], scores.device)[order]
    boxes = clip(decode(anchors, chosen), height, width)
    kept = suppress(boxes, probability[: len(order)], settings.proposal_overlap)[: settings.proposals]
    proposals = boxes.new_zeros(settings.proposals, 4)
    proposals[: len(kept)] = boxes[kept]
    return proposals


def class_boxes(proposals: Tensor, deltas: Tensor, height: int, width: int) -> Tensor:
    """(P, K, 4) boxes in a blob of height x width pixels: proposals (P, 4) moved by the head's deltas (P, 4 K)."""
    factors = deltas.new_tensor(_DELTA_FACTORS)
    moved = decode(proposals[:, None], deltas.unflatten(1, (-1, 4)) * factors)
    return clip(moved, height, width)


def select(probabilities: Tensor, boxes: Tensor, settings: PublishedSettings) -> dict[str, Tensor]:
    """The final boxes of a picture, by class, then by falling score: boxes (D, 4), labels (D,), scores (D,).

    probabilities: (P, K); boxes: (P, K, 4) in pixels of the picture, where the published code counts overlaps.
    """
    found_boxes, found_labels, found_scores = [boxes[:0, 0]], [], [probabilities[:0, 0]]
    for label in range(1, probabilities.shape[1]):
        sure = (probabilities[:, label] > settings.min_score).nonzero()[:, 0]
        kept = sure[suppress(boxes[sure, label], probabilities[sure, label], settings.max_overlap)]
        found_boxes.append(boxes[kept, label])
        found_scores.append(probabilities[kept, label])
        found_labels += [label] * len(kept)
    return {
        "boxes": torch.cat(found_boxes),
        "labels": torch.tensor(found_labels, dtype=torch.long, device=boxes.device),
        "scores": torch.cat(found_scores),
    }
