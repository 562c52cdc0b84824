"""Checkpoints of the published detector: what loads, what is refused, the command line, frames to shards with it."""

from __future__ import annotations

import argparse
import collections
import json
import re
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import webdataset
from PIL import Image

from ialcms.cli import main
from shards.clean import CONFIDENCE, FRAME, is_box, read_detections
from shards.detector import PUBLISHED, build_detector, load_detector, save_detector
from shards.published_detector.network import PublishedDetector
from shards.published_detector.settings import CLASSES
from shards.published_detector.weights import _published_name
from tests.golden.detector_case import checkpoint, detector_shapes, detector_weights, picture, save_as_pytorch_0_3

SMALL = ("--short-side", "96", "--long-side", "160", "--proposals", "60", "--devices", "cpu", "--batch", "2")


def blank(shapes: Mapping[str, tuple[int, ...] | None] = MappingProxyType({})) -> dict[str, torch.Tensor]:
    """Weights of the right names and shapes, all zero, small in a file; others where `shapes` says (None: without)."""
    names = {name: shape for name, shape in detector_shapes().items() if not name.endswith("num_batches_tracked")}
    wanted = {name: shape for name, shape in {**names, **shapes}.items() if shape is not None}
    return {name: torch.zeros(1).expand(shape) for name, shape in wanted.items()}


def save(values: Any, path: Path, zipped: bool = True) -> Path:
    torch.save(values, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the golden case, as PyTorch 0.3 wrote it."""
    path = tmp_path_factory.mktemp("weights") / "faster_rcnn_1_19_6984.pth"
    save_as_pytorch_0_3(checkpoint(detector_weights()), path)
    return path


def test_names_and_shapes_are_the_published_ones():
    state = PublishedDetector().state_dict()
    assert {_published_name(name): tuple(value.shape) for name, value in state.items()} == detector_shapes()


class TestLoads:
    def test_a_file_of_an_old_pytorch(self, published: Path):
        detector = load_detector(published)
        assert detector.classes == CLASSES
        assert detector.backbone == PUBLISHED
        assert not detector.model.training
        assert detector.description == (
            f"{published}: the published Faster R-CNN, ResNet-101, 15 instruments, legacy pooling; ignored in it: "
            "epoch, optimizer, session"
        )
        weights, state = detector_weights(), detector.model.state_dict()
        assert len(state) == len(weights)
        for name, value in state.items():
            assert value.dtype == (torch.int64 if name.endswith("tracked") else torch.float32)
            torch.testing.assert_close(value, weights[_published_name(name)], rtol=0, atol=0)

    @pytest.mark.parametrize("zipped", [False, True])
    def test_files_of_later_versions_and_weights_alone(self, tmp_path: Path, zipped: bool):
        counters = {name: torch.tensor(7) for name in detector_shapes() if name.endswith("num_batches_tracked")}
        whole = checkpoint(blank() | counters)
        del whole["pooling_mode"]  # as in the oldest files
        path = save(whole, tmp_path / "whole.pth", zipped)
        detector = load_detector(str(path))
        assert detector.model.settings.pooling == "legacy"  # the hint is not a proof
        assert "if it was trained with the branch pytorch-1.0, give --pooling adaptive" in detector.description
        adaptive = load_detector(path, pooling="adaptive")
        assert adaptive.model.settings.pooling == "adaptive"
        assert "give --pooling" not in adaptive.description
        with pytest.raises(ValueError, match=r"^--pooling 'max': choose legacy or adaptive"):
            load_detector(path, pooling="max")
        assert "ignored" not in load_detector(save(blank(), tmp_path / "alone.pth", zipped)).description

    def test_half_precision_becomes_float32(self, tmp_path: Path):
        halves = {name: value.half() for name, value in blank().items()}
        model = load_detector(save({"model": halves}, tmp_path / "half.pth")).model
        assert model.class_scores.weight.dtype == torch.float32

    def test_settings_and_an_optimizer_that_are_no_plain_numbers(self, tmp_path: Path, monkeypatch):
        """What is ignored may hold some objects of other packages: nothing of these packages runs."""

        class EasyDict(dict):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                self.__dict__.update(*args)

        package = types.ModuleType("easydict")
        package.EasyDict, EasyDict.__module__, EasyDict.__qualname__ = EasyDict, "easydict", "EasyDict"
        monkeypatch.setitem(sys.modules, "easydict", package)
        values = checkpoint(blank())
        values["optimizer"]["param_groups"][0]["lr"] = np.float64(1e-3)
        values["cfg"] = EasyDict({"PIXEL_MEANS": np.zeros((1, 1, 3)), "TRAIN": EasyDict({"LEARNING_RATE": 0.001})})
        values["args"] = argparse.Namespace(net="res101", lr=np.float32(0.01))
        for zipped in (False, True):
            path = save(values, tmp_path / "settings.pth", zipped)
            monkeypatch.delitem(sys.modules, "easydict", raising=False)
            assert "ignored in it: args, cfg, epoch, optimizer, session" in load_detector(path).description
            monkeypatch.setitem(sys.modules, "easydict", package)


class TestRefuses:
    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            (
                {"RCNN_base.0.weight": (64, 3, 3, 3), "RCNN_base.1.weight": None},
                "is a Faster R-CNN on VGG-16, not on ResNet-101; give the file that Co-Separation shares",
            ),
            ({"RCNN_base.0.weight": (32, 3, 7, 7)}, r"on a backbone whose first layer is \(32, 3, 7, 7\)"),
            (
                {name: None for name in detector_shapes() if re.match(r"RCNN_base\.6\.([6-9]|1.|2.)\.", name)},
                "is a Faster R-CNN on ResNet-50, not on ResNet-101",
            ),
            (
                {f"RCNN_base.6.{block}.conv1.weight": (256, 1024, 1, 1) for block in range(23, 36)},
                "is a Faster R-CNN on ResNet-152, not on ResNet-101",
            ),
            (
                {name: None for name in detector_shapes() if re.search(r"conv3|bn3", name)},
                "is a Faster R-CNN on ResNet-18 or 34",
            ),
            (
                {"RCNN_cls_score.weight": (21, 2048), "RCNN_bbox_pred.weight": (84, 2048)},
                "finds 20 classes, not the 15 instruments of Open Images",
            ),
            ({"RCNN_bbox_pred.weight": (4, 2048)}, "is class-agnostic"),
            ({"RCNN_rpn.RPN_cls_score.weight": (18, 512, 1, 1)}, "has 9 anchors a cell, not 12"),
            ({"RCNN_mask.weight": (1,)}, r"holds what ResNet-101's detector has not: RCNN_mask\.weight"),
            ({"RCNN_top.0.0.bn1.bias": (5,)}, r"holds RCNN_top\.0\.0\.bn1\.bias of shape \(5,\), not \(512,\)"),
            ({"RCNN_cls_score.bias": None}, r"lacks RCNN_cls_score\.bias;"),
            ({name: None for name in detector_shapes() if "RPN" in name}, "lacks RCNN_rpn.* and 5 more;"),
        ],
        ids=lambda value: value[:24] if isinstance(value, str) else "",
    )
    def test_another_network(self, tmp_path: Path, shapes: dict[str, tuple[int, ...] | None], message: str):
        path = save(checkpoint(blank(shapes)), tmp_path / "other.pth")
        with pytest.raises(ValueError, match=rf"^{path} .*{message}"):
            load_detector(path)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"class_agnostic": True}, "is class-agnostic: its boxes are the same for all classes"),
            ({"pooling_mode": "crop"}, "was trained with pooling_mode 'crop', not 'align'"),
            ({"model": blank() | {"RCNN_cls_score.bias": torch.full((16,), torch.nan)}}, "numbers that are not finite"),
            ({"model": blank() | {"RCNN_cls_score.bias": torch.zeros(16).int()}}, "no real ones, as RCNN_cls"),
            ({"model": blank() | {"RCNN_cls_score.bias": [0.0] * 16}}, "holds no plain tensor as RCNN_cls_score.bias"),
        ],
    )  # fmt: skip
    def test_another_kind_of_it(self, tmp_path: Path, changed: dict[str, Any], message: str):
        path = save(checkpoint(blank()) | changed, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=message):
            load_detector(path)

    @pytest.mark.parametrize("zipped", [False, True])
    def test_a_file_that_is_cut_off(self, tmp_path: Path, zipped: bool):
        path = save(checkpoint(blank()), tmp_path / "whole.pth", zipped)
        whole = path.read_bytes()
        load_detector(path)
        for length in (0, 1, 100, len(whole) // 3, len(whole) // 2, len(whole) - 200, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=r"whole\.pth is not a file of weights alone.*damaged, cut off"):
                load_detector(path)

    def test_an_old_file_that_is_cut_off(self, tmp_path: Path):
        path = tmp_path / "old.pth"
        save_as_pytorch_0_3(checkpoint({"RCNN_cls_score.weight": torch.zeros(16, 2048)}), path)
        whole = path.read_bytes()
        for length in (200, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=r"old\.pth is not a file of weights alone.*damaged, cut off"):
                load_detector(path)

    @pytest.mark.parametrize("position", ["optimizer", "model", "cfg"])
    @pytest.mark.parametrize("zipped", [False, True])
    def test_a_pickle_that_would_run(self, tmp_path: Path, position: str, zipped: bool):
        class Payload:
            def __reduce__(self) -> tuple[Callable, tuple]:
                return Path.touch, (tmp_path / "ran",)

        values = checkpoint(blank())
        content = {"RCNN_cls_score.bias": Payload()}
        values[position] = {"x": Payload()} if position != "model" else values["model"] | content
        path = save(values, tmp_path / "evil.pth", zipped)
        with pytest.raises(
            ValueError, match=r"evil.pth is not a file of weights alone.*pickled objects, which could run"
        ):
            load_detector(path)
        assert not (tmp_path / "ran").exists()


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A tree of two clips of five pictures, with sounds and without detections."""
    root = tmp_path / "tree"
    for number, instrument in enumerate(("violin", "cello")):
        folder = root / "solo_extract" / instrument / f"{instrument}_0"
        folder.mkdir(parents=True)
        for frame in range(1, 6):
            pixels = picture(10 * number + frame, 90, 140)
            Image.fromarray(pixels).save(folder / f"{frame:06d}.png")
        (root / "solo_audio_resample" / instrument).mkdir(parents=True)
        _write_tone(root / "solo_audio_resample" / instrument / f"{instrument}_0.wav", 220 * (number + 1))
    return root


def _write_tone(path: Path, pitch_hz: float) -> None:
    seconds = np.arange(22_050) / 11_025
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch_hz * seconds), 11_025, subtype="PCM_16")


def data(*words: str | Path) -> int:
    return main(["data", *map(str, words)])


class TestCommandLine:
    @pytest.mark.slow
    def test_from_frames_to_shards(self, frames: Path, published: Path, tmp_path: Path, capsys):
        """Detect (in two processes), clean, index, pack, verify: the shards hold the boxes of `detect(picture)`."""
        two = (*SMALL[:-4], "--devices", "cpu,cpu")
        assert data("detect", frames, "--weights", published, *two) == 0
        assert "legacy pooling; ignored in it: epoch, optimizer, session" in capsys.readouterr().out
        expected = {}
        detector = load_detector(published)
        detector.configure(0.3, short_side=96, long_side=160, proposals=60)
        for clip in ("violin/violin_0", "cello/cello_0"):
            rows = []
            for frame in range(1, 6):
                found = detector.detect(np.asarray(Image.open(frames / "solo_extract" / clip / f"{frame:06d}.png")))
                rows.append(np.insert(found, 0, frame, axis=1))
            expected[clip] = np.concatenate(rows)
            table = np.load(frames / "solo_detect" / f"{clip}.npy")
            assert table.dtype == np.float64
            assert len(table) > 10
            np.testing.assert_allclose(table, expected[clip], atol=0.01)
        described = json.loads((frames / "detect_options.json").read_text())
        assert list(described["classes"].values()) == list(CLASSES)
        assert described["published"]["pooling"] == "legacy"
        assert described["published"]["short_side"] == 96
        own = tmp_path / "own.yaml"
        classes = ", ".join(f"{number}: {name}" for number, name in enumerate(CLASSES, start=1))
        own.write_text(
            f"classes: {{{classes}}}\ninstruments: {{violin: {{class: any}}, cello: {{class: any}}}}\n"
            "music: {min_confidence: 0.3}\n"
        )
        shards = tmp_path / "shards"
        assert data("clean", frames, "--dataset", own) == 0
        assert data("index", frames, "--dataset", own, "--val-fraction", "0") == 0
        assert data("pack", frames, "--dataset", own, "--out", shards) == 0
        assert data("verify", shards) == 0
        packed = {}
        for tar in sorted(shards.glob("*.tar")):
            for sample in webdataset.WebDataset(str(tar), shardshuffle=False).decode():
                packed[sample["__key__"]] = sample["npy"]
        assert set(packed) == {"violin_0", "cello_0"}
        for clip, rows in expected.items():
            kept = packed[clip.split("/")[1]]
            boxes = rows[is_box(rows)]  # weights by formula give some without an area
            assert len(kept) >= 3
            for row in kept:
                of_frame = boxes[boxes[:, FRAME] == row[FRAME]]
                np.testing.assert_allclose(row, of_frame[of_frame[:, CONFIDENCE].argmax()], atol=0.01)

    def test_a_clip_of_pictures_that_are_too_thin_is_named(self, frames: Path, tmp_path: Path, capsys):
        thin = frames / "solo_extract" / "cello" / "cello_0"
        for path in thin.iterdir():
            Image.new("RGB", (2000, 5)).save(path)
        for path in sorted((frames / "solo_extract" / "violin" / "violin_0").iterdir())[1:]:
            path.unlink()
        path = save(checkpoint(blank()), tmp_path / "blank.pth")
        assert data("detect", frames, "--weights", path, *SMALL) == 0
        captured = capsys.readouterr()
        assert "clip with a problem: cello/cello_0: a picture of 2000 x 5 pixels is too thin" in captured.err
        assert "0 boxes in 2 clips" in captured.out
        assert [path.stem for path in frames.glob("solo_detect/*/*.npy")] == ["violin_0"]

    def test_every_nth_frame(self, frames: Path, published: Path):
        assert data("detect", frames, "--weights", published, *SMALL, "--every", "2") == 0
        table = read_detections(frames / "solo_detect/violin/violin_0.npy")
        assert set(table[:, FRAME]) == {1, 3, 5}
        assert json.loads((frames / "detect_options.json").read_text())["every"] == 2

    @pytest.mark.slow
    def test_converted_it_finds_the_same(self, frames: Path, published: Path, tmp_path: Path, capsys):
        own = tmp_path / "own.pt"
        assert data("detect", "--convert", published, own, "--pooling", "adaptive", "--dry-run") == 0
        assert not own.exists()
        assert data("detect", "--convert", published, own, "--pooling", "adaptive") == 0
        assert f"written to {own}: 15 classes, Banjo, Cello, Drum," in capsys.readouterr().out
        values = torch.load(own, weights_only=True)
        assert values["classes"] == list(CLASSES)
        assert own.stat().st_size < 1.01 * sum(4 * value.numel() for value in detector_weights().values()) + 1e6
        converted, original = load_detector(own), load_detector(published, pooling="adaptive")
        assert converted.model.settings == original.model.settings
        assert load_detector(own, pooling="legacy").model.settings.pooling == "legacy"
        pixels = picture(1, 90, 140)
        for detector in (converted, original):
            detector.configure(0.3, short_side=96, long_side=160, proposals=60)
        np.testing.assert_array_equal(converted.detect(pixels), original.detect(pixels))
        assert data("detect", frames, "--weights", own, *SMALL) == 0
        described = json.loads((frames / "detect_options.json").read_text())
        assert described["published"]["pooling"] == "adaptive"

    def test_other_files_are_converted_too(self, tmp_path: Path):
        torch.save(build_detector("small", CLASSES).model.state_dict(), tmp_path / "plain.pt")
        words = ("detect", "--convert", tmp_path / "plain.pt", tmp_path / "own.pt")
        assert data(*words, "--backbone", "small", "--dataset", "music") == 0
        assert load_detector(tmp_path / "own.pt").classes == CLASSES

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("TREE", "--weights", "VGG"), "VGG-16, not on ResNet-101"),
            (("TREE", "--weights", "EVIL"), "pickled objects, which could run anything"),
            (("TREE", "--weights", "NONE"), "do not exist"),
            (("TREE", "--weights", "SMALL", "--dataset", "music", "--pooling", "legacy"), "not the published detector"),
            (("TREE", "--weights", "SMALL", "--proposals", "5"), "--proposals is for the published detector only"),
            (("TREE", "--weights", "BLANK", "--dataset", "demo"), "finds Banjo, .* but the data set's classes are"),
            (("TREE", "--weights", "BLANK", "--short-side", "0"), "--short-side 0"),
            (("TREE", "--weights", "BLANK", "--max-overlap", "2"), "--max-overlap 2.0: give 0"),
            (("TREE",), "name the detector's file with --weights"),
            (("--convert", "VGG", "OUT"), "VGG-16"),
            (("--convert", "BLANK", "BLANK"), "that is one file"),
            (("--convert", "NONE", "OUT"), "do not exist"),
            (("TREE", "--convert", "BLANK", "OUT"), "--convert needs no tree"),
            (("--convert", "BLANK", "OUT", "--coco", "NONE"), "--convert and --coco: give one of them"),
            (("TREE", "--coco", "NONE", "--weights", "BLANK"), "leave out --weights"),
            (("TREE", "--coco", "NONE", "--proposals", "5"), "--proposals does not go with --coco"),
            (("--convert", "BLANK", "OUT", "--short-side", "500"), "--short-side does not go with --convert"),
            (("--train", "NONE", "--pooling", "legacy"), "--pooling does not go with --train"),
        ],
    )
    def test_bad_input_is_one_line_and_writes_nothing(
        self, frames: Path, tmp_path: Path, capsys, read_folder, words: tuple[str, ...], message: str
    ):
        class Payload:
            def __reduce__(self) -> tuple[Callable, tuple]:
                return Path.touch, (tmp_path / "ran",)

        files = {name: tmp_path / name.lower() for name in ("VGG", "EVIL", "NONE", "SMALL", "BLANK", "OUT")}
        save(checkpoint({"RCNN_base.0.weight": torch.zeros(64, 3, 3, 3)}), files["VGG"])
        save({"model": Payload()}, files["EVIL"])
        save(checkpoint(blank()), files["BLANK"])
        save_detector(build_detector("small", CLASSES), files["SMALL"])
        before = read_folder(tmp_path)
        given = [str(files.get(word, frames if word == "TREE" else word)) for word in words]
        assert main(["data", "detect", *given]) == 2
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1
        assert re.search(message, lines[0]), lines
        assert read_folder(tmp_path) == before


def test_counts_of_the_keys():
    kinds = collections.Counter(name.rpartition(".")[2] for name in detector_shapes())
    assert kinds["num_batches_tracked"] == kinds["running_mean"] == 104
