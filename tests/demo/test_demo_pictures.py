"""Drawn instruments, scenes, exact boxes and simulated detections."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from ialcms.demo.detections import NUM_COLUMNS, Detector, Ghost, detect, draw_detector
from ialcms.demo.drawing import DRAWINGS
from ialcms.demo.instruments import BY_NAME, INSTRUMENTS
from ialcms.demo.scene import draw_look, make_sprite, paste_sprite, render_frames
from ialcms.demo.video import NUM_FRAMES, VideoId, draw_video, make_clip

NAMES = [instrument.name for instrument in INSTRUMENTS]
FRAME_SIZE = (112, 84)


def _overlap(boxes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (..., 4)."""
    corner = np.maximum(boxes[..., :2], other[..., :2])
    opposite = np.minimum(boxes[..., 2:], other[..., 2:])
    shared = np.prod(np.maximum(opposite - corner, 0), -1)
    areas = [np.prod(b[..., 2:] - b[..., :2], -1) for b in (boxes, other)]
    return shared / (areas[0] + areas[1] - shared)


@pytest.mark.parametrize("name", NAMES)
def test_every_instrument_draws(name):
    pictures = [np.asarray(DRAWINGS[name].draw(np.random.default_rng(seed))) for seed in (0, 1)]
    for picture in pictures:
        assert picture.shape[2] == 4
        coverage = (picture[..., 3] > 128).mean()
        assert 0.1 < coverage < 0.95
        assert picture[picture[..., 3] > 128][:, :3].std() > 10  # not a silhouette
        edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
        assert all(edge[..., 3].any() for edge in edges)  # cropped
    same_shape = pictures[0].shape == pictures[1].shape
    assert not (same_shape and (pictures[0] == pictures[1]).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_exact_box_holds_the_sprite_and_no_more(name):
    drawn = DRAWINGS[name].draw(np.random.default_rng(0))
    white = Image.new("RGBA", drawn.size, "white")
    white.putalpha(drawn.getchannel("A"))
    sprite = make_sprite(white, extent_px=90)
    for turn_deg in (0, 30, -75, 160):
        frame = Image.new("RGB", (160, 160))
        centre = np.array([80.3, 79.6])
        box = paste_sprite(frame, sprite, centre, np.deg2rad(turn_deg), np.array([1.05, 0.97]))
        rows, columns = np.nonzero(np.asarray(frame)[..., 0] > 80)
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        np.testing.assert_allclose(box, seen, atol=2.0)
        assert max(box[2:] - box[:2]) < 1.5 * 90


def test_sprites_turn_clockwise_and_scale():
    needle = Image.new("RGBA", (10, 100), "white")
    sprite = make_sprite(needle, extent_px=50)
    frame = Image.new("RGB", (100, 100))
    upright = paste_sprite(frame, sprite, np.array([50.0, 50.0]), 0.0, np.ones(2))
    np.testing.assert_allclose(upright, [47.5, 25, 52.5, 75], atol=0.7)
    stretched = paste_sprite(frame, sprite, np.array([50.0, 50.0]), np.pi / 2, np.array([2.0, 1.0]))
    np.testing.assert_allclose(stretched, [25, 45, 75, 55], atol=0.7)
    half = Image.new("RGBA", (10, 100))
    half.paste("white", (0, 0, 10, 50))  # the upper half
    frame = Image.new("RGB", (100, 100))
    box = paste_sprite(frame, make_sprite(half, 50), np.array([50.0, 50.0]), np.pi / 2, np.ones(2))
    assert box[0] > 48  # turned by a quarter clockwise, up is right
    assert np.asarray(frame)[50, 60, 0] == 255
    assert np.asarray(frame)[50, 40, 0] == 0


@pytest.mark.parametrize("name", ["accordion", "clarinet"])
def test_frames_move_and_their_boxes_stay_inside(name):
    look = draw_look(np.random.default_rng(3), name, FRAME_SIZE)
    frames, boxes = render_frames(np.random.default_rng(0), look, np.linspace(0, 1, 16))
    assert len(frames) == 16
    assert all(frame.size == FRAME_SIZE and frame.mode == "RGB" for frame in frames)
    assert boxes.shape == (16, 4)
    assert boxes.dtype == np.float32
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= FRAME_SIZE).all()
    assert (boxes[:, 2:] - boxes[:, :2] > 5).all()
    assert np.ptp(boxes, axis=0).max() > 2


def test_loud_notes_lift_the_instrument():
    look = dataclasses.replace(draw_look(np.random.default_rng(0), "trumpet", FRAME_SIZE), shake_px=0.0)
    _, still = render_frames(np.random.default_rng(0), look, np.zeros(8))
    _, lifted = render_frames(np.random.default_rng(0), look, np.ones(8))
    assert (lifted[:, 1] < still[:, 1]).all()


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=NAMES)
def test_detections_find_the_instrument(instrument):
    clip = make_clip(draw_video(VideoId(0, instrument, 0), FRAME_SIZE), 0)
    rows = clip.detections
    assert rows.dtype == np.float32
    assert rows.shape[1] == NUM_COLUMNS
    frame_indices, classes, confidences, boxes = rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3:]
    assert set(frame_indices) <= set(range(1, NUM_FRAMES + 1))
    assert (np.diff(frame_indices) >= 0).all()
    assert set(classes) <= set(range(1, 12))
    assert ((confidences > 0) & (confidences < 1)).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= FRAME_SIZE).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()

    own = rows[classes == instrument.class_id]
    best = {int(row[0]): row for row in sorted(own, key=lambda row: row[2])}  # the most confident of each frame
    assert len(best) > 0.75 * NUM_FRAMES
    overlaps = [_overlap(row[3:], clip.boxes[index - 1]) for index, row in best.items()]
    assert np.median(overlaps) > 0.5
    assert np.median([row[2] for row in best.values()]) > 0.5


def _detect(detector: Detector, num_frames: int = 400) -> np.ndarray:
    boxes = np.tile(np.float32([20, 20, 60, 60]), (num_frames, 1))
    return detect(np.random.default_rng(0), detector, BY_NAME["violin"], boxes, FRAME_SIZE)


def test_the_detector_errs_as_often_as_it_should():
    plain = Detector(confidence=0.9, miss_probability=0.0, box_bias=(0, 0, 0, 0), ghost=None)
    rows = _detect(plain)
    good = (rows[:, 1] == 4) & (_overlap(rows[:, 3:], np.array([20, 20, 60, 60])) > 0.8)
    assert 400 <= good.sum() < 440
    confused = np.isin(rows[:, 1], [BY_NAME["cello"].class_id, BY_NAME["erhu"].class_id])
    assert 20 < confused.sum() < 100
    assert rows[confused, 2].max() < 0.6

    missing = _detect(dataclasses.replace(plain, miss_probability=0.5))
    assert len(rows) - 250 < len(missing) < len(rows) - 150

    ghost = Ghost(BY_NAME["tuba"].class_id, (0.6, 0.1, 0.9, 0.4))
    haunted = _detect(dataclasses.replace(plain, ghost=ghost))
    assert (haunted[:, 1] == ghost.class_id).sum() > 100


def test_a_video_without_detections_has_an_empty_table():
    blind = Detector(confidence=0.9, miss_probability=1.0, box_bias=(0, 0, 0, 0), ghost=None)
    rows = detect(np.random.default_rng(1), blind, BY_NAME["violin"], np.zeros((1, 4), np.float32), FRAME_SIZE)
    assert rows.shape == (0, 7)
    assert rows.dtype == np.float32


def test_detectors_differ():
    detectors = [draw_detector(np.random.default_rng(seed)) for seed in range(20)]
    assert len({detector.confidence for detector in detectors}) == 20
    assert 0 < sum(detector.ghost is not None for detector in detectors) < 20


def test_videos_look_different():
    frames = []
    for number in (0, 1):
        look = draw_video(VideoId(0, BY_NAME["violin"], number), FRAME_SIZE).look
        frames.append(np.asarray(render_frames(np.random.default_rng(0), look, np.zeros(1))[0][0], float))
    assert np.abs(frames[0] - frames[1]).mean() > 10
