"""How fast the data verbs are on this machine, and how large their clips become.

    python -m benchmarks.data --jobs 2

Makes demo videos of an ordinary size (640 x 360), runs every verb on them as a user would, and prints clips per second
and bytes per clip. The time is that of the whole command less what a program needs to start; core seconds hold on a
busy machine too. Detections are one box a frame, a ninth of the picture; clean and index, which are quick, work on a
tree with every clip in 20 copies.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ialcms.data.manifest import read_manifest
from ialcms.demo.video_files import make_video_files
from shards.datasets import load_dataset
from shards.detect import detect_frames, read_picture
from shards.detector import build_detector, save_detector

INSTRUMENTS = ("violin", "trumpet", "accordion", "xylophone")
FRAMES_PER_CLIP = 80
COPIES = 20
DATASET = "demo"


def run(*arguments: str | Path) -> tuple[float, float]:
    """Seconds that a verb takes, by the clock and of the processors."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "ialcms", "data", *map(str, arguments)], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, busy_s


def measure(name: str, num_clips: int, *arguments: str | Path, rounds: int = 1, clear: tuple[Path, ...] = ()) -> None:
    """Run a verb and print its rate; before every round but the first, what it wrote is removed.

    name: of the line. num_clips: that the verb handles in a round. rounds: of which the fastest counts. clear: what the
    verb writes.
    """
    loads_torch = arguments[0] in ("clips", "detect")
    idle_s = min(run(*arguments, "--dry-run") if loads_torch else run("index", "--help") for _ in range(2))
    times = []
    for number in range(rounds):
        for path in clear if number else ():
            shutil.rmtree(path)
        times.append(run(*arguments))
    (clock_s, busy_s), (idle_clock_s, idle_busy_s) = min(times), idle_s
    rate = f"{num_clips / (clock_s - idle_clock_s):8.1f} clips/s"
    each_s = (busy_s - idle_busy_s) / num_clips
    print(f"{name:42} {rate}   {each_s:7.4f} core seconds a clip   ({clock_s:.1f} s in all)", flush=True)


def detector_rate(backbone: str, frames: list[Path]) -> None:
    """Print the rate of a large detector on one core (random weights cost as much as others)."""
    torch.set_num_threads(1)
    model = build_detector(backbone, ("a",) * 15).model.eval()
    pictures = [(number, read_picture(path)) for number, path in enumerate(frames, start=1)]
    detect_frames(model, pictures[:1], "cpu", batch=1)
    began = time.perf_counter()
    detect_frames(model, pictures, "cpu", batch=len(pictures))
    frame_s = (time.perf_counter() - began) / len(pictures)
    print(
        f"{f'detect, {backbone}, one core':42} {1 / frame_s / FRAMES_PER_CLIP:8.4f} clips/s   ({frame_s:.2f} s a frame)"
    )


def copy_clips(tree: Path, out: Path) -> int:
    """Link every clip of a tree by several names; how many there are then."""
    for path in sorted(tree.glob("solo_*/*/*")):
        for number in range(COPIES):
            target = out / path.parent.relative_to(tree) / f"{path.stem}{number:02d}{path.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                target.symlink_to(path, target_is_directory=True)
            else:
                os.link(path, target)
    return COPIES * len(list(tree.glob("solo_detect/*/*.npy")))


def tree_bytes(folder: Path, pattern: str) -> int:
    """Bytes of the files below `folder` whose paths match a glob pattern."""
    return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file())


def benchmark(folder: Path, videos: int, jobs: int, frame_size: tuple[int, int]) -> None:
    """All verbs on new data in `folder`: `videos` of each instrument, of `frame_size` (width, height), with `jobs`
    processes.
    """
    own = ("--dataset", DATASET, "--jobs", str(jobs))
    print(f"making {len(INSTRUMENTS) * videos} videos of two clips, {frame_size[0]} x {frame_size[1]} pixels")
    made = make_video_files(folder, videos, 2, box_videos=0, jobs=jobs, frame_size=frame_size, instruments=INSTRUMENTS)
    tree, weights = folder / "tree", folder / "detector.pt"
    num_clips = 2 * videos * len(INSTRUMENTS)
    measure("clips", num_clips, "clips", made / "videos", "--out", tree, "--jobs", str(jobs), rounds=2, clear=(tree,))
    classes = load_dataset(DATASET).classes
    torch.manual_seed(0)
    save_detector(build_detector("small", [classes[number] for number in sorted(classes)]), weights)
    devices = ("--devices", ",".join(["cpu"] * jobs), "--min-score", "0.01")
    measure("detect, small", num_clips, "detect", tree, "--weights", weights, *own, *devices)
    width, height = frame_size
    for path in tree.glob("solo_detect/*/*.npy"):
        box = [0.95, width / 3, height / 3, 2 * width / 3, 2 * height / 3]
        class_id = next(number for number, name in classes.items() if name == path.parent.name)
        np.save(path, np.float32([[frame, class_id, *box] for frame in range(1, FRAMES_PER_CLIP + 1)]))
    copies = copy_clips(tree, folder / "copies")
    measure("clean", copies, "clean", folder / "copies", *own)
    measure("index", copies, "index", folder / "copies", *own, rounds=2)
    run("index", tree, *own)
    for name, options in (
        ("flac, whole frames", ()),
        ("flac, frames of at most 320 pixels", ("--longest-side", "320")),
        ("flac, crops only", ("--crops-only",)),
        ("wav, whole frames", ("--audio-format", "wav")),
    ):
        out = folder / name.replace(" ", "-").replace(",", "")
        pack = ("pack", tree, "--out", out, *own, "--shard-mb", "20", *options)
        measure(f"pack, {name}", num_clips, *pack, rounds=2, clear=(out,))
        manifest = read_manifest(out)
        size = sum(shard.num_bytes for shard in manifest.shards) / len(manifest.clips)
        print(f"{'':42} {size / 1e3:8.0f} kB a clip")
    measure("verify", num_clips, "verify", folder / "flac-whole-frames", "--jobs", str(jobs), rounds=2)
    run("stats", folder / "flac-whole-frames")
    for what, pattern in (("sound", "solo_audio_resample/*/*"), ("frames", "solo_extract/*/*/*")):
        print(f"{f'prepared tree, {what}':42} {tree_bytes(tree, pattern) / num_clips / 1e3:8.0f} kB a clip")
    frames = sorted(tree.glob("solo_extract/*/*/*"))[:4]
    for backbone in ("resnet50", "mobilenet"):
        detector_rate(backbone, frames)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=3, help="per instrument, of four (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--frame-size", type=int, nargs=2, default=(640, 360), metavar=("WIDTH", "HEIGHT"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        benchmark(Path(folder), args.videos, args.jobs, frame_size=tuple(args.frame_size))


if __name__ == "__main__":
    main()
