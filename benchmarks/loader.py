"""How fast training samples come from shards, against a plain Dataset over the prepared tree, on one core.

    python -m benchmarks.loader /tmp/loader --frame-size 640 360 --out benchmarks/results/loader-640x360.txt

Makes demo data in the folder (once), packs them, and unrolls the shards into the tree that people have who follow the
published recipe: whole 16-bit wav, frames as PNG files, detections as npy. Both sides make the same kind of sample
(4 clips, 65,535 samples, 224 x 224 pictures) in one process with one thread. The plain one is what one writes with
torchvision's transforms: load the wav and cut a window, open a PNG, crop, resize, random crop, flip, normalise.

The two take turns for some seconds each; a round's ratio is that of its two rates, and the median over rounds counts.
Rates are per second of the process's own CPU time, so that other users of the machine do not enter; files come from
the system's file cache on both sides. Our side first draws until a whole window has gone by, so that it has its share
of reading and decoding clips; its pictures are left as bytes, as in training, where they are normalised on the
device; a second line has that done here, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ialcms.config import Config, DataConfig, TrainConfig
from ialcms.data.batches import IMAGENET_MEAN, IMAGENET_STD, normalise_objects, train_batches
from ialcms.data.clips import read_clip
from ialcms.data.manifest import Manifest, read_manifest
from ialcms.demo.dataset import make_dataset
from shards.datasets import load_dataset
from shards.encode import EncodeOptions
from shards.entries import read_index
from shards.pack import PackOptions, pack

INSTRUMENTS = ("violin", "flute", "tuba", "accordion", "cello", "xylophone")
VIDEOS, CLIPS_PER_VIDEO = 10, 3  # per instrument: 180 clips, more than a window of 128
CLIPS_PER_MIX = 4


class TreeMixes(Dataset):
    """Mixes from the prepared tree, each clip read from its files when it is used."""

    def __init__(self, tree: Path, num_samples: int, resize: int, crop: int) -> None:
        self.num_samples = num_samples
        self.clips: dict[str, list[Path]] = {}
        for path in sorted(tree.glob("audio/*/*.wav")):
            self.clips.setdefault(path.parent.name, []).append(path)
        self.transform = transforms.Compose(
            [
                transforms.Resize((resize, resize)),
                transforms.RandomCrop(crop),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return 10 * sum(map(len, self.clips.values()))

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """mix (L,), mixtures (2, L), pictures (2, 2, 3, S, S)."""
        rng = np.random.default_rng(index)
        waves, pictures = [], []
        for name in rng.choice(sorted(self.clips), CLIPS_PER_MIX, replace=False):
            audio = self.clips[name][rng.integers(len(self.clips[name]))]
            wave, _ = soundfile.read(audio, dtype="float32")
            start = rng.integers(len(wave) - self.num_samples + 1)
            wave = wave[start : start + self.num_samples] * np.float32(rng.uniform(0.5, 1.5))
            waves.append(torch.from_numpy(np.clip(wave, -1, 1)))
            detections = np.load(audio.parents[2] / "detections" / name / f"{audio.stem}.npy")
            frame, _, _, *box = detections[rng.integers(len(detections))]
            picture = Image.open(audio.parents[2] / "frames" / name / audio.stem / f"{int(frame):06d}.png")
            pictures.append(self.transform(picture.convert("RGB").crop(box)))
        mixtures = torch.stack(waves).view(2, 2, -1).mean(1)
        return mixtures.sum(0), mixtures, torch.stack(pictures).view(2, 2, *pictures[0].shape)


def make_data(folder: Path, frame_size: tuple[int, int]) -> tuple[Manifest, Manifest, Path]:
    """Shards of whole frames, shards of crops, and the plain tree with the same content."""
    cores = len(os.sched_getaffinity(0))
    made = make_dataset(
        folder / "made", VIDEOS, CLIPS_PER_VIDEO, jobs=cores, val_videos=0, test_videos=0, frame_size=frame_size,
        jpeg_quality=90, instruments=INSTRUMENTS,
    )  # fmt: skip
    for name, crops_only in (("frames", False), ("crops", True)):
        encode = EncodeOptions(dataset=load_dataset("demo"), crops_only=crops_only)
        pack(read_index(made), folder / name, PackOptions(encode, shard_mb=16.0), jobs=cores)
    manifest = read_manifest(folder / "frames")
    tree = folder / "tree"
    if not (tree / "complete").is_file():
        for index in range(len(manifest.clips)):
            unroll(manifest, index, tree)
        (tree / "complete").touch()
    return manifest, read_manifest(folder / "crops"), tree


def unroll(manifest: Manifest, index: int, tree: Path) -> None:
    """Write a clip of a shard as a wav, PNG frames and its detections."""
    described, clip = manifest.clips[index], read_clip(manifest, index)
    audio, frames, detections = (tree / kind / described.instrument for kind in ("audio", "frames", "detections"))
    for folder in (audio, frames / described.key, detections):
        folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(audio / f"{described.key}.wav", clip.wave, manifest.sample_rate)
    np.save(detections / f"{described.key}.npy", clip.detections)
    for number in clip.frames:
        clip_frame(clip.frames[number]).save(frames / described.key / f"{number:06d}.png")


def clip_frame(content: bytes) -> Image.Image:
    import io

    return Image.open(io.BytesIO(content)).convert("RGB")
