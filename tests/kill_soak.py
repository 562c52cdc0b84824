"""The long form of tests/test_kill.py: python -m tests.kill_soak --kills 100"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import make_demo_shards
from tests.kill_runs import differences, run_to_the_end, start
from tests.support import write_small_config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kills-per-run", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        shards = make_demo_shards(root / "data")
        steps = 12 * args.kills_per_run
        config = write_small_config(root / "soak.yaml", shards, steps=steps, checkpoint_every=3, validate_every=40)
        start(config, root / "whole").wait(timeout=600)
        total, failed, counts = 0, 0, dict[str, int]()
        while total < args.kills:
            folder = root / f"run{total}"
            wanted = min(args.kills_per_run, args.kills - total)
            kills = run_to_the_end(config, folder, wanted, rng, timeout_s=1_800)
            found = differences(folder, root / "whole")
            failed += bool(found)
            total += len(kills)
            for kill in kills:
                key = f"{kill.number.name} to {kill.target}"
                counts[key] = counts.get(key, 0) + 1
            verdict = f"differs in {', '.join(found[:3])}" if found else "same losses and weights"
            print(f"{time.monotonic() - began:6.0f} s  {total:4d} kills  {verdict}", flush=True)
    print("; ".join(f"{count} x {key}" for key, count in sorted(counts.items())))
    print(f"{total} kills, {failed} runs that ended differently")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
