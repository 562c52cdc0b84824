"""What is read is never overwritten, by whatever path or link it is named; nor is what only lies beside the results."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image

from ialcms.cli import main
from ialcms.config import to_dict
from ialcms.evaluation.journal import end_journal, start_journal
from ialcms.files import write_whole
from ialcms.inference import separate_file
from ialcms.overwriting import lies_in, refuse_overwriting
from ialcms.runs.run_folder import RunFolder
from tests.shards.conftest import TreeMaker
from tests.support.evaluation import RATE, evaluation_config, make_run, write_evaluation_shards

WAYS = ("itself", "dots", "symbolic link", "hard link", "linked folder")


def by(way: str, path: Path, folder: Path) -> Path:
    """Another path to a file."""
    folder.mkdir(exist_ok=True)
    if way == "itself":
        return path
    if way == "dots":
        return path.parent / ".." / path.parent.name / path.name
    if way == "linked folder":
        os.symlink(path.parent.absolute(), folder / "linked")
        return folder / "linked" / path.name
    other = folder / f"other{path.suffix}"
    if way == "symbolic link":
        os.symlink(path.absolute(), other)
    else:
        os.link(path, other)
    return other


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("run")
    shards = write_evaluation_shards(folder / "shards")
    config = evaluation_config(shards.folder, eval={"draws": 1, "metrics": "fast"})
    return make_run(folder / "run", config, shards)


@pytest.fixture
def tree(tmp_path: Path) -> TreeMaker:
    tree = TreeMaker(tmp_path / "tree")
    tree.add("a_0")
    tree.write_index()
    return tree


def refused(words: list[object], kept: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a verb that must refuse in one line and leave a file as it is; returns the line."""
    before = kept.read_bytes()
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    assert kept.read_bytes() == before
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("ialcms: error: ")
    return line


@pytest.mark.parametrize("way", WAYS)
def test_one_file_by_several_paths(tmp_path: Path, way: str) -> None:
    path = tmp_path / "folder" / "a.wav"
    path.parent.mkdir()
    path.touch()
    with pytest.raises(ValueError, match=r"would be overwritten, and it is read.*; do so"):
        refuse_overwriting([by(way, path, tmp_path / "ways")], [path], "do so")
    refuse_overwriting([tmp_path / "b.wav", tmp_path / "a.wav"], [path, tmp_path / "none"], "do so")


def test_folders_in_folders(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    os.symlink(tmp_path / "a" / "b", tmp_path / "link")
    assert lies_in(tmp_path / "link" / "new", tmp_path / "a")
    assert lies_in(tmp_path / "a", tmp_path / "a" / "b" / "..")
    assert not lies_in(tmp_path / "ab", tmp_path / "a")


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "song").touch()
    with pytest.raises(ValueError, match=r"cannot write .*music"):
        write_whole(tmp_path / "music", "text")
    assert (tmp_path / "music" / "song").exists()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["remainder.wav", "1-viola.wav", "1-viola.mp4"])
def test_separate(run: RunFolder, tmp_path: Path, way: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A stem is separated again, a recording or a picture of the user's is called like one."""
    out, source, picture = tmp_path / "stems", tmp_path / "a.wav", tmp_path / "viola.png"
    out.mkdir()
    soundfile.write(source, 0.1 * np.random.default_rng(0).standard_normal(900), RATE)
    Image.new("RGB", (20, 20)).save(picture)
    if name == "1-viola.mp4":
        os.rename(picture, out / name)
        os.symlink(out / name, picture)
    else:
        os.rename(source, out / name)
        source = by(way, out / name, tmp_path / "ways")
    words = ["separate", source, "--checkpoint", run.path, "--pictures", picture, "--out", out]
    line = refused(words, out / name, capsys)
    assert f"{name} would be overwritten, and it is read" in line
    assert [path.name for path in out.iterdir()] == [name]


@pytest.mark.parametrize("name", ["remainder.wav", "1-viola.wav", "1-viola.mp4", "separation.json"])
def test_separate_beside_files_of_the_users(
    run: RunFolder, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "stems"
    out.mkdir()
    (out / name).write_text("mine")
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(900), RATE)
    Image.new("RGB", (20, 20)).save(tmp_path / "viola.png")
    words = [
        "separate",
        tmp_path / "a.wav",
        "--checkpoint",
        run.path,
        "--pictures",
        tmp_path / "viola.png",
        "--out",
        out,
    ]
    line = refused(words, out / name, capsys)
    assert f"{name} is there already, and no earlier separation wrote it; give another folder" in line
    assert [path.name for path in out.iterdir()] == [name]


def test_a_separation_that_was_killed_is_made_again(run: RunFolder, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(900), RATE)
    for name in ("viola", "horn"):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{name}.png")

    def separate(*names: str) -> list[str]:
        pictures = [tmp_path / f"{name}.png" for name in names]
        separate_file(tmp_path / "a.wav", run.path, pictures=pictures, out=tmp_path / "out", videos=False)
        return sorted(path.name for path in (tmp_path / "out").iterdir())

    with pytest.MonkeyPatch.context() as patch:

        def kill(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(sys.modules["ialcms.inference.separate_file"], "_write_record", kill)
        with pytest.raises(KeyboardInterrupt):
            separate("viola", "horn")
    assert separate("horn") == ["1-horn.wav", "remainder.wav", "separation.json"]
    assert separate("horn", "viola") == ["1-horn.wav", "2-viola.wav", "remainder.wav", "separation.json"]


@pytest.mark.parametrize("name", ["mixes.csv", "summary.json", "instruments.csv", "report.html"])
def test_evaluate_beside_files_of_the_users(
    run: RunFolder, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("{}")
    line = refused(["evaluate", run.path, "--out", tmp_path], tmp_path / name, capsys)
    assert f"{name} is there already, and no evaluation wrote it; give another folder with --out" in line


def test_a_stem_is_taken_apart_into_another_folder(run: RunFolder, tmp_path: Path) -> None:
    """Also where an earlier separation is to be removed: its stem is the source."""
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(900), RATE)
    for name in ("viola", "horn"):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{name}.png")
    pictures = [tmp_path / "viola.png", tmp_path / "horn.png"]
    first = separate_file(tmp_path / "a.wav", run.path, pictures=pictures, out=tmp_path / "out", videos=False)
    source = by("symbolic link", first.stems[1], tmp_path / "ways")
    separate_file(source, run.path, pictures=pictures[:1], out=tmp_path / "next", videos=False)
    again = separate_file(source, run.path, pictures=pictures[1:], out=tmp_path / "out", videos=False)
    assert first.stems[1].is_file()
    assert again.stems[0].name == "1-horn.wav"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("verb", ["export", "torch-export", "checkpoint export"])
def test_exports(run: RunFolder, tmp_path: Path, verb: str, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "run"
    shutil.copytree(run.path, mine)
    words = ["checkpoint", "export"] if verb == "checkpoint export" else ["export"]
    more = ["--torch-export"] if verb == "torch-export" else []
    files = [mine / "config.yaml", next(mine.rglob("state.pt")), next(mine.rglob("meta.json"))]
    for number, file in enumerate(files):
        out = by(way, file, tmp_path / f"ways{number}")
        line = refused([*words, mine, "--out", out, *more], file, capsys)
        assert "would be overwritten" in line or ".pt2" in line
    state = files[1]
    line = refused([*words, state.parent, "--out", by(way, state, tmp_path / "more"), *more], state, capsys)
    assert "would be overwritten" in line or ".pt2" in line
    (tmp_path / "folder").mkdir()
    assert main([*words, str(mine), "--out", str(tmp_path / "folder"), *more]) == 2


@pytest.mark.parametrize("way", WAYS)
def test_export_of_an_export(run: RunFolder, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    exported = tmp_path / "a" / "duet.pt"
    assert main(["export", str(run.path), "--out", str(exported)]) == 0
    assert main(["export", str(run.path), "--out", str(exported)]) == 0  # a result may be made again
    line = refused(["export", exported, "--out", by(way, exported, tmp_path / "ways")], exported, capsys)
    assert "would be overwritten" in line


def test_evaluate(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results"
    (out / "scores").mkdir(parents=True)
    (out / "scores" / "sonata.pdf").touch()
    (out / "scores" / "own.jsonl").write_text('{"mine": 1}\n')
    (out / "mixes.csv").write_text("mix,clip\n0,bell_5\n0,harp_5\n")
    for way in WAYS:
        given = by(way, out / "mixes.csv", tmp_path / way.replace(" ", "-"))
        line = refused(["evaluate", run.path, "--mixes", given, "--out", out], out / "mixes.csv", capsys)
        assert "mixes.csv would be overwritten, and it is read" in line
    shutil.move(out / "mixes.csv", tmp_path / "own.csv")
    assert main(["evaluate", str(run.path), "--mixes", str(tmp_path / "own.csv"), "--out", str(out)]) == 0
    assert sorted(path.name for path in (out / "scores").iterdir()) == ["own.jsonl", "sonata.pdf"]


def test_journals_leave_other_files(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_bytes(b"\xff no JSON\n")
    start_journal(tmp_path, "key", {})
    end_journal(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["own.jsonl"]


def test_train_and_pretrain(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration that lies in the folder of the run to be, by the name of the resolved one."""
    config = tmp_path / "mine" / "config.yaml"
    config.parent.mkdir()
    config.write_text("# by hand\n" + yaml.safe_dump(to_dict(run.read_config())))
    line = refused(["train", config, "--folder", config.parent / ".." / "mine"], config, capsys)
    assert "give another --folder, or rename your configuration" in line
    assert [path.name for path in config.parent.iterdir()] == ["config.yaml"]
    for way in WAYS:
        line = refused(["pretrain", config, "--out", by(way, config, tmp_path / way)], config, capsys)
        assert "name another file" in line
    refused(["pretrain", config, "--out", config.parent], config, capsys)


@pytest.mark.parametrize("way", ["itself", "dots", "linked folder"])
def test_index_from_its_own_folder(
    tree: TreeMaker, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tree.root / "train_solo_clip.csv"
    folder = by(way, listed, tmp_path / "ways").parent
    line = refused(["data", "index", tree.root, "--from-csv", folder, "--dry-run"], listed, capsys)
    assert "train_solo_clip.csv would be overwritten" in line
    assert "give another folder with --out" in line


def test_clean_through_a_link(tree: TreeMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder of one instrument is a link to the detections that are read."""
    (tmp_path / "out").mkdir()
    os.symlink(tree.root / "solo_detect" / "clarinet", tmp_path / "out" / "clarinet")
    kept = tree.entries[0].detections
    words = ["data", "clean", tree.root, "--dataset", "demo", "--out", tmp_path / "out", "--jobs", "1"]
    assert "which is read; give another folder" in refused(words, kept, capsys)


def test_clips_out_of_a_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = tmp_path / "tree" / "solo_extract" / "videos" / "violin" / "a.mp4"
    video.parent.mkdir(parents=True)
    video.touch()
    words = ["data", "clips", tmp_path / "tree" / "solo_extract" / "videos", "--out", tmp_path / "tree"]
    assert "which holds clips; give another folder for --out" in refused(words, video, capsys)
    listed = tmp_path / "tree" / "test_videos.txt"
    listed.write_text("a,1,x,test\n")
    words = ["data", "clips", tmp_path, "--list", listed, "--out", tmp_path / "tree"]
    assert "test_videos.txt would be overwritten" in refused(words, listed, capsys)


@pytest.mark.parametrize("option", ["--train", "--init", "--class-names"])
@pytest.mark.parametrize("way", WAYS)
def test_the_detectors_weights(tmp_path: Path, option: str, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    given = tmp_path / "a" / "given.csv"
    given.write_text("ImageID,LabelName,XMin,XMax,YMin,YMax\n")
    words = ["data", "detect", "--train", given, "--images", tmp_path, "--weights", by(way, given, tmp_path / "ways")]
    line = refused([*words, *([option, given] if option != "--train" else [])], given, capsys)
    assert "name another file for --weights" in line
