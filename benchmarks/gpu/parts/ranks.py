"""The same step on all GPUs of the machine, one rank each: rate beside that of one GPU, and what each rank sends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.gpu.part import ROOT, end_group, environment_of
from benchmarks.gpu.setting import Recorder, Setting
from benchmarks.gpu.sizes import make_batch, sized_config
from ialcms.engine import Ranks
from ialcms.models.arithmetic import set_arithmetic
from ialcms.training.step import Experiment


def measure(setting: Setting, recorder: Recorder) -> None:
    """Rates on one rank and on all; the batch of a rank stays the same."""
    num_ranks = torch.cuda.device_count() if setting.device == "cuda" else 2
    rates: dict[int, float] = {}
    for count in (1, num_ranks):
        out = Path(setting.work) / f"ranks-{count}.json"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={count}",
            "-m",
            "benchmarks.gpu.parts.ranks",
            str(out),
            "small" if setting.small else "full",
        ]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment_of(setting.device), stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            code = process.wait(max(recorder.seconds_left / (2 if count == 1 else 1) - 2, 1))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
        name = f"{count} rank{'' if count == 1 else 's'}"
        if code != 0 or not out.is_file():
            recorder.missing(name, "took too long" if code is None else f"ended with exit code {code}; see the log")
            continue
        result = json.loads(out.read_text())
        rates[count] = result["rate"]
        recorder.add(f"{name}: rate", result["rate"], "mixes/s", note=f"{result['batch']} mixes a step on each")
        for kind, num_bytes in result["sent"].items():
            recorder.add(f"{name}: sent, {kind}", num_bytes / 1e6, "MB", note="by each rank in a step")
    if len(rates) == 2:
        recorder.add(
            "efficiency", rates[num_ranks] / rates[1] / num_ranks, note=f"rate of {num_ranks} / {num_ranks} x 1"
        )


def rank_program() -> None:
    """What each rank runs: some cycles in bf16, their rate written by the first."""
    out, small = Path(sys.argv[1]), sys.argv[2] == "small"
    with Ranks() as ranks:
        local = 2 if small else 8
        config = sized_config(small, local * ranks.world_size, precision="bf16")
        set_arithmetic(config, fixed_shapes=True)
        experiment = Experiment(config, ranks, pretrained=False)
        cycle = [make_batch(config, step, ranks.device, lanes=local) for step in range(config.train.separator_every)]
        times = []
        for number in range(4 if small else 13):
            began = time.perf_counter()
            for batch in cycle:
                batch.step = number * len(cycle) + batch.step % len(cycle)
                experiment.step(batch)
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            ranks.barrier()
            times.append(time.perf_counter() - began)
            if number == 0:
                ranks.traffic.take()
        steps = len(cycle) * (len(times) - 1)
        median_s = sorted(times[3:])[len(times[3:]) // 2]
        sent = {kind: count / steps for kind, count in ranks.traffic.take().items()}
        if ranks.is_first:
            result = {"rate": config.train.global_batch * len(cycle) / median_s, "batch": local, "sent": sent}
            out.write_text(json.dumps(result))


if __name__ == "__main__":
    assert "RANK" in os.environ, "started by measure()"
    rank_program()
