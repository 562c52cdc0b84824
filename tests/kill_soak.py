"""The long form of tests/training/test_kill.py: python -m tests.kill_soak --kills 100"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.conftest import make_demo_shards
from tests.support import write_small_config
from tests.training.kill_runs import (
    Kill,
    differences,
    differing_bits,
    longest_loss_of_work,
    result,
    run_to_the_end,
    start,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-per-run", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        shards = make_demo_shards(root / "data")
        steps = 12 * args.kills_per_run
        config = write_small_config(root / "soak.yaml", shards, steps=steps, checkpoint_every=3, validate_every=20)
        whole = root / "whole"
        start(config, whole, args.workers).wait(timeout=600)
        kills: list[Kill] = []
        lost = bits = bad_steps = 0
        while len(kills) < args.kills:
            folder = root / f"run{len(kills)}"
            count = min(args.kills_per_run, args.kills - len(kills))
            kills += run_to_the_end(config, folder, count, rng, args.workers, timeout_s=1_800)
            found = differences(folder, whole)
            bad_steps += sum(name.startswith("step ") for name in found)
            (_, ours), (_, theirs) = result(folder), result(whole)
            bits += sum(differing_bits(ours.get(name), theirs.get(name)) for name in ours.keys() | theirs.keys())
            lost = max(lost, longest_loss_of_work(folder))
            verdict = f"differs in {', '.join(found[:3])}" if found else "same losses and weights"
            print(f"{time.monotonic() - began:6.0f} s  {len(kills):4d} kills  {verdict}", flush=True)
    for what in ("phase", "target"):
        counts = Counter(f"{kill.number.name} to {kill.target}" if what == "target" else kill.phase for kill in kills)
        print(f"{what}: " + "; ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    print(f"{len(kills)} kills; most steps to make again after one: {lost} (a checkpoint every 3)")
    print(f"steps with other losses: {bad_steps}; differing bits of the final state: {bits}")
    return int(bad_steps + bits > 0)


if __name__ == "__main__":
    sys.exit(main())
