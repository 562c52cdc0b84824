"""Our cycle beside the method written down straightforwardly, by `benchmarks.cycle`: same weights, same batches."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.part import ROOT, end_group, environment_of
from benchmarks.gpu.setting import Recorder, Setting

# Calls one after the other, each with what came before in hand: options of benchmarks.cycle.
CALLS = (
    ("--batch", "8", "--precision", "float32", "bf16"),
    ("--batch", "32", "--precision", "float32", "bf16", "--no-costs", "--no-check"),
    ("--batch", "8", "32", "--precision", "tf32", "--no-costs", "--no-check"),
)
SMALL_CALLS = (("--batch", "2", "--precision", "float32", "--repeats", "2", "--small"),)


def measure(setting: Setting, recorder: Recorder) -> None:
    """Run `benchmarks.cycle` in processes of its own, one for each precision and batch size."""
    if importlib.util.find_spec("benchmarks.cycle") is None:
        recorder.missing("benchmarks.cycle", "this version does not have it")
        return
    for number, options in enumerate(SMALL_CALLS if setting.small else CALLS):
        if recorder.seconds_left < 8:
            recorder.missing(" ".join(options), "no time was left")
            continue
        _call(setting, recorder, options, out=Path(setting.work) / f"cycle-{number}")


def _call(setting: Setting, recorder: Recorder, options: Sequence[str], out: Path) -> None:
    """Its results are written as they come; those of a call that is cut off count, too.

    out: folder of its results. options: of `benchmarks.cycle`. setting, recorder: of the part that calls it.
    """
    command = [sys.executable, "-m", "benchmarks.cycle", "--device", setting.device, "--out", str(out), *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment_of(setting.device), stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        code: int | None = process.wait(max(recorder.seconds_left, 1.0))
    except subprocess.TimeoutExpired:
        code = None
    finally:
        end_group(process)
    path = out / "cycle.json"
    for result in json.loads(path.read_text()) if path.is_file() else []:
        _record(recorder, result)
    if code != 0:
        reason = "was cut off" if code is None else f"ended with exit code {code}; see the log"
        recorder.missing(f"benchmarks.cycle {' '.join(options)}", reason)


def _record(recorder: Recorder, result: dict[str, Any]) -> None:
    if agreement := result.get("agreement"):
        worst = max(agreement, key=agreement.get)
        recorder.add(
            "largest difference of ours from naive, float64", agreement[worst], note=f"{worst}; 1e-4 is allowed"
        )
        return
    label = f"{result['precision'].replace('tf32', 'TF32')}, batch {result['batch']}"
    for form, seconds in result["seconds"].items():
        recorder.add(
            f"{form}, {label}: cycle", 1e3 * statistics.median(seconds), "ms", note=f"median of {len(seconds)}"
        )
    if "ratio" in result:
        recorder.add(f"naive / ours, {label}", result["ratio"], note="median ratio of cycles")
    units = {"multiply_adds": (1e9, "G"), "num_bytes": (1e9, "GB"), "memory_bytes": (1e9, "GB"),
             "operators": (1, ""), "kernels": (1, ""), "synchronisations": (1, "")}  # fmt: skip
    for form, costs in result.get("costs", {}).items():
        for name, value in costs.items():
            if value is not None and isinstance(value, (int, float)):
                divisor, unit = units.get(name, (1, ""))
                recorder.add(f"{form}, {label}: {name.replace('_', ' ')}", value / divisor, unit)
