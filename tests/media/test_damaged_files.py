"""Sixty damaged files of ten kinds through the two commands that read media, with a seed.

Exit code 0 and the fault is named, or 2 and one line: no traceback, nothing that hangs, no loss without a word.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from ialcms.cli import main
from ialcms.inference.export import export_weights
from tests.support.evaluation import make_small_run
from tests.support.media import Recording, write_media

SECONDS = 3
SOUND_ONLY = {"video_codec": None}
KINDS = {
    "a.mp4": ({}, None),
    "b.mkv": ({"sound_codec": "flac"}, None),
    "c.webm": ({"video_codec": "libvpx", "sound_codec": "libopus"}, None),
    "d.mov": ({"video_codec": "mpeg4", "sound_codec": "pcm_s16le"}, None),
    "e.avi": ({"video_codec": "mpeg4", "sound_codec": "libmp3lame"}, None),
    "f.flv": ({}, None),
    "g.mp4": ({"layout": "mono"}, "mpegts"),
    "h.mp3": ({"sound_codec": "libmp3lame", **SOUND_ONLY}, None),
    "i.wav": ({"sound_codec": "pcm_s16le", **SOUND_ONLY}, None),
    "j.ogg": ({"sound_codec": "libopus", **SOUND_ONLY}, None),
}
ENDLESS = {"g.mp4"}  # nothing in a transport stream says how long it should be
HIDDEN = {"h3.mp3"}  # the damaged length of the tag before the sound covers two thirds of it, and nothing shows it
WAYS = ("bits", "cut", "gap", "head", "bits", "cut")


def damaged(content: bytes, way: str, rng: random.Random) -> bytes:
    changed = bytearray(content)
    if way == "cut":
        return content[: rng.randrange(len(content))]
    if way == "gap":
        begin = rng.randrange(len(content))
        del changed[begin : begin + rng.randrange(1, 3_000)]
    else:
        reach = 2_000 if way == "head" else len(content)
        for _ in range(rng.randint(1, 30)):
            changed[rng.randrange(min(reach, len(content)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.fixture(scope="module")
def separator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    run = make_small_run(folder)
    export_weights(run.path, folder / "separator.pt")
    Image.new("RGB", (30, 30), (90, 120, 30)).save(folder / "bell.png")
    return folder / "separator.pt"


def files(name: str, folder: Path) -> list[Path]:
    """A whole file and its damaged ones."""
    options, container = KINDS[name]
    whole = write_media(folder / name, Recording(SECONDS, **options), container)
    paths = [whole]
    for number, way in enumerate(WAYS):
        rng = random.Random(f"{name} {number}")
        paths.append(whole.with_stem(f"{whole.stem}{number}"))
        paths[-1].write_bytes(damaged(whole.read_bytes(), way, rng))
    return paths


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a refusal."""
    lines = capsys.readouterr().err.splitlines()
    assert not [line for line in lines if "Traceback" in line]
    errors = [line for line in lines if line.startswith("ialcms: error: ")]
    assert len(errors) == 1, lines
    return errors[0]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", KINDS)
def test_separate(
    name: str,
    separator: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    in_video = "video_codec" not in KINDS[name][0] or KINDS[name][0]["video_codec"]
    where = ["--boxes", "bell=0,0,16,12"] if in_video else ["--pictures", str(separator.parent / "bell.png")]
    whole_s = 0.0
    for path in files(name, tmp_path):
        caplog.clear()
        out = tmp_path / f"stems of {path.name}"
        code = main(["separate", str(path), "--checkpoint", str(separator), "--out", str(out), *where])
        if code:
            assert code == 2
            assert str(path) in the_error(capsys)
            assert not list(out.glob("*"))
            continue
        record = json.loads((out / "separation.json").read_text())
        faults = {stream: any(found.values()) for stream, found in record["damaged"].items()}
        said = [entry.message for entry in caplog.records if f"of {path} is not whole" in entry.message]
        assert bool(said) == faults["sound"]
        whole_s = whole_s or record["seconds"]
        if record["seconds"] < whole_s - 0.25 and not {name, path.name} & (ENDLESS | HIDDEN):
            assert faults["sound"], path.name
    assert whole_s == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name][0].get("video_codec", True)])
def test_clips(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = files(name, tmp_path / "videos" / "bell")
    tree = ["--out", str(tmp_path / "tree"), "--seconds", "1", "--min-seconds", "0.9", "--jobs", "1"]
    assert main(["data", "clips", str(tmp_path / "videos"), *tree]) == 0
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    report = json.loads((tmp_path / "tree" / "clips.json").read_text())
    videos = {video["video"]: video for video in report["videos"]}
    assert sorted(videos) == sorted(path.stem for path in paths)
    whole = videos[paths[0].stem]
    assert (len(whole["clips"]), whole["problem"]) == (SECONDS, None)
    for path in paths[1:]:
        video = videos[path.stem]
        assert "\n" not in (video["problem"] or "")
        assert video["problem"] or len(video["clips"]) == SECONDS or name in ENDLESS, video
