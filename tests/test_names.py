"""Every name that a file system allows, through the verbs; names that cannot be are refused before the work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from ialcms.cli import main
from ialcms.data.clip_reader import read_clip
from ialcms.data.manifest import read_manifest
from ialcms.inference import Box, separate_file
from ialcms.inference.export import export_program, export_weights
from ialcms.inference.objects import object_of_picture
from ialcms.names import cut_name, for_matplotlib, num_bytes, printable
from ialcms.runs.run_folder import RunFolder
from shards.entries import Entry, read_index, write_index
from tests.shards.conftest import TreeMaker, _make_video
from tests.support import evaluation as support

NO_UTF8 = os.fsdecode(b"caf\xe9")
ODD = [
    "Bach: Duo", "12:30", "http:a", "pipe:0", "50%", "a%d", "a%03d", "-dash", " lead", "trail ", 'q"uote', "quo'te",
    "new\nline", "ret\rurn", "tab\tx", NO_UTF8, "ü", "u\u2028x", "com,ma", "*star?", "[br]", "dot.dot", "#hash",
    "back\\slash", "$HOME$_{", "~", "\x1b[31mred", "nel\x85x",
]  # fmt: skip
FOLDER = f"odd: 50% %d {NO_UTF8}"


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_printable_names_are_on_one_line() -> None:
    assert printable(f"a\nb\t{NO_UTF8}ü\u2028 c") == "a\\nb\\tcaf\\udce9ü\\u2028 c"
    assert for_matplotlib("$x$") == r"\$x\$"
    assert cut_name("ü" * 9, 5) == "üü"
    assert num_bytes(NO_UTF8) == 4


def test_names_go_from_the_tree_into_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree, out = TreeMaker(tmp_path / FOLDER), tmp_path / f"{FOLDER} shards"
    for number, name in enumerate(ODD):
        boxes = [[1, 1, 0.95, 4, 6, 40, 30]]
        tree.add(f"{name}_0", ("plain", NO_UTF8, "dr:um\n$5$")[number % 3], boxes=boxes)
    options = ["--jobs", "1", "--clean", "none"]
    assert run("data", "index", tree.root, "--by", "clip", "--jobs", "1") == 0
    listed = read_index(tree.root)
    assert sorted(entry.audio for entry in listed) == sorted(entry.audio for entry in tree.entries)
    assert all(entry.frames.is_dir() and entry.detections.is_file() for entry in listed)
    assert run("data", "pack", tree.root, "--out", out, *options) == 0
    assert run("data", "verify", out, "--jobs", "1") == 0
    assert run("data", "stats", out) == 0
    manifest = read_manifest(out)
    assert {clip.key for clip in manifest.clips} == {f"{name}_0".replace(".", "-") for name in ODD}
    for index in range(len(manifest.clips)):
        assert read_clip(manifest, index).picture(0, 8).shape == (3, 8, 8)
    printed = capsys.readouterr()
    assert "caf\\udce9" in printed.out
    assert "Traceback" not in printed.err


def test_an_index_of_another_encoding_is_told_from_odd_names(tmp_path: Path) -> None:
    """The bytes of names that are no UTF-8 are in the index as they are on disk; other bytes are a wrong encoding."""
    audio, frames = tmp_path / "a" / "tuba" / f"{NO_UTF8}_0.wav", tmp_path / "f" / "tuba" / f"{NO_UTF8}_0"
    entry = Entry("train", audio, frames, tmp_path / "d" / "tuba" / f"{NO_UTF8}_0.npy")
    write_index([entry], tmp_path)
    assert b"caf\xe9_0.wav" in (tmp_path / "train_solo_clip.csv").read_bytes()
    with pytest.raises(ValueError, match="no text in UTF-8, and files of such names are not there"):
        read_index(tmp_path)
    entry.audio.parent.mkdir(parents=True)
    entry.audio.touch()
    assert read_index(tmp_path) == [entry]


def test_videos_become_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    video = _make_video(tmp_path / "v.mp4", seconds=2, video_codec="libx264")
    names = [name for name in ODD if name not in ("a%03d", "~", "12:30", "quo'te", "tab\tx", "[br]")]
    for number, name in enumerate(names):
        path = Path("videos") / ("violin", FOLDER)[number % 2] / f"{name}{('.mp4', '.MP4')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(video, path)
    options = ["--jobs", "1", "--seconds", "1", "--min-seconds", "1", "--fps", "2"]
    assert run("data", "clips", "videos", "--out", FOLDER, *options) == 0
    assert len(list(Path(FOLDER).glob("solo_audio_resample/*/*.wav"))) == 2 * len(names)
    report = json.loads((Path(FOLDER) / "clips.json").read_text())
    assert [item["video"] for item in report["videos"] if item["problem"]] == []


@pytest.mark.parametrize(
    ("other", "message"),
    [("x" * 77, "a clip's name can have 76 bytes only; rename"), ("a-b", "clips of two videos would have one name")],
)
def test_names_that_clips_cannot_have_are_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: str, message: str
) -> None:
    for name in ("a.b", other):
        path = tmp_path / "videos" / "violin" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert run("data", "clips", tmp_path / "videos", "--out", tmp_path / "tree", "--dry-run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "tree").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose folder, shards and instruments have odd names."""
    folder = tmp_path_factory.mktemp("odd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(support, "INSTRUMENTS", ("bell", "dr:um 5%", NO_UTF8, "ha\nrp"))
        shards = support.write_evaluation_shards(folder / FOLDER)
    config = support.evaluation_config(shards.folder, eval={"draws": 1, "metrics": "fast"})
    return support.make_run(folder / f"run {FOLDER}", config, shards)


def test_an_evaluation_and_its_list(trained: RunFolder, tmp_path: Path) -> None:
    assert run("evaluate", trained.path) == 0
    results = trained.evaluation_of(trained.read_config())
    assert f"{NO_UTF8}_5".encode(errors="surrogateescape") in (results / "mixes.csv").read_bytes()
    assert "caf\\udce9" in (results / "report.html").read_text(encoding="utf-8")
    assert run("evaluate", trained.path, "--report") == 0
    assert run("evaluate", trained.path, "--mixes", results / "mixes.csv", "--out", tmp_path / FOLDER) == 0
    assert run("evaluate", "--compare", trained.path, trained.path) == 0


def test_exported_separators(trained: RunFolder, tmp_path: Path) -> None:
    for name in (f"{FOLDER}.pt", "-x.pt", "a\nb.pt"):
        assert export_weights(trained.path, tmp_path / name).startswith("separator of step 7")
    assert export_program(trained.path, tmp_path / f"{FOLDER}.pt2").startswith("separator of step 7")


@pytest.mark.parametrize("name", [*ODD, "y" * 251])
def test_separation(trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    _make_video(tmp_path / "v.mp4", seconds=1, video_codec="libx264")
    os.rename("v.mp4", f"{name}.mp4")
    box = Box(2, 2, 30, 30, name=f"a/b: %d{name}" + "ü" * 200)
    found = separate_file(f"{name}.mp4", trained.path, [box], out=f"o: {name[:99]}", device="cpu")
    assert found.page is not None
    files = [*found.stems, found.remainder, *found.videos, found.page]
    assert all(path.is_file() and path.parent == Path(f"o: {name[:99]}") for path in files)
    assert len(os.listdir(found.remainder.parent)) == len(files) + 1  # separation.json


@pytest.mark.parametrize("name", ["p: %d.png", "x%d.jpg", f"{NO_UTF8}.webp", "IMG_1.JPG", "a\nb.PNG", "-a.png"])
def test_pictures(trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):  # what FFmpeg would take for the pictures of x%d.jpg
        Image.new("RGB", (20, 20), (0, 0, 250)).save(f"x{number}.jpg")
    kind = {"webp": "WEBP", ".png": "PNG", ".jpg": "JPEG"}[name[-4:].lower()]
    with open(name, "wb") as file:
        Image.new("RGB", (20, 20), (250, 0, 0)).save(file, kind)
    _make_video(tmp_path / "v.mp4", seconds=1, video_codec="libx264")
    found = separate_file("v.mp4", trained.path, pictures=[name], out="out", device="cpu")
    assert found.stems[0].is_file()
    assert object_of_picture(Path(name), trained.read_config().data).pictures[0, 0].min() > 200


def test_names_that_are_too_long_are_refused_in_one_line(
    trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    long = "y" * 300
    _make_video(tmp_path / "v.mp4", seconds=1, video_codec="libx264")
    Image.new("RGB", (20, 20)).save("a.png")
    checkpoint = ["--checkpoint", trained.path]
    for words in (
        ["separate", f"{long}.mp4", *checkpoint, "--pictures", "a.png"],
        ["separate", "v.mp4", "--checkpoint", long, "--pictures", "a.png"],
        ["separate", "v.mp4", *checkpoint, "--pictures", long],
        ["separate", "v.mp4", *checkpoint, "--pictures", "a.png", "--out", long],
        ["export", trained.path, "--out", long],
        ["data", "pack", long, "--out", "x"],
        ["data", "verify", long],
        ["info", long],
    ):
        assert run(*words) == 2, words
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("ialcms: error: "), words
        assert long in error
