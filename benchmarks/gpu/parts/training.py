"""Training as a user starts it, `ialcms train`, on synthetic shards: its rate, and the share of it spent waiting."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.gpu.part import ROOT, environment_of
from benchmarks.gpu.setting import Recorder, Setting
from benchmarks.gpu.sizes import has_field, sized_config
from ialcms.config import to_dict

FORMS: dict[str, dict[str, Any]] = {
    "bf16, graphs": {"precision": "bf16", "cuda_graphs": True},
    "bf16": {"precision": "bf16"},
    "float32": {},
}
_END_S = 8.0  # to stop, with a checkpoint


def measure(setting: Setting, recorder: Recorder) -> None:
    """The fastest form gets half of the time, the others what is left."""
    todo = {name: fields for name, fields in FORMS.items() if all(map(has_field, fields))}
    if setting.small:
        todo = {"float32": {}}
    for index, (name, fields) in enumerate(todo.items()):
        last = index == len(todo) - 1
        _train(setting, recorder, name, fields=fields, seconds=recorder.seconds_left * (1.0 if last else 0.5))


def _train(setting: Setting, recorder: Recorder, name: str, fields: dict[str, Any], seconds: float) -> None:
    """Train for `seconds` in a process of its own and record rates.

    name: of the lines. fields: of the configuration.
    """
    if seconds < 3 * _END_S and not setting.small:
        recorder.missing(name, f"only {seconds:.0f} s were left")
        return
    folder = Path(setting.work) / f"run-{time.time_ns()}"
    config = write_config(setting, folder.with_suffix(".yaml"), fields)
    process = subprocess.Popen(
        [sys.executable, "-m", "ialcms", "train", str(config), "--folder", str(folder)],
        cwd=ROOT,
        env=environment_of(setting.device),
        stdin=subprocess.DEVNULL,
    )
    try:
        try:
            code: int | None = process.wait(max(seconds - _END_S, 1.0))
        except subprocess.TimeoutExpired:
            folder.mkdir(exist_ok=True)
            (folder / "stop").touch()
            code = process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = None
    _record(recorder, name, folder, code=code)


def write_config(setting: Setting, path: Path, fields: dict[str, Any]) -> Path:
    """Write the configuration of the run to `path`. fields: of its `train` section."""
    config = sized_config(setting.small, 4 if setting.small else 8, **fields)
    values = to_dict(config)
    values["data"]["shards"] = setting.shards
    steps = 20 if setting.small else 1_000_000
    values["train"] |= {
        "steps": steps,
        "validate_every": steps,
        "visualise_every": 0,
        "checkpoint_every": steps,
        "log_every": 5 if setting.small else 20,
    }
    values["eval"]["validation_draws"] = 1
    path.write_text(yaml.safe_dump(values))
    return path


def _record(recorder: Recorder, name: str, folder: Path, code: int | None) -> None:
    """Record the speed that the run in `folder` logged.

    name: how the lines begin. code: exit code of the process, None if it was killed.
    """
    records = []
    metrics = folder / "metrics.jsonl"
    for line in metrics.read_text().splitlines() if metrics.is_file() else []:
        record = json.loads(line)
        if "speed/mixes_per_second" in record:
            records.append(record)
    if code != 0:
        recorder.missing(f"{name}: end", "was killed" if code is None else f"ended with exit code {code}; see the log")
    warm = records[3:] if len(records) > 6 else records[1:]
    if not warm:
        recorder.missing(f"{name}: rate", f"only {len(records)} records were written")
        return

    def median_of(key: str) -> float:
        return statistics.median(record[key] for record in warm)

    steps = warm[-1]["step"] - records[0]["step"]
    recorder.add(f"{name}: rate", median_of("speed/mixes_per_second"), "mixes/s", note=f"{steps} steps")
    recorder.add(f"{name}: step", 1e3 * median_of("speed/step_seconds"), "ms")
    waiting = statistics.mean(record["speed/longest_share_waiting_for_data"] for record in warm)
    worst = max(record["speed/longest_share_waiting_for_data"] for record in warm)
    recorder.add(f"{name}: waiting for data", 100 * waiting, "%", note=f"of the time; worst record {100 * worst:.3g} %")
    for key, title in (("memory/device_gb", "peak memory of the device"), ("memory/process_gb", "memory of the host")):
        if key in warm[-1]:
            recorder.add(f"{name}: {title}", warm[-1][key], "GB")
    losses = [record["loss/separator"] for record in records if record.get("loss/separator") is not None]
    if losses:
        recorder.add(f"{name}: loss of the separator", losses[-1], note=f"{losses[0]:.3f} at the first record")
