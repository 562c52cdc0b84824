"""How fast samples come from the shards, and how long training waits for them.

    python -m benchmarks.loader --work /tmp/loader --out benchmarks/results/loader.txt

1. Samples per second of one process (one core): from shards, and from a plain Dataset over the prepared tree the
   shards were packed from (frames as PNG files, the whole wav read and cropped): alternately, on the same synthetic
   clips.
2. What it costs to read and decode the parts of a clip.
3. The share of a step that the demo's training waits for its batches.

The folder --work keeps what was made (about 2 GB), so that the next run starts at once.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL
import soundfile
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.plain_dataset import PlainDataset
from ialcms.config import Config, DataConfig, TrainConfig
from ialcms.data.batch import Batch
from ialcms.data.clip_reader import read_clip
from ialcms.data.manifest import Manifest
from ialcms.data.train_batches import normalise_objects, train_batches
from ialcms.demo.dataset import make_dataset
from ialcms.pictures import open_picture
from launch import local
from shards.datasets import load_dataset
from shards.encode import EncodeOptions
from shards.entries import read_index
from shards.pack import PackOptions, pack

FRAME_SIZE = (640, 360)  # pixels; of the videos as people download them
VIDEOS, CLIPS_PER_VIDEO = 10, 2  # per instrument; one video for validation, one for test
DEMO_VIDEOS = 8  # per instrument, of the size that the demo makes
GLOBAL_BATCH = 8
ROUNDS = 3
WARM_UP = 330  # draws of a lane until its window has moved on by its own length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the data")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each of the measurements")
    parser.add_argument("--steps", type=int, default=100, help="of the demo's training; 0: leave it out")
    parser.add_argument("--out", type=Path, help="file for the figures, besides the terminal")
    parser.add_argument("--only-data", action="store_true", help="make the data and end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tree = make_tree(options.work / "tree")
    shards = {"whole frames": pack_tree(tree, options.work / "shards", False)}
    shards["crops only"] = pack_tree(tree, options.work / "shards-crops", True)
    demo = make_demo(options.work / "demo")
    if options.only_data:
        return
    lines = [*describe_machine(), "", *describe_data(tree, shards), ""]
    lines += [*measure_samples(tree, shards, options.seconds), ""]
    lines += [*measure_parts(tree, shards["whole frames"]), ""]
    if options.steps:
        lines += measure_waiting(demo, options.work, options.steps)
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


# ---------------------------------------------------------------- data


def make_tree(tree: Path) -> Path:
    """A prepared tree of synthetic videos, with frames as PNG files."""
    if not (tree / "png").is_file():
        make_dataset(tree, VIDEOS, CLIPS_PER_VIDEO, frame_size=FRAME_SIZE, jpeg_quality=90)
        frames = sorted(tree.glob("solo_extract/*/*/*.jpg"))
        with ProcessPoolExecutor() as pool:
            for _ in pool.map(write_png, frames, chunksize=50):
                pass
        (tree / "png").touch()
    return tree


def write_png(path: Path) -> None:
    """Replace a JPEG file by a PNG file."""
    with Image.open(path, formats=("JPEG",)) as picture:
        picture.save(path.with_suffix(".png"), compress_level=1)  # as OpenCV writes by default
    path.unlink()


def pack_tree(tree: Path, out: Path, crops_only: bool) -> Manifest:
    """Shards of a prepared tree in the folder `out`."""
    encode = EncodeOptions(dataset=load_dataset("demo"), crops_only=crops_only)
    return pack(read_index(tree), out, PackOptions(encode), jobs=os.cpu_count() or 1)[0]


def make_demo(folder: Path) -> Path:
    """Shards of the size that the demo makes; returns their folder."""
    make_dataset(folder / "tree", DEMO_VIDEOS, CLIPS_PER_VIDEO)
    pack(read_index(folder / "tree"), folder / "shards", PackOptions(EncodeOptions(dataset=load_dataset("demo")), 16.0))
    return folder / "shards"


# ---------------------------------------------------------------- measurements


def measure_samples(tree: Path, shards: dict[str, Manifest], seconds: float) -> list[str]:
    """Lines on the rate and memory of every way to load. seconds: of each measurement."""
    config = Config(data=DataConfig(loader_workers=0), train=TrainConfig(global_batch=GLOBAL_BATCH))
    dataset = PlainDataset(tree, shards["whole frames"], config)
    plain = map(lambda batch: len(batch.mix), DataLoader(dataset, batch_size=GLOBAL_BATCH))
    sources: dict[str, Iterator[int]] = {"plain Dataset": plain}
    for name, manifest in shards.items():
        for world_size in (GLOBAL_BATCH, 1):
            lanes = GLOBAL_BATCH // world_size
            label = f"shards, {name}, {lanes} lane{'s' if lanes > 1 else ''} of {GLOBAL_BATCH}"
            sources[label] = ShardSamples(config, manifest, world_size)
    label = f"shards, whole frames, 1 lane of {GLOBAL_BATCH}, normalised on the CPU"
    sources[label] = ShardSamples(config, shards["whole frames"], GLOBAL_BATCH, normalise=True)
    rates: dict[str, list[float]] = {name: [] for name in sources}
    for source in sources.values():
        next(source)
    for _ in range(ROUNDS):
        for name, source in sources.items():
            rates[name].append(rate_of(source, seconds))
    lines = [
        f"1. samples per second of one process (median of {ROUNDS} times {seconds:g} s); a sample is a mix of "
        f"{config.clips_per_mix} clips, {config.audio.num_samples:,} samples, {config.data.image_crop} pixels"
    ]
    reference = statistics.median(rates["plain Dataset"])
    for name, values in rates.items():
        rate = statistics.median(values)
        source = sources[name]
        memory = f"  {source.cached_bytes / 1e6:6.0f} MB cached" if isinstance(source, ShardSamples) else ""
        lines.append(f"  {name:<58}{rate:7.1f} /s  {rate / reference:5.2f} x{memory}")
    return lines


class ShardSamples(Iterator[int]):
    """Number of samples of each batch; the first comes when the lanes' windows have moved on by their length."""

    def __init__(self, config: Config, manifest: Manifest, world_size: int, normalise: bool = False) -> None:
        """world_size: number of ranks that share the global batch. manifest: of the shards.

        normalise: pictures, too, as a network would get them.
        """
        self.cached_bytes = 0  # the most that were cached so far
        self._counts = self._read(train_batches(config, manifest, 0, rank=0, world_size=world_size), normalise)

    def __next__(self) -> int:
        return next(self._counts)

    def _read(self, batches: Generator[Batch], normalise: bool) -> Iterator[int]:
        with closing(batches):
            for batch in itertools.islice(batches, WARM_UP, None):
                self.cached_bytes = max(self.cached_bytes, batch.cached_bytes)
                if normalise:
                    normalise_objects(batch.objects)
                yield len(batch.keys)


def rate_of(counts: Iterable[int], seconds: float) -> float:
    """Samples per second over `seconds`. counts: samples of each batch, as they come."""
    began, total = time.perf_counter(), 0
    for count in counts:
        total += count
        if time.perf_counter() - began > seconds:
            break
    return total / (time.perf_counter() - began)


def measure_parts(tree: Path, manifest: Manifest) -> list[str]:
    """Lines on what the steps of loading take."""
    indices = range(0, len(manifest.clips), 5)
    clips = [read_clip(manifest, index) for index in indices]
    jpegs = [frame for clip in clips for frame in itertools.islice(clip.frames.values(), 3)]
    as_tensors = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs]
    pngs = [path.read_bytes() for path in sorted(tree.glob("solo_extract/*/*/000001.png"))]
    waves = sorted(tree.glob("solo_audio_resample/*/*.wav"))[::5]
    flacs = [encode_flac(path) for path in waves]
    parts: dict[str, float] = {
        "JPEG frame, Pillow": milliseconds(lambda raw: open_picture(raw).load(), jpegs),
        "JPEG frame, Pillow at half size": milliseconds(decode_half, jpegs),
        "JPEG frame, torchvision": milliseconds(lambda raw: decode_jpeg(raw, ImageReadMode.RGB), as_tensors),
        "PNG frame, Pillow": milliseconds(lambda raw: open_picture(raw).load(), pngs),
        "JPEG frame to 256 x 256 picture of a box": milliseconds(lambda clip: clip.picture(0, 256), clips),
        "FLAC of 10 s": milliseconds(lambda raw: soundfile.read(io.BytesIO(raw), dtype="int16"), flacs),
        "FLAC, 65,535 samples of it": milliseconds(decode_part, flacs),
        "WAV of 10 s": milliseconds(lambda path: soundfile.read(path, dtype="int16"), waves),
        "WAV, 65,535 samples of it": milliseconds(decode_part, waves),
        "a clip's bytes, checksum, sound and boxes": milliseconds(lambda i: read_clip(manifest, i, (0,)), indices),
        "the same, without the sound": milliseconds(lambda i: read_clip(manifest, i, (0,), samples=(0, 0)), indices),
    }
    return ["2. milliseconds for", *(f"  {name:<58}{value:7.2f}" for name, value in parts.items())]


def milliseconds(function: Callable, items: Iterable) -> float:
    """Median time of a call, over three calls for each of the items."""
    times = []
    for item in itertools.chain.from_iterable(itertools.repeat(list(items), 3)):
        began = time.perf_counter()
        function(item)
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def decode_half(raw: bytes) -> None:
    """Decode a JPEG file at half its size, as libjpeg can."""
    picture = open_picture(raw)
    picture.draft("RGB", (picture.width // 2, picture.height // 2))
    picture.load()


def decode_part(source: bytes | Path) -> None:
    """Read the samples of one training window from the middle of a sound file."""
    with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
        file.seek(22_000)
        file.read(65_535, dtype="int16")


def encode_flac(path: Path) -> bytes:
    """A WAV file as FLAC."""
    wave, rate = soundfile.read(path, dtype="int16")
    flac = io.BytesIO()
    soundfile.write(flac, wave, rate, format="FLAC", subtype="PCM_16")
    return flac.getvalue()


def measure_waiting(shards: Path, work: Path, steps: int) -> list[str]:
    """Lines on the share of a training step that is spent waiting for its batch."""
    lines = [f"3. share of step time waiting for a batch, demo training (configs/demo.yaml), {steps} steps"]
    for ranks in (2, 1):
        folder = work / f"run-{time.time_ns()}"
        overrides = [
            f"data.shards={shards}",
            "model.visual.weights=none",
            f"train.steps={steps}",
            "train.log_every=10",
            f"train.validate_every={steps}",
            f"train.visualise_every={steps}",
        ]
        arguments = ["train", "configs/demo.yaml", "--folder", str(folder), *overrides]
        if local.run(arguments, ranks):
            raise SystemExit("the demo's training failed")
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        records = [record for record in records if "speed/longest_share_waiting_for_data" in record]
        first, *others = [100 * record["speed/longest_share_waiting_for_data"] for record in records]
        seconds = statistics.mean(record["speed/step_seconds"] for record in records[1:])
        name = f"{ranks} rank{'s' if ranks > 1 else ''}"
        lines.append(
            f"  {name}, 1 loader worker each: {statistics.mean(others):.2f} % of {seconds:.2f} s "
            f"(worst ten steps {max(others):.2f} %; the first ten, when the loader starts, {first:.0f} %)"
        )
    return lines


# ---------------------------------------------------------------- surroundings


def describe_machine() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    gpu = f"GPU: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU"
    return [
        f"machine: {os.cpu_count()} cores, {cpu}; {gpu}",
        f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"Pillow {PIL.__version__}, NumPy {np.__version__}, libsndfile {soundfile.__libsndfile_version__}",
        f"command: python -m benchmarks.loader {' '.join(sys.argv[1:])}",
    ]


def describe_data(tree: Path, shards: dict[str, Manifest]) -> list[str]:
    """Lines on what was measured with."""
    manifest = shards["whole frames"]
    pngs = list(tree.glob("solo_extract/*/*/*.png"))
    lines = [
        f"data: {len(manifest.clips)} synthetic clips of 10 s ({len(manifest.of_split('train'))} for training), "
        f"{len(manifest.instruments())} instruments; tree: {len(pngs):,} PNG frames of "
        f"{FRAME_SIZE[0]} x {FRAME_SIZE[1]}, "
        f"{sum(path.stat().st_size for path in pngs) / len(pngs) / 1e3:.0f} kB each; all in the page cache"
    ]
    for name, packed in shards.items():
        size = sum(clip.size for clip in packed.clips) / len(packed.clips) / 1e6
        lines.append(f"  shards, {name}: {len(packed.shards)} of {size:.2f} MB a clip")
    return lines


if __name__ == "__main__":
    main()
