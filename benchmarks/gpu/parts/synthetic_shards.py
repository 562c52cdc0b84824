"""Synthetic clips, packed as a user packs them: for the loader, the training and the evaluation."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.gpu.setting import Recorder, Setting
from ialcms.demo.dataset import make_dataset
from ialcms.processes import available_cores
from shards.datasets import load_dataset
from shards.encode import EncodeOptions
from shards.entries import read_index
from shards.pack import PackOptions, pack

INSTRUMENTS = ("violin", "flute", "tuba", "xylophone", "accordion")  # enough for mixes of two duets


def measure(setting: Setting, recorder: Recorder) -> None:
    """Into the folder `setting.shards`; half of the cores, so that other parts do not wait."""
    began = time.monotonic()
    os.nice(19)
    tree, jobs = Path(setting.work) / "tree", max(1, available_cores() // 2)
    if setting.small:
        make_dataset(tree, 3, 1, jobs=jobs, instruments=INSTRUMENTS, show_progress=False)
    else:
        make_dataset(tree, 8, 2, jobs=jobs, frame_size=(640, 360), jpeg_quality=90, show_progress=False)
    recorder.add("clips made", time.monotonic() - began, "s", note=f"{jobs} processes, in the background")
    manifest, _ = pack(read_index(tree), Path(setting.shards), PackOptions(_options(), 16.0), jobs=jobs)
    size = sum(clip.size for clip in manifest.clips) / 1e6
    recorder.add("clips", len(manifest.clips), note=f"{len(manifest.of_split('train'))} for training, {size:.0f} MB")
    recorder.add("packed after", time.monotonic() - began, "s")


def _options() -> EncodeOptions:
    return EncodeOptions(dataset=load_dataset("demo"))
