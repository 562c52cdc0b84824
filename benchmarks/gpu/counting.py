"""Operations that a step starts, launches on a device, and waiting for it; counted by torch's profiler."""

from __future__ import annotations

import re
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.part import ROOT
from benchmarks.gpu.setting import Recorder

# Names of CUDA's calls in a trace
_LAUNCHES = re.compile(r"^(cuda|cu)(LaunchKernel|LaunchKernelExC?|LaunchCooperativeKernel|GraphLaunch)")
_COPIES = re.compile(r"^(cuda|cu)Mem(cpy|set)")
_SYNCHRONISATIONS = re.compile(r"^(cuda|cu)(\w*Synchronize|Memcpy|MemcpyDtoH\w*|MemcpyHtoD|StreamWaitValue\w*)(_v2)?$")


def count_step(recorder: Recorder, label: str, step: Any, device: torch.device) -> None:
    """Record what one step makes the host do.

    label: how the lines begin. device: that the step runs on.
    """
    _, own_waits = _profiled(lambda: None, device)  # the profiler itself waits for the device at its end
    profiler, counts = _profiled(step, device)
    operations = sum(count for name, count in counts.items() if name.startswith("aten::"))
    recorder.add(f"{label}: operations of torch", operations)
    if device.type != "cuda":
        return
    counts.subtract(own_waits)
    synchronisations = {name: count for name, count in counts.items() if count and _SYNCHRONISATIONS.match(name)}
    total = sum(synchronisations.values())
    recorder.add(f"{label}: launches", matching(counts, _LAUNCHES), note=listed(counts, _LAUNCHES))
    recorder.add(f"{label}: copies and fills", matching(counts, _COPIES), note=listed(counts, _COPIES))
    recorder.add(f"{label}: synchronisations", total, note=", ".join(f"{n} {c}" for n, c in synchronisations.items()))
    busy_us = sum(event.self_device_time_total for event in profiler.key_averages())
    recorder.add(f"{label}: time of kernels", busy_us / 1e3, "ms")


def _profiled(action: Any, device: torch.device) -> tuple[profile, Counter[str]]:
    """The profiler, and how often what was called."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        action()
    return profiler, Counter({event.key: event.count for event in profiler.key_averages()})


def matching(counts: Counter[str], names: re.Pattern[str]) -> int:
    """Calls of the functions whose names match."""
    return sum(count for name, count in counts.items() if names.match(name))


def listed(counts: Counter[str], names: re.Pattern[str]) -> str:
    """Those functions with their numbers of calls, as text."""
    return ", ".join(f"{name} {count}" for name, count in counts.items() if names.match(name))


def lines_that_wait(step: Any) -> Counter[str]:
    """Lines of this checkout at which torch says that the host waits for the device, with how often."""
    lines: Counter[str] = Counter()

    def note(message: Warning | str, *_: Any) -> None:
        if "synchron" in str(message):
            frames = [
                f for f in traceback.extract_stack() if str(ROOT) in f.filename and "benchmarks" not in f.filename
            ]
            frame = frames[-1] if frames else traceback.extract_stack()[-2]
            lines[f"{Path(frame.filename).name}:{frame.lineno} {frame.line}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return lines
