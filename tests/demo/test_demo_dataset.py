"""The demo data set on disk: layout, determinism, resume, refusals."""

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from ialcms.demo import dataset
from ialcms.demo.dataset import make_dataset
from ialcms.files import replacing

OPTIONS = {"instruments": ("violin", "tuba"), "frame_size": (64, 48), "show_progress": False}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """3 videos of 1 clip for each of 2 instruments, made by one process."""
    return make_dataset(tmp_path_factory.mktemp("demo") / "small", 3, 1, seed=5, jobs=1, **OPTIONS)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """The same with more videos and clips, made by two processes."""
    return make_dataset(tmp_path_factory.mktemp("demo") / "large", 4, 2, seed=5, jobs=2, **OPTIONS)


def _files(root: Path, below: str = "solo_*") -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in root.glob(below)
        for path in ([folder] if folder.is_file() else folder.rglob("*"))
        if path.is_file()
    }


def _rows(root: Path, split: str) -> list[list[str]]:
    with open(root / f"{split}_solo_clip.csv", newline="") as file:
        return list(csv.reader(file))


def test_layout(small):
    assert sorted(path.name for path in small.iterdir()) == [
        "dataset.json",
        "solo_audio_resample",
        "solo_detect",
        "solo_extract",
        "test_solo_clip.csv",
        "train_solo_clip.csv",
        "tree.json",
        "val_solo_clip.csv",
    ]
    assert _rows(small, "train")[0] == [
        "solo_audio_resample/violin/violin-002_0.wav",
        "solo_extract/violin/violin-002_0",
        "solo_detect/violin/violin-002_0.npy",
    ]
    for audio, frames, detections in _rows(small, "train"):
        info = soundfile.info(small / audio)
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (11_025, 1, 110_250, "PCM_16")
        names = sorted(path.name for path in (small / frames).iterdir())
        assert names == [f"{number:06d}.jpg" for number in range(1, 81)]
        with Image.open(small / frames / "000080.jpg") as frame:
            assert (frame.size, frame.mode, frame.format) == ((64, 48), "RGB", "JPEG")
        table = np.load(small / detections)
        assert table.dtype == np.float32
        assert table.shape[1] == 7


def test_a_clip_has_the_same_bytes_whatever_is_made_beside_it_and_by_how_many_processes(small, large):
    few, many = _files(small), _files(large)
    assert len(few) == 6 * 82
    assert len(many) == 16 * 82
    assert few == {name: many[name] for name in few}
    audio = [content for name, content in many.items() if name.endswith(".wav")]
    assert len(set(audio)) == len(audio)


def test_another_seed_gives_other_clips(small, tmp_path):
    other = _files(make_dataset(tmp_path / "other", 3, 1, seed=6, jobs=1, **OPTIONS))
    same = [name for name, content in _files(small).items() if other[name] == content]
    assert same == []


def test_splits_share_no_video_and_hold_all_clips(large):
    videos = {}
    clips = []
    for split in ("train", "val", "test"):
        rows = _rows(large, split)
        clips += [row[0] for row in rows]
        videos[split] = {Path(row[0]).stem.rpartition("_")[0] for row in rows}
    assert videos == {
        "test": {"violin-000", "tuba-000"},
        "val": {"violin-001", "tuba-001"},
        "train": {"violin-002", "violin-003", "tuba-002", "tuba-003"},
    }
    assert sorted(clips) == sorted(str(path.relative_to(large)) for path in large.glob("solo_audio_resample/*/*"))


def test_a_stopped_run_goes_on_where_it_was(small, tmp_path):
    root = tmp_path / "stopped"
    shutil.copytree(small, root)
    # what a killed run leaves: missing clips, half-written temporaries, no CSV files; and a frame that went astray
    (root / "solo_audio_resample/violin/violin-000_0.wav").rename(
        root / "solo_audio_resample/violin/.violin-000_0.wav.tmp"
    )
    shutil.rmtree(root / "solo_extract/tuba/tuba-001_0")
    half_written = root / "solo_extract/tuba/.tuba-001_0.tmp"
    half_written.mkdir()
    (half_written / "000001.jpg").write_bytes(b"half a pict")
    (root / "solo_extract/violin/violin-002_0/000040.jpg").unlink()
    (root / "train_solo_clip.csv").unlink()
    untouched = root / "solo_audio_resample/tuba/tuba-002_0.wav"
    os.utime(untouched, (1, 1))

    make_dataset(root, 3, 1, seed=5, jobs=1, **OPTIONS)
    assert _files(root, "*") == _files(small, "*")
    assert untouched.stat().st_mtime == 1


def test_a_finished_data_set_starts_no_process(small, monkeypatch):
    def refuse(jobs):
        raise AssertionError("nothing is missing")

    monkeypatch.setattr(dataset, "worker_pool", refuse)
    assert make_dataset(small, 3, 1, seed=5, **OPTIONS) == small


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 6}, "seed is 5 there"),
        ({"frame_size": (80, 60)}, "frame_size"),
        ({"jpeg_quality": 50}, "jpeg_quality"),
    ],
)
def test_a_folder_of_other_options_is_refused(small, change, named):
    before = _files(small, "*")
    with pytest.raises(ValueError, match=f"other options .*{named}.*another folder or delete"):
        make_dataset(small, 3, 1, **{"seed": 5, **OPTIONS, **change})
    assert _files(small, "*") == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="holds no demo data set"):
        make_dataset(tmp_path, 3, 1, **OPTIONS)
    (tmp_path / "dataset.json").write_text('{"name": "somebody else\'s"}')
    with pytest.raises(ValueError, match="another format"):
        make_dataset(tmp_path, 3, 1, **OPTIONS)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        make_dataset(tmp_path, 3, 1, **OPTIONS)
    with pytest.raises(ValueError, match="not a folder"):
        make_dataset(tmp_path / "thesis.txt", 3, 1, **OPTIONS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"videos": 2}, "2 videos per instrument"),
        ({"clips_per_video": 0}, "clips_per_video"),
        ({"instruments": ("violin", "kazoo")}, "kazoo.*choose from acoustic_guitar"),
        ({"instruments": ()}, "no such instrument"),
        ({"instruments": ("violin", "violin")}, "name each once"),
        ({"frame_size": (64, 4)}, "frame_size"),
        ({"jpeg_quality": 0}, "jpeg_quality"),
        ({"seed": -1}, "seed"),
        ({"jobs": 0}, "jobs"),
    ],
)
def test_senseless_options_are_refused_before_anything_is_written(tmp_path, change, named):
    root = tmp_path / "never"
    with pytest.raises(ValueError, match=named):
        make_dataset(root, **{"videos": 3, "clips_per_video": 1, **OPTIONS, **change})
    assert not root.exists()


def test_an_error_leaves_the_final_name_alone(tmp_path):
    path = tmp_path / "table.npy"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        _write_half(temporary)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert [file.name for file in tmp_path.iterdir()] == ["table.npy"]
    assert path.read_text() == "new"


def test_the_command_reports_bad_input_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dataset", str(tmp_path / "never"), "--videos", "1"])
    with pytest.raises(SystemExit) as stopped:
        dataset.main()
    assert stopped.value.code == 2
    assert "1 videos per instrument leave none" in capsys.readouterr().err


def test_workers_run_single_threaded_and_end_with_their_parent(tmp_path):
    script = tmp_path / "owner.py"
    script.write_text(
        "import os, time\n"
        "from ialcms.processes import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(1) as pool:\n"
        "        threads = pool.submit(os.getenv, 'OMP_NUM_THREADS').result()\n"
        "        print(pool.submit(os.getpid).result(), threads, flush=True)\n"
        "        time.sleep(60)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    owner = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    rank, threads = (int(word) for word in owner.stdout.readline().split())
    owner.kill()
    owner.wait()
    assert threads == 1
    deadline = time.monotonic() + 20
    while _is_alive(rank):
        assert time.monotonic() < deadline, "the rank outlives its parent"
        time.sleep(0.05)


def _write_half(path: Path) -> None:
    path.write_text("ha")
    raise RuntimeError("killed")


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process_id}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")  # a zombie has ended
