"""What a step makes the host do: operations on the device, and waiting for it; counted by torch's profiler."""

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
from benchmarks.gpu.parts.environment import synchronise
from benchmarks.gpu.parts.steps import run_cycle, set_tf32
from benchmarks.gpu.setting import Recorder, Setting
from benchmarks.gpu.sizes import has_field, make_batch, sized_config
from ialcms.engine import Workers
from ialcms.training.step import Experiment

FORMS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "float32": {},
    "bf16, graphs": {"precision": "bf16", "cuda_graphs": True},
    "bf16, compiled": {"precision": "bf16", "compile": True},
}
# Names of CUDA's calls in a trace
_LAUNCHES = re.compile(r"^(cuda|cu)(LaunchKernel|LaunchKernelExC?|LaunchCooperativeKernel|GraphLaunch)")
_COPIES = re.compile(r"^(cuda|cu)Mem(cpy|set)")
_SYNCHRONISATIONS = re.compile(r"^(cuda|cu)(\w*Synchronize|Memcpy|MemcpyDtoH\w*|MemcpyHtoD|StreamWaitValue\w*)(_v2)?$")


def measure(setting: Setting, recorder: Recorder) -> None:
    for name, fields in FORMS.items():
        unknown = [field for field in fields if not has_field(field)]
        if unknown:
            recorder.missing(name, f"this version has no train.{unknown[0]}")
            continue
        if name == "bf16, compiled" and (recorder.seconds_left < 60 or setting.small):
            recorder.missing(name, "compiling takes longer than what is left")
            continue
        try:
            _measure_form(setting, recorder, name, fields)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            recorder.missing(name, error)


def _measure_form(setting: Setting, recorder: Recorder, name: str, fields: dict[str, Any]) -> None:
    config = sized_config(setting.small, 4 if setting.small else 8, **fields)
    device = setting.torch_device
    set_tf32(config)
    with Workers() as workers:
        experiment = Experiment(config, workers, pretrained=False)
        cycle = [make_batch(config, step, device) for step in range(config.train.separator_every)]
        for number in range(4):
            run_cycle(experiment, cycle, number)
        synchronise(device)
        for title, batch in (("both learn", cycle[0]), ("critic only", cycle[1])):
            batch.step += config.train.separator_every
            _count_step(recorder, f"{name}, {title}", lambda batch=batch: experiment.step(batch), device)
        if device.type == "cuda":
            batch = cycle[0]
            batch.step += config.train.separator_every
            for place, count in places_of_waiting(lambda: experiment.step(batch)).most_common(20):
                recorder.add(f"{name}, both learn: waits at", count, "times", place)


def _count_step(recorder: Recorder, label: str, step: Any, device: torch.device) -> None:
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
    return sum(count for name, count in counts.items() if names.match(name))


def listed(counts: Counter[str], names: re.Pattern[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if names.match(name))


def places_of_waiting(step: Any) -> Counter[str]:
    """Lines of this checkout at which torch says that the host waits for the device, with how often."""
    places: Counter[str] = Counter()

    def note(message: Warning | str, *_: Any) -> None:
        if "synchron" in str(message):
            frames = [
                f for f in traceback.extract_stack() if str(ROOT) in f.filename and "benchmarks" not in f.filename
            ]
            frame = frames[-1] if frames else traceback.extract_stack()[-2]
            places[f"{Path(frame.filename).name}:{frame.lineno} {frame.line}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return places
