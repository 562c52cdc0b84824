"""Boxes of another program, in COCO's JSON form, as the detections of a tree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ialcms.cli import main
from shards.clean import read_detections
from shards.coco_boxes import read_coco, write_coco
from shards.detect import clips_to_detect

CLASSES = ("acoustic_guitar", "clarinet", "saxophone")
IMAGES = [
    {"id": 7, "file_name": "/lab/frames/clarinet/a_0/000001.jpg", "width": 64, "height": 48},
    {"id": 8, "file_name": "clarinet/a_0/000003.png"},
    {"id": 9, "file_name": "clarinet/b_0/000002.jpg"},  # nothing in it
]
CATEGORIES = [{"id": 90, "name": "clarinet"}, {"id": 5, "name": "saxophone"}, {"id": 1, "name": "person"}]


def box(image: int, category: int, *corners: float, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(corners), **more}


ANNOTATIONS = [
    box(8, 5, 1, 2, 30, 40, score=0.5, segmentation=[]),
    box(7, 90, 10, 5, 20, 30.5),  # drawn by hand: no score
    box(8, 90, 4, 6, 10, 10, score=0.9),
    box(8, 1, 0, 0, 5, 5, score=0.9),
    box(8, 90, 0, 0, 5, 5, score=0.2),
    box(8, 90, 0, 0, 5, 5, iscrowd=1),
]
ROWS = [[1, 2, 1.0, 10, 5, 30, 35.5], [3, 2, 0.9, 4, 6, 14, 16], [3, 3, 0.5, 1, 2, 31, 42]]


@pytest.fixture
def frames(tree) -> Path:
    for clip in ("a_0", "b_0", "c_0"):
        tree.add(clip).detections.unlink()
    return tree.root


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_annotations_become_detections(frames: Path, tmp_path: Path, capsys):
    path = write(tmp_path / "boxes.json", {"images": IMAGES, "annotations": ANNOTATIONS, "categories": CATEGORIES})
    words = ["data", "detect", str(frames), "--coco", str(path), "--dataset", "demo"]
    assert main([*words, "--dry-run"]) == 0
    assert not list(frames.glob("solo_detect/*/*.npy"))
    assert main(words) == 0
    captured = capsys.readouterr()
    assert (
        "3 boxes of 2 clips; left out: 1 of other classes, 1 below --min-score, 1 of groups (iscrowd)" in captured.out
    )
    assert "3 boxes in 2 clips; 0 had detections already" in captured.out
    assert "clip of the tree without pictures in the files: clarinet/c_0" in captured.err
    np.testing.assert_allclose(read_detections(frames / "solo_detect/clarinet/a_0.npy"), ROWS)
    assert read_detections(frames / "solo_detect/clarinet/b_0.npy").shape == (0, 7)
    assert not (frames / "solo_detect/clarinet/c_0.npy").exists()
    assert main(words) == 0
    assert "0 boxes in 0 clips; 2 had detections already" in capsys.readouterr().out
    assert main([*words, "--min-score", "0.1"]) == 2
    assert "holds detections made with other options" in capsys.readouterr().err
    assert main(["data", "clean", str(frames), "--dataset", "demo", "--dry-run"]) == 0


def test_results_beside_the_file_of_the_images(frames: Path, tmp_path: Path):
    images = write(tmp_path / "images.json", {"images": IMAGES, "categories": CATEGORIES})
    results = write(tmp_path / "results.json", ANNOTATIONS[:3])
    boxes = read_coco([images, results], CLASSES, 0.3)
    taken = write_coco(boxes, clips_to_detect(frames), frames)
    assert (taken.num_clips, taken.num_boxes, taken.without) == (2, 3, ["clarinet/c_0"])
    np.testing.assert_allclose(read_detections(frames / "solo_detect/clarinet/a_0.npy"), ROWS)


def test_without_categories_the_ids_are_the_class_ids(tmp_path: Path):
    annotations = [box(7, 2, 0, 0, 5, 5), box(7, 4, 0, 0, 5, 5), box(7, 0, 0, 0, 5, 5)]
    boxes = read_coco([write(tmp_path / "a.json", {"images": IMAGES, "annotations": annotations})], CLASSES, 0.3)
    assert boxes.clips["clarinet/a_0"] == [[1, 2, 1.0, 0, 0, 5, 5]]
    assert boxes.left_out == {"of other classes": 2}


def test_clips_that_the_tree_has_not(frames: Path, tmp_path: Path):
    other = [{"id": 1, "file_name": "tuba/x_0/000001.jpg"}]
    with pytest.raises(ValueError, match=r"no image is of a clip of .*, like tuba/x_0; a file_name ends in"):
        write_coco(
            read_coco([write(tmp_path / "a.json", {"images": other})], CLASSES, 0.3), clips_to_detect(frames), frames
        )
    assert not (frames / "detect_options.json").exists()
    boxes = read_coco([write(tmp_path / "a.json", {"images": [*other, *IMAGES]})], CLASSES, 0.3)
    assert write_coco(boxes, clips_to_detect(frames), frames).unknown == ["tuba/x_0"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("3", "holds neither COCO's annotations"),
        ({"images": []}, "names no images"),
        ([], "names no images"),
        ({"images": {}}, "'{}' stands where COCO has a list"),
        ({"images": [7]}, "image 0 has no 'file_name'"),
        ({"images": [{"id": [1], "file_name": "a/b/1.jpg"}]}, r"image 0: 'id' is \[1\], not a name or number"),
        ({"images": [{"id": 1, "file_name": "000001.jpg"}]}, "'000001.jpg' does not end in <instrument>/<clip>"),
        ({"images": [{"id": 1, "file_name": "a/../1.jpg"}]}, r"'a/\.\./1\.jpg' does not end in"),
        ({"images": [{"id": 1, "file_name": "a/b/x.jpg"}]}, "does not end in"),
        ({"images": IMAGES, "categories": [{"id": 1}]}, "category 0 has no 'name'"),
        ({"images": IMAGES, "annotations": [box(3, 1, 0, 0, 1, 1)]}, "annotation 0: image_id 3 is not among"),
        (
            {"images": IMAGES, "categories": CATEGORIES, "annotations": [box(7, 2, 0, 0, 1, 1)]},
            "annotation 0: category_id 2 is not among",
        ),
        ({"images": IMAGES, "annotations": [{"image_id": 7, "category_id": 1}]}, "annotation 0 has no 'bbox'"),
        ({"images": IMAGES, "annotations": [box(7, 1, 0, 0, 1)]}, "are not five finite numbers"),
        ({"images": IMAGES, "annotations": [box(7, 1, 0, 0, 1, float("nan"))]}, "are not five finite numbers"),
        ({"images": IMAGES, "annotations": [box(7, 1, 0, 0, 1, "1")]}, "are not five finite numbers"),
        ({"images": IMAGES, "annotations": [box(7, 1, 0, 0, 1, 1, score=87)]}, "score 87 is not between 0 and 1"),
    ],
)
def test_bad_files(tmp_path: Path, content: Any, message: str):
    path = tmp_path / "bad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=rf"bad.json.*{message}"):
        read_coco([path], CLASSES, 0.3)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(ValueError, match=r"--coco .*none\.json does not exist"):
        read_coco([tmp_path / "none.json"], CLASSES, 0.3)
