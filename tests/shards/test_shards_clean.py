from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from ialcms.config import load_config
from shards.clean import (
    CLASS,
    CONFIDENCE,
    FRAME,
    Remaining,
    check_rule,
    clean_clip,
    clean_coseparation,
    clean_music,
    read_detections,
)
from shards.clean_tree import REPORT_NAME, clean_tree
from shards.datasets import (
    FOLDER,
    CoseparationThresholds,
    Dataset,
    InstrumentRule,
    MusicThresholds,
    load_dataset,
)
from shards.report import Report

BOX = [10, 10, 50, 50]


def rows(*values: list[float]) -> np.ndarray:
    """Rows of frame, class, confidence and, if it matters, a box."""
    return np.array([value + BOX if len(value) == 3 else value for value in values], np.float32).reshape(-1, 7)


def clean(boxes: np.ndarray, rule: str, dataset: Dataset, instrument: str = "violin", video: str = "v"):
    return clean_clip(boxes, range(1, 81), instrument, video, rule, dataset)


class TestMusicRule:
    def test_keeps_own_class_above_the_threshold_and_counts_the_rest(self):
        boxes = rows([1, 12, 0.95], [1, 4, 0.99], [2, 12, 0.89], [3, 12, 0.9])
        cleaned = clean(boxes, "music", load_dataset("music"))
        assert cleaned.boxes[:, FRAME].tolist() == [1, 3]  # 0.9 itself is enough
        assert cleaned.rejected == {"other class than the instrument's": 1, "confidence": 1}
        assert cleaned.dropped is None

    def test_keeps_the_best_box_of_a_frame(self):
        boxes = rows([1, 12, 0.91], [1, 12, 0.97], [1, 12, 0.93])
        cleaned = clean(boxes, "music", load_dataset("music"))
        assert cleaned.boxes[:, CONFIDENCE].tolist() == [np.float32(0.97)]
        assert cleaned.rejected == {"not the best of its class in the frame": 2}

    def test_erhu_takes_any_class_but_no_confident_box(self):
        boxes = rows([1, 12, 0.95], [1, 3, 0.5], [1, 7, 0.8], [2, 4, 0.94], [3, 4, 0.941], [4, 1, 0.31])
        cleaned = clean(boxes, "music", load_dataset("music"), "erhu")
        kept = cleaned.boxes[:, [FRAME, CLASS]].tolist()
        assert kept == [[1, 7], [2, 4], [4, 1]]
        assert cleaned.rejected == {"confidence": 2, "not among the best classes of the frame": 1}

    def test_keeps_the_k_best_classes_of_a_frame(self):
        boxes = rows([1, 1, 0.95], [1, 2, 0.99], [1, 3, 0.97], [1, 2, 0.98], [2, 3, 0.92])
        left = clean_music(Remaining(boxes), InstrumentRule(None), MusicThresholds(0.9, classes_per_frame=2))
        assert left.boxes[:, [FRAME, CLASS]].tolist() == [[1, 2], [1, 3], [2, 3]]
        rules = ("not the best of its class in the frame", "not among the best classes of the frame")
        assert left.rejected == dict.fromkeys(rules, 1)

    def test_agrees_with_plain_loops(self):
        generator = np.random.default_rng(0)
        boxes = rows(
            *[
                [f, c, s]
                for f, c, s in zip(
                    generator.integers(1, 20, 300), generator.integers(1, 4, 300), generator.uniform(0.8, 1, 300)
                )
            ]
        )
        kept = clean_music(Remaining(boxes), InstrumentRule(2), MusicThresholds(0.9, 1)).boxes
        best: dict[int, np.ndarray] = {}
        for row in boxes:
            frame = int(row[0])
            if row[1] == 2 and row[2] >= 0.9 and (frame not in best or row[2] > best[frame][2]):
                best[frame] = row
        np.testing.assert_array_equal(kept, np.array([best[frame] for frame in sorted(best)]))

    def test_a_clip_without_a_box_is_dropped(self):
        cleaned = clean(rows([1, 4, 0.99]), "music", load_dataset("music"))
        assert cleaned.dropped == "no box left"
        assert clean(rows(), "music", load_dataset("music")).dropped == "no box left"

    def test_videos_on_the_skip_list_are_dropped(self):
        boxes = rows([1, 8, 0.99])
        dataset = load_dataset("music")
        assert clean(boxes, "music", dataset, "xylophone", "5lm9laLSORc").dropped == "video on the skip list"
        assert clean(boxes, "coseparation", dataset, "xylophone", "5lm9laLSORc").dropped == "video on the skip list"
        assert clean(boxes, "none", dataset, "xylophone", "5lm9laLSORc").dropped is None


class TestCoseparationRule:
    def test_threshold_itself_is_rejected(self):
        left = clean_coseparation(Remaining(rows([1, 1, 0.9], [2, 1, 0.91])), CoseparationThresholds())
        assert left.boxes[:, FRAME].tolist() == [2]

    def test_of_two_boxes_on_one_spot_the_more_confident_stays(self):
        boxes = rows(
            [1, 1, 0.95, 0, 0, 100, 100],
            [1, 2, 0.99, 0, 0, 100, 72],  # IoU 0.72 with the first, which is rejected
            [1, 1, 0.93, 0, 18, 100, 100],  # IoU 0.54 with the second; 0.82 with the first, which does not count
            [2, 1, 0.91, 0, 0, 100, 100],  # another frame
        )
        left = clean_coseparation(Remaining(boxes), CoseparationThresholds())
        assert sorted(left.boxes[:, CONFIDENCE].tolist()) == np.float32([0.91, 0.93, 0.99]).tolist()
        assert left.rejected["overlaps a more confident box"] == 1

    def test_keeps_the_clips_two_most_confident_classes(self):
        boxes = rows([1, 1, 0.95], [2, 2, 0.99], [3, 3, 0.97], [4, 1, 0.96], [5, 3, 0.91])
        left = clean_coseparation(Remaining(boxes), CoseparationThresholds())
        assert left.boxes[:, [FRAME, CLASS]].tolist() == [[2, 2], [3, 3], [5, 3]]
        assert left.rejected["not among the best classes of the clip"] == 2

    @pytest.mark.parametrize(
        ("count", "dropped"),
        [(59, "fewer than 60 boxes left"), (60, None), (300, None), (301, "more than 300 boxes left")],
    )
    def test_number_of_boxes_left(self, count: int, dropped: str | None):
        boxes = rows(*[[1 + i % 80, 1, 0.95, 20 * i, 0, 20 * i + 15, 10] for i in range(count)])
        assert clean(boxes, "coseparation", Dataset()).dropped == dropped


class TestBrokenRows:
    def test_are_counted_under_every_rule(self):
        boxes = rows(
            [1, 12, 0.95],
            [1, 12, float("nan")],
            [1, 12, 0.95, 0, 0, float("inf"), 10],
            [1, 12, 0.95, 50, 10, 10, 50],
            [1, 12, 0.95, 10, 10, 10, 50],
            [1.5, 12, 0.95],
            [-1, 12, 0.95],
            [99, 12, 0.95],
        )
        for rule in ("music", "none"):
            cleaned = clean(boxes, rule, load_dataset("music"))
            assert len(cleaned.boxes) == 1
            assert cleaned.rejected == {"not finite, or an inverted box": 6, "frame does not exist": 1}

    def test_without_cleaning_all_others_stay_in_order(self):
        boxes = rows([3, 1, 0.2], [1, 5, 0.4], [1, 2, 0.5])
        assert clean(boxes, "none", Dataset()).boxes[:, [FRAME, CLASS]].tolist() == [[1, 2], [1, 5], [3, 1]]


class TestReadDetections:
    def test_reads_numbers_of_any_kind_as_float32(self, tmp_path: Path):
        path = tmp_path / "a.npy"
        np.save(path, np.ones((3, 7), np.int64))
        assert read_detections(path).dtype == np.float32
        np.save(path, np.zeros((0,)))
        assert read_detections(path).shape == (0, 7)

    @pytest.mark.parametrize(
        ("values", "message"),
        [(np.zeros((3, 6)), r"shape \(3, 6\)"), (np.zeros(7), r"shape \(7,\)"), (np.array(["a"]), "not an array of")],
    )
    def test_refuses_other_arrays(self, tmp_path: Path, values: np.ndarray, message: str):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(ValueError, match=message):
            read_detections(tmp_path / "a.npy")

    def test_refuses_pickles_without_running_them(self, tmp_path: Path):
        class Payload:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        np.save(tmp_path / "array.npy", np.array([Payload()], object), allow_pickle=True)
        (tmp_path / "raw.npy").write_bytes(pickle.dumps(Payload()))
        for name in ("array.npy", "raw.npy"):
            with pytest.raises(ValueError, match="pickled objects"):
                read_detections(tmp_path / name)
        assert not (tmp_path / "ran").exists()

    def test_refuses_damaged_and_missing_files(self, tmp_path: Path):
        path = tmp_path / "a.npy"
        with pytest.raises(ValueError, match="missing"):
            read_detections(path)
        np.save(path, np.zeros((10, 7)))
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(ValueError, match="unreadable"):
            read_detections(path)
        path.write_bytes(b"")
        with pytest.raises(ValueError, match="unreadable"):
            read_detections(path)


class TestDatasets:
    def test_music_maps_instruments_to_the_detectors_classes(self):
        dataset = load_dataset("music")
        assert {name: rule.class_id for name, rule in dataset.instruments.items()} == {
            "acoustic_guitar": 4, "clarinet": 7, "saxophone": 9, "violin": 12, "flute": 13, "cello": 2, "trumpet": 11,
            "tuba": 15, "accordion": 14, "xylophone": 8, "erhu": None,
        }  # fmt: skip
        assert (len(dataset.classes), len(dataset.skip_videos), len(dataset.test_videos)) == (15, 11, 11)
        assert {"-e5DuAUwBgA", "8rb-thew50c"} <= dataset.skip_videos
        assert {"_oUTOskOwXs", "-tY40Ev8IzE"} <= dataset.test_videos

    @pytest.mark.parametrize(
        ("experiment", "dataset"),
        [("duet", "music"), ("solo", "music"), ("music21", "music21"), ("vggsound15", "vggsound"),
         ("audioset", "audioset")],
    )  # fmt: skip
    def test_experiments_name_the_instruments_of_their_data_set(self, experiment: str, dataset: str):
        named = load_config(FOLDER.parent / f"{experiment}.yaml", []).data.instruments
        assert set(named) == set(load_dataset(dataset).instruments)

    def test_all_data_sets_load(self):
        assert {path.stem for path in FOLDER.glob("*.yaml")} >= {"music", "demo"}
        for path in FOLDER.glob("*.yaml"):
            assert load_dataset(path).instruments

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("instrument: {}", "did you mean 'instruments'"),
            ("music: {min_confidense: 1}", "did you mean 'min_confidence'"),
            ("music: {min_confidence: high}", "must be a number"),
            ("classes: {0: A}", "count from 1"),
            ("classes: {1: A}\ninstruments: {x: {class: B}}", "class 'B' is not among"),
            ("instruments: [1]", "must be a mapping"),
            ("- 1", "must be a mapping"),
            ("a: [", "not valid YAML"),
            ("skip_videos: none.txt", "none.txt does not exist"),
            ("skip_videos: [abc, def]", r"d.yaml: skip_videos is \['abc', 'def'\]; it must be the name of a file"),
            ("test_videos: 7", "test_videos is 7; it must be the name"),
            (
                "instruments: {x: {class: any, min_confidence: '0,5'}}",
                r"instruments.x.min_confidence is '0,5'; it must be",
            ),
            ("instruments: {x: {class: [violin]}}", r"class '\['violin'\]' is not among classes"),
            ("instruments: {x: {}}", "class 'None' is not among classes"),
            ("coseparation: {classes_per_clip: 2.0}", "classes_per_clip is 2.0; it must be a whole number"),
            ("coseparation: {max_iou: .nan}", "max_iou is nan; it must be a number"),
            ("classes: {true: A}", "'True' is not a class id"),
        ],
    )
    def test_errors_name_the_key(self, tmp_path: Path, text: str, message: str):
        (tmp_path / "d.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_dataset(tmp_path / "d.yaml")

    def test_an_unknown_name_lists_the_known(self):
        with pytest.raises(ValueError, match="demo, music"):
            load_dataset("musik")

    def test_the_rule_must_know_the_instrument(self):
        with pytest.raises(ValueError, match="which detector class shows banjo"):
            check_rule("music", load_dataset("music"), ["violin", "banjo"])
        check_rule("none", Dataset(), ["banjo"])
        check_rule("coseparation", Dataset(), ["banjo"])
        with pytest.raises(ValueError, match="'musik' is unknown"):
            check_rule("musik", Dataset(), [])


class TestCleanTree:
    def test_writes_what_is_left_and_reports_the_rest(self, tree, tmp_path: Path):
        tree.add("a_0", boxes=rows([1, 2, 0.95], [1, 3, 0.99]))
        tree.add("b_0", boxes=rows([1, 3, 0.99]))
        broken = tree.add("c_0")
        np.save(broken.detections, np.zeros((2, 6)))
        out = tmp_path / "out"
        (out / "clarinet").mkdir(parents=True)
        (out / "clarinet" / "b_0.npy").touch()  # of an earlier run with other thresholds
        report = clean_tree(tree.entries, out, "music", load_dataset("demo"), max_bad_fraction=0.5)
        assert [path.name for path in (out / "clarinet").iterdir()] == ["a_0.npy"]
        np.testing.assert_array_equal(read_detections(out / "clarinet" / "a_0.npy"), rows([1, 2, 0.95]))
        assert report.counts() == {
            "num_clips": 3, "num_kept": 1, "num_boxes": 3, "num_boxes_kept": 1,
            "boxes_rejected": {"other class than the instrument's": 2},
            "clips_dropped": {"no box left": 1}, "clips_bad": {"detections have shape (2, 6), not (D, 7)": 1},
        }  # fmt: skip
        assert Report.read(out / REPORT_NAME) == report

    def test_many_processes_give_the_same(self, full_tree, tmp_path: Path, read_folder):
        for jobs in (1, 2):
            clean_tree(full_tree.entries, tmp_path / str(jobs), "music", load_dataset("demo"), jobs)
        assert read_folder(tmp_path / "1") == read_folder(tmp_path / "2") != {}

    def test_stops_at_too_many_broken_clips(self, tree):
        tree.add("a_0").detections.unlink()
        tree.add("b_0")
        with pytest.raises(ValueError, match=r"1 of 2 clips .* \(a_0: detections missing\)"):
            clean_tree(tree.entries, None, "music", load_dataset("demo"), max_bad_fraction=0.4)
