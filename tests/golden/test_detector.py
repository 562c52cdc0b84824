"""The published detector against what the published code finds: stages, final boxes, both ways of pooling.

About a minute and a half on one core. The case's arrays are subsampled as `STAGES` says; proposals and boxes are in
pixels of the picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from shards.detector import Detector, detection_rows, load_detector
from shards.published_detector.blob import Blob, make_blob
from shards.published_detector.boxes import class_boxes, propose
from shards.published_detector.pooling import pool
from tests.golden.detector_case import CASE, checkpoint, detector_weights, picture, save_as_pytorch_0_3

pytestmark = pytest.mark.slow

GOLDEN = np.load(CASE, allow_pickle=False)
PICTURES = GOLDEN["pictures"].tolist()  # seed, height, width

ALL = slice(None)
STAGES = {
    "blob": (0, ALL, slice(None, None, 13), slice(None, None, 17)),
    "base_feat": (0, slice(None, None, 31), slice(None, None, 5), slice(None, None, 7)),
    "rpn_cls_score": (0, ALL, slice(None, None, 3), slice(None, None, 5)),
    "rpn_bbox_pred": (0, ALL, slice(None, None, 5), slice(None, None, 7)),
    "pooled": (slice(None, None, 97), slice(None, None, 63)),
    "head_feat": (slice(None, None, 37), slice(None, None, 31)),
    "cls_prob": (slice(None, None, 5),),
    "bbox_pred": (slice(None, None, 11),),
    "boxes": (slice(None, None, 11),),
}
SCORE, BOX_PIXELS, TIE = 1e-3, 0.1, 1e-6  # the two implementations differ by 1e-5 and 0.003 pixels


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "faster_rcnn_1_19_6984.pth"
    save_as_pytorch_0_3(checkpoint(detector_weights()), path)
    return path


@pytest.fixture(scope="module", params=["legacy", "adaptive"])
def detector(weights_file: Path, request: pytest.FixtureRequest) -> Detector:
    return load_detector(weights_file, pooling=request.param)


@pytest.mark.parametrize("index", range(len(PICTURES)))
def test_finds_the_published_boxes(detector: Detector, index: int) -> None:
    pixels = picture(*PICTURES[index])
    assert abs(int(pixels.astype(np.int64).sum()) - int(GOLDEN[f"p{index}/sum"])) <= 20
    golden = GOLDEN[f"p{index}/{detector.model.settings.pooling}/detections"]
    assert len(golden) > 20
    _same_rows(detector.detect(pixels), golden)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; this machine shows none to torch")
def test_a_gpu_finds_them_too(weights_file: Path) -> None:
    """Alone and in a batch; TF32, torch's default for convolutions, must not come in.

    Needs torch, torchvision, NumPy and pytest alone:
    `python -m pytest --noconftest tests/golden/test_detector.py -k gpu`.
    """
    for pooling in ("legacy", "adaptive"):
        detector = load_detector(weights_file, pooling=pooling)
        detector.model.to("cuda")
        for index, position in enumerate(PICTURES):
            pixels = picture(*position)
            golden = GOLDEN[f"p{index}/{pooling}/detections"]
            _same_rows(detector.detect(pixels), golden)
            tensor = torch.from_numpy(pixels).permute(2, 0, 1).float().cuda() / 255
            with torch.inference_mode():
                batch = detector.model([tensor] * 3)
            for output in batch:
                _same_rows(detection_rows(output, tensor).cpu().numpy(), golden)


def _same_rows(found: np.ndarray, golden: np.ndarray) -> None:
    """All but 2 % have a partner; near the threshold, and of equal scores, any may stay."""
    for rows, others in ((found, golden), (golden, found)):
        lost = [row for row in rows if _is_clear(row, golden) and not _has_partner(row, others)]
        assert len(lost) <= 0.02 * len(golden), lost


def _has_partner(row: np.ndarray, others: np.ndarray) -> bool:
    near = (np.abs(others[:, 1] - row[1]) < SCORE) & (np.abs(others[:, 2:] - row[2:]).max(1) < BOX_PIXELS)
    return bool((near & (others[:, 0] == row[0])).any())


def _is_clear(row: np.ndarray, golden: np.ndarray) -> bool:
    alike = (golden[:, 0] == row[0]) & (np.abs(golden[:, 1] - row[1]) < 10 * TIE)
    return abs(row[1] - 0.3) > 0.01 and alike.sum() < 2


@pytest.mark.parametrize("index", range(len(PICTURES)))
def test_stages(weights_file: Path, index: int) -> None:
    """Blob, features and proposals of each picture; of the first one the head's stages, from published proposals."""
    model = load_detector(weights_file).model
    pixels = torch.from_numpy(picture(*PICTURES[index])).permute(2, 0, 1)[None]
    with torch.inference_mode():
        blob = make_blob(pixels, 800, 1200)
        height, width = blob.pixels.shape[2:]
        features = model.base(blob.pixels)
        scores, deltas = model.propose_scores(features)
        proposals = propose(scores[0], deltas[0], height, width, settings=model.settings) / blob.scale
    assert [height, width] == GOLDEN[f"p{index}/size"].tolist()
    assert blob.scale == pytest.approx(float(GOLDEN[f"p{index}/scale"]), rel=1e-12)
    stages = {"blob": blob.pixels, "base_feat": features, "rpn_cls_score": scores, "rpn_bbox_pred": deltas}
    for name, value in stages.items():
        _agree(name, value, GOLDEN[f"p{index}/{name}"])
    golden = torch.from_numpy(GOLDEN[f"p{index}/proposals"])
    same_row = (proposals - golden).abs().amax(1) < BOX_PIXELS
    assert same_row.float().mean() > 0.98  # nearly equal scores may swap
    if index == 0:
        for pooling in ("legacy", "adaptive"):
            _check_head(model, blob, features, pooling=pooling)


def _check_head(model: torch.nn.Module, blob: Blob, features: torch.Tensor, *, pooling: str) -> None:
    height, width = blob.pixels.shape[2:]
    proposals = torch.from_numpy(GOLDEN["p0/proposals"]) * blob.scale
    with torch.inference_mode():
        cells = pool(features, proposals, torch.zeros(len(proposals), dtype=torch.long), pooling)
        hidden = torch.cat([model.top(part).mean((2, 3)) for part in cells.split(500)])
        moves = model.box_deltas(hidden)
        stages = {
            "pooled": cells,
            "head_feat": hidden,
            "cls_prob": model.class_scores(hidden).softmax(1),
            "bbox_pred": moves,
            "boxes": class_boxes(proposals, moves, height, width) / blob.scale,
        }
    for name, value in stages.items():
        _agree(name, value, GOLDEN[f"p0/{pooling}/{name}"])


def _agree(name: str, ours: torch.Tensor, published: np.ndarray) -> None:
    """Within 1e-4 of the largest value; the two differ by a few 1e-6 of it."""
    taken = ours.numpy()[STAGES[name]]
    assert taken.shape == published.shape, name
    assert np.abs(taken - published).max() <= 1e-4 * np.abs(published).max(), name
