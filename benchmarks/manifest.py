"""What large manifests cost: reading, planning, handing the plan to a loader worker, `ialcms info`.

    python -m benchmarks.manifest --work data/manifests --out benchmarks/results/manifest.txt

Writes manifests of so many clips (--clips) with empty shards of the right sizes, then measures in processes of their
own: reading `manifest.columns`, reading `manifest.json` where there are no columns, the plan of a step, and the whole
command `ialcms info` for the full-size configuration. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ialcms.config import Config
from ialcms.data.clip_table import Clip, ClipTable
from ialcms.data.evaluation_mixes import list_mixes
from ialcms.data.manifest import FILE_NAME, Manifest, Shard, columns_of, read_manifest, write_manifest
from ialcms.data.plan import Plan

CLIPS_PER_SHARD = 500
CLIP_BYTES = 300_000
INSTRUMENTS = 21
LANES = 8
STEP = 123_456
ROWS = {
    "json_mb": "manifest.json, MB",
    "columns_mb": "manifest.columns, MB",
    "read_s": "read the columns, s",
    "shared_mb": "  memory shared by all processes, MB",
    "private_mb": "  memory of each process, plan included, MB",
    "json_read_s": "read manifest.json alone, s",
    "json_peak_mb": "  peak of memory meanwhile, MB",
    "plan_s": "make the plan, s",
    "first_step_ms": f"plan any step of {LANES} mixes, ms",
    "next_step_ms": "plan the step after it, ms",
    "mixes_s": "list the mixes of a validation, s",
    "pickle_kb": "plan for a loader worker, kB",
    "pickle_ms": "  hand it over, ms",
    "info_s": "ialcms info, the whole command, s",
    "info_peak_mb": "  peak of memory, MB",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the manifests, kept for the next run")
    parser.add_argument("--clips", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 2_000_000])
    parser.add_argument("--out", type=Path, help="write the figures here, too")
    parser.add_argument("--measure", choices=list(MEASUREMENTS), help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(MEASUREMENTS[args.measure](args.work)))
        return
    found = {count: measure(make(args.work, count)) for count in args.clips}
    lines = [f"{'clips':<46}" + "".join(f"{count:>12,}" for count in found)]
    for name, label in ROWS.items():
        lines.append(f"{label:<46}" + "".join(f"{values[name]:>12,.{_digits(name)}f}" for values in found.values()))
    lines.append(
        f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, NumPy {np.__version__}"
    )
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


def _digits(name: str) -> int:
    return 2 if name.endswith("_s") else 1


def make(work: Path, count: int) -> Path:
    """A folder with a manifest of `count` clips and its shards, which are empty."""
    folder = work / str(count)
    if not columns_of(folder / FILE_NAME).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        num_bytes = CLIPS_PER_SHARD * CLIP_BYTES
        shards = [
            Shard(f"train-{number:06d}.tar", num_bytes, "0" * 64, num_clips=CLIPS_PER_SHARD)
            for number in range(-(-count // CLIPS_PER_SHARD))
        ]
        for shard in shards:
            with open(folder / shard.name, "wb") as file:
                file.truncate(num_bytes)  # takes no room on the disk
        write_manifest(Manifest(folder, 11_025, tuple(shards), clips=ClipTable.of(_clips(count)), info={}))
    return folder


def _clips(count: int) -> Iterator[Clip]:
    """As many as wanted: three of a video, of 21 instruments, a tenth for validation."""
    rng = np.random.default_rng(0)
    instruments = rng.integers(0, INSTRUMENTS, count)
    checksums = rng.integers(0, 1 << 32, count)
    for index, (instrument, checksum) in enumerate(zip(instruments.tolist(), checksums.tolist())):
        video = f"vid{index // 3:07d}abcdefg"
        yield Clip(
            key=f"{video}_{index % 3}",
            instrument=f"instrument{instrument:03d}",
            video=video,
            split="train" if index % 10 else ("val" if index % 20 else "test"),
            shard=index // CLIPS_PER_SHARD,
            offset=index % CLIPS_PER_SHARD * CLIP_BYTES,
            size=CLIP_BYTES,
            num_samples=110_250,
            num_boxes=60,
            crc32=checksum,
        )


def measure(folder: Path) -> dict[str, float]:
    """All figures of one manifest."""
    path = folder / FILE_NAME
    values = {"json_mb": path.stat().st_size / 1e6, "columns_mb": columns_of(path).stat().st_size / 1e6}
    values |= _in_process("plan", folder)
    with tempfile.TemporaryDirectory() as alone:
        (Path(alone) / FILE_NAME).symlink_to(path.absolute())
        values |= _in_process("json", Path(alone))
    return values | _info(folder)


def _in_process(what: str, folder: Path) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.manifest", "--work", str(folder), "--measure", what]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(words, env={**os.environ, "WDS_CACHE": cache}, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


@dataclass(frozen=True)
class Memory:
    """Of this process, in MB; a page that several processes have mapped is shared."""

    private: float
    mapped: float  # of files that end in .columns

    @classmethod
    def now(cls) -> Memory:
        private = mapped = 0
        is_columns = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            name, *rest = line.split()
            if not name.endswith(":"):
                is_columns = line.endswith(".columns")
            elif name == "Rss:" and is_columns:
                mapped += int(rest[0])
            elif name in ("Private_Dirty:", "Private_Clean:") and not is_columns:
                private += int(rest[0])
        return cls(private / 1e3, mapped / 1e3)


def _timed(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def _measure_plan(folder: Path) -> dict[str, float]:
    config, before = Config(), Memory.now()
    made: list[Plan] = []

    def plan_step(step: int) -> None:
        for lane in range(LANES):
            made[0].mix(lane, step)

    began = time.process_time()
    manifest = read_manifest(folder)
    values = {"read_s": time.process_time() - began}
    values["plan_s"] = _timed(lambda: made.append(Plan(manifest, config.data, config.audio, seed=0, num_lanes=LANES)))
    values["first_step_ms"] = 1e3 * _timed(lambda: plan_step(STEP))
    values["next_step_ms"] = 1e3 * _timed(lambda: plan_step(STEP + 1))
    after = Memory.now()
    values |= {"shared_mb": after.mapped, "private_mb": after.private - before.private}
    values["mixes_s"] = _timed(lambda: list_mixes(manifest, "val", 2, draws=2, seed=0, seconds=10.0))
    pickled = pickle.dumps(made[0])
    values["pickle_kb"] = len(pickled) / 1e3
    values["pickle_ms"] = 1e3 * _timed(lambda: pickle.loads(pickle.dumps(made[0])))
    return values


def _measure_json(folder: Path) -> dict[str, float]:
    before = _peak_mb()
    seconds = _timed(lambda: read_manifest(folder, check_shards=False))
    return {"json_read_s": seconds, "json_peak_mb": _peak_mb() - before}


def _peak_mb() -> float:
    """The most memory that this process has had since it began."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1e3


def _info(folder: Path) -> dict[str, float]:
    words = [sys.executable, "-m", "ialcms", "info", "duet", f"data.shards={folder}", "data.instruments=[]"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, words
    return {"info_s": usage.ru_utime + usage.ru_stime, "info_peak_mb": usage.ru_maxrss / 1e3}


MEASUREMENTS = {"plan": _measure_plan, "json": _measure_json}


if __name__ == "__main__":
    main()
