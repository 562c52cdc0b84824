"""Counts of the two kinds of training steps, as a table or as JSON:

    python -m tests.null_gpu.count_steps FOLDER --world 8 --config configs/duet.yaml train.precision=bf16

FOLDER: where `tests.null_gpu.build` has compiled to. The rank is rank 0 of `--world`, with `--mixes` of its own.
Without --config the small networks of the tests: the counts are the same but for the number of DDP's buckets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.null_gpu.build import environment
from tests.null_gpu.watch import NullGpu

_GPUS_A_NODE = 8  # torch knows of 120 at most
# The separator learns at every third. DDP times its first ten passes, and waits for that.
_WARM_UP = range(3, 42)
WATCHED = {"both learn": 42, "critic only": 43}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--world", type=int, default=1, help="number of ranks that this one believes in")
    parser.add_argument("--mixes", type=int, default=8, help="of this rank, in a step")
    parser.add_argument("--first-step", type=int, default=_WARM_UP.start, help=f"up to {_WARM_UP.stop - 1}")
    parser.add_argument("--config", default=None)
    parser.add_argument("--json", type=Path, default=None, help="write the counts here instead of a table")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    if "NULL_GPU" not in os.environ:  # the loader looks for the library when a process starts
        again = [sys.executable, "-m", "tests.null_gpu.count_steps", *sys.argv[1:]]
        sys.exit(subprocess.run(again, env=environment(arguments.folder)).returncode)
    counts = count_steps(
        arguments.world,
        arguments.mixes,
        arguments.config,
        overrides=arguments.overrides,
        first_step=arguments.first_step,
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(counts))
    else:
        print(_table(counts))


def count_steps(
    world: int,
    mixes: int,
    config_file: str | None,
    *,
    overrides: list[str],
    first_step: int = _WARM_UP.start,
) -> dict[str, Any]:
    """By kind of step: counts, bytes, positions of synchronisations, peak memory and bytes sent as computed from sizes.

    world, mixes: the number of ranks, and of a rank's mixes in a step. config_file: None for the small networks.
    first_step: where bytes and memory alone are of interest, a few steps before those that are watched do.
    """
    os.environ["NULL_GPU_DEVICES"] = str(min(world, _GPUS_A_NODE))
    gpu = NullGpu()
    from ialcms.engine import Ranks  # after torch has met the null GPU
    from ialcms.training.step import Experiment

    config = _config(world, mixes, config_file, overrides=overrides)
    results = {}
    with _one_of(world), Ranks() as ranks:
        experiment = Experiment(config, ranks, pretrained=False)
        experiment._agreed = True  # the comparison of all ranks' networks would look at what no kernel has written
        for step in range(first_step, _WARM_UP.stop):
            experiment.step(_batch(config, mixes, step, device=ranks.device))
        for name, step in WATCHED.items():
            batch = _batch(config, mixes, step, device=ranks.device)
            ranks.traffic.take()
            torch.cuda.reset_peak_memory_stats()
            with gpu.watch() as watched:
                experiment.step(batch)
            results[name] = {
                "counts": watched.counts,
                "bytes": watched.num_bytes,
                "synchronisations": dict(watched.synchronisations),
                "sent": ranks.traffic.take(),
                "peak_memory": torch.cuda.max_memory_allocated(),
            }
    return results


def _config(world: int, mixes: int, config_file: str | None, *, overrides: list[str]) -> Any:
    from ialcms.config import load_config
    from tests.support import write_small_config

    fixed = ["model.visual.weights=none", f"train.global_batch={mixes * world}", "train.separator_every=3"]
    fixed.append("train.check_every=1000000")  # as above
    if config_file is not None:
        return load_config(config_file, [*fixed, *overrides])
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        small = write_small_config(Path(folder, "small.yaml"), Path(folder))
        return load_config(small, [*fixed, *overrides])


def _batch(config: Any, count: int, step: int, *, device: torch.device) -> Any:
    from ialcms.data.batch import Batch

    mixtures, objects = config.data.num_mixtures, config.data.num_objects
    samples, side = config.audio.num_samples, config.data.image_crop
    batch = Batch(
        step=step,
        mix=torch.zeros(count, samples),
        mixtures=torch.zeros(count, mixtures, samples),
        objects=torch.zeros(count, mixtures, objects, 3, side, side, dtype=torch.uint8),
        keys=[("clip",)] * count,
        bad={},
    )
    return batch.to(device)


@contextlib.contextmanager
def _one_of(world: int) -> Iterator[None]:
    """This process is rank 0 of `world`; nobody else comes to the rendezvous, so it is held in this process."""
    if world == 1:
        yield
        return
    os.environ |= {
        "RANK": "0", "WORLD_SIZE": str(world), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": str(min(world, _GPUS_A_NODE)),
        "TORCHELASTIC_RUN_ID": "null", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",  # as if torchrun had started it
    }  # fmt: skip
    init_process_group = dist.init_process_group

    def init(backend: str, **options: Any) -> None:
        init_process_group(backend, store=dist.HashStore(), rank=0, world_size=world, **options)

    dist.init_process_group = init
    try:
        yield
    finally:
        dist.init_process_group = init_process_group


def _table(counts: dict[str, Any]) -> str:
    lines = []
    for name, step in counts.items():
        lines.append(f"{name}:")
        for kind, count in sorted(step["counts"].items()):
            if not kind.startswith("kernel "):
                lines.append(f"  {kind:40s} {count:7d} {step['bytes'][kind] / 1e6:10.3f} MB")
        lines.append(f"  {'peak memory':40s} {'':7s} {step['peak_memory'] / 1e6:10.3f} MB")
        for position, count in sorted(step["synchronisations"].items()):
            lines.append(f"  waits {count:3d} times at {position}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
