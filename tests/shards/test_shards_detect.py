from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import shards.detect
import shards.detector_training
from shards.clean import CLASS, CONFIDENCE, FRAME, X1, read_detections
from shards.detect import (
    DetectOptions,
    available_devices,
    clips_to_detect,
    detect_frames,
    detect_tree,
    read_picture,
)
from shards.detector import build_detector, load_detector, load_init, save_detector
from shards.detector_training import TrainingOptions, train_detector
from shards.open_images import Example, read_boxes, read_class_names
from tests.support.pictures import STORED, corners, turned

CLASSES = ("Violin", "Flute", "Tuba")
HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
SHORT_HEADER = "ImageID,LabelName,XMin,XMax,YMin,YMax\n"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_detector(build_detector("small", CLASSES), tmp_path / "detector.pt")
    return tmp_path / "detector.pt"


@pytest.fixture
def frames(tree) -> Path:
    """A tree of two clips without detections."""
    for clip in ("a_0", "b_0"):
        tree.add(clip).detections.unlink()
    return tree.root


def detect(tree: Path, options: DetectOptions, devices: tuple[str, ...] = ("cpu",)):
    return detect_tree(clips_to_detect(tree), tree, options, devices)


class TestDetect:
    def test_writes_boxes_above_the_score_by_frame(self, frames: Path, weights: Path):
        found = detect(frames, DetectOptions(weights, min_score=0.05, batch=3))
        assert [(result.clip, result.problem) for result in found] == [("clarinet/a_0", None), ("clarinet/b_0", None)]
        boxes = read_detections(frames / "solo_detect/clarinet/a_0.npy")
        assert len(boxes) == found[0].num_boxes > 0
        assert set(boxes[:, FRAME]) == {1, 2, 3, 4}
        assert set(boxes[:, CLASS]) <= {1, 2, 3}
        assert (boxes[:, CONFIDENCE] > 0.05).all()
        order = np.lexsort((-boxes[:, CONFIDENCE], boxes[:, FRAME]))
        np.testing.assert_array_equal(order, np.arange(len(boxes)))
        assert (boxes[:, X1:] >= 0).all()
        assert (boxes[:, X1:] <= [64, 48, 64, 48]).all()
        described = json.loads((frames / "detect_options.json").read_text())
        assert described["classes"] == {"1": "Violin", "2": "Flute", "3": "Tuba"}

    def test_the_batch_does_not_matter(self, frames: Path, weights: Path):
        tables = []
        for batch in (1, 4):
            detect(frames, DetectOptions(weights, min_score=0.05, batch=batch))
            path = frames / "solo_detect/clarinet/a_0.npy"
            tables.append(read_detections(path))
            path.unlink()
        np.testing.assert_allclose(tables[0], tables[1], atol=1e-3)

    def test_nothing_found_is_an_empty_table(self, frames: Path, weights: Path):
        detect(frames, DetectOptions(weights, min_score=0.99))
        assert read_detections(frames / "solo_detect/clarinet/a_0.npy").shape == (0, 7)

    def test_finished_clips_are_kept(self, frames: Path, weights: Path):
        path = frames / "solo_detect/clarinet/a_0.npy"
        np.save(path, np.zeros((1, 7)))
        found = detect(frames, DetectOptions(weights))
        assert [result.clip for result in found] == ["clarinet/b_0"]
        assert read_detections(path).shape == (1, 7)

    def test_other_options_do_not_mix_in(self, frames: Path, weights: Path):
        detect(frames, DetectOptions(weights))
        with pytest.raises(ValueError, match="holds detections made with other options"):
            detect(frames, DetectOptions(weights, min_score=0.4))

    def test_no_more_frames_are_read_than_pass_together(self, frames: Path, weights: Path, monkeypatch):
        read: list[Path] = []
        real = shards.detect.read_picture
        monkeypatch.setattr(shards.detect, "read_picture", lambda path: read.append(path) or real(path))
        waiting = []
        model = load_detector(weights).model.eval()
        model.register_forward_pre_hook(lambda _, pictures: waiting.append((len(read), len(pictures[0]))))
        paths = {number: frames / f"solo_extract/clarinet/a_0/{number:06d}.jpg" for number in range(1, 5)}
        detect_frames(model, shards.detect._Frames(paths), "cpu", 3)
        assert waiting == [(3, 3), (4, 1)]

    def test_unreadable_frames_are_reported(self, frames: Path, weights: Path):
        (frames / "solo_extract/clarinet/a_0/000002.jpg").write_bytes(b"?")
        for path in (frames / "solo_extract/clarinet/b_0").iterdir():
            path.unlink()
        found = detect(frames, DetectOptions(weights, min_score=0.05))
        assert [result.problem for result in found] == ["1 frames are unreadable", "no frames"]
        assert set(read_detections(frames / "solo_detect/clarinet/a_0.npy")[:, FRAME]) == {1, 3, 4}
        assert not (frames / "solo_detect/clarinet/b_0.npy").exists()

    def test_errors(self, tmp_path: Path, frames: Path, weights: Path):
        with pytest.raises(ValueError, match="no folder of frames"):
            clips_to_detect(tmp_path)
        with pytest.raises(ValueError, match="--min-score 1"):
            detect(frames, DetectOptions(weights, min_score=1))
        with pytest.raises(ValueError, match="'cuda:99' is not there"):
            available_devices("cuda:99", 1)

    def test_devices(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        assert available_devices("auto", 2) == ["cpu", "cpu"]
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        assert available_devices("auto", 2) == ["cuda:0", "cuda:1", "cuda:2"]
        assert available_devices("cpu, cpu", 7) == ["cpu", "cpu"]


class TestWeights:
    def test_a_saved_detector_tells_what_it_is(self, weights: Path):
        detector = load_detector(weights)
        assert (detector.classes, detector.backbone) == (CLASSES, "small")

    def test_plain_weights_need_backbone_and_classes(self, tmp_path: Path):
        original = build_detector("small", CLASSES)
        torch.save(original.model.state_dict(), tmp_path / "plain.pt")
        detector = load_detector(tmp_path / "plain.pt", "small", CLASSES)
        for name, value in original.model.state_dict().items():
            torch.testing.assert_close(detector.model.state_dict()[name], value, rtol=0, atol=0)
        with pytest.raises(ValueError, match="does not name its classes"):
            load_detector(tmp_path / "plain.pt", "small")
        with pytest.raises(ValueError, match="is for 3 classes, but 2 are named"):
            load_detector(tmp_path / "plain.pt", "small", CLASSES[:2])
        with pytest.raises(ValueError, match="does not fit --backbone mobilenet"):
            load_detector(tmp_path / "plain.pt", "mobilenet", CLASSES)

    def test_files_that_are_no_weights(self, tmp_path: Path):
        with pytest.raises(ValueError, match="do not exist"):
            load_detector(tmp_path / "none.pt")
        (tmp_path / "text.pt").write_text("weights")
        with pytest.raises(ValueError, match="is not a file of weights"):
            load_detector(tmp_path / "text.pt")
        torch.save([1, 2], tmp_path / "list.pt")
        with pytest.raises(ValueError, match="holds no weights by name"):
            load_detector(tmp_path / "list.pt")

    def test_a_file_of_ours_that_lacks_something(self, tmp_path: Path):
        torch.save({"format": "ialcms-detector", "backbone": "small"}, tmp_path / "part.pt")
        with pytest.raises(ValueError, match=r"part\.pt lacks its classes and state; convert or train"):
            load_detector(tmp_path / "part.pt")

    def test_pickled_code_does_not_run(self, tmp_path: Path):
        class Payload:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"state": Payload()}, tmp_path / "evil.pt")
        with pytest.raises(ValueError, match="is not a file of weights"):
            load_detector(tmp_path / "evil.pt")
        assert not (tmp_path / "ran").exists()

    def test_training_can_start_from_other_classes_or_a_backbone(self, tmp_path: Path, weights: Path):
        detector = build_detector("small", [*CLASSES, "Cello"])
        taken = load_init(detector, weights)
        assert taken == len(detector.model.state_dict()) - 4  # all but the weights and biases of the two predictors
        given = load_detector(weights).model.state_dict()
        torch.testing.assert_close(detector.model.state_dict()["backbone.0.0.weight"], given["backbone.0.0.weight"])
        torch.save({"conv1.weight": torch.full((64, 3, 7, 7), 0.5)}, tmp_path / "imagenet.pt")
        large = build_detector("resnet50", CLASSES)
        assert load_init(large, tmp_path / "imagenet.pt") == 1
        assert (large.model.state_dict()["backbone.body.conv1.weight"] == 0.5).all()
        with pytest.raises(ValueError, match="none of its weights fits"):
            load_init(detector, tmp_path / "imagenet.pt")

    def test_unknown_backbone(self):
        with pytest.raises(ValueError, match="choose resnet50, mobilenet, small"):
            build_detector("vgg", CLASSES)


@pytest.mark.parametrize("other", ["a_0", "a.b_0"])
def test_clips_of_one_name_are_told_before_the_work(tmp_path: Path, other: str):
    for folder in (f"cello/{other.replace('.', '-')}", f"violin/{other}"):
        (tmp_path / "solo_extract" / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"two clips are named 'a.*_0': .*cello/a.*_0 and .*violin/a.*_0; "):
        clips_to_detect(tmp_path)


class TestBoxes:
    def pictures(self, folder: Path, *names: str) -> Path:
        folder.mkdir(exist_ok=True)
        for name in names:
            Image.new("RGB", (40, 30)).save(folder / name)
        return folder

    def test_reads_open_images_rows(self, tmp_path: Path):
        images = self.pictures(tmp_path / "images", "a.jpg", "b.png")
        (tmp_path / "names.csv").write_text("/m/07y_7,Violin\n/m/0l14j_,Flute\n/m/0k4j,Car\n")
        (tmp_path / "boxes.csv").write_text(
            HEADER
            + "a,x,/m/07y_7,1,0.1,0.5,0.2,0.6,0,0,0\n"
            + "a,x,Tuba,1,0.3,0.4,0,1,0,0,0\n"  # a name that needs no translation
            + "a,x,/m/0k4j,1,0.1,0.5,0.2,0.6,0,0,0\n"
            + "a,x,/m/07y_7,1,0.1,0.5,0.2,0.6,0,0,1\n"
            + "a,x,/m/07y_7,1,0.5,0.1,0.2,0.6,0,0,0\n"
            + "b,x,/m/0l14j_,1,0,1,0,1,0,0,0\n"
            + "c,x,/m/0l14j_,1,0,1,0,1,0,0,0\n"
            + "../x,x,/m/0l14j_,1,0,1,0,1,0,0,0\n"
        )
        self.pictures(tmp_path, "x.jpg")
        names = read_class_names(tmp_path / "names.csv")
        examples, left_out = read_boxes(tmp_path / "boxes.csv", images, CLASSES, names)
        assert [example.path.name for example in examples] == ["a.jpg", "b.png"]
        assert examples[0].labels.tolist() == [1, 3]
        np.testing.assert_allclose(examples[0].boxes, [[0.1, 0.2, 0.5, 0.6], [0.3, 0, 0.4, 1]])
        assert left_out == {
            "boxes of other classes": 1, "boxes of groups": 1, "boxes without an area": 1, "missing pictures": 2,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("box", "cut"),
        [
            ("0.1,1.0000001,0.2,0.9", [0.1, 0.2, 1, 0.9]),
            ("-0.01,0.5,0.2,0.9", [0, 0.2, 0.5, 0.9]),
            ("-0.3,1.3,-0.3,1.3", [0, 0, 1, 1]),
            ("0,1,-1e-9,1.000001", [0, 0, 1, 1]),
        ],
    )
    def test_boxes_over_the_edge_are_cut(self, tmp_path: Path, box: str, cut: list[float]):
        self.pictures(tmp_path, "a.jpg")
        (tmp_path / "boxes.csv").write_text(f"ImageID, LabelName, XMin, XMax, YMin, YMax\na, Tuba, {box}\n")
        (example,), left_out = read_boxes(tmp_path / "boxes.csv", tmp_path, CLASSES)
        np.testing.assert_allclose(example.boxes, [cut])
        assert example.boxes.min() >= 0
        assert example.boxes.max() <= 1
        assert not any(left_out.values())

    @pytest.mark.parametrize(
        "box",
        ["nan,0.5,0.2,0.9", "0.1,inf,0.2,0.9", "0.5,0.1,0.2,0.9", "12,300,20,90", "0,640,0,480", "1.1,1.2,0,1",
         "-0.2,-0.1,0,1", "0.5,0.5,0,1", "0.5,0.5000000001,0,1"],
    )  # fmt: skip
    def test_boxes_that_are_none_are_counted(self, tmp_path: Path, box: str):
        self.pictures(tmp_path, "a.jpg")
        (tmp_path / "boxes.csv").write_text(f"{SHORT_HEADER}a,Tuba,0,1,0,1\na,Tuba,{box}\n")
        (example,), left_out = read_boxes(tmp_path / "boxes.csv", tmp_path, CLASSES)
        assert len(example.boxes) == 1
        assert left_out["boxes without an area"] == 1

    def test_pictures_as_cameras_name_them(self, tmp_path: Path):
        (tmp_path / "trip").mkdir()
        names = ["IMG_1.JPG", "IMG_2.Jpeg", "IMG_3.PNG", "a.b.jpg", "both.PNG", "both.jpg", "trip/IMG_1.JPG"]
        self.pictures(tmp_path, *names)
        ids = ["IMG_1", "IMG_2.Jpeg", "IMG_3", "a.b", "both", "trip/IMG_1", "img_1", "../IMG_1"]
        rows = "".join(f"{image},Tuba,0,1,0,1\n" for image in ids)
        (tmp_path / "boxes.csv").write_text(SHORT_HEADER + rows)
        examples, left_out = read_boxes(tmp_path / "boxes.csv", tmp_path, CLASSES)
        found = {str(example.path.relative_to(tmp_path)) for example in examples}
        assert found == {"IMG_1.JPG", "IMG_2.Jpeg", "IMG_3.PNG", "a.b.jpg", "both.jpg", "trip/IMG_1.JPG"}
        assert left_out["missing pictures"] == 2

    @pytest.mark.parametrize("orientation", STORED)
    def test_pictures_stand_upright(self, tmp_path: Path, orientation: int):
        (tmp_path / "a.jpg").write_bytes(turned(orientation))
        picture = read_picture(tmp_path / "a.jpg")
        assert corners(picture.permute(1, 2, 0).numpy() * 255) == "RGB."

    def test_errors(self, tmp_path: Path):
        with pytest.raises(ValueError, match="boxes as Open Images"):
            read_boxes(tmp_path / "none.csv", tmp_path, CLASSES)
        with pytest.raises(ValueError, match="--class-names"):
            read_class_names(tmp_path / "none.csv")
        path = tmp_path / "boxes.csv"
        for text, message in (
            ("ImageID,LabelName\n", "has no column XMin, XMax, YMin, YMax"),
            (HEADER + "a,x,Tuba,1,zero,1,0,1,0,0,0\n", "line 2: its corners are not numbers"),
            (HEADER + "a,x,Tuba,1,0,1,0,1,0,0,0\n", r"no picture .* \(1 missing pictures\)"),
        ):
            path.write_text(text)
            with pytest.raises(ValueError, match=message):
                read_boxes(path, tmp_path, CLASSES)


class TestTraining:
    def examples(self, tmp_path: Path) -> list[Example]:
        generator = np.random.default_rng(0)
        examples = []
        for number in range(3):
            path = tmp_path / f"{number}.png"
            Image.fromarray(generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
            examples.append(Example(path, np.float32([[0.1, 0.2, 0.6, 0.9]]), np.array([1 + number])))
        return examples

    def test_a_killed_run_resumes_to_the_bit(self, tmp_path: Path, monkeypatch):
        examples = self.examples(tmp_path)
        options = TrainingOptions("small", steps=5, batch=2, save_every=2)
        whole = train_detector(examples, CLASSES, tmp_path / "whole.pt", options)
        real, steps = shards.detector_training.save_detector, []
        monkeypatch.setattr(shards.detector_training, "save_detector", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_detector(examples, CLASSES, tmp_path / "d.pt", options)
        assert torch.load(tmp_path / "d.pt.state", weights_only=True)["step"] == 4
        monkeypatch.setattr(shards.detector_training, "save_detector", real)
        monkeypatch.setattr(shards.detector_training, "_rate_factor", lambda step, _: steps.append(step) or 0.0)
        with pytest.raises(ValueError, match="unfinished training with other options"):
            train_detector(examples, CLASSES[::-1], tmp_path / "d.pt", options)
        assert steps == []
        monkeypatch.undo()
        resumed = train_detector(examples, CLASSES, tmp_path / "d.pt", options)
        for name, value in whole.detector.model.state_dict().items():
            torch.testing.assert_close(resumed.detector.model.state_dict()[name], value, rtol=0, atol=0)
        assert not (tmp_path / "d.pt.state").exists()
        assert load_detector(tmp_path / "d.pt").classes == CLASSES

    def test_flips_move_the_boxes_with_the_picture(self, tmp_path: Path):
        pixels = np.zeros((20, 40, 3), np.uint8)
        pixels[4:10, 8:20] = 255
        Image.fromarray(pixels).save(tmp_path / "a.png")
        example = Example(tmp_path / "a.png", np.float32([[0.2, 0.2, 0.5, 0.5]]), np.array([1]))
        steps = shards.detector_training._Steps([example], TrainingOptions("small", batch=16))
        lefts = set()
        batch = steps[0]
        for picture, target in zip(batch.pictures, batch.targets):
            x1, y1, x2, y2 = target["boxes"][0].round().int().tolist()
            assert (picture[:, y1:y2, x1:x2] == 1).all()
            assert picture.sum() == 3 * 6 * 12
            lefts.add(x1)
        assert lefts == {8, 20}

    @pytest.mark.parametrize("loader_workers", [0, 1])
    def test_a_broken_picture_gives_way_to_the_next(self, tmp_path: Path, loader_workers: int):
        examples = self.examples(tmp_path)
        examples[1].path.write_bytes(examples[1].path.read_bytes()[:2000])
        options = TrainingOptions("small", steps=2, batch=3)
        trained = train_detector(examples, CLASSES, tmp_path / "d.pt", options=options, loader_workers=loader_workers)
        assert trained.unreadable == {examples[1].path}

    def test_no_readable_picture(self, tmp_path: Path):
        examples = self.examples(tmp_path)
        for example in examples:
            example.path.write_bytes(b"?")
        with pytest.raises(ValueError, match=r"^none of the 3 pictures can be decoded, like .*0\.png$"):
            train_detector(examples, CLASSES, tmp_path / "d.pt", TrainingOptions("small", steps=2), "cpu", 1)

    def test_a_damaged_state_is_named(self, tmp_path: Path):
        (tmp_path / "d.pt.state").write_bytes(b"PK?")
        with pytest.raises(ValueError, match=r"d\.pt\.state, of an unfinished training, is damaged; remove it"):
            train_detector(self.examples(tmp_path), CLASSES, tmp_path / "d.pt", TrainingOptions("small", steps=2))

    def test_options_out_of_range(self, tmp_path: Path):
        with pytest.raises(ValueError, match="learns from weights only"):
            train_detector([], CLASSES, tmp_path / "d.pt", TrainingOptions("resnet50"))
        with pytest.raises(ValueError, match="must be positive"):
            train_detector([], CLASSES, tmp_path / "d.pt", TrainingOptions("small", steps=0))

    def test_a_loss_that_is_not_finite_stops(self, tmp_path: Path):
        examples = self.examples(tmp_path)
        with pytest.raises(ValueError, match="not finite"):
            train_detector(examples, CLASSES, tmp_path / "d.pt", TrainingOptions("small", None, 20, 2, 1e20, 1))
