from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from shards.entries import Entry, check_keys, list_frames, parse_path_map, read_index, video_of, write_index
from shards.index import drop_missing, scan_tree, shared_videos, split_by_clip, split_by_video

ROW = "solo_audio_resample/{0}/{1}.wav,solo_extract/{0}/{1},solo_detect/{0}/{1}.npy\n"


def entry(instrument: str, clip: str, split: str = "") -> Entry:
    return Entry(split, Path("audio", instrument, f"{clip}.wav"), Path("frames", clip), Path("boxes", f"{clip}.npy"))


def clips_of_videos(instrument: str, sizes: list[int]) -> list[Entry]:
    return [entry(instrument, f"{instrument}{v}_{k}") for v, size in enumerate(sizes) for k in range(size)]


def test_video_of_a_clip():
    assert video_of("_oUTOskOwXs_12") == "_oUTOskOwXs"
    assert video_of("a_1_2") == "a_1"
    assert video_of("-tY40Ev8IzE") == "-tY40Ev8IzE"
    assert video_of("_7") == "_7"


class TestCsv:
    def test_reads_what_was_written(self, full_tree):
        assert sorted(read_index(full_tree.root), key=str) == sorted(full_tree.entries, key=str)
        lines = (full_tree.root / "val_solo_clip.csv").read_text().splitlines()
        assert lines[0] + "\n" == ROW.format("acoustic_guitar", "acoustic_guitar-002_0")
        assert len(lines) == 6

    def test_files_elsewhere_are_written_whole(self, full_tree, tmp_path: Path):
        write_index(full_tree.entries, tmp_path / "elsewhere")
        assert sorted(read_index(tmp_path / "elsewhere"), key=str) == sorted(full_tree.entries, key=str)

    def test_takes_a_header_and_empty_lines(self, tmp_path: Path):
        text = "AUDIO_PATH,FRAMES_PATH,DETECTION_PATH\n\n" + ROW.format("erhu", "x_0")
        (tmp_path / "train_solo_clip.csv").write_text(text)
        (read,) = read_index(tmp_path)
        assert (read.instrument, read.clip, read.video, read.split) == ("erhu", "x_0", "x", "train")
        assert read.audio == tmp_path / "solo_audio_resample/erhu/x_0.wav"

    def test_maps_the_beginning_of_paths(self, tmp_path: Path):
        text = "/lab/solo/a/erhu/x_0.wav,/lab/solo/f/erhu/x_0,/lab2/solo/d/erhu/x_0.npy\n"
        (tmp_path / "train_solo_clip.csv").write_text(text)
        (read,) = read_index(tmp_path, path_map=parse_path_map(["/lab/=/data", "/lab/solo=/never"]))
        assert read.audio == Path("/data/solo/a/erhu/x_0.wav")
        assert read.detections == Path("/lab2/solo/d/erhu/x_0.npy")  # '/lab' is no folder of this path

    def test_maps_to_paths_that_count_from_the_working_folder(self, tmp_path: Path, monkeypatch):
        (tmp_path / "csv").mkdir()
        (tmp_path / "csv" / "train_solo_clip.csv").write_text(
            "/lab/a/erhu/x_0.wav,/lab/f/erhu/x_0,/lab/d/erhu/x_0.npy\n"
        )
        monkeypatch.chdir(tmp_path)
        for new in ("data", "csv/../data/"):
            (read,) = read_index("csv", "data", parse_path_map([f"/lab={new}"]))
            assert read.audio == tmp_path / "data/a/erhu/x_0.wav"

    @pytest.mark.parametrize("text", ["/lab", "=/data", "/lab="])
    def test_refuses_a_map_that_is_none(self, text: str):
        with pytest.raises(ValueError, match="OLD=NEW"):
            parse_path_map([text])

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("a/b.wav,c/d", r"train_solo_clip.csv, line 2: a row is AUDIO_PATH"),
            ("a/b.wav,,e/f.npy", "a row is AUDIO_PATH"),
            ("a/b.wav,../c/d,e/f.npy", r"line 2: '../c/d' climbs out"),
            ("/a/../b.wav,c/d,e/f.npy", "climbs out"),
            (ROW.format("erhu", "ok_0"), "two clips are named 'ok_0'"),
            (ROW.format("erhu", "n" * 81), "longer than 80 bytes"),
        ],
    )
    def test_errors_name_the_line(self, tmp_path: Path, row: str, message: str):
        (tmp_path / "train_solo_clip.csv").write_text(ROW.format("violin", "ok_0") + row)
        with pytest.raises(ValueError, match=message):
            read_index(tmp_path)

    def test_a_clip_in_two_splits_is_an_error(self, tmp_path: Path):
        for split in ("train", "test"):
            (tmp_path / f"{split}_solo_clip.csv").write_text(ROW.format("violin", "v_0"))
        with pytest.raises(ValueError, match=r"\(train\) and .*\(test\)"):
            read_index(tmp_path)

    def test_names_that_differ_in_dots_only_are_one_key(self):
        with pytest.raises(ValueError, match="two clips are named 'a-b_0'"):
            check_keys([entry("erhu", "a.b_0"), entry("erhu", "a-b_0")])

    def test_no_csv_at_all(self, tmp_path: Path):
        with pytest.raises(ValueError, match="ialcms data index"):
            read_index(tmp_path)

    @pytest.mark.parametrize(
        "head", ["audio_path,frames_path,detection_path\n", "AUDIO, FRAMES, BOXES\n", "sound,pictures,npy\n"]
    )
    def test_a_header_is_passed_over(self, tmp_path: Path, head: str):
        (tmp_path / "train_solo_clip.csv").write_text(head + ROW.format("erhu", "a_0"))
        assert [entry.clip for entry in read_index(tmp_path)] == ["a_0"]

    def test_spaces_around_columns_are_dropped_and_those_of_names_stay(self, tmp_path: Path):
        (tmp_path / "train_solo_clip.csv").write_text(
            "s/erhu/a_0.wav , f/erhu/a_0 , d/erhu/a_0.npy \ns/erhu/b_0 .wav,f/erhu/b_0 ,d/erhu/b_0 .npy\n"
        )
        assert [entry.frames.name for entry in read_index(tmp_path)] == ["a_0", "b_0 "]


class TestScan:
    def test_finds_complete_clips_and_counts_the_others(self, tree):
        tree.add("a_0")
        tree.add("b_0").audio.unlink()
        tree.add("c_0").detections.unlink()
        (tree.root / "solo_extract" / "tuba" / "t_0").mkdir(parents=True)
        found = scan_tree(tree.root)
        assert [(e.instrument, e.clip) for e in found.entries] == [("clarinet", "a_0")]
        assert found.missing == {
            "sound": ["clarinet/b_0", "tuba/t_0"],
            "detections": ["clarinet/c_0", "tuba/t_0"],
        }
        assert found.empty == ["tuba"]

    def test_suffixes_in_capitals(self, tree):
        entry = tree.add("IMG_1_0", suffix=".JPG")
        entry.audio.rename(entry.audio.with_suffix(".WAV"))
        entry.detections.rename(entry.detections.with_suffix(".NPY"))
        (found,) = scan_tree(tree.root).entries
        assert (found.clip, found.audio.name, found.detections.name) == ("IMG_1_0", "IMG_1_0.WAV", "IMG_1_0.NPY")
        assert len(list_frames(found.frames)) == 4

    def test_says_which_folder_is_missing(self, tmp_path: Path):
        (tmp_path / "solo_audio_resample").mkdir()
        with pytest.raises(ValueError, match=r"solo_extract does not exist.*--frames"):
            scan_tree(tmp_path)

    def test_says_when_nothing_is_complete(self, tree):
        tree.add("a_0").audio.unlink()
        with pytest.raises(ValueError, match="1 without sound"):
            scan_tree(tree.root)

    def test_listed_clips_without_files_are_set_apart(self, tree):
        tree.add("a_0")
        tree.add("b_0").audio.unlink()
        complete, missing = drop_missing(tree.entries)
        assert ([e.clip for e in complete], [e.clip for e in missing]) == (["a_0"], ["b_0"])


def test_what_a_seed_means_is_fixed_for_all_time():
    """It must not change with NumPy: a tree indexed anew would have videos of the training in its test."""
    entries = clips_of_videos("cello", [2] * 10)
    by_video, by_clip = split_by_video(entries, 0.3, seed=4), split_by_clip(entries, 0.2, seed=4)
    assert {e.video for e in by_video if e.split == "val"} == {"cello1", "cello3", "cello6"}
    assert {e.clip for e in by_clip if e.split == "val"} == {"cello1_0", "cello6_1", "cello8_0", "cello9_1"}


class TestSplitByVideo:
    def test_no_video_is_in_two_splits(self):
        entries = clips_of_videos("cello", [3, 9, 5, 2, 8, 4, 1, 7]) + clips_of_videos("erhu", [6] * 10)
        split = split_by_video(entries, 0.2, 0.1)
        assert [e.audio for e in split] == [e.audio for e in entries]
        for pair in (("train", "val"), ("train", "test"), ("val", "test")):
            assert shared_videos(split, *pair) == set()

    def test_every_instrument_has_its_share(self):
        sizes = [11, 13, 9, 12, 10, 14, 8, 12, 11, 10] * 4
        entries = clips_of_videos("cello", sizes) + clips_of_videos("erhu", sizes[:20])
        split = split_by_video(entries, 0.2)
        for instrument, total in (("cello", 440), ("erhu", 220)):
            counts = Counter(e.split for e in split if e.instrument == instrument)
            assert counts["val"] == pytest.approx(0.2 * total, abs=14)
            assert counts["train"] + counts["val"] == total

    def test_few_videos(self):
        def splits(sizes: list[int]) -> dict[str, str]:
            return {e.video: e.split for e in split_by_video(clips_of_videos("v", sizes), 0.2, 0.1)}

        assert splits([5]) == {"v0": "train"}
        assert sorted(splits([5, 50]).items()) == [("v0", "test"), ("v1", "train")]
        assert Counter(splits([5, 5, 50]).values()) == {"train": 1, "val": 1, "test": 1}

    def test_the_listed_videos_are_the_test(self):
        entries = clips_of_videos("cello", [3] * 6)
        split = split_by_video(entries, 0.2, test_videos={"cello4", "unknown"})
        assert {e.video for e in split if e.split == "test"} == {"cello4"}

    def test_a_video_of_two_instruments_stays_together(self):
        entries = clips_of_videos("cello", [3] * 6) + [entry("erhu", f"cello{v}_{9}") for v in range(6)]
        split = split_by_video(entries, 0.4)
        assert shared_videos(split, "train", "val") == set()
        assert {e.instrument for e in split if e.split == "val"} == {"cello", "erhu"}

    def test_the_seed_decides(self):
        entries = clips_of_videos("cello", [3] * 30)
        assert split_by_video(entries, seed=1) == split_by_video(entries, seed=1)
        assert split_by_video(entries, seed=1) != split_by_video(entries, seed=2)


class TestSplitByClip:
    def test_gives_the_published_numbers(self):
        entries = [entry("cello", f"v{i % 440}_{i}") for i in range(4936)]
        test = [entry("cello", f"test{i % 11}_{i}") for i in range(152)]
        split = split_by_clip(entries + test, test_videos={f"test{i}" for i in range(11)})
        assert Counter(e.split for e in split) == {"train": 3948, "val": 988, "test": 152}
        assert {e.video[:4] for e in split if e.split == "test"} == {"test"}
        assert shared_videos(split, "train", "val")  # which is why it is not the default

    def test_fractions(self):
        split = split_by_clip(clips_of_videos("cello", [10] * 10), 0.1, 0.3)
        assert Counter(e.split for e in split) == {"train": 63, "val": 7, "test": 30}

    @pytest.mark.parametrize(("val", "test"), [(-0.1, 0), (0.5, 0.5), (float("nan"), 0)])
    def test_refuses_impossible_fractions(self, val: float, test: float):
        for split in (split_by_clip, split_by_video):
            with pytest.raises(ValueError, match="--val-fraction"):
                split([], val, test)
