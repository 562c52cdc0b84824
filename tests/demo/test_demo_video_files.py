from __future__ import annotations

import csv
from pathlib import Path

import av
import pytest
from PIL import Image

from ialcms.demo.video_files import KINDS, make_video_files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    return make_video_files(root, 3, 1, 1, 2, jobs=2, frame_size=(96, 72), instruments=("tuba",), show_progress=False)


def test_every_kind_of_file_plays(made: Path):
    paths = sorted((made / "videos" / "tuba").iterdir())
    assert {path.suffix for path in paths} == {kind.suffix for kind in KINDS}
    for path in paths:
        kind = next(kind for kind in KINDS if kind.suffix == path.suffix)
        with av.open(str(path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.width, video.height) == (96, 72)
            assert float(video.average_rate) == pytest.approx(float(kind.frames_per_second), rel=0.01)
            assert (audio.rate, audio.layout.name.removesuffix("(side)")) == (kind.sample_rate, kind.layout)
            assert container.duration / av.time_base == pytest.approx(10, abs=0.2)


def test_boxes_lie_on_pictures_of_other_videos(made: Path):
    with open(made / "boxes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["ImageID"] for row in rows] == ["tuba-003-000001", "tuba-003-000080"]
    for row in rows:
        assert Image.open(made / "images" / f"{row['ImageID']}.jpg").size == (96, 72)
        assert row["LabelName"] == "tuba"
        assert 0 <= float(row["XMin"]) < float(row["XMax"]) <= 1
        assert 0 <= float(row["YMin"]) < float(row["YMax"]) <= 1


def test_a_second_run_makes_what_is_missing(made: Path):
    paths = sorted((made / "videos" / "tuba").iterdir())
    kept, lost = paths[:2], paths[2]
    before, size = [path.stat().st_mtime_ns for path in kept], lost.stat().st_size
    lost.unlink()
    make_video_files(made, 3, 1, 1, 2, jobs=1, frame_size=(96, 72), instruments=("tuba",), show_progress=False)
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert lost.stat().st_size == pytest.approx(size, rel=0.01)


def test_errors(tmp_path: Path):
    for wrong in ({"videos": 0}, {"box_frames": 81}, {"instruments": ("kazoo",)}):
        with pytest.raises(ValueError, match=r"give at least|no such instrument: kazoo"):
            make_video_files(tmp_path / "x", **{"videos": 1, **wrong}, jobs=1)
    assert not (tmp_path / "x").exists()
