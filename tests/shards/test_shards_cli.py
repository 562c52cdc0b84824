from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest

from ialcms.data.manifest import read_manifest
from shards.clean import read_detections
from shards.cli import add_parsers
from tests.shards.conftest import INSTRUMENTS


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_parsers(parser.add_subparsers(required=True))
    args = parser.parse_args([str(argument) for argument in arguments])
    return args.func(args)


@pytest.fixture
def prepared(full_tree) -> Path:
    """A tree without index files."""
    for path in full_tree.root.glob("*.csv"):
        path.unlink()
    return full_tree.root


def test_from_a_tree_to_verified_shards(prepared: Path, tmp_path: Path, capsys):
    assert run("index", prepared, "--dataset", "demo", "--test-fraction", "0.25", "--jobs", "1") == 0
    assert "train: 12 clips of 6 videos (acoustic_guitar 4, clarinet 4, saxophone 4)" in capsys.readouterr().out
    out = tmp_path / "out"
    pack = ("pack", prepared, "--out", out, "--dataset", "demo", "--shard-mb", "0.05", "--jobs", "2")
    assert run(*pack) == 0
    assert "24 clips in 7 shards" in capsys.readouterr().out
    assert run(*pack) == 0
    assert "complete already" in capsys.readouterr().out
    assert run("verify", out, "--jobs", "1") == 0
    assert "0 bad clips, 0 bad shards" in capsys.readouterr().out


def test_cleaned_detections_take_the_place_of_the_rule(prepared: Path, tmp_path: Path):
    assert run("clean", prepared, "--dataset", "demo", "--jobs", "1") == 0
    cleaned = ("--dataset", "demo", "--test-fraction", "0.25", "--detections", "solo_detect_music")
    assert run("index", prepared, *cleaned) == 0
    assert run("pack", prepared, "--out", tmp_path / "two", "--clean", "none", "--jobs", "1") == 0
    assert run("index", prepared, "--dataset", "demo", "--test-fraction", "0.25") == 0
    assert run("pack", prepared, "--out", tmp_path / "one", "--dataset", "demo", "--jobs", "1") == 0
    one, two = (read_manifest(tmp_path / name) for name in ("one", "two"))
    assert one.clips == two.clips
    assert one.shards == two.shards


def test_clean_reports_what_fell(prepared: Path, capsys):
    path = next(prepared.glob("solo_detect/*/clarinet-001_0.npy"))
    np.save(path, np.concatenate([read_detections(path), np.float32([[1, 3, 0.95, 1, 1, 5, 5]])]))
    assert run("clean", prepared, "--dataset", "demo", "--jobs", "1", "--dry-run") == 0
    output = capsys.readouterr().out
    assert "clips: 24 of 24 kept" in output
    assert "       1  other class than the instrument's" in output
    assert not (prepared / "solo_detect_music").exists()


@pytest.mark.parametrize(
    "out", ["solo_detect", "x/../solo_detect", "link", "solo_detect/clean", ".", "solo_audio_resample", "link/clarinet"]
)
def test_clean_does_not_overwrite_its_input(prepared: Path, read_folder, out: str):
    (prepared / "link").symlink_to("solo_detect")
    before = read_folder(prepared)
    with pytest.raises(ValueError, match=r"--out .* is, holds or lies in .*, which is read; give another folder"):
        run("clean", prepared, "--dataset", "demo", "--out", prepared / out, "--jobs", "1")
    assert read_folder(prepared) == before


def test_a_dry_run_writes_nothing(prepared: Path, tmp_path: Path, read_folder, capsys):
    before = read_folder(prepared)
    run("index", prepared, "--dataset", "demo", "--dry-run")
    run("clean", prepared, "--dataset", "demo", "--dry-run", "--jobs", "1")
    assert read_folder(prepared) == before
    run("index", prepared, "--dataset", "demo")
    (next(prepared.glob("solo_audio_resample/*/clarinet-000_0.wav"))).unlink()
    capsys.readouterr()
    assert run("pack", prepared, "--out", tmp_path / "out", "--dataset", "demo", "--dry-run") == 0
    captured = capsys.readouterr()
    assert "would pack into" in captured.out
    assert "listed clip without its files" in captured.err
    assert not (tmp_path / "out").exists()


def test_published_csv_files_are_taken_over(prepared: Path, tmp_path: Path, capsys):
    listed = tmp_path / "published"
    listed.mkdir()
    row = "/lab/{0}/solo_audio_resample/{1}.wav,/lab/{0}/solo_extract/{1},/lab/{0}/solo_detect/{1}.npy\n"
    names = ["clarinet/clarinet-000_0", "clarinet/clarinet-003_1", "clarinet/dead_0"]
    (listed / "train_solo_clip.csv").write_text(row.format("x", names[0]) + row.format("x", names[2]))
    (listed / "test_solo_clip.csv").write_text(row.format("x", names[1]))
    with pytest.raises(ValueError, match=r"none of the clips .* --map OLD=NEW"):
        run("index", prepared, "--from-csv", listed)
    assert run("index", prepared, "--from-csv", listed, "--map", f"/lab/x={prepared}") == 0
    assert "listed clip without its files: " in capsys.readouterr().err
    line = "solo_audio_resample/{0}.wav,solo_extract/{0},solo_detect/{0}.npy\n"
    assert (prepared / "train_solo_clip.csv").read_text() == line.format(names[0])
    assert (prepared / "test_solo_clip.csv").read_text() == line.format(names[1])
    assert (prepared / "val_solo_clip.csv").read_text() == ""
    packed = ("--out", tmp_path / "out", "--dataset", "demo", "--jobs", "1", "--max-bad-fraction", "0.5")
    assert run("pack", listed, "--map", f"/lab/x={prepared}", *packed) == 0
    assert {clip.key for clip in read_manifest(tmp_path / "out").clips} == {"clarinet-000_0", "clarinet-003_1"}


def test_a_split_by_clip_says_that_it_leaks(prepared: Path, capsys):
    assert run("index", prepared, "--dataset", "demo", "--by", "clip", "--dry-run") == 0
    assert "that split leaks" in capsys.readouterr().err
    assert run("index", prepared, "--dataset", "demo", "--dry-run") == 0
    assert "leaks" not in capsys.readouterr().err


def test_the_listed_videos_become_the_test(prepared: Path, tmp_path: Path):
    (tmp_path / "videos.txt").write_text("# mine\nclarinet-002\n\nsaxophone-001\n")
    assert run("index", prepared, "--dataset", "demo", "--test-videos", tmp_path / "videos.txt") == 0
    rows = (prepared / "test_solo_clip.csv").read_text().splitlines()
    clips = [os.path.basename(row) for row in rows]
    assert clips == ["clarinet-002_0.npy", "clarinet-002_1.npy", "saxophone-001_0.npy", "saxophone-001_1.npy"]


def test_an_instrument_without_clips_is_named(prepared: Path, capsys):
    (prepared / "solo_extract" / "tuba").mkdir()
    assert run("index", prepared, "--dataset", "demo") == 0
    assert "instrument without a complete clip: tuba" in capsys.readouterr().err


def test_verify_fails_on_bad_shards_and_fixes_on_demand(prepared: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    run("index", prepared, "--dataset", "demo")
    run("pack", prepared, "--out", out, "--dataset", "demo", "--jobs", "1")
    clip = read_manifest(out).clips[3]
    path = read_manifest(out).shard_path(clip)
    content = bytearray(path.read_bytes())
    content[clip.offset + 700] ^= 255
    path.write_bytes(content)
    capsys.readouterr()
    assert run("verify", out, "--jobs", "1", "--dry-run") == 0
    assert run("verify", out, "--jobs", "1") == 1
    assert f"{path.name}: clip {clip.key}: checksum (crc32) is wrong" in capsys.readouterr().out
    assert run("verify", out, "--jobs", "1", "--fix") == 0
    assert run("verify", out, "--jobs", "1") == 0
    assert clip.key not in {c.key for c in read_manifest(out).clips}
    assert len(json.loads((out / "manifest.json.1").read_text())["clips"]) == 24


def test_from_videos_to_shards(make_video, tmp_path: Path, capsys):
    """Clips of listed videos, detections made by hand, an index that takes over the list's test videos, shards."""
    videos, tree, out = tmp_path / "videos", tmp_path / "tree", tmp_path / "out"
    make_video(videos / "aaa_000003.mp4", seconds=5, fps=10)
    make_video(videos / "bbb.mp4", seconds=9, fps=10)
    rows = ["aaa,3,playing trumpet,test", 'bbb,3,"playing violin, fiddle",train', "ccc,3,playing cello,train"]
    (tmp_path / "vgg.csv").write_text("\n".join([*rows, "ddd,3,people marching,train"]))
    clips = ("clips", videos, "--list", tmp_path / "vgg.csv", "--dataset", "vggsound", "--seconds", "5", "--jobs", "1")
    clips = (*clips, "--min-seconds", "4", "--out", tree)
    assert run(*clips, "--dry-run") == 0
    assert not tree.exists()
    capsys.readouterr()
    assert run(*clips) == 0
    captured = capsys.readouterr()
    assert "3 entries in" in captured.out
    assert "left out: 1 of other labels, 0 of several instruments" in captured.out
    assert "2 clips of 2 videos" in captured.out
    assert "missing video: cello/ccc" in captured.err
    for name, class_id in (("trumpet/aaa_3", 11), ("violin/bbb_3", 12)):
        path = tree / "solo_detect" / f"{name}.npy"
        path.parent.mkdir(parents=True)
        np.save(path, np.float32([[frame, class_id, 0.95, 4, 4, 40, 40] for frame in range(1, 41)]))
    assert run("index", tree, "--dataset", "vggsound", "--test-videos", tree / "test_videos.txt") == 0
    assert run("pack", tree, "--dataset", "vggsound", "--out", out, "--jobs", "1") == 0
    assert run("verify", out, "--jobs", "1") == 0
    manifest = read_manifest(out)
    found = [(c.key, c.video, c.split, c.num_samples, c.num_boxes) for c in manifest.clips]
    assert found == [("bbb_3", "bbb", "train", 55_125, 40), ("aaa_3", "aaa", "test", 55_125, 40)]


def test_a_detector_is_trained_and_used(full_tree, tmp_path: Path, capsys):
    root, weights = full_tree.root, tmp_path / "detector.pt"
    images = next(root.glob("solo_extract/*/clarinet-000_0"))
    rows = [f"{number:06d},clarinet,0.1,0.6,0.1,0.6" for number in range(1, 5)]
    (tmp_path / "boxes.csv").write_text("\n".join(["ImageID,LabelName,XMin,XMax,YMin,YMax", *rows]))
    train = ("detect", "--train", tmp_path / "boxes.csv", "--weights", weights, "--dataset", "demo", "--jobs", "1")
    with pytest.raises(ValueError, match="needs the folder of pictures"):
        run(*train)
    train = (*train, "--images", images, "--backbone", "small", "--steps", "2", "--devices", "cpu")
    assert run(*train, "--dry-run") == 0
    assert not weights.exists()
    assert run(*train) == 0
    assert "4 boxes in 4 pictures; left out: nothing" in capsys.readouterr().out
    for path in root.glob("solo_detect/*/*-00[1-3]_*.npy"):
        path.unlink()
    detect = ("detect", root, "--weights", weights, "--devices", "cpu", "--min-score", "0.01")
    with pytest.raises(ValueError, match=r"finds acoustic_guitar, .* data set's classes are Banjo"):
        run(*detect)
    detect = (*detect, "--dataset", "demo")
    assert run(*detect, "--dry-run") == 0
    assert "24 clips, 18 of them without detections, on cpu" in capsys.readouterr().out
    assert run(*detect) == 0
    assert "boxes in 18 clips" in capsys.readouterr().out
    assert len(list(root.glob("solo_detect/*/*.npy"))) == 24
    with pytest.raises(ValueError, match="name the tree"):
        run("detect", "--weights", weights, "--dataset", "demo")
    # Whoever cleans by another data set would take class ids for what they are not.
    for verb in (("clean", root), ("pack", root, "--out", tmp_path / "out")):
        run("index", root, "--dataset", "demo")
        with pytest.raises(ValueError, match=r"are of the classes acoustic_guitar, .* data set 'own' has clarinet, a"):
            run(*verb, "--dataset", own_dataset(tmp_path, "{1: clarinet, 2: acoustic_guitar, 3: saxophone}"))
    with pytest.raises(ValueError, match=r"names the classes 1, 3; a detector needs all of 1, 2"):
        run("detect", root, "--weights", weights, "--dataset", own_dataset(tmp_path, "{1: clarinet, 3: saxophone}"))


@pytest.mark.parametrize("verb", ["clips", "detect", "clean", "index", "pack", "verify", "stats"])
def test_help_has_examples_that_parse(verb: str, capsys):
    with pytest.raises(SystemExit):
        run(verb, "--help")
    text = capsys.readouterr().out
    examples = text.partition("example:\n")[2].splitlines()
    parser = argparse.ArgumentParser()
    add_parsers(parser.add_subparsers(required=True))
    assert examples
    for example in examples:
        words = example.split()
        assert words[:3] == ["ialcms", "data", verb]
        assert parser.parse_args(words[2:]).func is not None
    assert "--jobs" in text
    assert "--dry-run" in text


def own_dataset(folder: Path, classes: str) -> Path:
    instruments = "".join(f"  {name}: {{class: any}}\n" for name in INSTRUMENTS)
    (folder / "own.yaml").write_text(f"classes: {classes}\ninstruments:\n{instruments}")
    return folder / "own.yaml"


def test_text_of_another_encoding_names_the_file(tmp_path: Path):
    for name, arguments in (
        ("own.yaml", ("clean", "TREE", "--dataset", "FILE")),
        ("train_solo_clip.csv", ("pack", tmp_path, "--out", tmp_path / "out")),
        ("list.csv", ("clips", tmp_path, "--list", "FILE", "--out", tmp_path / "out", "--dataset", "vggsound")),
        ("list.json", ("clips", tmp_path, "--list", "FILE", "--out", tmp_path / "out")),
    ):
        path = tmp_path / name
        path.write_bytes("Flöte,1,x,y\n".encode("latin-1"))
        if "TREE" in arguments:
            for folder in ("solo_audio_resample", "solo_extract", "solo_detect"):
                (tmp_path / folder / "tuba" / "a_0").mkdir(parents=True)
            (tmp_path / "solo_audio_resample" / "tuba" / "a_0.wav").touch()
            (tmp_path / "solo_detect" / "tuba" / "a_0.npy").touch()
        words = [{"FILE": path, "TREE": tmp_path}.get(str(word), word) for word in arguments]
        with pytest.raises(ValueError, match=rf"{name} is no text in UTF-8"):
            run(*words)
    assert not (tmp_path / "out").exists()


def test_a_quote_left_open_names_the_file(tmp_path: Path):
    long = '"' + "x" * 200_000
    for name, arguments in (
        ("train_solo_clip.csv", ("pack", tmp_path, "--out", tmp_path / "out")),
        ("list.csv", ("clips", tmp_path, "--list", "FILE", "--out", tmp_path / "out", "--dataset", "vggsound")),
        ("segments.csv", ("clips", tmp_path, "--list", "FILE", "--out", tmp_path / "out", "--dataset", "audioset")),
        ("boxes.csv", ("detect", "--train", "FILE", "--images", tmp_path, "--weights", tmp_path / "w.pt")),
        (
            "names.csv",
            ("detect", "--train", "FILE", "--class-names", "FILE", "--images", tmp_path, "--weights", "w.pt"),
        ),
    ):
        path = tmp_path / name
        head = {"segments.csv": "# made\n", "boxes.csv": "ImageID,LabelName,XMin,XMax,YMin,YMax\n"}.get(name, "")
        path.write_text(head + long)
        with pytest.raises(ValueError, match=rf"{name} is no CSV file \(field larger .*\); look for a quote"):
            run(*(path if word == "FILE" else word for word in arguments))


def test_stats_prints_a_table_and_writes_it_with_a_picture(prepared: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    run("index", prepared, "--dataset", "demo", "--by", "clip", "--seed", "1")
    run("pack", prepared, "--out", out, "--dataset", "demo", "--jobs", "1", "--shard-mb", "0.05")
    capsys.readouterr()
    assert run("stats", out, "--dry-run") == 0
    assert not (out / "stats.csv").exists()
    printed = capsys.readouterr().out
    assert "would write" in printed
    assert run("stats", out, "--out", tmp_path / "elsewhere") == 0
    assert capsys.readouterr().out.splitlines()[:5] == printed.splitlines()[:5]
    assert [line.split()[0] for line in printed.splitlines()[1:5]] == [*sorted(INSTRUMENTS), "all"]
    assert "that split leaks" in printed
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["stats.csv", "stats.png"]
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        run("stats", prepared)


def test_jobs_must_be_positive(capsys):
    with pytest.raises(SystemExit):
        run("verify", "x", "--jobs", "0")
    assert "'0' is not a whole number of at least 1" in capsys.readouterr().err
