"""The published detector's parts against plain formulas, and what it makes of pictures of any size."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torchvision.ops import nms, roi_align

from shards.detector import Detector, build_detector
from shards.published_detector.blob import make_blob
from shards.published_detector.boxes import anchor_grid, base_anchors, clip, decode, propose, select, suppress
from shards.published_detector.network import PublishedDetector
from shards.published_detector.pooling import pool
from shards.published_detector.settings import CLASSES, PublishedSettings
from shards.published_detector.weights import load_published
from tests.golden.detector_case import detector_weights, picture

SMALL = PublishedSettings(short_side=96, long_side=160, proposals=60)


class TestBlob:
    @pytest.mark.parametrize(
        ("height", "width", "size", "scale"),
        [
            (480, 360, (1067, 800), 800 / 360),  # 1066.67 rows
            (360, 640, (675, 1200), 1200 / 640),  # the long side decides
            (960, 1280, (800, 1067), 800 / 960),  # smaller, without a filter
            (1000, 1500, (800, 1200), 0.8),
        ],
    )
    def test_samples_by_factor(self, height: int, width: int, size: tuple[int, int], scale: float):
        pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, height, width), dtype=np.uint8))
        blob = make_blob(pixels, 800, 1200)
        assert tuple(blob.pixels.shape[2:]) == size
        assert blob.scale == pytest.approx(scale, rel=1e-12)
        means = (102.9801, 115.9465, 122.7717)
        for row, column in ((0, 0), (1, size[1] - 1), (size[0] // 2, size[1] // 3), (size[0] - 1, size[1] - 2)):
            y, x = (row + 0.5) / scale - 0.5, (column + 0.5) / scale - 0.5
            for channel, mean in enumerate(means):
                expected = _bilinear(pixels[0, 2 - channel].double().numpy(), y, x) - mean
                assert float(blob.pixels[0, channel, row, column]) == pytest.approx(expected, abs=1e-3)

    def test_too_thin(self):
        with pytest.raises(ValueError, match="a picture of 1000 x 12 pixels is too thin"):
            make_blob(torch.zeros(1, 3, 12, 1000), 800, 1200)
        assert make_blob(torch.zeros(1, 3, 14, 1000), 800, 1200).pixels.shape[2] == 17


def _bilinear(values: np.ndarray, y: float, x: float) -> float:
    """At a position; the edges repeat."""
    (row, dy), (column, dx) = ((math.floor(v), v - math.floor(v)) for v in (y, x))
    rows = [min(max(row + step, 0), values.shape[0] - 1) for step in (0, 1)]
    columns = [min(max(column + step, 0), values.shape[1] - 1) for step in (0, 1)]
    corners = values[np.ix_(rows, columns)]
    return float(np.array([1 - dy, dy]) @ corners @ np.array([1 - dx, dx]))


class TestBoxes:
    def test_anchors(self):
        assert base_anchors().tolist() == [
            [-38, -16, 53, 31], [-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199],
            [-24, -24, 39, 39], [-56, -56, 71, 71], [-120, -120, 135, 135], [-248, -248, 263, 263],
            [-14, -36, 29, 51], [-36, -80, 51, 95], [-80, -168, 95, 183], [-168, -344, 183, 359],
        ]  # fmt: skip
        grid = anchor_grid(2, 3, torch.device("cpu"))
        assert grid.shape == (72, 4)
        assert grid[12 * 5 + 4].tolist() == [-24 + 32, -24 + 16, 39 + 32, 39 + 16]  # row 1, column 2

    def test_decoding_counts_the_last_pixel(self):
        boxes = torch.tensor([[0.0, 0.0, 15.0, 15.0]])
        assert decode(boxes, torch.zeros(1, 4)).tolist() == [[0, 0, 16, 16]]
        moved = decode(boxes, torch.tensor([[0.5, -0.25, math.log(2), 0]]))
        np.testing.assert_allclose(moved, [[0, -4, 32, 12]], atol=1e-5)
        huge = decode(boxes, torch.tensor([[0.0, 0, 1000, 1000]]))
        assert clip(huge, 20, 30).tolist() == [[0, 0, 29, 19]]  # without a limit on the size

    def test_boxes_overlap_in_whole_pixels(self):
        boxes = torch.tensor([[0.0, 0, 9, 9], [0.0, 0, 9, 2.5]])
        scores = torch.tensor([0.9, 0.8])
        # 35 of 100 pixels, but 22.5 of 81 without the last ones
        assert suppress(boxes, scores, 0.3).tolist() == [0]
        assert nms(boxes, scores, 0.3).tolist() == [0, 1]
        assert suppress(boxes, scores, 0.35).tolist() == [0, 1]  # exactly as much as is allowed stays

    def test_proposals_without_a_size_stay_and_zeros_fill_up(self):
        scores = torch.cat([torch.zeros(12, 2, 2), torch.full((12, 2, 2), -5.0)])
        scores[12 + 5, 1, 0], scores[12 + 3, 0, 1] = 3.0, 2.0
        deltas = torch.zeros(48, 2, 2)
        deltas[4 * 5 : 4 * 6, 1, 0] = torch.tensor([50.0, 0, 0, 0])  # far beyond the right edge
        settings = PublishedSettings(candidates=2, proposals=5)
        found = propose(scores, deltas, 32, 30, settings)
        assert found.tolist() == [[29, 0, 29, 31], [0, 0, 29, 31], [0] * 4, [0] * 4, [0] * 4]

    def test_the_final_choice(self):
        boxes = torch.zeros(4, 16, 4)
        boxes[:, :, 2:] = 50.0
        boxes[2], boxes[3] = torch.tensor([5.0, 60, 45, 90]), torch.tensor([60.0, 60, 90, 90])
        probabilities = torch.zeros(4, 16)
        probabilities[:, 2] = torch.tensor([0.31, 0.6, 0.25, 0.4])
        probabilities[1, 1] = 0.35  # one proposal may be two things
        probabilities[:, 0] = 0.99  # the background
        found = select(probabilities, boxes, PublishedSettings(min_score=0.25))  # exactly that score is rejected
        assert found["labels"].tolist() == [1, 2, 2]
        assert found["scores"].tolist() == pytest.approx([0.35, 0.6, 0.4])
        assert found["boxes"][:, 0].tolist() == [0, 0, 60]
        assert len(select(probabilities, boxes, PublishedSettings(min_score=0.7))["labels"]) == 0


class TestPooling:
    @pytest.mark.parametrize(("rows", "columns"), [(6, 9), (1, 5), (2, 1)])
    def test_legacy(self, rows: int, columns: int):
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(2, 3, rows, columns, generator=generator)
        corners = torch.rand(20, 4, generator=generator) * 16 * torch.tensor([columns, rows, columns, rows])
        boxes = torch.cat([corners[:, :2].minimum(corners[:, 2:]), corners[:, :2].maximum(corners[:, 2:])], 1)
        right, bottom = 16.0 * columns - 1, 16.0 * rows - 1
        special = [
            [0, 0, 0, 0],
            [0, 0, right, bottom],
            [right, bottom, right, bottom],
            [-40, -9, -20, 5],
            [90, 0, 9, 5],
        ]
        boxes = torch.cat([boxes, torch.tensor(special, dtype=torch.float32)])
        pictures = torch.arange(len(boxes)) % 2
        found = pool(features, boxes, pictures, "legacy")
        assert found.shape == (25, 3, 7, 7)
        for number, box in enumerate(boxes.tolist()):
            expected = _legacy(features[number % 2].double().numpy(), box)
            np.testing.assert_allclose(found[number], expected, atol=1e-4, err_msg=str(box))

    def test_adaptive(self):
        features = torch.randn(2, 3, 6, 9, generator=torch.Generator().manual_seed(0))
        boxes = torch.tensor([[3.0, 5, 100, 90], [0.0, 0, 0, 0]])
        found = pool(features, boxes, torch.tensor([1, 0]), "adaptive")
        expected = roi_align(features, [boxes[1:], boxes[:1]], 7, 1 / 16, aligned=False)
        torch.testing.assert_close(found, expected.flip(0))
        assert (found - pool(features, boxes, torch.tensor([1, 0]), "legacy")).abs().max() > 0.1


def _legacy(features: np.ndarray, box: list[float]) -> np.ndarray:
    """(C, 7, 7), sample by sample."""
    rows, columns = features.shape[1:]
    x1, y1, x2, y2 = (value / 16 for value in box)
    samples = np.zeros((len(features), 8, 8))
    for i in range(8):
        for j in range(8):
            y, x = y1 + i * max(y2 - y1 + 1, 0) / 7, x1 + j * max(x2 - x1 + 1, 0) / 7
            if not (0 <= y < rows and 0 <= x < columns):
                continue
            row, column = max(min(math.floor(y), rows - 2), 0), max(min(math.floor(x), columns - 2), 0)
            next_row, next_column = min(row + 1, rows - 1), min(column + 1, columns - 1)
            dy, dx = y - row, x - column
            samples[:, i, j] = (1 - dy) * (
                (1 - dx) * features[:, row, column] + dx * features[:, row, next_column]
            ) + dy * ((1 - dx) * features[:, next_row, column] + dx * features[:, next_row, next_column])
    return (samples[:, :-1, :-1] + samples[:, 1:, :-1] + samples[:, :-1, 1:] + samples[:, 1:, 1:]) / 4


@pytest.fixture(scope="module")
def detector() -> Detector:
    model = load_published(detector_weights())
    model.settings = SMALL
    return Detector(model, CLASSES, "published")


class TestNetwork:
    def test_detect_gives_rows_by_class_and_falling_score(self, detector: Detector):
        rows = detector.detect(picture(0, 90, 140))
        assert rows.dtype == np.float32
        assert rows.shape[1] == 6
        assert len(rows) > 3
        np.testing.assert_array_equal(np.lexsort((-rows[:, 1], rows[:, 0])), np.arange(len(rows)))
        assert set(rows[:, 0]) <= set(range(1, 16))
        assert (rows[:, 1] > 0.3).all()
        assert (rows[:, 2:] >= 0).all()
        assert (rows[:, 2:] <= [140, 90, 140, 90]).all()

    @pytest.mark.slow
    def test_pictures_together_are_as_one_by_one(self, detector: Detector):
        sizes = ((90, 140), (90, 140), (140, 90), (90, 140))
        pictures = [picture(seed, *size) for seed, size in enumerate(sizes)]
        tensors = [torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 for pixels in pictures]
        with torch.inference_mode():
            together = detector.model(tensors)
            stacked = detector.model._detect(torch.stack(tensors[:2]))  # as on a GPU
        for pixels, output, number in zip(pictures, together, range(4)):
            rows = detector.detect(pixels)
            for found in [output, *stacked[number : number + 1]]:
                np.testing.assert_array_equal(found["labels"], rows[:, 0])
                np.testing.assert_allclose(found["scores"], rows[:, 1], atol=1e-4)
                np.testing.assert_allclose(found["boxes"], rows[:, 2:], atol=0.01)

    def test_a_grey_picture_is_taken_as_rgb(self, detector: Detector):
        grey = picture(0, 90, 140)[..., 0]
        np.testing.assert_array_equal(detector.detect(grey), detector.detect(np.stack([grey] * 3, 2)))

    @pytest.mark.parametrize(
        "pixels", [np.zeros((90, 140, 3)), np.zeros((3, 90, 140), np.uint8), np.zeros((0, 5, 3), np.uint8)]
    )
    def test_arrays_that_are_no_pictures(self, detector: Detector, pixels: np.ndarray):
        with pytest.raises(ValueError, match=r"a picture is uint8 RGB \(H, W, 3\), not"):
            detector.detect(pixels)

    def test_settings_change_what_is_found(self, detector: Detector):
        pixels = picture(0, 90, 140)
        rows = detector.detect(pixels)
        for changed in (
            {"pooling": "adaptive"},
            {"short_side": 120},
            {"long_side": 100},
            {"proposals": 5},
            {"candidates": 20},
            {"proposal_overlap": 0.3},
            {"max_overlap": 0.0},
        ):
            detector.configure(0.3, **changed)
            assert not np.array_equal(detector.detect(pixels), rows), changed
            detector.model.settings = SMALL
        detector.configure(0.5)
        surer = detector.detect(pixels)
        detector.model.settings = SMALL
        assert 0 < len(surer) < len(rows)

    def test_settings_out_of_range(self, detector: Detector):
        for changed, message in (
            ({"pooling": "max"}, "--pooling 'max': choose legacy or adaptive"),
            ({"proposals": 0}, "--proposals 0: give at least 1"),
            ({"max_overlap": 1.0}, "--max-overlap 1.0: give 0 or more, and less than 1"),
            ({"proposal_overlap": -1.0}, "--proposal-overlap -1.0"),
            ({"short_side": 900, "long_side": 800}, "--short-side 900, --long-side 800: give"),
            ({"short_side": 8}, "--short-side 8"),
        ):
            with pytest.raises(ValueError, match=message):
                detector.configure(0.3, **changed)
        with pytest.raises(ValueError, match="--candidates is for the published detector only"):
            build_detector("small", ["a"]).configure(0.3, candidates=5)
        assert detector.model.settings == SMALL

    def test_other_detectors_detect_too(self):
        torch.manual_seed(0)
        detector = build_detector("small", ["Violin", "Flute"])
        rows = detector.detect(picture(0, 90, 140))
        assert rows.shape[1] == 6
        assert set(rows[:, 0]) <= {1, 2}

    def test_defaults_are_the_published_settings(self):
        assert dataclasses.astuple(PublishedDetector().settings) == ("legacy", 0.3, 0.3, 800, 1200, 6000, 1000, 0.7)
