"""The tree knows its data set: a forgotten --dataset costs no clips."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from ialcms.cli import main
from ialcms.config import load_config
from ialcms.data.manifest import read_manifest
from shards.tree_dataset import RECORD, choose_dataset
from tests.shards.conftest import HEIGHT, INSTRUMENTS, WIDTH, TreeMaker
from tests.support import ROOT

OWN = """
classes: {1: acoustic_guitar, 2: clarinet, 3: saxophone}
instruments:
  acoustic_guitar: {class: acoustic_guitar}
  clarinet: {class: clarinet}
  saxophone: {class: saxophone}
"""


def own_dataset(folder: Path) -> Path:
    path = folder / "own.yaml"
    path.write_text(OWN)
    return path


def packed(tree: TreeMaker, *words: str) -> int:
    return main(["data", "pack", str(tree.root), "--out", str(tree.root / "shards"), "--jobs", "1", *words])


def test_pack_reads_what_index_has_recorded(full_tree: TreeMaker, capsys: pytest.CaptureFixture[str]) -> None:
    own = own_dataset(full_tree.root)
    assert main(["data", "index", str(full_tree.root), "--dataset", str(own), "--test-fraction", "0.25"]) == 0
    assert json.loads((full_tree.root / RECORD).read_text()) == {"dataset": "own.yaml"}
    moved = TreeMaker(full_tree.root.with_name("moved"))
    shutil.move(full_tree.root, moved.root)
    assert packed(moved) == 0
    assert f"data set: own (recorded in {moved.root / RECORD})" in capsys.readouterr().out
    assert len(read_manifest(moved.root / "shards").clips) == 24


def test_names_and_files_elsewhere_are_recorded(full_tree: TreeMaker, tmp_path: Path) -> None:
    for given, recorded in (("demo", "demo"), (str(own_dataset(tmp_path)), str(tmp_path / "own.yaml"))):
        assert main(["data", "index", str(full_tree.root), "--dataset", given]) == 0
        assert json.loads((full_tree.root / RECORD).read_text()) == {"dataset": recorded}
        assert choose_dataset(None, [full_tree.root]).dataset.name == Path(recorded).stem
    (tmp_path / "own.yaml").unlink()
    with pytest.raises(ValueError, match=r"tree.json names a data set that cannot be used .*; give --dataset"):
        choose_dataset(None, [full_tree.root])


@pytest.mark.parametrize("content", ["{", "[]", '{"dataset": 3}', "{}"])
def test_a_damaged_record_is_named(full_tree: TreeMaker, content: str) -> None:
    (full_tree.root / RECORD).write_text(content)
    with pytest.raises(ValueError, match=r"tree.json is damaged; remove it, or name the data set with --dataset"):
        choose_dataset(None, [full_tree.root])


def test_boxes_of_other_classes_stop_before_anything_is_written(
    full_tree: TreeMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """MUSIC's numbers mean other things: 1 is a banjo, not a guitar."""
    assert packed(full_tree) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "96 of 96 confident boxes (100%) are of another class than the one that data set 'music' gives" in line
    assert "acoustic_guitar 32 of 32" in line
    assert "--dataset, or continue with --max-other-class 1" in line
    assert not (full_tree.root / "shards").exists()
    clean = ["data", "clean", str(full_tree.root), "--jobs", "1"]
    assert main(clean) == 2
    assert not (full_tree.root / "solo_detect_music").exists()
    assert main([*clean, "--dry-run"]) == 0
    assert "is it the right one (--dataset)?" in capsys.readouterr().err
    assert packed(full_tree, "--max-other-class", "1", "--dataset", "demo") == 0


def test_a_few_other_boxes_do_not_stop(tree: TreeMaker, capsys: pytest.CaptureFixture[str]) -> None:
    for number, instrument in enumerate(INSTRUMENTS * 2):
        own = INSTRUMENTS.index(instrument) + 1
        rows = [[frame, own, 0.95, 4, 6, 40, 30] for frame in (1, 2, 3, 4)]
        unsure = [[frame, 9, 0.5, 4, 6, 40, 30] for frame in (1, 2, 3, 4)]  # what the threshold takes out anyway
        tree.add(f"v{number}_0", instrument, "train", [*rows, [1, 9, 0.95, 4, 6, 40, 30], *unsure])
    tree.write_index()
    assert packed(tree, "--dataset", "demo") == 0
    assert main(["data", "clean", str(tree.root), "--dataset", "demo", "--max-other-class", "0.1"]) == 2
    assert "6 of 30 confident boxes (20%)" in capsys.readouterr().err


class TestWholeFrames:
    def test_from_frames_to_shards_without_a_word_about_classes(
        self, full_tree: TreeMaker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = str(full_tree.root)
        shutil.rmtree(full_tree.root / "solo_detect")
        assert main(["data", "index", root]) == 2
        assert "solo_detect does not exist; run 'ialcms data detect' first" in capsys.readouterr().err
        assert main(["data", "detect", root, "--whole-frame", "--jobs", "1"]) == 0
        boxes = np.load(full_tree.root / "solo_detect" / "clarinet" / "clarinet-000_0.npy")
        assert boxes.tolist() == [[frame, 2, 1, 0, 0, WIDTH, HEIGHT] for frame in (1, 2, 3, 4)]
        assert main(["data", "index", root, "--test-fraction", "0.25"]) == 0
        assert packed(full_tree) == 0
        assert "data set: own classes (the instruments are the classes in" in capsys.readouterr().out
        assert len(read_manifest(full_tree.root / "shards").clips) == 24

    def test_another_instrument_later(self, tree: TreeMaker, capsys: pytest.CaptureFixture[str]) -> None:
        detect = ["data", "detect", str(tree.root), "--whole-frame", "--jobs", "1"]
        for instrument, expected in (("clarinet", {"1": "clarinet"}), ("bell", {"1": "clarinet", "2": "bell"})):
            tree.add(f"{instrument}_0", instrument, boxes=[]).detections.unlink()
            assert main(detect) == 0
            assert json.loads((tree.root / "detect_options.json").read_text())["classes"] == expected
        assert "1 had detections already" in capsys.readouterr().out
        assert main([*detect, "--every", "2"]) == 2
        assert "holds detections made with other options" in capsys.readouterr().err

    def test_classes_of_a_data_set(self, tree: TreeMaker, capsys: pytest.CaptureFixture[str]) -> None:
        detect = ["data", "detect", str(tree.root), "--whole-frame", "--dataset", "music", "--jobs", "1"]
        for instrument, label in (("clarinet", [7, 1]), ("erhu", [1, 0.94])):
            path = tree.add(f"{instrument}_0", instrument, boxes=[]).detections
            path.unlink()
            assert main(detect) == 0
            assert np.load(path)[0, 1:3].tolist() == label
        assert json.loads((tree.root / RECORD).read_text()) == {"dataset": "music"}
        tree.write_index()
        assert packed(tree) == 0
        tree.add("lute_0", "lute", boxes=[]).detections.unlink()
        assert main(detect) == 2
        assert "does not say which class shows lute" in capsys.readouterr().err
        assert main([*detect, "--coco", "boxes.json"]) == 2
        assert "--coco and --whole-frame: give one of them" in capsys.readouterr().err


class TestCountingFrom0:
    def test_detections(self, tree: TreeMaker, capsys: pytest.CaptureFixture[str]) -> None:
        tree.add("a_0", boxes=[[frame, 2, 0.95, 4, 6, 40, 30] for frame in (0, 1, 2, 3)])
        tree.write_index()
        assert packed(tree, "--dataset", "demo") == 2
        assert "detections name frame 0, but frames count from 1 (here 1 to 4); add 1 to the first" in (
            capsys.readouterr().err
        )

    def test_coco(self, tree: TreeMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tree.add("a_0").detections.unlink()
        content = {
            "images": [{"id": 1, "file_name": "clarinet/a_0/000000.jpg"}],
            "categories": [{"id": 1, "name": "clarinet"}],
            "annotations": [{"image_id": 1, "category_id": 1, "bbox": [4, 6, 20, 20]}],
        }
        (tmp_path / "boxes.json").write_text(json.dumps(content))
        assert (
            main(["data", "detect", str(tree.root), "--coco", str(tmp_path / "boxes.json"), "--dataset", "demo"]) == 2
        )
        assert "frame 0 of clarinet/a_0, but frames count from 1" in capsys.readouterr().err
        assert not tree.entries[0].detections.exists()


def test_paths_in_documentation_and_configurations_agree() -> None:
    """Every folder of shards that the documentation packs is the one of a configuration, and the other way round."""
    text = (ROOT / "docs" / "data.md").read_text()
    packed = set(re.findall(r"ialcms data pack \S+ --out (data/\S+)", text)) - {"data/try/shards", "data/mine/shards"}
    names = ("duet", "solo", "music21", "vggsound15", "audioset")
    assert packed == {load_config(ROOT / "configs" / f"{name}.yaml").data.shards for name in names}
    for folder in ("docs", "shards", "slurm", "launch", "configs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".md", ".py", ".sh", ".sbatch", ".yaml"):
                assert "music-shards" not in path.read_text(), path
