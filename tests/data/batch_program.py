"""Started by torchrun: every process takes its share of some batches and writes down what they hold.

    torchrun --nproc_per_node=8 tests/data/batch_program.py SHARDS FOLDER START STEPS 1:4,2:3,...

For every WORLD_SIZE:LOADER_WORKERS the first WORLD_SIZE processes are the ranks. Their batches from step START on
go to FOLDER/<world size>-<rank>.json: of each mix its step, its keys and the checksums of its tensors.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import zlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from ialcms.config import Config, TrainConfig
from ialcms.data.manifest import read_manifest
from ialcms.data.train_batches import Batch, train_batches
from tests.support.data import small_config

GLOBAL_BATCH = 24  # lanes, for 1, 2, 3, 4, 6 and 8 ranks


def config_of(loader_workers: int) -> Config:
    config = small_config(loader_workers=loader_workers, max_bad_fraction=1.0)
    return replace(config, train=TrainConfig(global_batch=GLOBAL_BATCH))


def describe(batches: Iterable[Batch]) -> list[list]:
    """Per mix [step, keys, checksums of its tensors]."""
    return [
        [
            batch.step,
            list(batch.keys[row]),
            [zlib.crc32(t[row].numpy()) for t in (batch.mix, batch.mixtures, batch.objects)],
        ]
        for batch in batches
        for row in range(len(batch.keys))
    ]


def main() -> None:
    shards, folder, start, steps, worlds = sys.argv[1:]
    rank, manifest = int(os.environ["RANK"]), read_manifest(shards)
    for world in worlds.split(","):
        world_size, loader_workers = map(int, world.split(":"))
        if rank < world_size:
            with closing(train_batches(config_of(loader_workers), manifest, int(start), rank, world_size)) as batches:
                taken = describe(itertools.islice(batches, int(steps)))
            Path(folder, f"{world_size}-{rank}.json").write_text(json.dumps(taken))


if __name__ == "__main__":
    main()
