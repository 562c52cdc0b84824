"""The demo: the whole job on synthetic data. Each step is skipped where its result is there already.

Data and packing, a backbone (no ImageNet weights come in its width), training and evaluation under torchrun, and two
videos separated at the end. The network has only ever heard synthetic instruments: it is of no use on real recordings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import CalledProcessError

import torch

from ialcms.config import load_config
from ialcms.demo.dataset import make_dataset
from ialcms.demo.duet import make_duet
from ialcms.inference import separate_file
from ialcms.lease import Lease
from ialcms.own_files import own_folder
from ialcms.progress import duration
from ialcms.runs.run_folder import RunFolder
from ialcms.terminal import runnable
from ialcms.training.pretrain import pretrain
from launch import local
from shards.datasets import load_dataset
from shards.encode import EncodeOptions
from shards.entries import read_index
from shards.pack import PackOptions, pack

VIDEOS, VAL_VIDEOS, TEST_VIDEOS = 32, 3, 4  # per instrument
CLIPS_PER_VIDEO = 2
SHARD_MB = 16.0
BACKBONE_STEPS = 300
# The easiest pair for so small a network, and a hard one, of the same range.
DUETS = (("trumpet", "tuba"), ("flute", "violin"))
MINUTES = 15  # as measured on two cores that had nothing else to do


def run_demo(name: str, data: Path, folder: Path | None, *, ranks: int | None, overrides: Sequence[str] = ()) -> Path:
    """Make the data, pack them, train, evaluate, separate a video; returns the listening page.

    name: of the configuration, one of the demo's. data: folder for tree, shards and backbone. folder: of the run, by
    default runs/<its name>. ranks: by default two, or one where two would have to share a GPU. overrides: KEY=VALUE of
    the configuration. Raises ValueError for faults in the input, CalledProcessError where training or evaluation fails.
    """
    config_path = own_folder("configs") / f"{name}.yaml"
    shards, backbone = data / "shards", data / "backbone.pt"
    overrides = [f"data.shards={shards}", f"model.visual.weights={backbone}", *overrides]
    config = load_config(config_path, overrides)
    run = RunFolder(folder or Path("runs") / config.name)
    jobs = os.cpu_count() or 1
    ranks = ranks or (1 if torch.cuda.device_count() == 1 else 2)
    began = time.monotonic()

    def announce(number: int, what: str) -> None:
        print(f"[{duration(time.monotonic() - began)}] {number}/6 {what}", flush=True)

    print(
        f"The demo makes videos, packs them, trains {config.train.steps} steps, evaluates, and writes a page to listen "
        f"to: about {MINUTES} minutes on two cores. Lines say how far it is. What is there already is kept."
    )
    with Lease(data, "demo", "--data", name="the folder of data"):
        announce(
            1, f"demo data: {11 * VIDEOS} videos of 11 instruments, {CLIPS_PER_VIDEO} clips each, in {data / 'tree'}"
        )
        make_dataset(data / "tree", VIDEOS, CLIPS_PER_VIDEO, jobs=jobs, val_videos=VAL_VIDEOS, test_videos=TEST_VIDEOS)
        announce(2, f"shards in {shards}")
        encode = EncodeOptions(dataset=load_dataset("demo"))
        manifest, _ = pack(read_index(data / "tree"), shards, PackOptions(encode, SHARD_MB), jobs=jobs)
        print(f"{len(manifest.clips)} clips in {len(manifest.shards)} shards")
        announce(3, f"backbone that knows the instruments by sight, in {backbone}")
        if backbone.is_file():
            print("there already")
        else:
            print(f"it {pretrain(config, backbone, BACKBONE_STEPS, batch_pictures=64)}")
    announce(4, f"training in {run.path}: {config.train.steps} steps on {ranks} ranks")
    _run(["train", str(config_path), "--folder", str(run.path), *overrides], ranks)
    announce(5, f"evaluation on {config.eval.num_sources}-mixes of held-out videos")
    _run(["evaluate", str(run.path)], ranks)
    page = run.evaluation_of(config) / "report.html"
    for duet, how in zip(DUETS, ("the easiest pair", "a hard pair")):
        separated = run.path / "separated" / "-".join(duet)
        announce(6, f"a video of {' and '.join(duet)}, {how}, separated into {separated}")
        boxes = make_duet(read_index(data / "tree"), duet, separated / "duet.mp4")
        separate_file(separated / "duet.mp4", run.path, boxes, out=separated)
    announce(6, f"done; listen to {page.resolve()}")
    print(f"curves: {runnable('tensorboard', '--logdir', run.curves)}")
    print(
        "this network has only heard synthetic instruments: train on your own data before you separate real recordings"
    )
    return page


def _run(arguments: list[str], ranks: int) -> None:
    code = local.run(arguments, ranks)
    if code:
        raise CalledProcessError(code, ["ialcms", *arguments])
